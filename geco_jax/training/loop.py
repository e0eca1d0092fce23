"""The training loop: dispatch, log, save, stop."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import signal
import time
from typing import Any

from absl import logging
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import console
from geco_jax import parallel
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import run_inputs
from geco_jax.config_tree import without_sweep
from geco_jax.errors import Interrupted
from geco_jax.evaluation import verdicts
from geco_jax.evaluation.measures import constraint_report
from geco_jax.experiment import Experiment
from geco_jax.experiment import RunInputs
from geco_jax.io import logs
from geco_jax.io import manifest
from geco_jax.io import run_folder
from geco_jax.step import dispatch
from geco_jax.step import TrainState
from geco_jax.training import origin
from geco_jax.training.recorder import Recorder


def train(
  config: ConfigDict,
  workdir: str,
  *,
  data_dir: str | None = None,
  experiment: Experiment | None = None,
  init_from: str | None = None,
  show_progress: bool = True,
) -> TrainState:
  """Train a run to its end, from its latest checkpoint if it has one.

  Args:
    config: see configs/; its `sweep` is passed over.
    workdir: for checkpoints, logs and pictures; created if need be.
    data_dir: of TFDS.
    experiment: of the run, for callers that have it already.
    init_from: workdir of the run whose parameters this one begins with; None
      is parameters of its own.
    show_progress: whether to draw a progress bar on stderr.

  Returns:
    The final state, NumPy arrays.

  Raises:
    UserError: on bad input, or a loss that is not finite.
    Interrupted: after SIGTERM or SIGINT, the state saved.
  """
  config = without_sweep(config)
  if experiment is None:
    experiment = build(config, build_dataset(config, data_dir))
  with contextlib.closing(_open(config, workdir, experiment, init_from)) as run:
    (failure,) = _train_all([run], parallel.SHARED, show_progress)
  if failure is not None:
    raise failure
  return run.state


def train_together(
  configs: Mapping[str, ConfigDict],
  experiment: Experiment,
  *,
  show_progress: bool = True,
) -> dict[str, Exception | None]:
  """Train several runs at once, each whole on one device.

  A run's folder is what `train` would have written, up to the rounding of its
  numbers. A run that fails leaves the others alone.

  Args:
    configs: of the runs, by workdir.
    experiment: of all of these runs.
    show_progress: whether to draw a progress bar on stderr.

  Returns:
    What went wrong, by workdir; None is nothing.

  Raises:
    Interrupted: after SIGTERM or SIGINT, the states saved.
  """
  failures: dict[str, Exception | None] = dict.fromkeys(configs)
  with contextlib.ExitStack() as stack:
    runs = []
    for workdir, config in configs.items():
      try:
        run = _open(without_sweep(config), workdir, experiment)
      except Exception as error:  # Damaged checkpoints, folders of others, ...
        failures[workdir] = error
      else:
        runs.append(stack.enter_context(contextlib.closing(run)))
    if runs:
      trained = _train_all(runs, parallel.SPREAD, show_progress)
      failures |= zip((run.workdir for run in runs), trained, strict=True)
  return failures


def _open(config, workdir, experiment, init_from=None) -> Recorder:
  """Return the recorder of a run in its folder, created if need be."""
  # What is wrong is refused before a folder is made.
  inputs = run_inputs(config, experiment)
  source = origin.find(workdir, init_from)
  is_begun = bool(manifest.steps(workdir))
  params = source and not is_begun and origin.params(source, experiment)
  if parallel.is_main_process():
    run_folder.claim(workdir, config)
    if source:
      origin.record(workdir, source)
  return Recorder(config, workdir, experiment, inputs, params or None)


def _train_all(runs, layout, show_progress):
  """Train runs to their ends; return what went wrong with each, or None."""
  loop = _Loop(runs, layout, show_progress)
  try:
    with _stop_signals() as stopped:
      loop.run(stopped)
  finally:
    loop.close()
  for run, failure in zip(runs, loop.failures, strict=True):
    if failure is None:
      for line in infeasible(
        run.workdir, run.experiment, run.inputs, run.state.log_multipliers
      ):
        logging.warning(line)
  return loop.failures


class _Loop:
  """The training of runs that lie on the devices together."""

  def __init__(
    self,
    runs: Sequence[Recorder],
    layout: parallel.Layout,
    show_progress: bool,
  ):
    self.failures: list[Exception | None] = [None] * len(runs)
    self._runs = runs
    self._layout = layout
    experiment = runs[0].experiment  # That of all.
    self._take_steps = dispatch(experiment, layout)
    self._steps_per_dispatch = experiment.steps_per_dispatch
    self._images = parallel.replicate(experiment.dataset.splits['train'])
    self._pending = {}, None  # Steps by run, metrics of the latest dispatch.
    self._since = time.monotonic()  # When what was logged last was complete.
    self._progress = console.Progress(
      max(run.config.num_steps for run in runs),
      min(run.step for run in runs),
      show_progress and parallel.is_main_process(),
    )

  def run(self, stopped) -> None:
    """Train to the last step; save and raise if a signal comes."""
    states = self._layout.place([run.state for run in self._runs])
    inputs = self._layout.place([run.inputs.as_arrays() for run in self._runs])
    self._since = time.monotonic()
    while active := self._active():
      states, step_metrics = self._take_steps(states, inputs, self._images)
      for index in active:
        self._runs[index].step += self._steps_per_dispatch
      # While the devices are busy with these steps, those before are logged.
      self._log_pending()
      self._pending = {i: self._runs[i].step for i in active}, step_metrics
      number = stopped()
      stop = parallel.any_process(number is not None)
      due = [i for i in active if stop or self._runs[i].is_checkpoint_due]
      if due:
        self._log_pending()
        self._save(due, states)
      if stop and self._active():
        step = min(self._runs[i].step for i in self._active())
        raise Interrupted(number or signal.SIGTERM, step)

  def close(self) -> None:
    """Leave the progress bar as it stands."""
    self._progress.close()

  def _log_pending(self) -> None:
    """Log the latest dispatch, when it is complete."""
    steps, step_metrics = self._pending
    self._pending = {}, None
    if not steps:
      return
    per_run = self._layout.fetch(step_metrics, len(self._runs))
    now = time.monotonic()
    seconds, self._since = now - self._since, now
    texts = []
    for index, step in steps.items():
      if self.failures[index] is None:
        with self._failing(index):
          texts.append(self._runs[index].log(step, per_run[index], seconds))
    if len(self._runs) > 1:
      rate = len(steps) * self._steps_per_dispatch / seconds
      texts = [f'{len(steps)} runs together, {rate:.0f} steps/s in all']
    self._progress.update(min(steps.values()), ''.join(texts))

  def _save(self, indices, states) -> None:
    fetched = self._layout.fetch(states, len(self._runs))
    for index in indices:
      if self.failures[index] is None:
        with self._failing(index):
          self._runs[index].save(fetched[index])
    self._since = time.monotonic()

  @contextlib.contextmanager
  def _failing(self, index):
    """Make an error that of one run, which then stops."""
    try:
      yield
    except Exception as error:  # Full disks, losses that are not finite, ...
      self.failures[index] = error

  def _active(self) -> list[int]:
    """Return which runs go on. The others' numbers are passed over."""
    return [
      index
      for index, run in enumerate(self._runs)
      if self.failures[index] is None and not run.is_finished
    ]


