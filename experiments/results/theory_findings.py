"""Whether the theory's claims hold, from the files of Figures 1, 2 and 7."""

from collections.abc import Iterable, Iterator

import numpy as np

from .findings import Content
from .findings import Finding


def figure_1(content: Content) -> Iterator[Finding]:
  """Yield the blurred reconstruction; the hole and the KL illustrate."""
  weights = content['overlap_weights']
  average = np.array(weights) @ content['overlap_data']
  blurred = content['overlap_reconstruction']
  yield Finding(
    'reconstruction by the optimal decoder (Eq. 4) where the posteriors of two '
    'data points overlap',
    f'their average of weights {_listed(weights)} (Eq. 17): {_listed(average)}',
    _listed(blurred),
    bool(np.allclose(blurred, average, atol=1e-3)),
  )
  yield Finding(
    'gradient of the objective by the reconstruction in the hole',
    '0: unconstrained',
    f'{content["hole_gradient"]:g}',
    None if content['hole_gradient'] == 0 else False,
  )
  yield Finding(
    'average KL in nats, supports of total mass '
    f'{sum(content["masses"]):.3f}; of an equiprobable partition',
    'below ln n only where supports overlap',
    f'{content["average_kl_nats"]:.4f}; {content["least_kl_nats"]:.4f}',
    None,
  )


def figure_2(content: Content) -> Iterator[Finding]:
  """Yield the merging of fixed points and the last transition."""
  panels = sorted(content['panels'], key=lambda panel: panel['beta'])
  counts = [panel['distinct_fixed_points'] for panel in panels]
  yield Finding(
    'distinct fixed points, beta = '
    + ', '.join(f'{panel["beta"]:.3g}' for panel in panels),
    'merge as beta grows',
    ', '.join(str(count) for count in counts),
    counts == sorted(counts, reverse=True) and counts[0] > counts[-1],
  )
  errors = [panel['squared_error'] for panel in panels]
  yield Finding(
    'expected squared error there',
    'grows with beta',
    ', '.join(f'{error:.3g}' for error in errors),
    errors == sorted(errors),
  )
  for name, last in content['last_transition'].items():
    yield Finding(
      f'{name}: last transition over the largest eigenvalue of the covariance',
      'not in the paper: 1, here to 5%, unless the variance proxy is larger',
      f'{last["ratio"]:.3f} (of the variance proxy {last["proxy_ratio"]:.3f})',
      abs(last['ratio'] - 1) <= 0.05 if last['proxy_ratio'] <= 1.05 else None,
    )


def figure_7(content: Content) -> Iterator[Finding]:
  """Yield the slopes between tiles under Lipschitz constraints."""
  free = {
    (panel['data'], panel['beta']): panel['largest_slope_anywhere']
    for panel in content['panels']
    if panel['lipschitz'] is None
  }
  for panel in content['panels']:
    if panel['lipschitz'] is None:
      continue
    yield Finding(
      f'{panel["data"]}, {panel["constraint"]}, beta {panel["beta"]:g}: '
      'largest slope; without the constraint',
      f'at most L = {panel["lipschitz"]:g}, here to 5%',
      f'{panel["largest_slope"]:.3f}; {free[panel["data"], panel["beta"]]:.1f}',
      panel['largest_slope'] <= 1.05 * panel['lipschitz'],
    )


def propositions(content: Content) -> Iterator[Finding]:
  """Yield each measured number beside the theory's."""
  for claim in content['claims']:
    yield Finding(
      f'Proposition {claim["proposition"]}: {claim["what"]}',
      claim['expected'].replace('|', r'\|'),
      f'{claim["measured"]:.3g}',
      claim['holds'],
    )


def _listed(values: Iterable[float]) -> str:
  return ', '.join(f'{value:.3f}' for value in values)
