"""Phase transitions of beta-VAEs: where fixed points merge (Section 3.2).

The order parameter is u(beta) = E ||x - g(z)||^2. Both u and beta are squared
distances, so its slope du/dbeta has no unit. For a Gaussian source it is the
number of directions that the code still resolves: by reverse water-filling
u = sum_i min(beta, l_i). A merger takes resolution away, and the slope drops.

Departs from the paper: it ranks the peaks of |d^2 u / dbeta^2|. That has the
unit 1 / beta and on a logarithmic grid ranks the smallest scale first, and its
absolute value counts the rise before a drop as a peak of its own. Here it is
`-d(du/dbeta) / dlog(beta) = -beta d^2 u / dbeta^2`, which weighs all scales
alike and is positive where points merge.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy import signal
from scipy import special
from sklearn import cluster

LEAST_DROP = 0.25


class Transitions(NamedTuple):
  """Detected mergers, the highest peak first."""

  betas: np.ndarray  # [transitions], critical betas.
  curvatures: np.ndarray  # [transitions], heights of the peaks.


def curvature(betas: ArrayLike, squared_error: ArrayLike) -> np.ndarray:
  """Return -beta d^2 u / dbeta^2 [betas - 2] at the inner betas.

  Args:
    betas: [betas], > 0, ascending, log-spaced, at least 3.
    squared_error: [betas], u at each.

  Raises:
    ValueError: if betas are too few or do not ascend.
  """
  betas, squared_error = _check(betas, squared_error)
  slopes = np.diff(squared_error) / np.diff(betas)
  return -np.diff(slopes) / np.diff(np.log(betas))[1:]


def critical_betas(
  betas: ArrayLike,
  squared_error: ArrayLike,
  num: int | None = 3,
  least_drop: float = LEAST_DROP,
) -> Transitions:
  """Return the highest local maxima of the curvature.

  A sharp drop of slope between two betas of the grid shows at both, in
  proportion to how near it is: their centroid is where it happened.

  Args:
    betas: [betas], > 0, ascending, log-spaced, at least 3.
    squared_error: [betas], u at each.
    num: how many at most; all if None.
    least_drop: > 0, no unit; the least drop of the slope du/dbeta within one
      step of the grid, over that of the grid around it (the prominence).

  Raises:
    ValueError: if betas are too few or do not ascend.
  """
  betas, squared_error = _check(betas, squared_error)
  heights = curvature(betas, squared_error)
  steps = np.diff(np.log(betas))[1:]
  # Padded, since `find_peaks` takes no end for a peak, and as every peak has
  # two neighbors then.
  drops = np.pad(np.maximum(heights * steps, 0), 1)
  peaks, _ = signal.find_peaks(drops, prominence=least_drop)
  around = np.clip(peaks[:, None] + np.arange(-1, 2)[None], 0, betas.size - 1)
  centroids = (drops * betas)[around].sum(axis=1) / drops[around].sum(axis=1)
  order = np.argsort(-heights[peaks - 1])[:num]
  return Transitions(centroids[order], heights[peaks - 1][order])


def last_critical_beta(data: ArrayLike) -> float:
  """Return the largest eigenvalue of the data's covariance.

  Around the mean, F multiplies psi's deviations by covariance / beta: the mean
  attracts what is near it exactly for larger beta. Where mergers are
  continuous, this is the last one; data of heavy or skew tails may merge
  abruptly at a larger beta, about the `variance_proxy`.

  Args:
    data: [n, dims].
  """
  data = np.asarray(data, np.float64)
  covariance = np.atleast_2d(np.cov(data, rowvar=False, bias=True))
  return float(np.linalg.eigvalsh(covariance)[-1])


def variance_proxy(data: ArrayLike, num_starts: int = 8) -> float:
  """Return the beta above which sending nothing is the best code.

  By the Kuhn-Tucker conditions of rate-distortion theory, the mean alone is
  optimal if and only if no reconstruction y would gain by being used,
  `E exp((x.y - ||y||^2 / 2) / beta) <= 1` for centered x and all y. With
  t = y / beta and K(t) = log E exp(t.x) that is beta >= sup_t 2 K(t) / ||t||^2,
  the least sub-Gaussian variance proxy. It is never below the largest
  eigenvalue, its limit at small t.

  Args:
    data: [n, dims].
    num_starts: directions from which the supremum is sought, >= 1.
  """
  points = np.asarray(data, np.float64)
  # With a largest eigenvalue of 1, starts of the same lengths do for all data.
  scale = np.sqrt(last_critical_beta(points))
  points = (points - points.mean(axis=0)) / scale

  def negative_and_gradient(t):
    exponents, squared = points @ t, t @ t
    cumulant = special.logsumexp(exponents, b=1 / len(points))
    mean = special.softmax(exponents) @ points
    value = -2 * cumulant / squared
    return value, (-2 * mean - 2 * value * t) / squared

  rng = np.random.default_rng(0)
  starts = rng.normal(size=(num_starts, points.shape[1]))
  starts *= rng.uniform(0.5, 5, (num_starts, 1)) / np.linalg.norm(
    starts, axis=1, keepdims=True
  )
  least = min(
    optimize.minimize(negative_and_gradient, t, jac=True).fun for t in starts
  )
  return float(scale**2 * max(1.0, -least))


def count_distinct(psi: ArrayLike, radius: float) -> int:
  """Return how many groups psi forms, linked by steps of at most `radius`.

  Args:
    psi: [tiles, dims].
    radius: > 0, in the data's unit.
  """
  groups = cluster.DBSCAN(eps=radius, min_samples=1).fit(np.asarray(psi))
  return int(groups.labels_.max() + 1)


def _check(betas, squared_error):
  """Return both as float64 vectors; raise ValueError if they do not fit."""
  betas = np.asarray(betas, np.float64)
  squared_error = np.asarray(squared_error, np.float64)
  if betas.ndim != 1 or betas.size < 3 or betas.shape != squared_error.shape:
    raise ValueError(
      'betas and squared_error must be equal vectors of at least 3, got shapes '
      f'{betas.shape} and {squared_error.shape}'
    )
  if betas[0] <= 0 or (np.diff(betas) <= 0).any():
    raise ValueError(f'betas must be > 0 and ascend, got {betas}')
  return betas, squared_error
