"""How the runs of `multiplier_rules` are compared: one number, table, figure.

Runs end a little off their constraint, some far off, and a KL alone would
flatter those that violate it. So each KL is carried to C = 0 along a
multiplier, `KL + sum lambda C`. At the multiplier that the constraint needs,
this is a tangent of the rate-distortion function, which is convex: a run off
its constraint never looks better than one on the curve. Runs that are too short
end above the curve, and one that violates its constraint can look better than
one that meets it: `NEAR` keeps those that are far off from being the best.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from geco_jax.evaluation import verdicts

from .rival_multipliers import RULES

CLOSE = 0.02  # The table shows C / scale only if it is further from 0.
NEAR = 0.2  # The best KL of a problem is a run's whose |C / scale| is less.

_STYLES = {
  'algorithm_1': ('s', 'tab:blue'),
  'clipped': ('v', 'tab:orange'),
  'nupi': ('D', 'tab:green'),
  'mdmm': ('^', 'tab:red'),
  'geco': ('o', 'black'),
}
_TICKS = (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000)


def compared(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Return the records with their KLs where C = 0.

  `kl_at_constraint` is KL + sum lambda C in nats, with lambda from the longest
  run of `geco` that met the same constraints, else from the longest of any rule
  that did, else the run's own; at most the natural multiplier, above which no
  rate-distortion function is as steep, however far a multiplier has wound up.
  `relative` is its ratio to the best of the same problem, steps and seed, among
  those whose C / scale is at most `NEAR` off; None if there is none.

  Args:
    records: of `record`.
  """
  results = [
    {**record, 'kl_at_constraint': _kl_at_constraint(record, records)}
    for record in records
  ]
  best: dict[Any, float] = {}
  for record in results:
    if abs(offset(record)) <= NEAR:
      kl = record['kl_at_constraint']
      best[_line(record)] = min(kl, best.get(_line(record), math.inf))
  for record in results:
    least = best.get(_line(record), 0.0)
    kl = record['kl_at_constraint']
    record['relative'] = kl / least if least > 0 else None
  return results


def _kl_at_constraint(record, records) -> float:
  met_records = [
    other
    for other in records
    if other['problem'] == record['problem']
    and other['verdict'] == verdicts.MET
  ]
  geco_records = [other for other in met_records if other['rule'] == 'geco']
  reference = max(
    geco_records or met_records or [record],
    key=lambda r: (r['steps'], -r['kl_nats']),
  )
  kl = record['kl_nats']
  for name, report in record['constraints'].items():
    at_reference = reference['constraints'][name]
    multiplier = min(
      at_reference['multiplier'], at_reference['natural_multiplier']
    )
    kl += multiplier * report['violation'] * report['scale']
  return kl


def offset(record: Mapping[str, Any]) -> float:
  """Return the largest C / scale of the constraints."""
  return max(report['violation'] for report in record['constraints'].values())


def _line(record: Mapping[str, Any]) -> tuple[str, int, int]:
  """Return the problem, steps and seed at which rules are compared."""
  return record['problem'], record['steps'], record['seed']


def _grid(content) -> tuple[list[str], list[dict[str, dict[str, Any]]]]:
  """Return the rules that were run and, a line each, records by rule."""
  lines: dict[Any, dict[str, dict[str, Any]]] = {}
  for record in compared(content['runs']):
    lines.setdefault(_line(record), {})[record['rule']] = record
  present = {rule for line in lines.values() for rule in line}
  return [rule for rule in RULES if rule in present], [*lines.values()]


