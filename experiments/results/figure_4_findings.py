"""Whether the claims of Figure 4 hold, from the rows of figure_4.json."""

from collections.abc import Iterable, Iterator, Sequence
import itertools

from geco_jax.evaluation import verdicts

from ..shared import figure_4_plane
from .findings import Content
from .findings import falls
from .findings import Finding
from .findings import is_comparable
from .findings import NOT_MEASURED
from .findings import NOT_RUN
from .findings import steps_text

_BASELINES = {'elbo': 'ELBO', 'annealed_beta': 'annealed beta'}


def kl(content: Content) -> Iterator[Finding]:
  """Yield the ratio of the ELBO's KL to GECO's."""
  return _kl_over(content, 'elbo')


def annealed(content: Content) -> Iterator[Finding]:
  """Yield the ratio of the KL under a hand annealed beta to GECO's."""
  return _kl_over(content, 'annealed_beta')


def _kl_over(content: Content, objective: str) -> Iterator[Finding]:
  """Yield the ratio of a baseline's KL to GECO's."""
  compared = set()
  for name, _, baseline, points in _compared(content, objective):
    compared.add(name)
    ratios = [baseline.kl_nats / point.kl_nats for point in points]
    fair = [is_comparable(point.rmse, baseline.rmse) for point in points]
    rest = figure_4_plane.rest_text(baseline.rested) or 'rest not known'
    yield Finding(
      f'{name}, {steps_text(baseline.trained)}: {_BASELINES[objective]}'
      f' ({rest}) {figure_4_plane.kl_text(baseline)} nats at RMSE '
      f'{baseline.rmse:.4f}, over GECO at kappa {points[0].kappa:g} to '
      f'{points[-1].kappa:g}',
      'GECO below',
      _listed((f'{ratio:.3g}x' for ratio in ratios), fair),
      _all_or_none(r > 1 for r in itertools.compress(ratios, fair)),
    )
  for name in itertools.chain(*figure_4_plane.PANELS.values()):
    if name not in compared:
      yield _not_compared(name, content, objective)


def rest(content: Content) -> Iterator[Finding]:
  """Yield the multipliers in units of those at which the ELBO rests.

  Those units are above 1 exactly at the kappas below the ELBO's RMSE, where
  both have converged.
  """
  for name, _, elbo, points in _compared(content):
    units = [2 * (p.kappa or 0) ** 2 * (p.multiplier or 0) for p in points]
    yield Finding(
      f'{name}: 2 kappa^2 lambda, kappa {points[0].kappa:g} to '
      f"{points[-1].kappa:g}; the ELBO's RMSE",
      'not in the paper: above 1 at the kappas below that RMSE, below 1 at the '
      'others',
      ', '.join(f'{unit:.3g}' for unit in units) + f'; {elbo.rmse:.4f}',
      all(
        (unit > 1) == ((point.kappa or 0) < elbo.rmse)
        for unit, point in zip(units, points, strict=True)
      ),
    )


def nll(content: Content) -> Iterator[Finding]:
  """Yield whether the ELBO's NLL is below all of GECO's."""
  for name, _, elbo, points in _compared(content):
    fair = [is_comparable(point.rmse, elbo.rmse) for point in points]
    lowest = elbo.nll_nats_per_dim
    yield Finding(
      f'{name}: NLL of the ELBO, and of GECO, kappa ascending',
      'ELBO lower',
      f'{lowest:.3f}, '
      + _listed((f'{point.nll_nats_per_dim:.3f}' for point in points), fair),
      _all_or_none(
        lowest < point.nll_nats_per_dim
        for point in itertools.compress(points, fair)
      ),
    )


def monotone(content: Content) -> Iterator[Finding]:
  """Yield whether KL falls as kappa grows."""
  for name, _, points in _constrained(content):
    yield Finding(
      f'{name}: KL in nats, kappa ascending',
      'falls',
      ', '.join(figure_4_plane.kl_text(point) for point in points),
      falls([point.kl_nats for point in points]),
    )


def met(content: Content) -> Iterator[Finding]:
  """Yield a row's violations; the largest at a feasible kappa decides."""
  for name, _, points in _constrained(content):
    reached = {point.verdict for point in points}
    yield Finding(
      f'{name}: C / scale, kappa {points[0].kappa:g} to {points[-1].kappa:g}',
      f'at most {100 * (points[0].tolerance or 0.0):g}%, infeasible runs aside',
      ', '.join(
        f'{point.violation or 0.0:+.1%}'
        + (' (infeasible)' if point.verdict == verdicts.INFEASIBLE else '')
        for point in points
      ),
      verdicts.MET in reached and verdicts.VIOLATED not in reached,
    )


