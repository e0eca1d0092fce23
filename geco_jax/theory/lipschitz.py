"""Fixed points of beta-VAEs whose decoder is Lipschitz (Appendix B, Prop. 6).

Two tiles a, b bound the decoder by `||psi_a - psi_b||^2 <= L^2 S_ab`, where
S_ab is the mean squared distance of their points. With the prior's density kept
inside K_ab = pi_a pi_b S_ab, the paper's C_ab = pi_a pi_b / (L^2 K_ab) is
1 / (L^2 S_ab) for every prior. Multipliers Omega~_ab >= 0 enforce it: given the
encoder, psi minimizes

    sum_a D_a ||psi_a - F_a||^2 + 1/2 sum_ab W_ab ||psi_a - psi_b||^2,
    D_a = pi_a sum_i m_ia / (2 beta),   W = Omega~ o C,           (Eq. 23)

so that `(D + Lap) psi = D F` with `Lap = diag(W 1) - W`. This is

    psi = P F,   P = [I + diag(2 beta / (pi_a sum_i m_ia)) Lap]^-1,

in symmetric form, which also holds where no datum uses a tile (D_a = 0).

Departs from the paper: Eq. 24 differentiates the second term with the wrong
sign and half the size, and Eq. 25 has n where Eq. 21 divides by n
(`literal_projection` is what is printed). The dual step, which the paper leaves
out, is Algorithm 1's on log Omega~, with the log of the constraint's ratio:
`log Omega~ <- log Omega~ + log(C ||psi_a - psi_b||^2)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg
from scipy import spatial
import threadpoolctl

from geco_jax.theory import fixed_points
from geco_jax.theory.fixed_points import Tiles

# A tile's sum of W over its D at the start, averaged over tiles.
_FIRST_STRENGTH = 1e-2
# Least D over its mean: a tile that no datum uses has D = 0, and no solution.
_MIN_PRECISION_SHARE = 1e-9
# Least Omega~ over the first: a multiplier near 0 would take long to grow back.
_MIN_MULTIPLIER_SHARE = 1e-3
# Psi this much steeper than L passes for flat. The last such is returned, as
# the multipliers are nearest to the dual's optimum at the end.
_SLOPE_MARGIN = 0.01
_MAX_LAST_STEPS = 500  # Steps of dual ascent after the last iteration.


class Pairs(NamedTuple):
  """Tiles whose decoders are held together, each pair once, first < second."""

  first: np.ndarray  # [pairs].
  second: np.ndarray  # [pairs].
  squared_distance: np.ndarray  # [pairs], S, mean over the points of both.
  num_tiles: int


# (F, D, W, pairs) -> psi, as `project`.
Projector = Callable[[np.ndarray, np.ndarray, np.ndarray, Pairs], np.ndarray]


class Projection(NamedTuple):
  """Where dual ascent ended."""

  # [tiles, dims], of the last step within 1% of L, else of the flattest step.
  psi: np.ndarray
  multipliers: np.ndarray  # [pairs], Omega~ for the next step.
  largest_slopes: np.ndarray  # [steps], after each step.


class LipschitzPoints(NamedTuple):
  """Where the iteration ended."""

  psi: np.ndarray  # [tiles, dims].
  largest_slope: float
  num_steps: int
  trajectory: np.ndarray | None  # [steps + 2, tiles, dims].


def pairs_within(tiles: Tiles, radius: float) -> Pairs:
  """Return the pairs of tiles whose centers are at most `radius` apart.

  The mean squared distance of points of two cubes of side h in d dimensions is
  `||c_a - c_b||^2 + d h^2 / 6`. With `side=0` slopes are those between
  the centers.

  Args:
    tiles: of `fixed_points.grid`.
    radius: > 0; from sqrt(d) on, all pairs are within it.

  Raises:
    ValueError: if no pair is that near.
  """
  tree = spatial.cKDTree(tiles.centers)
  pairs = tree.query_pairs(radius * (1 + 1e-9), output_type='ndarray')
  if not len(pairs):
    raise ValueError(
      f'radius must reach a neighbor, {tiles.side:g} away, got {radius:g}'
    )
  first, second = pairs[np.lexsort(pairs.T[::-1])].T.copy()
  difference = tiles.centers[first] - tiles.centers[second]
  spread = tiles.centers.shape[1] * tiles.side**2 / 6
  squared_distance = (difference**2).sum(axis=1) + spread
  return Pairs(first, second, squared_distance, len(tiles.centers))


def slopes(psi: np.ndarray, pairs: Pairs) -> np.ndarray:
  """Return ||psi_a - psi_b|| / sqrt(S_ab) [pairs]."""
  squared = sum(
    (column[pairs.first] - column[pairs.second]) ** 2
    for column in np.ascontiguousarray(psi.T)
  )
  return np.sqrt(squared / pairs.squared_distance)


def project(
  target: np.ndarray, precision: np.ndarray, weights: np.ndarray, pairs: Pairs
) -> np.ndarray:
  """Return P F, the solution of `(D + Lap) psi = D F`.

  D + Lap is symmetric and, as D > 0, positive definite: a Cholesky factor
  exists. In the grid's order pairs of near tiles are near the diagonal, and a
  banded matrix is factored in O(tiles bandwidth^2), not O(tiles^3).

  Args:
    target: [tiles, dims], F.
    precision: [tiles], D > 0.
    weights: [pairs], W >= 0.
    pairs: of tiles.
  """
  diagonal = precision + _weighted_degrees(weights, pairs)
  right = precision[:, None] * target
  bandwidth = int((pairs.second - pairs.first).max())
  if 3 * bandwidth < pairs.num_tiles:
    # LAPACK's upper form: entry [i, j] is bands[bandwidth + i - j, j].
    bands = np.zeros((bandwidth + 1, pairs.num_tiles))
    bands[bandwidth] = diagonal
    row = bandwidth + pairs.first - pairs.second
    bands[row, pairs.second] = -weights
    return linalg.solveh_banded(bands, right, check_finite=False)
  matrix = np.diag(diagonal)
  matrix[pairs.first, pairs.second] = -weights
  factor = linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
  return linalg.cho_solve(factor, right, check_finite=False)


def literal_projection(num_data: int) -> Projector:
  """Return Eq. 25 with the sign, factor and n as printed, to show their effect.

  Its matrix `I - diag(n sigma^2 / (1^T m o pi)) Lap` may be singular and moves
  tiles apart. (The paper prints `sum_a F_a P_ab`, which is P^T F.)

  Args:
    num_data: n.
  """

  def project_apart(target, precision, weights, pairs):
    laplacian = np.diag(_weighted_degrees(weights, pairs))
    laplacian[pairs.first, pairs.second] = -weights
    laplacian[pairs.second, pairs.first] = -weights
    scale = num_data / (2 * precision)
    matrix = np.eye(pairs.num_tiles) - scale[:, None] * laplacian
    return np.linalg.solve(matrix, target)

  return project_apart


def dual_ascent(
  target: np.ndarray,
  precision: np.ndarray,
  pairs: Pairs,
  lipschitz: float,
  num_steps: int,
  multipliers: np.ndarray | None = None,
  tolerance: float = -1.0,
  projection: Projector = project,
) -> Projection:
  """Project, then raise Omega~ where slopes exceed L and lower it elsewhere.

  Each step multiplies Omega~ by `C ||psi_a - psi_b||^2 = (slope / L)^2`, which
  is uphill: the dual's gradient is this less 1. Pairs pull on one another, so
  that one step's largest slope may exceed the last one's by a few percent.

  Args:
    target: [tiles, dims], F.
    precision: [tiles], D >= 0.
    pairs: of tiles.
    lipschitz: L > 0.
    num_steps: projections at most, >= 1.
    multipliers: [pairs] to start from; weak ones if None.
    tolerance: stop when no slope exceeds (1 + tolerance) L; -1 takes all steps.
    projection: `project`, or another that is to be compared with it.

  Raises:
    ValueError: if L or the number of steps is not in its range.
  """
  if not lipschitz > 0 or num_steps < 1:
    raise ValueError(
      'lipschitz must be > 0 and num_steps >= 1, got '
      f'{lipschitz} and {num_steps}'
    )
  with threadpoolctl.threadpool_limits(1, 'blas'):
    return _ascend(
      target,
      precision,
      pairs,
      lipschitz,
      num_steps,
      multipliers,
      tolerance,
      projection,
    )


def _ascend(
  target,
  precision,
  pairs,
  lipschitz,
  num_steps,
  multipliers,
  tolerance,
  projection=project,
):
  """Run `dual_ascent` in one thread of BLAS: more would cost time."""
  precision = np.maximum(precision, _MIN_PRECISION_SHARE * precision.mean())
  limits = lipschitz**2 * pairs.squared_distance
  initial = _first_multipliers(precision, pairs, limits)
  multipliers = initial if multipliers is None else multipliers
  flattest_psi, largest_slopes = target, []
  for _ in range(num_steps):
    psi = projection(target, precision, multipliers / limits, pairs)
    ratios = slopes(psi, pairs) / lipschitz
    multipliers = np.maximum(
      multipliers * ratios**2, _MIN_MULTIPLIER_SHARE * initial
    )
    largest_slopes.append(ratios.max() * lipschitz)
    flat_slope = max(min(largest_slopes), (1 + _SLOPE_MARGIN) * lipschitz)
    if largest_slopes[-1] <= flat_slope:
      flattest_psi = psi
    if ratios.max() <= 1 + tolerance:
      break
  return Projection(flattest_psi, multipliers, np.array(largest_slopes))


def lipschitz_fixed_points(
  data: np.ndarray,
  initial: np.ndarray,
  beta: float,
  pairs: Pairs,
  lipschitz: float,
  *,
  smoothing: float = 0.9,
  max_steps: int = 400,
  tolerance: float = 1e-3,
  slope_tolerance: float = 0.05,
  keep_trajectory: bool = False,
) -> LipschitzPoints:
  """Iterate `psi <- P F(psi)`, smoothed, under a uniform prior.

  Every step takes one step of dual ascent from the multipliers of the last.
  At the end, psi is projected until no slope exceeds
  (1 + slope_tolerance) L.

  Args:
    data: [n, dims].
    initial: [tiles, dims].
    beta: > 0, in units of squared error.
    pairs: of tiles; all for a global constraint, near ones for a local one.
    lipschitz: L > 0, the data's unit over that of the latent space.
    smoothing: weight of the old psi in the new, in [0, 1).
    max_steps: >= 1.
    tolerance: stop when the whole of psi moves by less.
    slope_tolerance: relative to L, > 0.
    keep_trajectory: whether to return psi at every step.
  """
  psi, multipliers = np.asarray(initial, np.float64), None
  trajectory = [initial]
  with threadpoolctl.threadpool_limits(1, 'blas'):
    for _ in range(max_steps):
      target = target_and_precision(data, psi, beta)
      projected = _ascend(*target, pairs, lipschitz, 1, multipliers, 0.0)
      step = (1 - smoothing) * (projected.psi - psi)
      psi, multipliers = psi + step, projected.multipliers
      trajectory.append(psi)
      if np.linalg.norm(step) < tolerance:
        break
    target = target_and_precision(data, psi, beta)
    projected = _ascend(
      *target, pairs, lipschitz, _MAX_LAST_STEPS, multipliers, slope_tolerance
    )
  return LipschitzPoints(
    projected.psi,
    float(slopes(projected.psi, pairs).max()),
    len(trajectory) - 1,
    np.stack([*trajectory, projected.psi]) if keep_trajectory else None,
  )


def target_and_precision(
  data: np.ndarray, psi: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
  """Return F(psi) [tiles, dims] and D [tiles] under a uniform prior."""
  log_prior = jnp.full(len(psi), -np.log(len(psi)), jnp.float32)
  args = (jnp.asarray(x, jnp.float32) for x in (data, psi))
  target, precision = _target(*args, log_prior, jnp.float32(beta))
  return np.asarray(target, np.float64), np.asarray(precision, np.float64)


@jax.jit
def _target(data, psi, log_prior, beta):
  log_m = fixed_points.log_weights(data, psi, log_prior, beta)
  precision = jnp.exp(log_m + log_prior[:, None]).sum(axis=1) / (2 * beta)
  return fixed_points.decode(data, log_m), precision


def _first_multipliers(precision, pairs, limits):
  """Return Omega~ [pairs] that pull a small share as hard as the data."""
  per_tile = 2 * len(pairs.first) / pairs.num_tiles
  return _FIRST_STRENGTH * precision.mean() / per_tile * limits


def _weighted_degrees(weights, pairs):
  """Return W 1 [tiles]."""
  return sum(
    np.bincount(ends, weights, pairs.num_tiles)
    for ends in (pairs.first, pairs.second)
  )
