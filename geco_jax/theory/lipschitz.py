"""Fixed points of beta-VAEs whose decoder is Lipschitz (Appendix B, Prop. 6).

Two tiles a, b bound the decoder by `||psi_a - psi_b||^2 <= L^2 S_ab`, where
S_ab is the mean squared distance of their points. With the prior's density kept
inside K_ab = pi_a pi_b S_ab, the paper's C_ab = pi_a pi_b / (L^2 K_ab) is
1 / (L^2 S_ab) for every prior. Multipliers Omega~_ab >= 0 enforce it: given the
encoder, psi minimises

    sum_a D_a ||psi_a - F_a||^2 + 1/2 sum_ab W_ab ||psi_a - psi_b||^2,
    D_a = pi_a sum_i m_ia / (2 beta),   W = Omega~ o C,           (Eq. 23)

so that `(D + Lap) psi = D F` with `Lap = diag(W 1) - W`. This is

    psi = P F,   P = [I + diag(2 beta / (pi_a sum_i m_ia)) Lap]^-1,

in symmetric form, that also stands where no datum uses a tile (D_a = 0).

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

_FIRST_STRENGTH = 1e-2  # Of the constraint at the start, against the data's.
_LEAST_SHARE = 1e-9  # Of the mean D, for tiles that no datum uses.
_RESTING_SHARE = 1e-3  # Of the first Omega~; less would be slow to wake.
_FLAT_ENOUGH = 0.01  # Over L; of such psi the last is nearest to the optimum.
_MAX_LAST_STEPS = 500  # Of the last projection.


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

  psi: np.ndarray  # [tiles, dims], the flattest yet or, within 1%, the last.
  multipliers: np.ndarray  # [pairs], Omega~ for the next step.
  largest_slopes: np.ndarray  # [steps], of each step's own psi.


class LipschitzPoints(NamedTuple):
  """Where the iteration ended."""

  psi: np.ndarray  # [tiles, dims].
  largest_slope: float
  num_steps: int
  trajectory: np.ndarray | None  # [steps + 2, tiles, dims].


def pairs_within(tiles: Tiles, radius: float) -> Pairs:
  """Returns the pairs of tiles whose centres are at most `radius` apart.

  Points of two cubes of side h, d dimensions, are in the mean squared
  `||c_a - c_b||^2 + d h^2 / 6` apart. With `side=0` slopes are those between
  the centres.

  Args:
    tiles: of `fixed_points.grid`.
    radius: > 0; at least sqrt(d) to hold all.

  Raises:
    ValueError: if no pair is so near.
  """
  tree = spatial.cKDTree(tiles.centres)
  pairs = tree.query_pairs(radius * (1 + 1e-9), output_type='ndarray')
  if not len(pairs):
    raise ValueError(
      f'radius must reach a neighbour, {tiles.side:g} away, got {radius:g}'
    )
  first, second = pairs[np.lexsort(pairs.T[::-1])].T.copy()
  apart = tiles.centres[first] - tiles.centres[second]
  spread = tiles.centres.shape[1] * tiles.side**2 / 6
  squared_distance = (apart**2).sum(axis=1) + spread
  return Pairs(first, second, squared_distance, len(tiles.centres))


def slopes(psi: np.ndarray, pairs: Pairs) -> np.ndarray:
  """Returns ||psi_a - psi_b|| / sqrt(S_ab) [pairs]."""
  squared = sum(
    (column[pairs.first] - column[pairs.second]) ** 2
    for column in np.ascontiguousarray(psi.T)
  )
  return np.sqrt(squared / pairs.squared_distance)


def project(
  target: np.ndarray, precision: np.ndarray, weights: np.ndarray, pairs: Pairs
) -> np.ndarray:
  """Returns P F, the solution of `(D + Lap) psi = D F`.

  Pairs of near tiles make a banded matrix, which is solved as one.

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
  """Returns Eq. 25 with the minus, factor and n of the print, to show them.

  That is `[I - diag(n sigma^2 / (1^T m o pi)) Lap]^-1 F`, which may be
  singular and moves tiles apart. (Printed is `sum_a F_a P_ab`, that is P^T F.)

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
  """Projects, and raises Omega~ where slopes exceed L, lowers it elsewhere.

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
    projection: `project`, or what is to be tried in its place.

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
      *(target, precision, pairs, lipschitz, num_steps),
      *(multipliers, tolerance, projection),
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
  """As `dual_ascent`; BLAS's threads cost more than they save."""
  precision = np.maximum(precision, _LEAST_SHARE * precision.mean())
  limits = lipschitz**2 * pairs.squared_distance
  least = _first_multipliers(precision, pairs, limits)
  multipliers = least if multipliers is None else multipliers
  flattest, largest = target, []
  for _ in range(num_steps):
    psi = projection(target, precision, multipliers / limits, pairs)
    ratios = slopes(psi, pairs) / lipschitz
    multipliers = np.maximum(multipliers * ratios**2, _RESTING_SHARE * least)
    largest.append(ratios.max() * lipschitz)
    if largest[-1] <= max(min(largest), (1 + _FLAT_ENOUGH) * lipschitz):
      flattest = psi
    if ratios.max() <= 1 + tolerance:
      break
  return Projection(flattest, multipliers, np.array(largest))


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
  """Iterates `psi <- P F(psi)`, smoothed, under a uniform prior.

  Every step takes one step of dual ascent from the multipliers of the last.
  In the end, psi is projected until no slope exceeds
  (1 + slope_tolerance) L.

  Args:
    data: [n, dims].
    initial: [tiles, dims].
    beta: > 0, in units of squared error.
    pairs: of tiles; all for a global constraint, near ones for a local one.
    lipschitz: L > 0, data's unit over that of the latent space.
    smoothing: weight of the old psi in the new, in [0, 1).
    max_steps: >= 1.
    tolerance: stop when the whole of psi moves by less.
    slope_tolerance: of L, > 0.
    keep_trajectory: whether to return psi at every step.
  """
  psi, multipliers, kept = np.asarray(initial, np.float64), None, [initial]
  with threadpoolctl.threadpool_limits(1, 'blas'):
    for _ in range(max_steps):
      target = target_and_precision(data, psi, beta)
      found = _ascend(*target, pairs, lipschitz, 1, multipliers, 0.0)
      step = (1 - smoothing) * (found.psi - psi)
      psi, multipliers = psi + step, found.multipliers
      kept.append(psi)
      if np.linalg.norm(step) < tolerance:
        break
    target = target_and_precision(data, psi, beta)
    found = _ascend(
      *target, pairs, lipschitz, _MAX_LAST_STEPS, multipliers, slope_tolerance
    )
  return LipschitzPoints(
    found.psi,
    float(slopes(found.psi, pairs).max()),
    len(kept) - 1,
    np.stack([*kept, found.psi]) if keep_trajectory else None,
  )


def target_and_precision(
  data: np.ndarray, psi: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns F(psi) [tiles, dims] and D [tiles] under a uniform prior."""
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
  """Returns Omega~ [pairs] whose pull is a small share of the data's."""
  per_tile = 2 * len(pairs.first) / pairs.num_tiles
  return _FIRST_STRENGTH * precision.mean() / per_tile * limits


def _weighted_degrees(weights, pairs):
  """Returns W 1 [tiles]."""
  return sum(
    np.bincount(ends, weights, pairs.num_tiles)
    for ends in (pairs.first, pairs.second)
  )
