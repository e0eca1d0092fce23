"""Tests of the Lipschitz projection and its dual ascent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from geco_jax.theory import fixed_points
from geco_jax.theory import lipschitz
from geco_jax.theory import toy_data

TILES = fixed_points.grid(8)
NEAR = lipschitz.pairs_within(TILES, 0.26)
ALL = lipschitz.pairs_within(TILES, 2.0)
DATA = toy_data.mixture_of_circles(60, 0)
BETA = 0.005


@pytest.fixture(scope='module')
def target():
  """Return F and D at the unconstrained fixed points."""
  initial = fixed_points.initial_psi(TILES.centers, 0)
  result = fixed_points.fixed_points(DATA, initial, [BETA], smoothing=0.0)
  return lipschitz.target_and_precision(DATA, np.asarray(result.psi[0]), BETA)


@pytest.mark.parametrize('num_dims', [1, 2, 3])
def test_mean_squared_distance_agrees_with_sampling(num_dims):
  tiles = fixed_points.grid(3, num_dims)
  pairs = lipschitz.pairs_within(tiles, 2.0)
  rng = np.random.default_rng(0)
  z, w = (
    tiles.centers[ends][:, None]
    + rng.uniform(-0.5, 0.5, (len(ends), 20_000, num_dims)) * tiles.side
    for ends in (pairs.first[:5], pairs.second[:5])
  )
  sampled = ((z - w) ** 2).sum(axis=2).mean(axis=1)
  np.testing.assert_allclose(pairs.squared_distance[:5], sampled, rtol=0.02)


def test_kernel_is_that_of_square_tiles():
  h = TILES.side
  difference = TILES.centers[ALL.first] - TILES.centers[ALL.second]
  kernel = h**4 * ((difference**2).sum(axis=1) + h**2 / 3)
  masses = h**2
  np.testing.assert_allclose(masses**2 / kernel, 1 / ALL.squared_distance)


def test_each_pair_stands_once_and_within_the_radius():
  assert len(ALL.first) == 64 * 63 // 2
  assert (NEAR.first < NEAR.second).all()
  difference = TILES.centers[NEAR.first] - TILES.centers[NEAR.second]
  assert np.linalg.norm(difference, axis=1).max() <= 0.26
  pairs = np.stack([NEAR.first, NEAR.second], axis=1)
  assert len(np.unique(pairs, axis=0)) == len(pairs)


@pytest.mark.parametrize('pairs', [NEAR, ALL], ids=['banded', 'dense'])
def test_projection_is_stationary_in_equation_23(target, pairs):
  """The gradient is jax.grad's, of Eq. 23 as printed: every pair twice."""
  center, precision = target
  weights = np.random.default_rng(0).uniform(0, 2, len(pairs.first))
  psi = lipschitz.project(center, precision + 0.1, weights, pairs)
  full = np.zeros((64, 64), np.float32)
  full[pairs.first, pairs.second] = full[pairs.second, pairs.first] = weights

  def equation_23(psi):
    fit = (precision[:, None] + 0.1) * (psi - center) ** 2
    difference = psi[:, None] - psi[None]
    return fit.sum() + 0.5 * (full[:, :, None] * difference**2).sum()

  gradient = jax.grad(equation_23)(jnp.asarray(psi, jnp.float32))
  np.testing.assert_allclose(gradient, np.zeros_like(psi), atol=2e-4)


def test_banded_and_dense_solutions_agree(target):
  center, precision = target
  weights = np.random.default_rng(0).uniform(0, 2, len(NEAR.first))
  banded = lipschitz.project(center, precision + 0.1, weights, NEAR)
  # One far pair of weight 0 makes the matrix dense.
  dense = lipschitz.Pairs(
    np.append(NEAR.first, 0),
    np.append(NEAR.second, 63),
    np.append(NEAR.squared_distance, 1.0),
    64,
  )
  other = lipschitz.project(
    center, precision + 0.1, np.append(weights, 0.0), dense
  )
  np.testing.assert_allclose(banded, other, atol=1e-12)


