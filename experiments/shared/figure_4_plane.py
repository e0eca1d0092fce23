"""How Figure 4 is drawn and described, from the rows of figure_4.json."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from geco_jax.evaluation import verdicts

PANELS = {  # Title of a panel -> names of its rows.
  'Conditional ConvDRAW': ('mnist_sum', 'mnist_sum_hard', 'mnist_rotate'),
  'ConvDRAW': ('celeb_a', 'cifar10', 'mnist', 'color_mnist', 'mnist_triplets'),
  'VAE+NVP': ('color_mnist_nvp', 'cifar10_nvp'),
}
_MARKERS = {'elbo': '*', 'annealed_beta': 's', 'geco': 'o'}
# How a distance was measured, in the record of a run.
SETTINGS = ('network_sha256', 'layer', 'num_samples')
_DISTANCES = ('frechet', 'reconstructions_frechet', 'train_frechet')
_LABELS = {
  'elbo': 'ELBO',
  'annealed_beta': r'ELBO, annealed $\beta$',
  'geco': r'GECO+RE, with its $\kappa$',
}


class Point(NamedTuple):
  """The means of a row's runs that differ only in seed."""

  objective: str
  kappa: float | None  # GECO's kappa; None for a baseline.
  kl_nats: float
  kl_stddev: float | None  # Over the seeds; None for a single one.
  nll_nats_per_dim: float
  rmse: float
  violation: float | None  # GECO's largest C / scale; None for a baseline.
  multiplier: float | None  # GECO's lambda; None for a baseline.
  verdict: str | None  # GECO's worst verdict; None for a baseline.
  tolerance: float | None  # GECO's tolerance; None for a baseline.
  trained: Sequence[tuple[int, int]]  # Steps and seed of each, ascending.
  # Whether all seeds of a baseline rest; None if that is not known.
  rested: bool | None = None
  # Mean distances of samples, reconstructions and the floor, which is that of
  # the training split; None unless measured for all seeds, and all runs of the
  # row that were measured were by one network, layer and number of samples.
  frechet: float | None = None
  reconstructions_frechet: float | None = None
  train_frechet: float | None = None


def points(row: Mapping[str, Any]) -> list[Point]:
  """Return a row's points: ELBO, annealed beta, GECO with kappa ascending."""
  groups: dict[tuple, list] = {}
  settings = set()
  for run in row['runs']:
    key = [*_MARKERS].index(run['objective']), run['kappas'].get('re', 0.0)
    groups.setdefault(key, []).append(run)
    if measured := run.get('sample_quality'):
      settings.add(tuple(map(measured['frechet'].get, SETTINGS)))
  each = [_point(groups[key]) for key in sorted(groups)]
  if len(settings) <= 1:
    return each
  return [point._replace(**dict.fromkeys(_DISTANCES)) for point in each]


def points_of(row: Mapping[str, Any], objective: str) -> list[Point]:
  """Return a row's points of one objective."""
  return [point for point in points(row) if point.objective == objective]


def _point(seeds: Sequence[Mapping[str, Any]]) -> Point:
  evaluations = [run['evaluation'] for run in seeds]

  def mean(name):
    return float(np.mean([evaluation[name] for evaluation in evaluations]))

  kappa = seeds[0]['kappas'].get('re')
  constrained = [] if kappa is None else seeds
  reports = [run['evaluation']['constraints']['re'] for run in constrained]
  return Point(
    objective=seeds[0]['objective'],
    kappa=kappa,
    kl_nats=mean('kl_nats'),
    kl_stddev=float(np.std([e['kl_nats'] for e in evaluations], ddof=1))
    if len(seeds) > 1
    else None,
    nll_nats_per_dim=mean('nll_nats_per_dim'),
    rmse=mean('rmse'),
    violation=max((r['violation'] for r in reports), default=None),
    multiplier=float(np.mean([r['multiplier'] for r in reports]))
    if reports
    else None,
    verdict=verdicts.worst(map(_verdict, constrained)) if constrained else None,
    tolerance=max(map(verdicts.tolerance, reports), default=None),
    trained=sorted((run['steps'], run['seed']) for run in seeds),
    rested=_rested(seeds),
    frechet=_frechet(seeds, 'samples'),
    reconstructions_frechet=_frechet(seeds, 'reconstructions'),
    train_frechet=_frechet(seeds, 'train'),
  )


def _rested(seeds: Sequence[Mapping[str, Any]]) -> bool | None:
  answers = [run['rested'] for run in seeds if 'rested' in run]
  return all(answers) if answers else None


def _frechet(seeds: Sequence[Mapping[str, Any]], images: str) -> float | None:
  measured = [run.get('sample_quality') for run in seeds]
  distances = [entry['frechet'][images] for entry in measured if entry]
  return float(np.mean(distances)) if len(distances) == len(seeds) else None


def _verdict(run: Mapping[str, Any]) -> str:
  return verdicts.read(run['evaluation'], 're', run['infeasible'])


def table(rows: Mapping[str, Any]) -> str:
  """Return a line per point: KL, and how it compares.

  ELBO/this is blank for points of other steps or seeds than the ELBO's. The
  last column is the Frechet distance of samples (`geco-jax
  sample_quality`), where it was measured.
  """
  width = max(len(name) for name in rows)
  lines = [
    f'{"":<{width}}  objective       kappa     RMSE  C/scale  constraint '
    ' NLL/dim    KL/nats          ELBO/this  Gaussian   Frechet'
  ]
  for name, row in rows.items():
    (elbo,) = points_of(row, 'elbo') or [None]
    rates = dict(
      zip(row['gaussian']['kappas'], row['gaussian']['rate_nats'], strict=True)
    )
    for point in points(row):
      ratio = ''
      if elbo and point.trained == elbo.trained:
        ratio = f'{elbo.kl_nats / point.kl_nats:.1f}'
      lines.append(
        f'{name:<{width}}  {point.objective:<13} {_asked(point)} '
        f'{point.nll_nats_per_dim:>8.3f} {point.kl_nats:>10.1f} '
        f'{_spread(point):<7} {ratio:>10} '
        f'{_or_blank(rates.get(point.kappa), ".1f")} '
        f'{_or_blank(point.frechet, ".3g")}'.rstrip()
      )
  return '\n'.join(lines)


