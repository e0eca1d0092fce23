"""Shannon's rate-distortion function of a Gaussian source.

The fewest nats that describe x ~ N(mean, Sigma) to within a mean squared error
are known exactly (reverse water-filling; Cover & Thomas, "Elements of
Information Theory", Theorem 10.3.3). With l_i the eigenvalues of Sigma,

    sum_i min(m, l_i) = D,   R(D) = sum_i 1/2 log(l_i / min(m, l_i))   and
    dR/dD = -1 / (2 m).

A linear VAE under the constraint `||x - g(z)||^2 <= D` attains it: its average
KL must reach R(D) and GECO's multiplier 1 / (2 m). No model of data with these
eigenvalues needs more nats than R(D), since the Gaussian is the hardest source
of its covariance.

All functions are NumPy in float64: D may have any shape, eigenvalues are [n].
"""

import numpy as np
from numpy.typing import ArrayLike


def water_level(eigenvalues: ArrayLike, distortion: ArrayLike) -> np.ndarray:
  """Return m, where `sum_i min(m, l_i) = distortion`.

  In m the sum is the least of the lines `sum_{i<=k} l_i + (n - k) m` (l
  ascending), so that m is the greatest of their solutions.

  >>> float(water_level([1.0, 4.0], 3.0))
  2.0

  Args:
    eigenvalues: [n], of the source's covariance, >= 0, in any order.
    distortion: [...], D, the total squared error over all n dimensions, > 0.

  Returns:
    m [...]; infinity where D >= sum_i l_i, so that nothing need be sent.

  Raises:
    ValueError: if a number is not finite or not in its range.
  """
  eigenvalues, distortion = _check(eigenvalues, distortion)
  sums = np.concatenate([[0.0], np.cumsum(np.sort(eigenvalues))])
  slopes = np.arange(eigenvalues.size, 0, -1)
  level = np.max((distortion[..., None] - sums[:-1]) / slopes, axis=-1)
  return np.where(distortion < sums[-1], level, np.inf)


def rate(eigenvalues: ArrayLike, distortion: ArrayLike) -> np.ndarray:
  """Return R(D) in nats, the rate-distortion function.

  >>> rate([1.0, 1.0], [0.5, 1.0, 2.0]).round(4).tolist()
  [1.3863, 0.6931, 0.0]

  Args:
    eigenvalues: [n], of the source's covariance, >= 0, in any order.
    distortion: [...], D, the total squared error over all n dimensions, > 0.

  Returns:
    R [...], nats for each draw of the source; 0 where D >= sum_i l_i.

  Raises:
    ValueError: if a number is not finite or not in its range.
  """
  level = water_level(eigenvalues, distortion)
  ratio = np.asarray(eigenvalues, np.float64) / level[..., None]
  return 0.5 * np.sum(np.log(np.maximum(ratio, 1.0)), axis=-1)


def optimal_multiplier(
  eigenvalues: ArrayLike, distortion: ArrayLike
) -> np.ndarray:
  """Return lambda = -dR/dD = 1 / (2 m), the multiplier of `C <= 0`.

  Here `C = ||x - g(z)||^2 - D` is the summed squared error, not a relative
  one. At D = sum_i l_i the slope jumps and the value is that of larger D, 0.

  >>> float(optimal_multiplier([1.0, 4.0], 3.0))
  0.25

  Args:
    eigenvalues: [n], of the source's covariance, >= 0, in any order.
    distortion: [...], D, the total squared error over all n dimensions, > 0.

  Returns:
    lambda [...], nats per unit of squared error; 0 where D >= sum_i l_i.

  Raises:
    ValueError: if a number is not finite or not in its range.
  """
  return 0.5 / water_level(eigenvalues, distortion)


def _check(eigenvalues, distortion):
  """Return both as float64 arrays; raise ValueError if out of range."""
  values = np.asarray(eigenvalues, np.float64)
  totals = np.asarray(distortion, np.float64)
  if (
    values.ndim != 1
    or not values.size
    or not (np.isfinite(values) & (values >= 0)).all()
  ):
    raise ValueError(
      'eigenvalues must be a non-empty vector of finite numbers >= 0, got '
      f'{eigenvalues}'
    )
  if not (np.isfinite(totals) & (totals > 0)).all():
    raise ValueError(f'distortion must be finite and > 0, got {distortion}')
  return values, totals
