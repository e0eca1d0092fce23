"""The file of `benchmarks.gpu` as a Markdown table."""

from collections.abc import Iterator, Mapping, Sequence
import statistics
from typing import Any

_HEADER = (
  *('model', 'precision', 'program', 'per second', 'TFLOP/s'),
  *('of a matrix product', 'ours over it'),
)
OURS = 'geco_jax'
MATMUL = 'matrix product'


def table(report: Mapping[str, Any]) -> str:
  """Return a line for every program.

  A program's rate is in training steps a second (of all runs together), in
  pairs or in products. Its TFLOP/s stand beside those of a matrix product of
  the same precision. The last column has our rate, of a single run under GECO,
  over the program's: the median of the rounds' ratios.

  Args:
    report: content of the file that the command wrote.
  """
  rows = report['programs']
  peaks = {r['precision']: r['tflops'] for r in rows if r['model'] == MATMUL}
  ours = {
    (r['model'], r['precision']): r['rates']
    for r in rows
    if r['program'] == OURS
  }
  lines = [_HEADER, ['---'] * len(_HEADER)]
  for row in rows:
    key = (row['model'], row['precision'])
    lines.append([*_cells(row, peaks, ours.get(key, []))])
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cells(
  row: Mapping[str, Any],
  peaks: Mapping[str, float | None],
  ours: Sequence[float],
) -> Iterator[str]:
  yield from (row['model'], row['precision'], row['program'])
  if row['per_second'] is None:
    yield from (row['error'] or 'not timed', '', '', '')
    return
  yield _rate(row['per_second'])
  tflops, peak = row['tflops'], peaks.get(row['precision'])
  yield _digits(tflops) if tflops else ''
  yield f'{tflops / peak:.1%}' if tflops and peak else ''
  ratios = [a / b for a, b in zip(ours, row['rates'], strict=False)]
  is_ours = row['program'] == OURS
  yield f'{statistics.median(ratios):.2f}' if ratios and not is_ours else ''


def _rate(per_second: float) -> str:
  """Return three digits, thousands in full up to a million."""
  if 1e3 <= per_second < 1e6:
    return f'{per_second:,.0f}'
  return _digits(per_second)


def _digits(value: float) -> str:
  return f'{value:#.3g}'.rstrip('.')
