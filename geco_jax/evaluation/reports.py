"""What is reported of a run's constraints: values, multipliers, verdicts."""

from collections.abc import Mapping
import math
from typing import Any

from geco_jax.constraints import natural_multiplier
from geco_jax.evaluation import verdicts
from geco_jax.experiment import Experiment
from geco_jax.experiment import RunInputs

# A multiplier this close to its clip stands at it.
_AT_CLIP = 1e-3
# In natural multipliers; none is needed above 1. From here on, what a violated
# constraint waits for is the optimization.
SATURATED = 2.0


def verdict(
  experiment: Experiment,
  inputs: RunInputs,
  name: str,
  violation: float,
  log_multiplier: float,
) -> str:
  """Return what became of a constraint, in a word of `verdicts`.

  It is infeasible in this run if it is violated while GECO's multiplier stands
  at its upper clip or is saturated: at least `SATURATED` times the natural one.

  Args:
    experiment: the run's experiment.
    inputs: the run's inputs.
    name: name of the constraint.
    violation: mean C / scale of training data, which is what the constraint
      speaks of (Eq. 1).
    log_multiplier: at the end.
  """
  if verdicts.is_met(violation, inputs.tolerance):
    return verdicts.MET
  highest = experiment.highest_log_multiplier
  if not math.isfinite(highest):  # Nothing moves it.
    return verdicts.VIOLATED
  at_clip = float(log_multiplier) >= highest - _AT_CLIP
  saturated = saturation(experiment, inputs, name, log_multiplier) >= SATURATED
  return verdicts.INFEASIBLE if at_clip or saturated else verdicts.VIOLATED


def saturation(
  experiment: Experiment, inputs: RunInputs, name: str, log_multiplier: float
) -> float:
  """Return a multiplier in natural ones (`constraints.natural_multiplier`)."""
  natural = natural_multiplier(
    experiment.constraints[name],
    inputs.kappas[name],
    experiment.dataset.num_dims,
  )
  return math.exp(log_multiplier) / float(natural)


def constraint_report(
  experiment: Experiment,
  inputs: RunInputs,
  means: Mapping[str, float],
  log_multipliers: Mapping[str, Any],
  split: str,
) -> dict[str, dict[str, Any]]:
  """Return what is reported of each constraint.

  Args:
    experiment: the run's experiment.
    inputs: the run's inputs.
    means: of the statistics, by constraint.
    log_multipliers: at the end, by constraint.
    split: of the means; the training split's alone have a verdict.
  """
  report = {}
  for name, constraint in experiment.constraints.items():
    kappa = inputs.kappas[name]
    violation = float(constraint.relative(means[name], kappa))
    report[name] = {
      'kappa': float(kappa),
      'value': float(constraint.measure(means[name])),
      'unit': constraint.unit,
      'violation': violation,
      'multiplier': math.exp(log_multipliers[name]),
      'saturation': saturation(experiment, inputs, name, log_multipliers[name]),
      'tolerance': inputs.tolerance,
      'holds': verdicts.is_met(violation, inputs.tolerance),
    }
    if split == 'train':
      report[name]['verdict'] = verdict(
        experiment, inputs, name, violation, log_multipliers[name]
      )
  return report
