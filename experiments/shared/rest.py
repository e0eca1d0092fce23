"""Baselines that train until they rest, at twice the steps each time.

The schedules of the learning rate, of annealed beta and of the multipliers'
step size follow `num_steps`: a run of 2 N steps does not continue a run of N
steps but is a run of its own, in steps_2N below the folder of the others.
GECO's runs take as many steps as the ELBO's ended with.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

from absl import flags
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.build import run_inputs
from geco_jax.datasets.batches import MAX_EXAMPLES
from geco_jax.errors import UserError
from geco_jax.io.logs import read_metrics
from geco_jax.sweep.completion import is_finished
from geco_jax.sweep.grid import Point

from . import runs
from .runs import Result
from .runs import Run

SHARE = 0.2  # The last part of a run that is looked at.
TOLERANCE = 0.02  # Largest relative change of KL and RMSE that counts as rest.
MAX_DOUBLING = 16  # The cap, times the first number of steps, if not given.
_MIN_LINES = 5  # Fewest lines of the log in that share that decide.
_BASELINES = ('elbo', 'annealed_beta')
_NO_CHANGES: Mapping[str, Any] = {}


def define_flags() -> None:
  """Define --until_rest and --max_steps."""
  flags.DEFINE_bool(
    'until_rest',
    False,
    'Whether steps are doubled until KL and RMSE of the baselines rest.',
  )
  flags.DEFINE_integer(
    'max_steps',
    None,
    f'Most steps to try; else {MAX_DOUBLING} times the first number.',
    lower_bound=1,
  )


def rested(metrics: Mapping[str, np.ndarray]) -> bool:
  """Return whether KL and RMSE move by at most 2% in a run's last fifth.

  A step is weighted by its learning rate: where that falls to 0, nothing moves
  at the end, whether at rest or not. At a constant rate the last fifth is that
  of the steps; under a cosine it is the last 52% of them. How far a value moves
  there is the change of a straight line through its values, relative to their
  mean, so that the noise of batches does not count.

  Args:
    metrics: of `logs.read_metrics`: 'step', 'kl_nats', 'rmse' and, where it is
      not constant, 'learning_rate', each [lines], means since the line before.

  Returns:
    Whether they do; False if there are fewer than five lines to decide by.
  """
  if not {'step', 'kl_nats', 'rmse'} <= set(metrics):
    return False
  names = ('step', 'kl_nats', 'rmse')
  ones = np.ones(len(metrics['step']))
  lines = np.stack([*(metrics[name] for name in names), ones])
  lines[3] = metrics.get('learning_rate', ones)
  lines = lines[:, np.isfinite(lines).all(axis=0)]
  step, kl, rmse, rate = lines
  weight = rate * np.diff(step, prepend=0)
  if not weight.sum() > 0:
    return False
  place = (np.cumsum(weight) - weight / 2) / weight.sum()
  late = place >= 1 - SHARE
  if late.sum() < _MIN_LINES:
    return False
  return all(
    abs(_slope(place[late], values[late], weight[late])) * SHARE
    <= TOLERANCE * abs(np.average(values[late], weights=weight[late]))
    for values in (kl, rmse)
  )


def _slope(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
  """Return the slope of the weighted least-squares line."""
  return float(np.polyfit(x, y, 1, w=np.sqrt(weight))[0])


def lengths(
  first: int, max_steps: int | None, batch_size: int = 1
) -> list[int]:
  """Return the numbers of steps that are tried in turn.

  Args:
    first: the runs' own number of steps.
    max_steps: the cap; None is 16 times the first. The first is always tried.
    batch_size: of the runs, which cannot train on 2**31 examples or more.

  Raises:
    UserError: if the first is no number of steps.
  """
  if first < 1:
    raise UserError(f'the number of steps must be >= 1, got {first}')
  cap = MAX_DOUBLING * first if max_steps is None else max_steps
  cap = min(cap, (MAX_EXAMPLES - 1) // batch_size)
  tried = [first]
  while 2 * tried[-1] <= cap:
    tried.append(2 * tried[-1])
  return tried


def train_until_rest(
  row_runs: Sequence[Run],
  workdir: str,
  preset: str | None = None,
  num_steps: int | None = None,
  data_dir: str | None = None,
  changes: Mapping[str, Any] = _NO_CHANGES,
  max_steps: int | None = None,
) -> list[Result]:
  """Train the baselines until they rest, and GECO as long as the ELBO.

  All seeds of an objective train as long as the one that rests last.

  Args:
    row_runs: see `runs.train_all`.
    workdir: parent of the runs' folders at their own number of steps, which are
      reused if they rest there, and of STEPS_N for the others.
    preset: see `runs.train_all`.
    num_steps: steps of the first attempt, if not the configs'.
    data_dir: TFDS data directory.
    changes: see `runs.train_all`.
    max_steps: see `lengths`.

  Returns:
    The results in order; those of the baselines say whether they `rested`.

  Raises:
    UserError: if there is GECO without the ELBO, whose steps it takes, a config
      is refused, or a run failed or has lost its log.
  """
  objectives = dict.fromkeys(run.objective for run in row_runs)
  if 'geco' in objectives and 'elbo' not in objectives:
    raise UserError(
      'trained until rest, GECO takes as many steps as the ELBO, which must be '
      f'among the objectives, got {", ".join(objectives)}'
    )
  config = row_runs[0].config(preset, num_steps, changes)
  results = {}

  def train(some, steps):
    below = _folder(steps, config.num_steps)
    folder = os.path.join(workdir, below) if below else workdir
    trained = runs.train_all(some, folder, preset, steps, data_dir, changes)
    trained = judged(trained)
    for result in trained:
      if result.run.objective in _BASELINES and result.rested is None:
        raise UserError(
          f'{result.folder} has lost its log, which says whether it rests; '
          'delete it to train it again'
        )
    results.update({result.run.name: result for result in trained})
    return all(result.rested for result in trained)

  _attempt_in_turn(row_runs, config, max_steps, train)
  return [results[run.name] for run in row_runs]


def points(
  row_runs: Sequence[Run],
  workdir: str,
  preset: str | None,
  num_steps: int | None,
  changes: Mapping[str, Any],
  max_steps: int | None,
) -> list[Point]:
  """Return the most that `train_until_rest` trains, named by folder.

  Where finished runs rest, nothing longer is trained.
  """
  config = row_runs[0].config(preset, num_steps, changes)
  listed = []

  def add(some, steps):
    named = runs.points_of(some, preset, steps, changes)
    below = _folder(steps, config.num_steps)
    added = [
      point._replace(name=os.path.join(below, name))
      for name, point in named.items()
    ]
    listed.extend(added)
    return all(_rests(point, workdir) for point in added)

  _attempt_in_turn(row_runs, config, max_steps, add)
  return listed


def _attempt_in_turn(
  all_runs: Sequence[Run],
  config: ConfigDict,
  max_steps: int | None,
  attempt: Callable[[Sequence[Run], int], bool],
) -> None:
  """Attempt each baseline until it rests, then GECO at the ELBO's last steps.

  Args:
    all_runs: of any objectives.
    config: of the first, with their own number of steps.
    max_steps: see `lengths`.
    attempt: called with runs of an objective and their number of steps; returns
      whether all of them rest, which ends the doubling of a baseline.
  """
  ended = config.num_steps
  tried = lengths(config.num_steps, max_steps, config.batch_size)
  for objective in _BASELINES:
    some = [run for run in all_runs if run.objective == objective]
    for steps in tried if some else []:
      rests = attempt(some, steps)
      if objective == 'elbo':
        ended = steps
      if rests:
        break
  others = [run for run in all_runs if run.objective not in _BASELINES]
  if others:
    attempt(others, ended)


def _folder(steps: int, first: int) -> str:
  return '' if steps == first else f'steps_{steps}'


def judged(results: Sequence[Result]) -> list[Result]:
  """Return the results; those of baselines say whether they `rested`."""
  return [
    result._replace(rested=is_at_rest(result))
    if result.run.objective in _BASELINES
    else result
    for result in results
  ]


def is_at_rest(result: Result) -> bool | None:
  """Return whether a run has `rested`, None if its log is lost."""
  metrics = read_metrics(result.folder)
  if not metrics:
    return None
  if 'learning_rate' not in metrics:  # A log of earlier versions.
    inputs = run_inputs(result.config, result.experiment)
    schedule = result.experiment.learning_rate(inputs.step_sizes)
    rate = [schedule(step) for step in metrics['step']]
    metrics['learning_rate'] = np.array(rate, np.float64)
  return rested(metrics)


def _rests(point: Point, workdir: str) -> bool:
  """Return whether a run is finished and rests, as far as its log says."""
  if not is_finished(point, workdir, runs.EVALUATED_SPLITS):
    return False
  metrics = read_metrics(os.path.join(workdir, point.name))
  return 'learning_rate' in metrics and rested(metrics)
