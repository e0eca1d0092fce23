"""What became of a constraint, in one word: met, violated or infeasible.

`reports.verdict` finds it, the report of the training split keeps it, and
whoever prints it reads it here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

import numpy as np

MET, VIOLATED, INFEASIBLE = 'met', 'violated', 'infeasible'
_FROM_BEST_TO_WORST = (MET, VIOLATED, INFEASIBLE)
# Results of earlier versions store neither it nor, some, the verdict.
_EARLIER_TOLERANCE = 0.02
_COLLAPSED_NATS = 0.1  # A KL per example below which q(z|x) is the prior.


@overload
def is_met(violation: float, tolerance: float) -> bool: ...


@overload
def is_met(violation: np.ndarray, tolerance: float) -> np.ndarray: ...


def is_met(
  violation: float | np.ndarray, tolerance: float
) -> bool | np.ndarray:
  """Return whether a constraint holds.

  Args:
    violation: C / scale of training data, or several of any shape.
    tolerance: up to which a violation counts as none.

  Returns:
    The answer, or an array of the violations' shape.
  """
  return violation <= tolerance


def level(verdict: str) -> int:
  """Return a verdict's number in logs: 0 is met, 1 violated, 2 infeasible."""
  return _FROM_BEST_TO_WORST.index(verdict)


def read(
  evaluation: Mapping[str, Any], name: str, sentences: Iterable[str] = ()
) -> str:
  """Return the verdict on a constraint of a run.

  Args:
    evaluation: of the run, the training split at its top level.
    name: name of the constraint.
    sentences: what `infeasibility_sentences` yielded for the run. They matter
      only if the evaluation is of an earlier version, which stored no verdict:
      a constraint that a sentence names was infeasible, not just violated.
  """
  report = evaluation['constraints'][name]
  if 'verdict' in report:
    return report['verdict']
  if report['holds']:
    return MET
  listed = any(s.startswith(f'constraint {name} ') for s in sentences)
  return INFEASIBLE if listed else VIOLATED


def tolerance(stored: Mapping[str, Any]) -> float:
  """Return up to which C / scale a constraint's report calls it met."""
  return stored.get('tolerance', _EARLIER_TOLERANCE)


def worst(verdicts: Iterable[str]) -> str:
  """Return the verdict on several constraints, or runs, together."""
  return max(verdicts, key=level)


def are_met(evaluation: Mapping[str, Any]) -> bool:
  """Return whether all constraints of a run are met, also if there are none.

  Args:
    evaluation: of the run, the training split at its top level.
  """
  names = evaluation['constraints']
  return all(read(evaluation, name) == MET for name in names)


def infeasibility_sentences(
  reports: Mapping[str, Mapping[str, Any]], logged: Mapping[str, np.ndarray]
) -> Iterator[str]:
  """Yield a sentence for each constraint whose verdict is infeasible.

  Args:
    reports: by constraint, `reports.constraint_report`.
    logged: the run's metrics by name, each [lines].
  """
  for name, report in reports.items():
    if report.get('verdict') == INFEASIBLE:
      violations = logged.get(f'{name}/violation', np.empty(0))
      best = ''  # Where the log was lost.
      if np.isfinite(violations).any():
        value = logged[f'{name}/value'][np.nanargmin(violations)]
        best = f', the best {report["unit"]} in its log is {value:.4g}'
      yield (
        f'constraint {name} is infeasible in this run: kappa '
        f'{report["kappa"]:g} was asked{best}; its multiplier, '
        f'{report["multiplier"]:.4g}, is {report["saturation"]:.2g} times the '
        'natural one, so that it waits for the optimization (more steps, '
        f'another model), not for the multiplier{_collapse(logged)}'
      )


def _collapse(logged: Mapping[str, np.ndarray]) -> str:
  """Return the end of a sentence on a run whose latents carry nothing."""
  kl_nats = logged.get('kl_nats', np.empty(0))
  kl_nats = kl_nats[np.isfinite(kl_nats)]
  if not len(kl_nats) or kl_nats[-1] >= _COLLAPSED_NATS:
    return ''
  return (
    f'; its posterior has collapsed onto the prior (KL {kl_nats[-1]:.2g} '
    "nats), as where an encoder's rectified units have died"
  )
