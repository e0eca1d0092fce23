"""The training loop: dispatch, log, save, stop."""

from collections.abc import Iterator, Mapping
import contextlib
import math
import os
import signal
import time
from typing import Any, NoReturn

from absl import logging
import jax
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import checkpoint
from geco_jax import metrics
from geco_jax import parallel
from geco_jax import pictures
from geco_jax import workdir as workdirs
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import Experiment
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import constraint_report
from geco_jax.evaluation import split_means
from geco_jax.update import init_state
from geco_jax.update import run_inputs
from geco_jax.update import train_steps
from geco_jax.update import TrainState

# A multiplier this close to its clip stands at it.
_AT_CLIP = 1e-3


class Interrupted(Exception):
  """A signal asked the run to stop; its state is saved."""

  def __init__(self, signal_number: int, step: int):
    name = signal.Signals(signal_number).name
    super().__init__(f'stopped by {name}, saved at step {step}')
    self.signal_number = signal_number


def train(
  config: ConfigDict,
  workdir: str,
  *,
  data_dir: str | None = None,
  dataset: Dataset | None = None,
  show_progress: bool = True,
) -> TrainState:
  """Trains a run to its end, from its latest checkpoint if it has one.

  Args:
    config: see configs/.
    workdir: for checkpoints, logs and pictures; created if need be.
    data_dir: of TFDS.
    dataset: of `build_dataset(config)`, for callers that have it already.
    show_progress: whether to draw a progress bar on stderr.

  Returns:
    The final state, NumPy arrays.

  Raises:
    UserError: on bad input, or a loss that is not finite.
    Interrupted: after SIGTERM or SIGINT, the state saved.
  """
  experiment = build(config, dataset or build_dataset(config, data_dir))
  if parallel.is_main_process():
    workdirs.claim(workdir, config)
  run = _Run(config, workdir, experiment, show_progress)
  try:
    with _stop_signals() as stopped:
      run.loop(stopped)
  finally:
    run.close()
  for line in infeasible(workdir, experiment, run.state.log_multipliers):
    logging.warning(line)
  return run.state


