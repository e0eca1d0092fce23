"""Which runs of a grid are trained and evaluated to their ends."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.io import by_products
from geco_jax.io import run_folder
from geco_jax.sweep.grid import Point

EVALUATED_SPLITS = ('train', 'test')  # What each run is evaluated on.
_NUMBER = (int, float)
# The required content of an evaluation, for each split and each constraint.
_RECORD = {
  **dict.fromkeys(('rmse', 'kl_nats', 'nll_nats_per_dim'), _NUMBER),
  **{'split': str, 'step': int, 'constraints': dict},
}
_CONSTRAINT = {
  **dict.fromkeys(('kappa', 'value', 'violation', 'multiplier'), _NUMBER),
  **{'unit': str, 'holds': bool},
}


def mend(grid: Sequence[Point], workdir: str) -> None:
  """Rewrite the config.json of begun runs where it is missing or damaged.

  Raises:
    UserError: if the folder of one is another run's.
  """
  for point in grid:
    if check_same(point, workdir):
      run_folder.mend(os.path.join(workdir, point.name), point.config)


def check_same(point: Point, workdir: str) -> bool:
  """Return whether a run was begun, after making sure that it is this one.

  Raises:
    UserError: if its folder is another run's.
  """
  folder = os.path.join(workdir, point.name)
  if not run_folder.holds_run(folder):
    return False
  run_folder.check_same(folder, point.config)
  return True


def unfinished(
  grid: Sequence[Point], workdir: str, splits: Sequence[str] = EVALUATED_SPLITS
) -> list[Point]:
  """Return the runs that are not trained and evaluated to the end yet."""
  return [point for point in grid if not is_finished(point, workdir, splits)]


def is_finished(
  point: Point, workdir: str, splits: Sequence[str] = EVALUATED_SPLITS
) -> bool:
  """Return whether a run's final evaluation and its pictures are there."""
  folder = os.path.join(workdir, point.name)
  try:
    for split in splits:
      pictures.read_rows(os.path.join(folder, f'reconstructions_{split}.png'))
  except Exception:  # A damaged picture makes its reader raise anything.
    return False
  return read_evaluation(point, workdir, splits) is not None


def read_evaluation(
  point: Point, workdir: str, splits: Sequence[str] = EVALUATED_SPLITS
) -> Mapping[str, Any] | None:
  """Return a run's final evaluation (`checkpoints.evaluate`).

  None where there is none of these splits at the run's last step. Where
  evaluation.json is damaged a warning says so.

  Args:
    point: the run.
    workdir: the sweep's directory.
    splits: of the evaluation, the first at its top level; it may have more.
  """

  def parse(content):
    _check_record(content, point)
    for record in content['other_splits'].values():
      _check_record(record, point)
    for name in content['constraints']:
      verdicts.worst([verdicts.read(content, name)])
    return content

  path = os.path.join(workdir, point.name, 'evaluation.json')
  evaluation = by_products.read(path, parse)
  if evaluation is None:
    return None
  first, *others = splits
  is_final = (
    evaluation['step'] == point.config.num_steps
    and evaluation['split'] == first
    and set(others) <= set(evaluation['other_splits'])
  )
  return evaluation if is_final else None


def final_evaluation(
  point: Point, workdir: str, splits: Sequence[str] = EVALUATED_SPLITS
) -> Mapping[str, Any]:
  """Return `read_evaluation` of a run that was evaluated.

  Raises:
    UserError: if its evaluation was removed or changed since.
  """
  evaluation = read_evaluation(point, workdir, splits)
  if evaluation is None:
    raise UserError(
      f'{os.path.join(workdir, point.name)} has lost its evaluation; run the '
      'command again'
    )
  return evaluation


def _check_record(record, point):
  """Raise a ValueError, or LookupError, unless a split's record is whole."""
  for name, kinds in _RECORD.items():
    by_products.check(record[name], kinds, name)
  for constraint in point.config.constraints:
    for name, kinds in _CONSTRAINT.items():
      value = record['constraints'][constraint][name]
      by_products.check(value, kinds, f'{constraint} {name}')
