"""What the folders of a sweep's runs say, in the order of its grid."""

from collections.abc import Mapping, Sequence
import csv
import io
import os
from typing import Any, NamedTuple

import numpy as np

from geco_jax.evaluation import verdicts
from geco_jax.io.encodings import in_unicode
from geco_jax.io.logs import read_metrics
from geco_jax.sweep.completion import EVALUATED_SPLITS
from geco_jax.sweep.completion import is_finished
from geco_jax.sweep.completion import read_evaluation
from geco_jax.sweep.grid import Point
from geco_jax.sweep.grid import short_names

_HEADINGS = {
  'train/': '',
  'test/': 'test ',
  'rmse': 'RMSE',
  'kl_nats': 'KL/nats',
  'nll_nats_per_dim': 'NLL/dim',
  '/value': ' value',
  '/violation': ' C/scale',
  '/multiplier': ' lambda',
}
_DATASET = 'dataset.'  # Names that begin so say which data a run is of.


class Result(NamedTuple):
  """A run that was trained and evaluated."""

  point: Point
  folder: str
  evaluation: Mapping[str, Any]  # See `checkpoints.evaluate`.
  logged: Mapping[str, np.ndarray]  # By name, each [lines].

  def record(self, split: str) -> Mapping[str, Any]:
    """Return the evaluation of a split."""
    others = self.evaluation['other_splits']
    return self.evaluation if split == 'train' else others[split]


class Line(NamedTuple):
  """Runs on one data set that differ in kappa or seed.

  Without a swept kappa they differ in whatever else is swept.
  """

  name: str  # The values that set this line apart; '' if none.
  places: Mapping[str, Sequence[Result]]  # Seeds, by the other values.


def read(grid: Sequence[Point], workdir: str) -> list[Result]:
  """Return the finished runs of a grid."""
  results = []
  for point in grid:
    evaluation = read_evaluation(point, workdir)
    if evaluation is not None and is_finished(point, workdir):
      folder = os.path.join(workdir, point.name)
      results.append(Result(point, folder, evaluation, read_metrics(folder)))
  return results


def lines(results: Sequence[Result]) -> list[Line]:
  """Return the results by line, the places of each by rising values."""
  swept = [name for name in results[0].point.values if name != 'seed']
  kappas = [name for name in swept if _is_kappa(name)]
  # Runs on different data have no images, and no line, in common.
  along = kappas or [n for n in swept if not n.startswith(_DATASET)]
  across = [name for name in swept if name not in along]
  short = short_names([result.point for result in results])
  places: dict[str, dict[str, list[Result]]] = {}
  for result in sorted(results, key=lambda r: _order(r, along)):
    line, place = (
      in_unicode(
        ', '.join(f'{short[n]} {result.point.values[n]}' for n in names)
      )
      for names in (across, along)
    )
    places.setdefault(line, {}).setdefault(place, []).append(result)
  return [Line(name, places[name]) for name in sorted(places)]


def table(results: Sequence[Result]) -> list[dict[str, str]]:
  """Return the cells of a table by heading, a row per run."""
  short = short_names([result.point for result in results])
  return [
    {
      **{short[n]: str(v) for n, v in result.point.values.items()},
      **cells(result.evaluation),
    }
    for result in results
  ]


def cells(evaluation: Mapping[str, Any]) -> dict[str, str]:
  """Return a run's row of `table` without the values that are swept.

  Args:
    evaluation: of the run, its test split among `other_splits`.
  """
  test = evaluation['other_splits']['test']
  row = {'RMSE': f'{evaluation["rmse"]:.4f}'}
  for name, constraint in evaluation['constraints'].items():
    row[f'{name} C/scale'] = f'{constraint["violation"]:+.2%}'
    row[name] = verdicts.read(evaluation, name)
    row[f'{name} lambda'] = f'{constraint["multiplier"]:.4g}'
  row['KL/nats'] = f'{evaluation["kl_nats"]:.3f}'
  row['NLL/dim'] = f'{evaluation["nll_nats_per_dim"]:.3f}'
  row['test RMSE'] = f'{test["rmse"]:.4f}'
  row['test KL/nats'] = f'{test["kl_nats"]:.3f}'
  row['test NLL/dim'] = f'{test["nll_nats_per_dim"]:.3f}'
  row['at once'] = str(evaluation.get('runs_at_once') or 'unknown')
  row['steps'] = str(evaluation['step'])
  return row


