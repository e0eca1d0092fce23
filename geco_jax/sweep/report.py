"""The report of a sweep: one HTML page with everything in it, and its PNGs."""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import json
import os
import urllib.parse

from absl import logging
from matplotlib.figure import Figure

from geco_jax.config_tree import flatten
from geco_jax.evaluation import gaussian_rate
from geco_jax.evaluation import verdicts
from geco_jax.io import logs
from geco_jax.io import provenance
from geco_jax.io.encodings import in_unicode
from geco_jax.io.files import is_no_file
from geco_jax.io.files import write_bytes
from geco_jax.sweep import figures as sweep_figures
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep.grid import Point
from geco_jax.sweep.results import Line
from geco_jax.sweep.results import Result

PAGE = 'report.html'
TABLE = 'sweep.csv'
_FOOTER = b'<footer>'  # Where the page says when it was written.
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #222; --line: #ddd;
  --broken: #fbe6e2; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e4e4e4;
  --line: #3a3d42; --broken: #55231e; --link: #8ab8f0; } }
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; color: var(--text); background: var(--back); }
a { color: var(--link); }
img { max-width: 100%; height: auto; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; }
td, th { padding: 2px 9px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tr.broken td { background: var(--broken); }
pre { font-size: 12px; overflow-x: auto; }
footer { border-top: 1px solid var(--line); font-size: 13px;
  overflow-wrap: anywhere; }
"""


def write(
  grid: Sequence[Point],
  results: Sequence[Result],
  workdir: str,
  curves: Mapping[str, gaussian_rate.Curve] | None = None,
  written: Mapping[str, str] | None = None,
) -> None:
  """Write a sweep's report, of the runs that are finished.

  Except for its footer it depends on the folders of the runs alone: not on when
  or how they were trained, except for the number of runs at once, device and
  version. Where it cannot be written but stands already, footer aside, a
  warning says so.

  Args:
    grid: the runs.
    results: the finished ones (`results.read`), one or more.
    workdir: the sweep's directory.
    curves: for the information plane, by data set.
    written: what the footer says of the writing, by name: date, command.

  Raises:
    UnwritableError: if a file of it cannot be written and is missing or
      another.
  """
  figures, contents = {}, {}
  for title, (name, figure) in _figures(results, curves).items():
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={'Software': None})
    figures[title] = contents[f'{name}.png'] = buffer.getvalue()
  page = _page(grid, results, figures, written or {})
  contents[PAGE] = in_unicode(page).encode()
  contents[TABLE] = in_unicode(sweep_results.as_csv(results)).encode()
  paths = {os.path.join(workdir, name): x for name, x in contents.items()}
  try:
    for path, content in paths.items():
      write_bytes(path, content)
  except OSError as error:
    if not all(_holds(path, content) for path, content in paths.items()):
      raise
    logging.warning('The report stays as it was written before: %s', error)
    return
  for result in results:
    logs.write_evaluation(
      result.folder,
      result.record('train')['step'],
      sweep_results.numbers(result),
    )


def _holds(path: str, content: bytes) -> bool:
  """Return whether a file of a report has this content, footer aside."""
  if is_no_file(path):
    return False
  try:
    with open(path, 'rb') as file:
      old = file.read()
  except OSError:
    return False
  return old.partition(_FOOTER)[0] == content.partition(_FOOTER)[0]


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


def _page(
  grid,
  results: Sequence[Result],
  figures: Mapping[str, bytes],
  written: Mapping[str, str],
) -> str:
  configs = [result.point.config for result in results]
  models = dict.fromkeys(config.model.name for config in configs)
  data_sets = dict.fromkeys(config.dataset.name for config in configs)
  title = f'{", ".join(models)} on {", ".join(data_sets)}'
  tolerances = sorted({config.tolerance for config in configs})
  bound = ' or '.join(f'{tolerance:g}' for tolerance in tolerances)
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
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style></head><body><main>
<h1>{html.escape(title)}</h1>
<p>{len(results)} runs over {html.escape(', '.join(grid[0].values))}. A
constraint is met where C/scale on the training images is at most its run's
tolerance, {bound}. The rounding of all numbers depends on how many runs were
trained at once, which --runs_at_once fixes. {_trained_by(results)}</p>
{left_out}
{_table_of_runs(results)}
<p>All digits of it: <a href="{TABLE}">{TABLE}</a></p>
{_table_of_seeds(results)}
{images}
<h2>Config</h2>
<details><summary>What all runs have in common</summary>
<pre>{html.escape(_common_config(results))}</pre></details>
</main>{_footer(written)}
</body></html>
"""


def _trained_by(results: Sequence[Result]) -> str:
  """Return what the runs were trained with, as far as they record it."""
  sessions = [s for r in results for s in provenance.read(r.folder)]
  texts = {
    f'{s["device"]} by geco_jax {s["version"]}'
    + (f' ({commit[:12]})' if (commit := s.get('commit')) else '')
    for s in sessions
  }
  return f'Trained on {html.escape(", ".join(sorted(texts)))}.' if texts else ''


def _footer(written: Mapping[str, str]) -> str:
  if not written:
    return ''
  lines = (
    f'{html.escape(name)}: <code>{html.escape(text)}</code>'
    for name, text in written.items()
  )
  return f'<footer><p>{"<br>".join(lines)}</p></footer>'


def _table_of_runs(results: Sequence[Result]) -> str:
  rows = sweep_results.table(results)
  cells = []
  for result, row in zip(results, rows, strict=True):
    name = result.point.name
    link = f'<a href="{urllib.parse.quote(name)}/">{html.escape(name)}</a>'
    escaped = {heading: html.escape(text) for heading, text in row.items()}
    cells.append({'run': link, **escaped})
  return _html_table('Runs', cells, [_is_broken(row) for row in rows])


def _table_of_seeds(results: Sequence[Result]) -> str:
  rows = sweep_results.means(results)
  if not rows:
    return ''
  cells = [{h: html.escape(text) for h, text in row.items()} for row in rows]
  table = _html_table('Means over seeds', cells, [False] * len(rows))
  return f'<h2>Mean ± standard deviation over seeds</h2>\n{table}'


def _html_table(
  title: str, rows: Sequence[Mapping[str, str]], broken: Sequence[bool]
) -> str:
  """Return a table of cells that are HTML, which scrolls by itself."""
  headings = [*{heading: None for row in rows for heading in row}]
  head = ''.join(f'<th scope="col">{html.escape(h)}</th>' for h in headings)
  body = '\n'.join(
    f'<tr{" class=broken" if is_broken else ""}>'
    + ''.join(f'<td>{row.get(heading, "")}</td>' for heading in headings)
    + '</tr>'
    for row, is_broken in zip(rows, broken, strict=True)
  )
  return (
    f'<div class="wide" role="region" aria-label="{title}" tabindex="0">'
    f'<table><tr>{head}</tr>\n{body}\n</table></div>'
  )


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
