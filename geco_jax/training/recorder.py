"""A run while it is being trained: its state, logs, checkpoints, pictures."""

from collections.abc import Mapping
import math
import os
from typing import Any, NoReturn

import jax
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import config_tree
from geco_jax import console
from geco_jax import parallel
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.evaluation.measures import constraint_report
from geco_jax.evaluation.measures import saturation
from geco_jax.evaluation.measures import split_means
from geco_jax.evaluation.measures import verdict
from geco_jax.experiment import Experiment
from geco_jax.experiment import RunInputs
from geco_jax.io import checkpoint
from geco_jax.io import logs
from geco_jax.step import init_state
from geco_jax.step import state_like
from geco_jax.step import TrainState


class Recorder:
  """What one run remembers and writes.

  Attributes:
    config: of the run.
    workdir: its folder.
    experiment: what is compiled, shared with runs that differ in inputs alone.
    inputs: what it has of its own.
    state: the latest that was saved or restored, NumPy arrays.
    step: training steps taken; the training loop moves it.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    experiment: Experiment,
    inputs: RunInputs,
    first_params: Any = None,
  ):
    """Open a run's folder, and its latest checkpoint if it has one.

    Args:
      config: of the run.
      workdir: its folder.
      experiment: see above.
      inputs: see above.
      first_params: what a new run begins with; None is drawn.
    """
    self.config = config
    self.workdir = workdir
    self.experiment = experiment
    self.inputs = inputs
    self._checkpointer = checkpoint.Checkpointer(
      workdir, is_scheduled=self._is_scheduled
    )
    try:
      self._open(first_params)
    except BaseException:
      self._checkpointer.close()
      raise
    self._violations = {}  # Relative, mean over the latest dispatch.
    self._validation_means = split_means(experiment, likelihood=False)
    self._validation_images = experiment.dataset.splits['validation']
    self._image_rows = pictures.image_rows(experiment, self._validation_images)

  def _open(self, first_params):
    """Read the latest checkpoint, if there is one, and open the logs."""
    self.state: TrainState
    restored = self._checkpointer.restore(state_like(self.experiment))
    if restored is None:
      state = init_state(self.experiment, self.inputs)
      if first_params is not None:
        state = state._replace(params=first_params)
      self.state = jax.tree.map(np.asarray, state)
    else:
      self.state = restored.state
      console.say(f'continuing from step {restored.step} in {self.workdir}')
    self.step = int(self.state.step)
    self._writes = parallel.is_main_process()
    if self._writes:
      self._writer = logs.MetricsWriter(self.workdir, self.step)

  @property
  def is_finished(self) -> bool:
    """Whether the last step was taken."""
    return self.step >= self.config.num_steps

  @property
  def is_checkpoint_due(self) -> bool:
    """Whether the state after this step is to be saved."""
    return self._is_scheduled(self.step)

  def log(
    self, step: int, per_step: Mapping[str, np.ndarray], seconds: float
  ) -> str:
    """Log the means over a dispatch.

    Args:
      step: after the dispatch.
      per_step: metrics by name, each [steps of the dispatch].
      seconds: that the dispatch took.

    Returns:
      The numbers that matter, for people.

    Raises:
      UserError: if the loss is not finite.
    """
    num_steps = len(per_step['loss'])
    finite = np.isfinite(per_step['loss']) & np.isfinite(per_step['kl_nats'])
    if not finite.all():
      self._stop_not_finite(step - num_steps + int(np.argmin(finite)) + 1)
    values = {k: float(v.mean()) for k, v in per_step.items()}
    values['rmse'] = math.sqrt(values.pop('mse'))
    values['steps_per_second'] = num_steps / seconds
    for name in self.inputs.kappas:
      values[f'{name}/saturation'] = saturation(
        self.experiment, self.inputs, name, values[f'{name}/log_multiplier']
      )
    if self._writes:
      self._writer.scalars(step, values)
    self._violations = {
      name: values[f'{name}/violation'] for name in self.inputs.kappas
    }
    return self._progress_text(values)

  def save(self, state: TrainState) -> None:
    """Save a checkpoint; evaluate the validation split and draw it, if due.

    One that is not due, as a signal asks for, leaves nothing that would tell
    the run from one that was not interrupted.

    Args:
      state: after `step`, NumPy arrays.

    Raises:
      UserError: if the last update broke the parameters, or something cannot be
        written.
    """
    self.state = state
    if not self.is_checkpoint_due:
      if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params)):
        self._stop_not_finite(self.step + 1)
      self._checkpointer.save(self.step, state, None)
      self._checkpointer.finish()
      return
    means = self._validation_means(
      parallel.replicate(state.params),
      parallel.replicate(self._validation_images),
    )
    if not all(np.all(np.isfinite(mean)) for mean in means.values()):
      # The last update broke what its own loss did not see yet.
      self._stop_not_finite(self.step + 1)
    if self._writes:
      self._write_validation(means)
    self._checkpointer.save(
      self.step,
      state,
      checkpoint.score(
        means['kl_nats'], self._violations, self.inputs.tolerance
      ),
    )
    if self.is_finished:
      self._checkpointer.finish()

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

  def _write_validation(self, means):
    report = constraint_report(
      self.experiment,
      self.inputs,
      means,
      self.state.log_multipliers,
      'validation',
    )
    results = {'validation/kl_nats': means['kl_nats']}
    for name, entry in report.items():
      results[f'validation/{name}/value'] = entry['value']
      results[f'validation/{name}/violation'] = entry['violation']
    self._writer.scalars(self.step, results)
    picture = pictures.grid(self._image_rows(self.state.params))
    pictures.save_png(os.path.join(self.workdir, 'progress.png'), picture)
    self._writer.image(self.step, 'data_reconstructions_samples', picture)
    if self.is_finished:
      self._writer.hyperparameters(config_tree.flatten(self.config), results)

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

  def _progress_text(self, values: Mapping[str, Any]) -> str:
    """Return KL and each constraint's value, verdict by now and lambda."""
    parts = [
      f'{values["steps_per_second"]:.0f} steps/s',
      f'KL {values["kl_nats"]:.2f}',
    ]
    for name, kappa in self.inputs.kappas.items():
      violation = values[f'{name}/violation']
      log_multiplier = values[f'{name}/log_multiplier']
      outcome = verdict(
        self.experiment, self.inputs, name, violation, log_multiplier
      )
      parts.append(
        f'{name} {values[f"{name}/value"]:.4f}/{kappa:g} '
        f'{outcome} lambda {math.exp(log_multiplier):.3g}'
      )
    return ', '.join(parts)