def gaussian(content: Content) -> Iterator[Finding]:
  """Yield GECO's KL over the rate of a Gaussian with the data's covariance.

  It decides nothing about conditional models: the Gaussian knows no contexts.
  """
  for name, row, points in _constrained(content):
    is_conditional = row['panel'].startswith('Conditional')
    gaussian_rate = row['gaussian']
    rates = dict(
      zip(gaussian_rate['kappas'], gaussian_rate['rate_nats'], strict=True)
    )
    ratios = [point.kl_nats / rates[point.kappa] for point in points]
    feasible = [point.verdict != verdicts.INFEASIBLE for point in points]
    beaten = _all_or_none(r < 1 for r in itertools.compress(ratios, feasible))
    yield Finding(
      f"{name}: GECO's KL over the Gaussian's rate, kappa ascending",
      'not in the paper: below 1 beats a linear VAE',
      _listed((f'{ratio:.2f}' for ratio in ratios), feasible),
      None if is_conditional else beaten,
    )


def frechet(content: Content) -> Iterator[Finding]:
  """Yield the Frechet distances, where they were measured."""
  measured = set()
  for name, _, elbo, points in _compared(content):
    if None in (p.frechet for p in (elbo, *points)):
      continue
    measured.add(name)
    to = 'of the ELBO, and of GECO, kappa ascending, to the test split'
    samples = [p.frechet or 0.0 for p in (elbo, *points)]
    yield Finding(
      f'{name}: Frechet distance of samples {to}',
      'not as a number: GECO nearer',
      ', '.join(f'{distance:.3g}' for distance in samples),
      max(samples[1:]) < samples[0],
    )
    others = [p.reconstructions_frechet or 0.0 for p in (elbo, *points)]
    yield Finding(
      f'{name}: that of reconstructions; that of the training split',
      'not as a number',
      ', '.join(f'{distance:.3g}' for distance in others)
      + f'; {elbo.train_frechet:.2g}',
      None,
    )
  for name in itertools.chain(*figure_4_plane.PANELS.values()):
    if name not in measured:
      wanted = f'--only={name} --network=NETWORK'
      yield Finding(name, '', f'`{wanted}`', None, NOT_MEASURED)


def _constrained(
  content: Content,
) -> Iterator[tuple[str, Content, list[figure_4_plane.Point]]]:
  """Yield the rows that have runs of GECO: name, row, their points."""
  for name, row in content.items():
    if points := figure_4_plane.points_of(row, 'geco'):
      yield name, row, points


def _compared(
  content: Content, objective: str = 'elbo'
) -> Iterator[
  tuple[str, Content, figure_4_plane.Point, list[figure_4_plane.Point]]
]:
  """Yield the rows that have a baseline too: name, row, its point, GECO's.

  Those whose baseline has other steps or seeds than GECO are left out.
  """
  for name, row, points in _constrained(content):
    for baseline in figure_4_plane.points_of(row, objective):
      if all(point.trained == baseline.trained for point in points):
        yield name, row, baseline, points


def _not_compared(name: str, content: Content, objective: str) -> Finding:
  """Return how a row's baseline and GECO are unlike, or what it lacks."""
  row = content.get(name, {'runs': []})
  for baseline in figure_4_plane.points_of(row, objective):
    for point in figure_4_plane.points_of(row, 'geco'):
      if point.trained != baseline.trained:
        first, other = map(_trained_text, (baseline.trained, point.trained))
        text = f'{_BASELINES[objective]} took {first}, GECO {other}'
        return Finding(name, '', f'{text}: not compared', None)
  wanted = f'--only={name} --objectives={objective},geco'
  return Finding(name, '', f'not run yet: `{wanted}`', None, NOT_RUN)


def _trained_text(trained: Iterable[tuple[int, int]]) -> str:
  seeds: dict[int, list[str]] = {}
  for steps, seed in trained:
    seeds.setdefault(steps, []).append(str(seed))
  return ' and '.join(
    f'{steps} steps (seed {", ".join(listed)})'
    for steps, listed in seeds.items()
  )


def _listed(texts: Iterable[str], fair: Sequence[bool]) -> str:
  """Return the texts joined, those that do not count in brackets."""
  return ', '.join(
    text if is_fair else f'({text})'
    for text, is_fair in zip(texts, fair, strict=True)
  )


def _all_or_none(answers: Iterable[bool]) -> bool | None:
  """Return whether all are true, None if there are none."""
  listed = [*answers]
  return all(listed) if listed else None
