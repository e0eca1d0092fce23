"""Pictures of a sweep, from the folders of its runs."""

from collections.abc import Mapping, Sequence
import os

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.evaluation.gaussian_rate import Curve
from geco_jax.sweep.results import Line
from geco_jax.sweep.results import Result

_STYLES = ('-', '--', ':', '-.')
_ROWS = ('data', 'reconstructions', 'samples')  # The last rows of the grids.


def plane(
  lines: Sequence[Line], curves: Mapping[str, Curve] | None = None
) -> Figure:
  """Return the information plane: NLL against KL, training images.

  There is a line per `Line` through the means over the seeds, which are small
  points; test images are dashed.

  Args:
    lines: the sweep's.
    curves: by data set, those of a Gaussian with the data's covariance.
  """
  figure = Figure(figsize=(7, 5), layout='constrained')
  draw_plane(figure.subplots(), lines, curves or {})
  return figure


def draw_plane(
  axes: Axes, lines: Sequence[Line], curves: Mapping[str, Curve]
) -> None:
  """Draw what `plane` returns."""
  for index, line in enumerate(lines):
    color = f'C{index}'
    _plane_line(axes, line, 'train', color)
    _plane_line(axes, line, 'test', color)
  for name, curve in curves.items():
    label = _literal(f'Gaussian with the covariance of {name}')
    axes.plot(curve.nll_nats_per_dim, curve.rate_nats, 'k:', label=label)
  axes.set(
    xlabel=r'NLL at $\sigma_{opt}$ [nats per dimension]', ylabel='KL [nats]'
  )
  axes.grid(alpha=0.3)
  axes.legend()


def _plane_line(axes, line: Line, split: str, color: str) -> None:
  points = {
    place: np.array([_plane_point(result, split) for result in results])
    for place, results in line.places.items()
  }
  means = np.array([seeds.mean(axis=0) for seeds in points.values()])
  label = _literal(f'{line.name} {split}'.strip())
  style = 'o-' if split == 'train' else 's--'
  axes.plot(*means.T, style, color=color, label=label, markersize=5)
  for (place, seeds), mean in zip(points.items(), means, strict=True):
    if len(seeds) > 1:
      axes.plot(*seeds.T, '.', color=color, alpha=0.6, markersize=4)
    if split == 'train':
      axes.annotate(
        _literal(place),
        mean,
        xytext=(6, 4),
        textcoords='offset points',
        fontsize=8,
        color=color,
      )


def _plane_point(result: Result, split: str) -> tuple[float, float]:
  record = result.record(split)
  return record['nll_nats_per_dim'], record['kl_nats']


def constraint_traces(lines: Sequence[Line]) -> Figure:
  """Return the constraints' values against the iteration, kappas dotted."""
  return _traces(lines, 'value', 'of the training batches', log=False)


def multiplier_traces(lines: Sequence[Line]) -> Figure:
  """Return the multipliers against the iteration."""
  return _traces(lines, 'log_multiplier', r'$\lambda$', log=True)


def _traces(lines, quantity, label, log) -> Figure:
  """Return a panel per constraint, a color per place, a style per line.

  Args:
    lines: the sweep's.
    quantity: name of the metric, without the constraint's.
    label: of the y axis; unless `log`, it follows the constraint's unit.
    log: whether the metric is a logarithm, drawn as a value on a log scale.
  """
  results = [
    r for line in lines for seeds in line.places.values() for r in seeds
  ]
  names = [
    *{name: None for r in results for name in r.point.config.constraints}
  ]
  figure = Figure(figsize=(6 * len(names), 4), layout='constrained')
  panels = figure.subplots(1, len(names), squeeze=False)[0]
  for axes, name in zip(panels, names, strict=True):
    for index, line in enumerate(lines):
      _trace_line(axes, line, f'{name}/{quantity}', _STYLES[index % 4], log)
    if log:
      axes.set_yscale('log')
    else:
      _mark_kappas(axes, lines, name)
    unit = '' if log else f'{_unit(results, name)} '
    axes.set(xlabel='iteration', ylabel=f'{unit}{label}', title=name)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:  # Not where seeds alone differ.
      axes.legend(fontsize=8)
  return figure


def _trace_line(axes, line: Line, key: str, style: str, log: bool) -> None:
  colors = _colors(len(line.places))
  for color, (place, seeds) in zip(colors, line.places.items(), strict=True):
    for number, result in enumerate(seeds):
      if key in result.logged:
        values = result.logged[key]
        finite = np.isfinite(values)
        y = np.exp(values[finite]) if log else values[finite]
        axes.plot(
          result.logged['step'][finite],
          y,
          style,
          color=color,
          linewidth=1,
          label='' if number else _literal(f'{line.name} {place}'.strip()),
        )


def _mark_kappas(axes, lines: Sequence[Line], name: str) -> None:
  for line in lines:
    colors = _colors(len(line.places))
    for color, seeds in zip(colors, line.places.values(), strict=True):
      constraint = seeds[0].evaluation['constraints'].get(name)
      if constraint:
        axes.axhline(constraint['kappa'], color=color, ls=':', linewidth=1)


def _unit(results: Sequence[Result], name: str) -> str:
  constraints = (r.evaluation['constraints'] for r in results)
  return next(c[name]['unit'] for c in constraints if name in c)


def strip(line: Line) -> Figure:
  """Return training images, each place's reconstructions, and its samples.

  They are the first seed's. Reconstructions stand below the data, samples below
  those, both in the order of the places.
  """
  rows_by_place = {
    _with_verdict(place, seeds[0]): _rows(seeds[0])
    for place, seeds in line.places.items()
  }
  first = next(iter(rows_by_place.values()))
  rows = {'data': first['data']}
  for kind in _ROWS[1:]:
    rows |= {f'{kind}\n{place}': r[kind] for place, r in rows_by_place.items()}
  height, width = first['data'].shape[:2]
  scale = 8 / width
  figure = Figure(figsize=(9.5, len(rows) * (height * scale + 0.05)))
  axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
  for panel, (label, row) in zip(axes, rows.items(), strict=True):
    panel.imshow(row, interpolation='nearest', aspect='auto')
    panel.set_axis_off()
    panel.text(
      -0.01,
      0.5,
      _literal(label),
      transform=panel.transAxes,
      ha='right',
      va='center',
      fontsize=8,
    )
  figure.subplots_adjust(0.16, 0, 1, 1, hspace=0.02)
  return figure


def _with_verdict(place: str, result: Result) -> str:
  is_met = verdicts.are_met(result.record('train'))
  return place if is_met else f'{place}\n(not met)'.strip()


def _rows(result: Result) -> dict[str, np.ndarray]:
  path = os.path.join(result.folder, 'reconstructions_train.png')
  rows = pictures.read_rows(path)
  return dict(zip(_ROWS, rows[-len(_ROWS) :], strict=True))


def _literal(text: str) -> str:
  """Return a text in which Matplotlib sees no formulas."""
  return text.replace('$', r'\$')


def _colors(count: int):
  return colormaps['viridis'](np.linspace(0, 0.9, count))