def _titles(line: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
  """Return model, constraints and steps of a line, for people."""
  record = next(iter(line.values()))
  model, _ = record['problem'].split('_geco_')
  kappas = ', '.join(f'{k} {v:g}' for k, v in record['kappas'].items())
  seed = f', seed {record["seed"]}' if record['seed'] else ''
  return model, kappas, f'{record["steps"]:,}{seed}'


def table(content: Mapping[str, Any]) -> str:
  """Return the ratios to the best KL at the constraint, in Markdown.

  In brackets stands C / scale where it is over 2% off, and the verdict where
  the constraint was not met. The last line has median and worst ratio and how
  many met their constraints, of the lines that all rules have.

  Args:
    content: of multiplier_rules.json.
  """
  rules, lines = _grid(content)
  rows = [
    ['model', 'constraints', 'steps', *rules],
    ['---'] * (3 + len(rules)),
    *(
      [*_titles(line), *(_cell(line.get(rule)) for rule in rules)]
      for line in lines
    ),
  ]
  shared = [line for line in lines if len(line) == len(rules)]
  rows.append(
    ['all', '', '', *(_summary([line[r] for line in shared]) for r in rules)]
  )
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def against(
  content: Mapping[str, Any], rule: str = 'geco', other: str = 'clipped'
) -> str:
  """Return a sentence: a rule's KL at the constraint over another's.

  Args:
    content: of multiplier_rules.json.
    rule: one of its rules.
    other: one of its rules; lines that lack one of the two do not count.
  """
  _, lines = _grid(content)
  changes = {
    ' '.join(_titles(line)): line[rule]['kl_at_constraint']
    / line[other]['kl_at_constraint']
    - 1
    for line in lines
    if {rule, other} <= {*line}
  }
  if not changes:
    return f'{rule} and {other} have no line in common.'
  num_lower = sum(change < 0 for change in changes.values())
  by_change = sorted(changes, key=lambda title: changes[title], reverse=True)
  named = {title: f'{title} ({changes[title]:+.1%})' for title in by_change}
  higher = [named[title] for title in by_change if changes[title] > CLOSE]
  return (
    f'KL at the constraint, {rule} over {other}: lower in {num_lower} of '
    f'{len(changes)} lines, {np.median([*changes.values()]):+.1%} in the '
    f'median; best {named[by_change[-1]]}; over {CLOSE:.0%} higher: '
    f'{", ".join(higher) or "none"}.'
  )


def _cell(record: Mapping[str, Any] | None) -> str:
  if record is None:
    return '-'
  ratio = '-' if record['relative'] is None else f'{record["relative"]:.2f}'
  notes = [f'{offset(record):+.1%}'] if abs(offset(record)) > CLOSE else []
  if record['verdict'] != verdicts.MET:
    notes.append(record['verdict'])
  return f'{ratio} ({", ".join(notes)})' if notes else ratio


def _summary(records: Sequence[Mapping[str, Any]]) -> str:
  num_met = sum(record['verdict'] == verdicts.MET for record in records)
  count = f'{num_met} of {len(records)} met'
  ratios = [r['relative'] for r in records if r['relative'] is not None]
  if not ratios:
    return count
  return f'{np.median(ratios):.2f}, worst {max(ratios):.2f}; {count}'


def figure(content: Mapping[str, Any]) -> Figure:
  """Return the table as dots; hollow ones did not meet their constraints.

  Args:
    content: of multiplier_rules.json.
  """
  rules, lines = _grid(content)
  canvas = Figure(figsize=(9, 1.5 + 0.3 * len(lines)), layout='constrained')
  axes = canvas.subplots()
  handles = []
  for i, rule in enumerate(rules):
    style: dict[str, Any] = {
      'marker': _STYLES[rule][0],
      'color': _STYLES[rule][1],
      'linestyle': '',
    }
    handles.append(Line2D([], [], **style, label=RULES[rule].title))
    for y, line in enumerate(lines):
      record = line.get(rule)
      if record is not None and record['relative'] is not None:
        axes.plot(
          record['relative'],
          y + 0.12 * (i - (len(rules) - 1) / 2),
          **style,
          fillstyle='full' if record['verdict'] == verdicts.MET else 'none',
        )
  for y in range(0, len(lines), 2):
    axes.axhspan(y - 0.5, y + 0.5, color='0.95', zorder=0)
  axes.set_yticks(
    range(len(lines)), ['  '.join(_titles(line)) for line in lines]
  )
  axes.set(
    xscale='log',
    xlabel="KL at the constraint, relative to the best rule's; hollow: not met",
    ylim=(len(lines) - 0.5, -0.5),
  )
  low, high = axes.get_xlim()
  ticks = [tick for tick in _TICKS if low <= tick <= high]
  axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axes.set_xticks([], minor=True)
  axes.grid(axis='x', color='0.85')
  canvas.legend(handles=handles, loc='outside upper center', ncols=len(rules))
  return canvas