def infeasible(
  workdir: str,
  experiment: Experiment,
  inputs: RunInputs,
  log_multipliers: Mapping[str, Any],
) -> Iterator[str]:
  """Return the sentences of `verdicts.infeasible` on a run's last steps."""
  logged = logs.read_metrics(workdir)
  means = {}
  for name, kappa in inputs.kappas.items():
    violations = logged.get(f'{name}/violation', np.empty(0))
    (logged_at,) = np.isfinite(violations).nonzero()
    if not len(logged_at):  # The log was lost.
      return iter(())
    constraint = experiment.constraints[name]
    violation = violations[logged_at[-1]] * constraint.scale(kappa)
    means[name] = float(violation + constraint.bound(kappa))
  reports = constraint_report(
    experiment, inputs, means, log_multipliers, 'train'
  )
  return verdicts.infeasible(reports, logged)


@contextlib.contextmanager
def _stop_signals():
  """Catch SIGTERM and SIGINT; yield () -> the signal that came, or None."""
  caught = []
  handled = (signal.SIGTERM, signal.SIGINT)

  def remember(number, frame):
    del frame
    caught.append(number)
    # A second one acts at once.
    for other, handler in previous.items():
      signal.signal(other, handler)

  previous = {number: signal.signal(number, remember) for number in handled}
  try:
    yield lambda: caught[0] if caught else None
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
