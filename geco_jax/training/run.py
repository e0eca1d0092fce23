"""What the training loop asks of a run, and what all kinds of runs share."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import console
from geco_jax import parallel
from geco_jax.errors import UserError
from geco_jax.io import checkpoint
from geco_jax.io import logs
from geco_jax.io import provenance
from geco_jax.io import run_folder

_TIMES = 'seconds'  # What each step took, among the metrics of the steps.


class Run(abc.ABC):
  """A run while it is being trained: its folder, checkpoints and log.

  Attributes:
    config: config of the run; it has `num_steps`, `checkpoint_every` and
      `steps_per_dispatch`, over which a line of the log is the mean.
    workdir: its folder.
    state: the latest that was saved or restored, NumPy arrays.
    step: training steps taken; the training loop moves it.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    like: Any,
    first_state: Callable[[], Any],
    runs_at_once: int = 1,
  ):
    """Claim a folder and open its latest checkpoint if it has one.

    Args:
      config: the run's config.
      workdir: its folder, created if need be.
      like: NumPy arrays with a state's structure, shapes and types.
      first_state: () -> the state before the first step.
      runs_at_once: how many are trained together.

    Raises:
      UserError: if the folder is another run's, cannot be written, or none of
        its checkpoints can be read.
    """
    self.config = config
    self.workdir = workdir
    self._checkpointer = checkpoint.Checkpointer(
      workdir,
      is_scheduled=self._is_scheduled,
      runs_at_once=runs_at_once,
      claim=self.claim,
    )
    try:
      self._open(like, first_state)
    except BaseException:
      self._checkpointer.close()
      raise

  def claim(self) -> None:
    """Make the folder this run's; refuse the folder of another run."""
    run_folder.claim(self.workdir, self.config)

  def _open(self, like, first_state):
    """Read the latest checkpoint, if there is one, and open the logs."""
    restored = self._checkpointer.restore(like)
    self._unlogged: dict[str, np.ndarray] = {}  # Metrics since the last line.
    if restored is None:
      self.state = jax.tree.map(np.asarray, first_state())
    else:
      self.state = restored.state
      self._unlogged = {
        name: np.array(values, np.float32)
        for name, values in restored.unlogged.items()
      }
      if restored.step < self.config.num_steps:
        console.say(f'continuing from step {restored.step} in {self.workdir}')
    self.step = int(self.state.step)
    self._text = ''
    self._writes = parallel.is_main_process()
    if self._writes:
      unlogged = max(map(len, self._unlogged.values()), default=0)
      self._writer = logs.MetricsWriter(
        self.workdir, self.step, self.step - unlogged
      )
      if not self.is_finished:
        imports = self.config.get('imports', ())
        params = self.state.params
        self._session = provenance.Session(
          self.workdir, self.step, params, imports
        )

  @property
  @abc.abstractmethod
  def subject(self) -> str:
    """What is trained, and on what, in words."""

  @property
  def terms(self) -> str:
    """The constraints on it, in words; '' if there are none."""
    return ''

  @property
  def is_finished(self) -> bool:
    """Whether the last step was taken."""
    return self.step >= self.config.num_steps

  @property
  def is_checkpoint_due(self) -> bool:
    """Whether the state after this step is to be saved."""
    return self._is_scheduled(self.step)

  @property
  def steps_to_line(self) -> int:
    """Training steps to the end of this dispatch, which is logged whole."""
    dispatch = self.config.steps_per_dispatch
    return dispatch - self.step % dispatch

  def note(
    self, step: int, per_step: Mapping[str, np.ndarray], seconds: float
  ) -> str:
    """Take in metrics; log those of a dispatch at its end.

    Args:
      step: after the steps.
      per_step: metrics by name, each [steps], all of one dispatch.
      seconds: that the steps took.

    Returns:
      The text of the progress bar.

    Raises:
      UserError: if the loss is not finite.
    """
    num_steps = len(next(iter(per_step.values())))
    times: np.ndarray = np.full(num_steps, seconds / num_steps)
    metrics: dict[str, np.ndarray] = {**per_step, _TIMES: times}
    self._unlogged = {
      name: np.concatenate([self._unlogged.get(name, values[:0]), values])
      for name, values in metrics.items()
    }
    if step % self.config.steps_per_dispatch == 0:
      whole, self._unlogged = self._unlogged, {}
      times = whole.pop(_TIMES)
      self._text = self.log(step, whole, len(times) / times.sum())
    return self._text

  def save(self, state: Any) -> None:
    """Save a checkpoint, scored on the validation split if it is due.

    A save that is not due, as after a signal, leaves nothing that would tell
    the run from one that was not interrupted.

    Args:
      state: after `step`, NumPy arrays.

    Raises:
      UserError: if the last update broke the parameters, or something cannot be
        written.
    """
    self.state = state
    score = None
    if self.is_checkpoint_due:
      score = self._evaluate()
    elif not all(np.isfinite(x).all() for x in jax.tree.leaves(state.params)):
      self._stop_not_finite(self.step + 1)
    unlogged = {name: x.tolist() for name, x in self._unlogged.items()}
    self._checkpointer.save(self.step, state, score, unlogged)
    if self._writes:
      self._session.note(self.step)
    if self.is_finished or not self.is_checkpoint_due:
      self._checkpointer.finish()

  @abc.abstractmethod
  def log(
    self, step: int, per_step: Mapping[str, np.ndarray], rate: float
  ) -> str:
    """Write the means over a dispatch; return the text of the progress bar.

    Args:
      step: after the dispatch.
      per_step: metrics by name, each [steps of the dispatch].
      rate: steps per second.

    Raises:
      UserError: if the loss is not finite.
    """

  @abc.abstractmethod
  def _evaluate(self) -> float:
    """Evaluate the validation split; return the state's score, low is good.

    Raises:
      UserError: if the last update broke the parameters.
    """

  def close(self) -> None:
    """Wait for the last checkpoint and close the logs."""
    try:
      self._checkpointer.close()
    finally:
      if self._writes:
        self._writer.close()

  def _is_scheduled(self, step):
    """Return whether an uninterrupted run saves the state after a step."""
    config = self.config
    return step >= config.num_steps or step % config.checkpoint_every == 0

  def _check_finite(self, step: int, *losses: np.ndarray) -> None:
    """Refuse losses that are not finite; the last is that of `step`."""
    finite = np.all(np.isfinite(losses), axis=0)
    if not finite.all():
      self._stop_not_finite(step - len(finite) + int(np.argmin(finite)) + 1)

  def _stop_not_finite(self, step) -> NoReturn:
    saved = max(self._checkpointer.steps(), default=None)
    checkpoint_left = (
      f'the checkpoint of step {saved} in {self.workdir} is intact'
      if saved is not None
      else 'there was no checkpoint yet'
    )
    raise UserError(
      f'the loss is not finite at step {step}; {checkpoint_left}; a smaller '
      'learning rate or config.max_gradient_norm may help'
    )
