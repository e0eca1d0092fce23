"""What a run of an experiment logs, saves and draws."""

from collections.abc import Iterator, Mapping
import math
import os
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import numpy as np
import optax

from geco_jax import config_tree
from geco_jax import parallel
from geco_jax.datasets import shapes
from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.evaluation.measures import placed
from geco_jax.evaluation.measures import split_means
from geco_jax.evaluation.reports import constraint_report
from geco_jax.evaluation.reports import saturation
from geco_jax.evaluation.reports import verdict
from geco_jax.experiment import data_sha256
from geco_jax.experiment import Experiment
from geco_jax.experiment import RunInputs
from geco_jax.io import run_folder
from geco_jax.io.files import UnwritableError
from geco_jax.io.logs import read_metrics
from geco_jax.step import init_state
from geco_jax.step import state_like
from geco_jax.step import TrainState
from geco_jax.training.run import Run


class Recorder(Run):
  """A run of an experiment.

  Attributes:
    experiment: what is compiled, shared with runs that differ in inputs alone.
    inputs: its own values.
  """

  state: TrainState

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    experiment: Experiment,
    inputs: RunInputs,
    origin: Mapping[str, Any] | None = None,
    first_params: Any = None,
    runs_at_once: int = 1,
  ):
    """Open a run's folder, and its latest checkpoint if it has one.

    Args:
      config: the run's config.
      workdir: its folder.
      experiment: see above.
      inputs: see above.
      origin: of `first_params`, which the folder records; None if drawn.
      first_params: what a new run begins with; None draws them.
      runs_at_once: how many are trained together, which checkpoints record.
    """
    self.experiment = experiment
    self.inputs = inputs
    self._origin = origin
    self._violations = {}  # Relative, mean over the latest dispatch.
    self._final_multipliers = final_multipliers(
      experiment, inputs, config.num_steps
    )
    self._validation_means = split_means(experiment, likelihood=False)
    self._validation_images = experiment.dataset.splits['validation']
    self._image_rows = pictures.image_rows(experiment, self._validation_images)

    def first_state():
      state = init_state(experiment, inputs)
      if first_params is None:
        return state
      return state._replace(params=first_params)

    # Last, so that no folder is claimed for a run that is refused above.
    like = state_like(experiment)
    super().__init__(config, workdir, like, first_state, runs_at_once)

  def claim(self) -> None:
    """Make the folder this run's; record the form of its images, its origin.

    Refuse the folder of a run on other data.
    """
    dataset, sha256 = self.experiment.dataset, data_sha256(self.experiment)
    run_folder.check_data(self.workdir, dataset.name, sha256)
    super().claim()
    shapes.record(self.workdir, dataset, sha256)
    if self._origin is not None:
      run_folder.record_origin(self.workdir, self._origin)

  @property
  def subject(self) -> str:
    """The model, its size and the data set."""
    size = sum(np.size(x) for x in jax.tree.leaves(self.state.params))
    dataset = self.experiment.dataset.name
    return f'{self.config.model.name} ({size:,} parameters) on {dataset}'

  @property
  def terms(self) -> str:
    """The constraints, their kappas, and what moves their multipliers."""
    kappas = [f'{k} (kappa {v:g})' for k, v in self.inputs.kappas.items()]
    return f'{", ".join(kappas)} by {self.config.multipliers.name}'

  def log(
    self, step: int, per_step: Mapping[str, np.ndarray], rate: float
  ) -> str:
    """Log the means over a dispatch."""
    self._check_finite(step, per_step['loss'], per_step['kl_nats'])
    values = {k: float(v.mean()) for k, v in per_step.items()}
    values['rmse'] = math.sqrt(values.pop('mse'))
    values['steps_per_second'] = rate
    for name, kappa in self.inputs.kappas.items():
      constraint = self.experiment.constraints[name]
      mean = constraint.mean(values[f'{name}/violation'], kappa)
      # A measure is one of the mean: the mean of roots would be too small.
      values[f'{name}/value'] = float(constraint.measure(mean))
      multipliers = np.exp(per_step[f'{name}/log_multiplier'])
      values[f'{name}/multiplier'] = float(multipliers.mean())
      values[f'{name}/saturation'] = saturation(
        self.experiment, self.inputs, name, values[f'{name}/log_multiplier']
      )
    outcomes = self._verdicts(values)
    for name, outcome in outcomes.items():
      values[f'{name}/verdict'] = verdicts.level(outcome)
    if self._writes:
      self._writer.scalars(step, values)
    self._violations = {
      name: values[f'{name}/violation'] for name in self.inputs.kappas
    }
    return self._progress_text(values, outcomes)

  def final_warnings(self) -> Iterator[str]:
    """Yield a sentence for each constraint that ended infeasible.

    The last logged steps decide.
    """
    logged = read_metrics(self.workdir)
    means = {}
    for name, kappa in self.inputs.kappas.items():
      violations = logged.get(f'{name}/violation', np.empty(0))
      violations = violations[np.isfinite(violations)]
      if not len(violations):  # The log was lost.
        return
      constraint = self.experiment.constraints[name]
      means[name] = float(constraint.mean(violations[-1], kappa))
    log_multipliers = self.state.log_multipliers
    reports = constraint_report(
      self.experiment, self.inputs, means, log_multipliers, 'train'
    )
    yield from verdicts.infeasibility_sentences(reports, logged)

  def _verdicts(self, values: Mapping[str, Any]) -> dict[str, str]:
    """Return each constraint's verdict by the means of a dispatch."""
    return {
      name: verdict(
        self.experiment,
        self.inputs,
        name,
        values[f'{name}/violation'],
        values[f'{name}/log_multiplier'],
      )
      for name in self.inputs.kappas
    }

  def _evaluate(self) -> float:
    means = self._validation_means(
      parallel.replicate(self.state.params),
      placed(self.experiment, self._validation_images),
    )
    if not all(np.all(np.isfinite(mean)) for mean in means.values()):
      # The last update broke the parameters: its own loss came before.
      self._stop_not_finite(self.step + 1)
    if self._writes:
      self._write_validation(means)
    kl_nats = means['kl_nats']
    if self._final_multipliers is None:
      return score(kl_nats, self._violations, self.inputs.tolerance)
    terms = [kl_nats]
    for name, multiplier in self._final_multipliers.items():
      bound = self.experiment.constraints[name].bound(self.inputs.kappas[name])
      terms.append(multiplier * float(means[name] - bound))
    return sum(terms)

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
    labels = pictures.row_labels(self.experiment.dataset)
    path = os.path.join(self.workdir, 'progress.png')
    try:
      pictures.save_png(path, picture, labels)
    except UnwritableError as error:  # A missing picture ends no run.
      logging.warning('%s', error)
    self._writer.image(self.step, 'data_reconstructions_samples', picture)
    if self.is_finished:
      self._writer.hyperparameters(config_tree.flatten(self.config), results)

  def _progress_text(
    self, values: Mapping[str, Any], outcomes: Mapping[str, str]
  ) -> str:
    """Return KL and each constraint's value, verdict by now and lambda."""
    parts = [
      f'{values["steps_per_second"]:.0f} steps/s',
      f'KL {values["kl_nats"]:.2f}',
    ]
    for name, kappa in self.inputs.kappas.items():
      multiplier = math.exp(values[f'{name}/log_multiplier'])
      parts.append(
        f'{name} {values[f"{name}/value"]:.4f}/{kappa:g} '
        f'{outcomes[name]} lambda {multiplier:.3g}'
      )
    return ', '.join(parts)