def test_projection_is_proposition_6_and_the_literal_one_is_its_mirror(target):
  center, precision = target
  precision = precision + 0.1
  weights = np.full(len(NEAR.first), 1e-3)
  laplacian = np.zeros((64, 64))
  np.add.at(laplacian, (NEAR.first, NEAR.second), -weights)
  laplacian += laplacian.T
  np.fill_diagonal(laplacian, -laplacian.sum(axis=1))
  # D = pi_a sum_i m_ia / (2 sigma^2).
  plus = np.eye(64) + laplacian / precision[:, None]
  np.testing.assert_allclose(
    lipschitz.project(center, precision, weights, NEAR),
    np.linalg.solve(plus, center),
    atol=1e-10,
  )
  minus = np.eye(64) - 60 / (2 * precision)[:, None] * laplacian
  np.testing.assert_allclose(
    lipschitz.literal_projection(60)(center, precision, weights, NEAR),
    np.linalg.solve(minus, center),
    atol=1e-10,
  )


def test_a_lone_pair_comes_to_exactly_l():
  tiles = fixed_points.Tiles(np.array([[0.0], [0.5]]), 0.0)
  pairs = lipschitz.pairs_within(tiles, 1.0)
  center = np.array([[0.0], [3.0]])
  result = lipschitz.dual_ascent(center, np.ones(2), pairs, 2.0, 100)
  np.testing.assert_allclose(result.largest_slopes[-1], 2.0, rtol=1e-6)
  # The nearest feasible points: both ends move by the same.
  np.testing.assert_allclose(result.psi, [[1.0], [2.0]], atol=1e-5)


def test_dual_ascent_finds_the_nearest_lipschitz_map():
  """SciPy's solver of the constrained problem agrees."""
  tiles = fixed_points.grid(5, 1)
  pairs = lipschitz.pairs_within(tiles, 2.0)
  center = np.array([[-0.5], [-0.45], [0.4], [0.5], [0.1]])
  precision = np.array([1.0, 2.0, 0.5, 1.0, 1.5])

  def objective(psi):
    return (precision * (psi - center[:, 0]) ** 2).sum()

  limits = {
    'type': 'ineq',
    'fun': lambda psi: (
      pairs.squared_distance - (psi[pairs.first] - psi[pairs.second]) ** 2
    ),
  }
  exact = optimize.minimize(
    objective, 0.5 * center[:, 0], constraints=limits, tol=1e-12
  )
  result = lipschitz.dual_ascent(center, precision, pairs, 1.0, 2_000)
  np.testing.assert_allclose(result.psi[:, 0], exact.x, atol=2e-3)


@pytest.mark.parametrize('pairs', [NEAR, ALL], ids=['local', 'global'])
def test_slope_falls_to_l_and_only_with_the_corrected_sign(target, pairs):
  center, precision = target
  initial_slope = lipschitz.slopes(center, pairs).max()
  assert initial_slope > 2
  projection = lipschitz.dual_ascent(center, precision, pairs, 1.0, 100)
  steps = projection.largest_slopes
  first_flat = int(np.argmax(steps <= 1.05))
  assert steps[first_flat] <= 1.05
  # Slopes fall but for a few hundredths of L, as pairs pull on one another.
  assert np.diff(steps[: first_flat + 1]).max() < 0.05
  assert lipschitz.slopes(projection.psi, pairs).max() <= max(1.01, steps.min())
  literal = lipschitz.dual_ascent(
    *(center, precision, pairs, 1.0, 100),
    projection=lipschitz.literal_projection(len(DATA)),
  ).largest_slopes
  assert (np.diff(literal) > 1).any()
  assert literal.max() > 2 * initial_slope
  assert (np.abs(literal - 1) > 0.05).all()


def test_what_more_steps_return_is_never_steeper(target):
  slopes = [
    lipschitz.slopes(
      lipschitz.dual_ascent(*target, NEAR, 1.0, num_steps).psi, NEAR
    ).max()
    for num_steps in range(1, 60, 4)
  ]
  assert (np.diff(np.maximum(slopes, 1.01)) <= 0).all()