def _asked(point: Point) -> str:
  """Return the columns kappa, RMSE, C/scale and constraint."""
  if point.kappa is None or point.violation is None:
    return f'{"":>7} {point.rmse:>8.4f} {"":>8}  {rest_text(point.rested):<11}'
  return (
    f'{point.kappa:>7g} {point.rmse:>8.4f} {point.violation:>+8.2%}  '
    f'{point.verdict:<11}'
  )


def rest_text(rested: bool | None) -> str:
  """Return whether a run is at rest in words, '' if that is not known."""
  return {None: '', True: 'at rest', False: 'not at rest'}[rested]


def kl_text(point: Point) -> str:
  """Return a point's KL and its standard deviation over seeds."""
  return f'{point.kl_nats:.1f} {_spread(point)}'.rstrip()


def _spread(point: Point) -> str:
  return '' if point.kl_stddev is None else f'± {point.kl_stddev:.1f}'


def _or_blank(value: float | None, form: str) -> str:
  return f'{"" if value is None else format(value, form):>9}'


def figure(rows: Mapping[str, Any]) -> Figure:
  """Return a panel per model, KL against NLL, a color per data set.

  Args:
    rows: of figure_4.json, at least one.
  """
  names = list(dict.fromkeys(row['panel'] for row in rows.values()))
  drawn = Figure(figsize=(4.6 * len(names), 5.4), layout='constrained')
  grid = drawn.subplots(1, len(names), squeeze=False)[0]
  for axes, panel in zip(grid, names, strict=True):
    shown = {name: r for name, r in rows.items() if r['panel'] == panel}
    handles = [
      _draw_row(axes, row, f'C{number}', wide=number % 2 == 1)
      for number, row in enumerate(shown.values())
    ]
    axes.set(
      title=panel,
      yscale='log',
      xlabel=r'NLL at $\sigma_{opt}$ [nats per dimension]',
      ylabel='KL [nats]',
    )
    axes.grid(alpha=0.3)
    axes.legend(handles=handles, fontsize=8)
  drawn.legend(
    handles=[*_objectives(rows)],
    loc='outside lower center',
    ncols=2 if len(names) == 1 else 4,
    fontsize=9,
  )
  return drawn


def _draw_row(
  axes: Axes, row: Mapping[str, Any], color: str, wide: bool
) -> Line2D:
  """Draw a row; return its entry of the legend.

  Rows can lie on each other: every other one is wide, below, and has its kappas
  at the left.
  """
  gaussian = row['gaussian']
  axes.plot(
    gaussian['nll_nats_per_dim'],
    gaussian['rate_nats'],
    '--',
    color=color,
    linewidth=1,
  )
  style = {
    'color': color,
    'linewidth': 6 if wide else 1.4,
    'alpha': 0.4 if wide else 1.0,
    'zorder': 1.5 if wide else 2.5,
  }
  for objective, marker in _MARKERS.items():
    shown = points_of(row, objective)
    axes.plot(
      [point.nll_nats_per_dim for point in shown],
      [point.kl_nats for point in shown],
      marker=marker,
      markersize=(8 if objective == 'elbo' else 5) + 4 * wide,
      **style,
    )
  for text, point in _kappas(points_of(row, 'geco')):
    axes.annotate(
      text,
      (point.nll_nats_per_dim, point.kl_nats),
      textcoords='offset points',
      xytext=(-7, -8) if wide else (5, 2),
      ha='right' if wide else 'left',
      fontsize=7,
      color=color,
    )
  return Line2D(
    [],
    [],
    color=color,
    linewidth=style['linewidth'],
    alpha=style['alpha'],
    label=row['dataset'],
  )


def _kappas(shown: Sequence[Point]) -> Iterator[tuple[str, Point]]:
  """Yield the labels of GECO's points, one for all that share a place."""
  places: list[list[Point]] = []
  for point in shown:
    last = places[-1][-1] if places else None
    if (
      last is not None
      and np.isclose(last.kl_nats, point.kl_nats, rtol=0.05)
      and np.isclose(last.nll_nats_per_dim, point.nll_nats_per_dim, atol=0.02)
    ):
      places[-1].append(point)
    else:
      places.append([point])
  for neighbors in places:
    failed = [point.verdict != verdicts.MET for point in neighbors]
    note = ' not met' if all(failed) else ''
    texts = [
      f'{point.kappa:g}{" not met" if missed and not note else ""}'
      for point, missed in zip(neighbors, failed, strict=True)
    ]
    yield f'{", ".join(texts)}{note}', neighbors[0]


def _objectives(rows: Mapping[str, Any]) -> Iterator[Line2D]:
  """Yield the legend's entries for the markers and line styles drawn."""
  drawn = {run['objective'] for row in rows.values() for run in row['runs']}
  for objective, marker in _MARKERS.items():
    if objective not in drawn:
      continue
    line = '-' if objective == 'geco' else ''
    yield Line2D(
      [], [], color='k', marker=marker, ls=line, label=_LABELS[objective]
    )
  yield Line2D([], [], color='k', ls='--', label="Gaussian, data's covariance")