class _Run:
  """One run while it is being trained."""

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    experiment: Experiment,
    show_progress: bool,
  ):
    self._config = config
    self._workdir = workdir
    self._experiment = experiment
    self._checkpointer = checkpoint.Checkpointer(workdir)
    inputs = run_inputs(experiment)
    self.state = jax.tree.map(np.asarray, init_state(experiment, inputs))
    restored = self._checkpointer.restore(self.state)
    if restored is not None:
      self.state = restored.state
      self._checkpointer.delete_after(restored.step)
      metrics.say(f'continuing from step {restored.step} in {workdir}')
    first_step = int(self.state.step)
    self._violations = {}  # Relative, mean over the latest dispatch.
    self._writes = parallel.is_main_process()
    self._inputs = parallel.replicate(inputs)
    self._train_images = parallel.replicate(experiment.dataset.splits['train'])
    self._validation_images = parallel.replicate(
      experiment.dataset.splits['validation']
    )
    self._validation_means = split_means(experiment, likelihood=False)
    self._image_rows = pictures.image_rows(
      experiment, experiment.dataset.splits['validation']
    )
    self._progress = metrics.Progress(
      config.num_steps, first_step, show_progress and self._writes
    )
    if self._writes:
      self._writer = metrics.MetricsWriter(workdir, first_step)

  def loop(self, stopped) -> None:
    """Trains to the last step; saves and raises if a signal comes."""
    config = self._config
    run_steps = train_steps(self._experiment, config.steps_per_dispatch)
    state = parallel.replicate(self.state)
    step = int(self.state.step)
    pending = None
    since = time.monotonic()
    while step < config.num_steps:
      state, step_metrics = run_steps(state, self._inputs, self._train_images)
      step += config.steps_per_dispatch
      # While the devices are busy with these steps, those before are logged.
      if pending is not None:
        since = self._log(*pending, since)
      pending = (step, step_metrics)
      signal_number = stopped()
      stop = parallel.any_process(signal_number is not None)
      if stop or step == config.num_steps or not step % config.checkpoint_every:
        since = self._log(*pending, since)
        pending = None
        self._save(step, state)
        since = time.monotonic()
      if stop and step < config.num_steps:
        raise Interrupted(signal_number or signal.SIGTERM, step)

  def close(self) -> None:
    """Waits for the last checkpoint and closes the logs."""
    self._progress.close()
    self._checkpointer.close()
    if self._writes:
      self._writer.close()

  def _log(self, step, step_metrics, since) -> float:
    """Logs the means over a dispatch; returns when it was complete."""
    per_step = parallel.unreplicate(step_metrics)
    num_steps = len(per_step['loss'])
    finite = np.isfinite(per_step['loss']) & np.isfinite(per_step['kl_nats'])
    if not finite.all():
      self._stop_not_finite(step - num_steps + int(np.argmin(finite)) + 1)
    now = time.monotonic()
    values = {k: float(v.mean()) for k, v in per_step.items()}
    values['rmse'] = math.sqrt(values.pop('mse'))
    values['steps_per_second'] = num_steps / (now - since)
    if self._writes:
      self._writer.scalars(step, values)
    self._progress.update(step, _progress_text(self._experiment, values))
    self._violations = {
      name: values[f'{name}/violation'] for name in self._experiment.kappas
    }
    return now

  def _stop_not_finite(self, step) -> NoReturn:
    saved = max(self._checkpointer.steps(), default=None)
    checkpoint_left = (
      f'the checkpoint of step {saved} in {self._workdir} is intact'
      if saved is not None
      else 'there was no checkpoint yet'
    )
    raise UserError(
      f'the loss is not finite at step {step}; {checkpoint_left}; a smaller '
      'learning rate or config.max_gradient_norm may help'
    )

  def _save(self, step, state) -> None:
    """Evaluates the validation split, draws it and saves a checkpoint."""
    self.state = parallel.unreplicate(state)
    means = self._validation_means(state.params, self._validation_images)
    if not all(np.all(np.isfinite(mean)) for mean in means.values()):
      # The last update broke what its own loss did not see yet.
      self._stop_not_finite(step + 1)
    report = constraint_report(
      self._experiment, means, self.state.log_multipliers
    )
    results = {'validation/kl_nats': means['kl_nats']}
    for name, entry in report.items():
      results[f'validation/{name}/value'] = entry['value']
      results[f'validation/{name}/violation'] = entry['violation']
    if self._writes:
      self._writer.scalars(step, results)
      self._writer.image(step, 'data_reconstructions_samples', self._picture())
      if step == self._config.num_steps:
        self._writer.hyperparameters(workdirs.flatten(self._config), results)
    self._checkpointer.save(
      step,
      self.state,
      checkpoint.score(
        means['kl_nats'], self._violations, self._experiment.tolerance
      ),
    )

  def _picture(self):
    picture = pictures.grid(self._image_rows(self.state.params))
    pictures.save_png(os.path.join(self._workdir, 'progress.png'), picture)
    return picture


def infeasible(
  workdir: str, experiment: Experiment, log_multipliers: Mapping[str, Any]
) -> Iterator[str]:
  """Yields a sentence for each constraint that the run could not meet.

  That is one that is violated while its multiplier stands at its upper clip.
  """
  logged = metrics.read_metrics(workdir)
  highest = experiment.multipliers.highest_log_multiplier
  for name, constraint in experiment.constraints(experiment.kappas).items():
    at_clip = float(log_multipliers[name]) >= highest - _AT_CLIP
    violations = logged[f'{name}/violation']
    logged_at = np.flatnonzero(np.isfinite(violations))
    if at_clip and violations[logged_at[-1]] > experiment.tolerance:
      best = logged[f'{name}/value'][np.nanargmin(violations)]
      yield (
        f'constraint {name} is infeasible in this run: kappa '
        f'{constraint.kappa:g} was asked, the best {constraint.unit} reached '
        f'is {best:.4g}, and its multiplier stands at its upper clip '
        f'exp({highest:g})'
      )


@contextlib.contextmanager
def _stop_signals():
  """Catches SIGTERM and SIGINT; yields () -> the signal that came, or None."""
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


def _progress_text(experiment: Experiment, values: Mapping[str, float]) -> str:
  """Returns KL and, for each constraint, value against kappa and lambda."""
  parts = [
    f'{values["steps_per_second"]:.0f} steps/s',
    f'KL {values["kl_nats"]:.2f}',
  ]
  for name, kappa in experiment.kappas.items():
    holds = values[f'{name}/violation'] <= experiment.tolerance
    parts.append(
      f'{name} {values[f"{name}/value"]:.4f}/{kappa:g} '
      f'{"holds" if holds else "violated"} '
      f'lambda {math.exp(values[f"{name}/log_multiplier"]):.3g}'
    )
  return ', '.join(parts)