def test_multipliers_stay_positive_and_finite(target):
  result = lipschitz.dual_ascent(*target, ALL, 1.0, 50)
  assert (result.multipliers > 0).all()
  assert np.isfinite(result.multipliers).all()


def test_fixed_points_keep_every_center_within_l():
  """Prop. 6: ||psi_a - psi_b|| <= L ||z_a - z_b||, to the tolerance."""
  pairs = lipschitz.pairs_within(TILES._replace(side=0.0), 2.0)
  initial = fixed_points.initial_psi(TILES.centers, 0)
  result = lipschitz.lipschitz_fixed_points(
    DATA, initial, BETA, pairs, 1.0, slope_tolerance=0.01, keep_trajectory=True
  )
  difference = result.psi[pairs.first] - result.psi[pairs.second]
  limits = np.linalg.norm(
    TILES.centers[pairs.first] - TILES.centers[pairs.second], axis=1
  )
  assert (np.linalg.norm(difference, axis=1) <= 1.01 * limits + 1e-12).all()
  assert result.trajectory.shape == (result.num_steps + 2, 64, 2)
  # The constraint is not met by giving up: the data still spread psi.
  assert np.ptp(result.psi, axis=0).min() > 0.4


def test_local_and_global_constraints_agree_on_a_convex_latent_space():
  initial = fixed_points.initial_psi(TILES.centers, 0)
  local_psi, global_psi = (
    lipschitz.lipschitz_fixed_points(
      DATA, initial, 0.02, pairs, 1.0, slope_tolerance=0.02
    ).psi
    for pairs in (NEAR, ALL)
  )
  distance = np.sqrt(((local_psi - global_psi) ** 2).sum(axis=1).mean())
  assert distance < 0.05
  # Steps between neighbors add up; they may be sqrt(1 + 1/3) steep, as S is
  # a mean over their squares.
  assert lipschitz.slopes(local_psi, ALL).max() < 1.02 * np.sqrt(4 / 3)


def test_a_loose_constraint_changes_nothing():
  initial = fixed_points.initial_psi(TILES.centers, 0)
  unconstrained = fixed_points.fixed_points(DATA, initial, [0.02]).psi[0]
  result = lipschitz.lipschitz_fixed_points(DATA, initial, 0.02, NEAR, 100.0)
  np.testing.assert_allclose(result.psi, unconstrained, atol=1e-2)


def test_bad_arguments_are_shown(target):
  with pytest.raises(ValueError, match='0.125 away, got 0.1'):
    lipschitz.pairs_within(TILES, 0.1)
  with pytest.raises(ValueError, match='got 0.0 and 1'):
    lipschitz.dual_ascent(*target, NEAR, 0.0, 1)


def test_precisions_add_up_to_the_data_s(target):
  """Each datum's masses on the tiles sum to 1: sum_a D_a = n / (2 beta)."""
  _, precision = target
  np.testing.assert_allclose(precision.sum(), len(DATA) / (2 * BETA), rtol=1e-4)


@pytest.mark.parametrize('tiles_per_side', [3, 7, 10, 49])
def test_a_radius_of_a_side_reaches_the_neighbors(tiles_per_side):
  """Whatever rounding makes of their distance."""
  tiles = fixed_points.grid(tiles_per_side, 1)
  pairs = lipschitz.pairs_within(tiles, tiles.side)
  np.testing.assert_array_equal(pairs.first, np.arange(tiles_per_side - 1))
  np.testing.assert_array_equal(pairs.second, pairs.first + 1)


def test_by_default_it_stops_at_rest_within_a_twentieth_of_l():
  initial = fixed_points.initial_psi(TILES.centers, 0)
  result = lipschitz.lipschitz_fixed_points(DATA, initial, BETA, NEAR, 1.0)
  assert result.largest_slope == lipschitz.slopes(result.psi, NEAR).max()
  assert result.largest_slope <= 1.05
  assert result.num_steps < 400
  assert result.trajectory is None
