"""Which runs of a grid are trained and evaluated to their ends."""

from collections.abc import Sequence
import json
import os

from geco_jax.evaluation import pictures
from geco_jax.io import run_folder
from geco_jax.sweep.grid import Point

SPLITS = ('train', 'test')  # What each run is evaluated on.


def unfinished(grid: Sequence[Point], workdir: str) -> list[Point]:
  """Return the runs that are not trained and evaluated to the end yet.

  Raises:
    UserError: if the folder of one is another run's.
  """
  for point in grid:
    folder = os.path.join(workdir, point.name)
    if run_folder.holds_run(folder):
      run_folder.check_same(folder, point.config)
  return [point for point in grid if not is_finished(point, workdir)]


def is_finished(point: Point, workdir: str) -> bool:
  """Return whether a run's final evaluation and its pictures are there."""
  folder = os.path.join(workdir, point.name)
  try:
    with open(os.path.join(folder, 'evaluation.json')) as file:
      evaluation = json.load(file)
    for split in SPLITS:
      pictures.read_rows(os.path.join(folder, f'reconstructions_{split}.png'))
  except (OSError, ValueError):
    return False
  first, *others = SPLITS
  return (
    evaluation['step'] == point.config.num_steps
    and evaluation['split'] == first
    and set(others) <= set(evaluation['other_splits'])
  )