def means(results: Sequence[Result]) -> list[dict[str, str]]:
  """Return the cells of a table of means over seeds, by heading.

  There is a row for each place of each line, mean ± sample standard deviation;
  none where no place has two seeds.
  """
  rows = []
  max_seeds = 0
  for line in lines(results):
    for place, seeds in line.places.items():
      max_seeds = max(max_seeds, len(seeds))
      columns: dict[str, list[float]] = {}
      for result in seeds:
        for name, value in numbers(result).items():
          columns.setdefault(name, []).append(value)
      rows.append(
        {
          'runs': ', '.join(filter(None, (line.name, place))) or 'all',
          'seeds': str(len(seeds)),
          **{_heading(n): _spread(values) for n, values in columns.items()},
        }
      )
  return rows if max_seeds > 1 else []


def _heading(name: str) -> str:
  """Return what `table` calls one of `numbers`."""
  for known, heading in _HEADINGS.items():
    name = name.replace(known, heading)
  return name


def _spread(values: Sequence[float]) -> str:
  mean = f'{np.mean(values):.4g}'
  return f'{mean} ± {np.std(values, ddof=1):.2g}' if len(values) > 1 else mean


def numbers(result: Result) -> dict[str, float]:
  """Return the measures of a run, not rounded, by name."""
  values = {}
  for split in EVALUATED_SPLITS:
    for name in ('rmse', 'kl_nats', 'nll_nats_per_dim'):
      values[f'{split}/{name}'] = result.record(split)[name]
  for name, constraint in result.record('train')['constraints'].items():
    for quantity in ('value', 'violation', 'multiplier'):
      values[f'{name}/{quantity}'] = constraint[quantity]
  return values


def as_csv(results: Sequence[Result]) -> str:
  """Return what is known of each run, a line for each, for other programs.

  Columns: the run's folder, what is swept by its dotted name, `numbers`, the
  verdicts, how many runs were trained at once, the step.
  """
  rows = []
  for result in results:
    train = result.record('train')
    verdicts_by_column = {
      f'{name}/verdict': verdicts.read(train, name)
      for name in train['constraints']
    }
    rows.append(
      {
        'run': result.point.name,
        **result.point.values,
        **numbers(result),
        **verdicts_by_column,
        'runs_at_once': train.get('runs_at_once'),
        'step': train['step'],
      }
    )
  text = io.StringIO()
  columns = dict.fromkeys(name for row in rows for name in row)
  writer = csv.DictWriter(text, [*columns], lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def as_text(rows: Sequence[Mapping[str, str]]) -> str:
  """Return a table for the terminal; columns that a row lacks are empty."""
  headings = [*{heading: None for row in rows for heading in row}]
  columns = [[h, *(row.get(h, '') for row in rows)] for h in headings]
  widths = [max(map(len, column)) for column in columns]
  return '\n'.join(
    '  '.join(f'{cell:>{w}}' for cell, w in zip(cells, widths, strict=True))
    for cells in zip(*columns, strict=True)
  )


def seconds(result: Result) -> float:
  """Return how long the training of a run took, evaluations aside."""
  rate = result.logged.get('steps_per_second', np.array([]))
  steps = result.point.config.steps_per_dispatch
  return float(np.nansum(steps / rate))


def _is_kappa(name: str) -> bool:
  return name.startswith('constraints.') and name.endswith('.kappa')


def _order(result: Result, names: Sequence[str]) -> list[tuple[bool, Any]]:
  values = (result.point.values[name] for name in names)
  return [
    (True, value) if isinstance(value, (int, float)) else (False, str(value))
    for value in values
  ]
