"""Runs of a grid in this process, each program compiled once.

Runs that agree in all but what enters a program as an array
(`build.experiment_key`) share an `Experiment`. They are trained in turn, every
one shared by all devices, or several at once, every one whole on its device.
"""

from collections.abc import Callable, Sequence
import os
import traceback

from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import experiment_key
from geco_jax.build import run_inputs
from geco_jax.console import say
from geco_jax.evaluation.measures import evaluate
from geco_jax.experiment import Experiment
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import latest_step
from geco_jax.sweep.completion import SPLITS
from geco_jax.sweep.completion import unfinished
from geco_jax.sweep.grid import Point
from geco_jax.training import loop

ERROR_LOG = 'error.log'  # Why a run failed, in its folder.

# An experiment and the runs that share it -> how many to train at once.
ChooseWidth = Callable[[Experiment, Sequence[Point]], int]


def in_turn(experiment: Experiment, points: Sequence[Point]) -> int:
  """Return 1: one run after another, as `geco_jax.train` does each."""
  del experiment, points
  return 1


def run_here(
  grid: Sequence[Point],
  workdir: str,
  choose_width: ChooseWidth = in_turn,
  *,
  data_dir: str | None = None,
  show_progress: bool = True,
) -> list[Point]:
  """Train and evaluate those runs of a grid that are not finished.

  Args:
    grid: the runs; each has its folder in `workdir`.
    workdir: of the sweep.
    choose_width: says how many runs to train at once.
    data_dir: of TFDS.
    show_progress: whether to draw progress bars on stderr.

  Returns:
    The runs that failed; `ERROR_LOG` in the folder of each says why.

  Raises:
    UserError: if a config is refused or a folder is another run's; then
      nothing is trained.
    training.Interrupted: after SIGTERM or SIGINT, what was trained saved.
  """
  todo = unfinished(grid, workdir)
  experiments = _experiments(todo, data_dir)  # Refused here, not in an hour.
  failed = []
  names = {point.name for point in todo}
  # Grouped over the whole grid: what is left is trained as it would have been.
  for key, group in _by_experiment(grid).items():
    left = [point for point in group if point.name in names]
    if left:
      experiment = experiments.pop(key)  # Not kept when its runs are through.
      untrained = any(not _is_trained(point, workdir) for point in left)
      choose = untrained and len(group) > 1
      width = choose_width(experiment, group) if choose else 1
      failed += _run_group(left, workdir, experiment, width, show_progress)
  return failed


def _experiments(points, data_dir) -> dict[str, Experiment]:
  """Return the experiments of runs by their keys, all inputs checked."""
  datasets, experiments = {}, {}
  for key, group in _by_experiment(points).items():
    config = group[0].config
    name = config.dataset.to_json(sort_keys=True)
    if name not in datasets:
      datasets[name] = build_dataset(config, data_dir)
    experiments[key] = build(config, datasets[name])
    for point in group:
      run_inputs(point.config, experiments[key])
  return experiments


def _by_experiment(points: Sequence[Point]) -> dict[str, list[Point]]:
  """Return the runs that share an experiment, by its key."""
  groups: dict[str, list[Point]] = {}
  for point in points:
    groups.setdefault(experiment_key(point.config), []).append(point)
  return groups


def _run_group(points, workdir, experiment: Experiment, width, show_progress):
  """Run points that share an experiment; return those that failed."""
  failed = []
  for start in range(0, len(points), width):
    chunk = points[start : start + width]
    say(', '.join(point.name for point in chunk))
    failures = _train(chunk, workdir, experiment, width, show_progress)
    for point in chunk:
      folder = os.path.join(workdir, point.name)
      failure = failures[folder] or _evaluate(folder, experiment)
      _write_error_log(folder, failure)
      failed += [point] if failure else []
  return failed


def _is_trained(point: Point, workdir: str) -> bool:
  folder = os.path.join(workdir, point.name)
  return latest_step(folder) == point.config.num_steps


def _train(chunk, workdir, experiment, width, show_progress):
  """Train the runs of a chunk; return what went wrong, by folder."""
  configs = {os.path.join(workdir, p.name): p.config for p in chunk}
  if width > 1:
    return loop.train_together(configs, experiment, show_progress=show_progress)
  ((folder, config),) = configs.items()
  try:
    loop.train(
      config, folder, experiment=experiment, show_progress=show_progress
    )
  except loop.Interrupted:
    raise
  except Exception as error:  # The others go on.
    return {folder: error}
  return {folder: None}


def _evaluate(folder, experiment):
  """Evaluate a run; return what went wrong, or None."""
  try:
    evaluate(folder, SPLITS, experiment=experiment)
  except Exception as error:  # The others go on.
    return error


def _write_error_log(folder, failure) -> None:
  """Leave a failure's traceback in a run's folder, or remove an old one."""
  path = os.path.join(folder, ERROR_LOG)
  if failure is None:
    if os.path.exists(path):
      os.remove(path)
    return
  run_folder.create(folder)
  text = ''.join(traceback.format_exception(failure))
  files.write_bytes(path, text.encode())
  say(f'failed: {failure} (see {path}); the others go on')
