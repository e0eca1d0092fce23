"""Runs of a grid in this process, each program compiled once.

Runs that agree in all but what enters a program as an array
(`build.experiment_key`) share an `Experiment`; those that agree in what they
evaluate, the programs of the evaluation. They are trained in turn, every
one shared by all devices, or several at once, every one whole on its device.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import json
import os
import textwrap
import traceback

from geco_jax import signals
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import experiment_key
from geco_jax.build import run_inputs
from geco_jax.console import say
from geco_jax.errors import Interrupted
from geco_jax.errors import UserError
from geco_jax.evaluation.checkpoints import evaluate
from geco_jax.evaluation.measures import split_means
from geco_jax.evaluation.pictures import row_programs
from geco_jax.experiment import Experiment
from geco_jax.experiment import with_programs_of
from geco_jax.io import files
from geco_jax.io import lock
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import latest_step
from geco_jax.sweep import completion
from geco_jax.sweep.completion import EVALUATED_SPLITS
from geco_jax.sweep.grid import Point
from geco_jax.sweep.throughput import ChooseWidth
from geco_jax.sweep.throughput import in_turn
from geco_jax.training import loop

ERROR_LOG = 'error.log'  # Why a run failed, in its folder.
# Groups of a config that the programs of an evaluation depend on.
_EVALUATED = ('dataset', 'model', 'constraints', 'policy', 'batch_size')
_LEFT = 'the same command goes on with the runs that are left'


def run_here(
  grid: Sequence[Point],
  workdir: str,
  choose_width: ChooseWidth = in_turn,
  *,
  splits: Sequence[str] = EVALUATED_SPLITS,
  experiments: Mapping[str, Experiment] | None = None,
  data_dir: str | None = None,
  alone: bool = False,
  show_progress: bool = True,
) -> dict[str, str]:
  """Train and evaluate those runs of a grid that are not finished.

  Args:
    grid: the runs; each has its folder in `workdir`.
    workdir: the sweep's directory.
    choose_width: says how many runs to train at once.
    splits: to evaluate each run on, the most wanted first.
    experiments: `build_experiments` of the grid, for callers that have them.
    data_dir: TFDS data directory.
    alone: whether another sweep is refused in the folder at the same time.
    show_progress: whether to draw progress bars on stderr.

  Returns:
    The reason for people, by name, of each run that failed; `ERROR_LOG` in its
    folder has the traceback if it could be written. The others are finished.

  Raises:
    UserError: if a config is refused, a folder is another run's or the sweep
      is in use; then nothing is trained.
    Interrupted: after SIGTERM or SIGINT, what was trained saved.
  """
  todo = completion.unfinished(grid, workdir, splits)
  if experiments is None:
    experiments = build_experiments(todo, data_dir)
  experiments = dict(experiments)
  failed = {}
  names = {point.name for point in todo}
  with contextlib.ExitStack() as stack:
    # A finished sweep needs no lock: it may be where nothing can be written.
    if alone and todo:
      stack.callback(lock.Lock(workdir).close)
    completion.mend(grid, workdir)
    if len(todo) > 1:
      stack.enter_context(signals.outlook(_LEFT))
    # Grouped over the whole grid: the rest is trained as it would have been.
    for key, group in _by_experiment(grid).items():
      left = [point for point in group if point.name in names]
      if left:
        # Freed after its runs, unless another shares its evaluation.
        experiment = experiments.pop(key)
        untrained = any(not _is_trained(point, workdir) for point in left)
        choose = untrained and len(group) > 1
        width = choose_width(experiment, group) if choose else 1
        failed |= _run_group(
          group, names, workdir, experiment, width, splits, show_progress
        )
  return failed


def raise_failures(failed: Mapping[str, str]) -> None:
  """Raise a UserError that names the runs that failed, if any did.

  Args:
    failed: what `run_here` returned.
  """
  if failed:
    raise UserError(
      '; '.join(f'{name} failed: {reason}' for name, reason in failed.items())
    )


def build_experiments(
  points: Sequence[Point], data_dir: str | None = None
) -> dict[str, Experiment]:
  """Return the experiments of runs by their keys, all inputs checked.

  Args:
    points: the runs.
    data_dir: TFDS data directory.

  Raises:
    UserError: if a config is refused: here, not in an hour.
  """
  datasets, evaluated, experiments = {}, {}, {}
  for key, group in _by_experiment(points).items():
    config = group[0].config
    name = config.dataset.to_json(sort_keys=True)
    if name not in datasets:
      datasets[name] = build_dataset(config, data_dir)
    experiment = build(config, datasets[name])
    first = evaluated.setdefault(_evaluated_part(key), experiment)
    experiments[key] = _sharing_evaluation(experiment, first)
    for point in group:
      run_inputs(point.config, experiments[key])
  return experiments


def _evaluated_part(key: str) -> str:
  """Return the part of an experiment's key that its evaluation depends on.

  Experiments with equal parts can be evaluated by the same programs.
  """
  leaves = json.loads(key)
  return json.dumps(
    {k: v for k, v in leaves.items() if k.split('.')[0] in _EVALUATED}
  )


def _sharing_evaluation(
  experiment: Experiment, first: Experiment
) -> Experiment:
  """Return a copy of an experiment that is evaluated by another's programs.

  The two have the same `_evaluated_part`: they may differ in the multipliers'
  rule, the optimizer or the number of steps. The programs that evaluate are
  half of all that is compiled, so that they are compiled only once.
  """
  if experiment is first:
    return experiment
  return with_programs_of(experiment, first, (split_means, row_programs))


def _by_experiment(points: Sequence[Point]) -> dict[str, list[Point]]:
  """Return the runs that share an experiment, by its key."""
  groups: dict[str, list[Point]] = {}
  for point in points:
    groups.setdefault(experiment_key(point.config), []).append(point)
  return groups


def _run_group(
  group, todo, workdir, experiment: Experiment, width, splits, show_progress
):
  """Run what is left of points that share an experiment.

  Args:
    group: the points.
    todo: names of those that are left.
    workdir: as `run_here`'s, like what follows.
    experiment: which they share.
    width: how many are trained at once.
    splits: to evaluate each on.
    show_progress: whether to draw progress bars.

  Returns:
    As `run_here`.
  """
  failed = {}
  for start in range(0, len(group), width):
    chunk = group[start : start + width]
    left = [point for point in chunk if point.name in todo]
    if not left:
      continue
    say(', '.join(point.name for point in left))
    # Finished runs keep their places beside those that are not trained yet: the
    # rounding of numbers depends on them.
    is_trained = all(_is_trained(point, workdir) for point in left)
    errors = _train(
      left if is_trained else chunk, workdir, experiment, width, show_progress
    )
    for name in (point.name for point in left):
      folder = os.path.join(workdir, name)
      if name not in errors:
        with _failing(errors, [name]):
          evaluate(
            folder, splits, experiment=experiment, show_progress=show_progress
          )
      if name in errors:
        failed[name] = _explain(folder, errors[name])
        say(f'failed: {name}: {failed[name]}; the others go on')
      else:
        with contextlib.suppress(OSError):  # Usually there is none.
          os.remove(os.path.join(folder, ERROR_LOG))
  return failed


def _is_trained(point: Point, workdir: str) -> bool:
  try:
    step = latest_step(os.path.join(workdir, point.name))
  except (OSError, UserError):  # Reported when it is trained.
    return False
  return step == point.config.num_steps


def _train(chunk, workdir, experiment, width, show_progress):
  """Train the runs of a chunk; return what went wrong, by name."""
  options = {'experiment': experiment, 'show_progress': show_progress}
  errors: dict[str, Exception] = {}
  if width == 1:
    (point,) = chunk
    with _failing(errors, [point.name]):
      loop.train(point.config, os.path.join(workdir, point.name), **options)
    return errors
  configs, names = {}, {}
  for point in chunk:
    folder = os.path.join(workdir, point.name)
    configs[folder], names[folder] = point.config, point.name
  with _failing(errors, names.values()):
    outcomes = loop.train_together(configs, width=width, **options)
    errors |= {names[folder]: e for folder, e in outcomes.items() if e}
  return errors


@contextlib.contextmanager
def _failing(errors: dict[str, Exception], names: Iterable[str]):
  """Record an error as these runs' failure; the others go on."""
  try:
    yield
  except Interrupted:
    raise
  except Exception as error:  # Full disks, losses that are not finite, ...
    errors |= dict.fromkeys(names, error)


def _explain(folder: str, error: Exception) -> str:
  """Return why a run failed, for people; leave the traceback in its folder."""
  reason = textwrap.shorten(str(error), 300)
  if not isinstance(error, UserError):
    reason = f'{type(error).__name__}: {reason}'
  if isinstance(error, lock.InUse):  # Another process's run is no failure.
    return reason
  text = ''.join(traceback.format_exception(error))
  return f'{reason} ({write_error_log(folder, text)})'


def write_error_log(folder: str, text: str) -> str:
  """Write a run's `ERROR_LOG`; return where it is, or why it is not there."""
  path = os.path.join(folder, ERROR_LOG)
  try:
    run_folder.create(folder)
    files.write_text(path, text)
  except (OSError, UserError) as error:  # A full disk may be why it failed.
    return f'no {ERROR_LOG}: {error}'
  return f'see {path}'
