"""The report of a sweep: one HTML page with everything in it, and its PNGs."""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import json
import os
import shutil

from matplotlib.figure import Figure

from geco_jax.config_tree import flatten
from geco_jax.evaluation import gaussian_rate
from geco_jax.evaluation import verdicts
from geco_jax.io import logs
from geco_jax.io.files import write_bytes
from geco_jax.sweep import figures as sweep_figures
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep.grid import Point
from geco_jax.sweep.results import Line
from geco_jax.sweep.results import Result

PAGE = 'report.html'
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; color: #222; }
img { max-width: 100%; }
table { border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; }
td, th { padding: 2px 9px; text-align: right; border-bottom: 1px solid #ddd; }
tr.broken td { background: #fbe6e2; }
pre { font-size: 12px; overflow-x: auto; }
"""


def write(
  grid: Sequence[Point],
  workdir: str,
  curves: Mapping[str, gaussian_rate.Curve] | None = None,
) -> list[Result]:
  """Write a sweep's report, of the runs that are finished.

  It depends on the folders of the runs alone: not on when they were trained,
  nor how, but for the number of runs at once.

  Args:
    grid: the runs.
    workdir: of the sweep.
    curves: for the information plane, by data set.

  Returns:
    The finished runs; there is no report without one.
  """
  results = sweep_results.read(grid, workdir)
  if not results:
    return results
  figures = {}
  for title, (name, figure) in _figures(results, curves).items():
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={'Software': None})
    figures[title] = buffer.getvalue()
    write_bytes(os.path.join(workdir, f'{name}.png'), figures[title])
  page = _page(grid, results, figures)
  write_bytes(os.path.join(workdir, PAGE), page.encode())
  write_tensorboard(results, os.path.join(workdir, 'tensorboard'))
  return results


def _figures(results, curves) -> dict[str, tuple[str, Figure]]:
  """Return name and figure by title, in the page's order."""
  lines = sweep_results.lines(results)
  return {
    'Information plane': ('plane', sweep_figures.plane(lines, curves)),
    'Constraints': ('constraints', sweep_figures.constraint_traces(lines)),
    'Multipliers': ('multipliers', sweep_figures.multiplier_traces(lines)),
    **{
      _strip_title(line): (f'strip_{index}', sweep_figures.strip(line))
      for index, line in enumerate(lines)
    },
  }


def _strip_title(line: Line) -> str:
  title = 'Reconstructions and samples'
  return f'{title}, {line.name}' if line.name else title


def _page(grid, results: Sequence[Result], figures: Mapping[str, bytes]) -> str:
  config = results[0].point.config
  title = f'{config.model.name} on {config.dataset.name}'
  finished = {result.point.name for result in results}
  unfinished = [point.name for point in grid if point.name not in finished]
  left_out = (
    f'<p>Not finished: {html.escape(", ".join(unfinished))}.</p>'
    if unfinished
    else ''
  )
  images = '\n'.join(
    f'<h2>{html.escape(name)}</h2>\n<img alt="{html.escape(name)}" '
    f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    for name, png in figures.items()
  )
  return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{len(results)} runs over {html.escape(', '.join(grid[0].values))}. A
constraint is met where C/scale on the training images is at most
{config.tolerance:g}. The rounding of all numbers depends on how many runs were
trained at once, which --runs_at_once fixes.</p>
{left_out}
{_html_table(sweep_results.table(results))}
{images}
<h2>Config</h2>
<details><summary>What all runs have in common</summary>
<pre>{html.escape(_common_config(results))}</pre></details>
</body></html>
"""


def _html_table(rows: Sequence[Mapping[str, str]]) -> str:
  headings = [*{heading: None for row in rows for heading in row}]
  head = ''.join(f'<th>{html.escape(heading)}</th>' for heading in headings)
  body = '\n'.join(
    f'<tr{" class=broken" if _is_broken(row) else ""}>'
    + ''.join(f'<td>{html.escape(row.get(h, ""))}</td>' for h in headings)
    + '</tr>'
    for row in rows
  )
  return f'<table><tr>{head}</tr>\n{body}\n</table>'


def _is_broken(row: Mapping[str, str]) -> bool:
  return not {verdicts.VIOLATED, verdicts.INFEASIBLE}.isdisjoint(row.values())


def _common_config(results: Sequence[Result]) -> str:
  """Return the values that all runs share, a line for each."""
  first, *others = (flatten(result.point.config) for result in results)
  return '\n'.join(
    f'{name}: {json.dumps(value)}'
    for name, value in first.items()
    if all(name in other and other[name] == value for other in others)
  )


def write_tensorboard(results: Sequence[Result], folder: str) -> None:
  """Write the sweep as TensorBoard's HPARAMS table, a session per run."""
  shutil.rmtree(folder, ignore_errors=True)
  for result in results:
    train = result.evaluation
    numbers = {}
    for split, record in {'train': train, **train['other_splits']}.items():
      for name in ('rmse', 'kl_nats', 'nll_nats_per_dim'):
        numbers[f'{split}/{name}'] = record[name]
    for name, constraint in train['constraints'].items():
      numbers[f'{name}/violation'] = constraint['violation']
      numbers[f'{name}/multiplier'] = constraint['multiplier']
    logs.write_hyperparameters(
      os.path.join(folder, result.point.name), result.point.values, numbers
    )