def final_multipliers(
  experiment: Experiment, inputs: RunInputs, num_steps: int
) -> dict[str, float] | None:
  """Return the multipliers after the last step, if constraints move none.

  Then the run minimizes one Lagrangian, and the best checkpoint is that of the
  lowest on held-out data: for the ELBO, and for a beta-VAE, where C <= 0 asks
  nothing and KL alone would choose the least trained. With an annealed beta the
  objective changes: all checkpoints are compared by the one it ends with, since
  at their own multipliers they would differ without having learned anything.

  Args:
    experiment: the run's experiment.
    inputs: the run's inputs.
    num_steps: steps of the run.

  Returns:
    By constraint; None if the constraints move the multipliers, as in GECO.
  """
  if experiment.moved_by_constraints:
    return None
  rule = experiment.multiplier_update(inputs.step_sizes, inputs.kappas)
  initial = inputs.initial_log_multipliers
  logs = {name: jnp.float32(x) for name, x in initial.items()}
  violations = jax.tree.map(jnp.zeros_like, logs)  # It does not look at them.

  def move(_, logs_and_state):
    logs, state = logs_and_state
    updates, state = rule.update(violations, state, logs)
    return optax.apply_updates(logs, updates), state

  start = logs, rule.init(logs)
  finals, _ = jax.lax.fori_loop(0, num_steps, move, start)
  return {name: math.exp(x) for name, x in finals.items()}


def score(kl_nats: float, violations: Mapping[str, float], tolerance: float):
  """Return the rank of a checkpoint, the lower the better.

  It is for runs whose constraints move their multipliers; see
  `final_multipliers` for others. Among checkpoints whose constraints all hold
  the lowest KL wins, and any of them before one that violates a constraint.

  Args:
    kl_nats: mean KL, of held-out data.
    violations: relative ones by constraint, of the training data, which is
      what the constraints speak of.
    tolerance: the largest violation that counts as none.
  """
  worst = max(violations.values())
  return kl_nats if verdicts.is_met(worst, tolerance) else 1e9 * (1 + worst)
