"""Tests of the reconstruction fixed points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy.spatial import distance

from geco_jax.theory import fixed_points
from geco_jax.theory import rate_distortion
from geco_jax.theory import toy_data

TILES = fixed_points.grid(8)
INITIAL = fixed_points.initial_psi(TILES.centers, 0)
DATA = toy_data.cluster_hierarchy((0.3, 0.1), 40, 0, 0.02)


def literal_iteration(data, psi, prior, beta, smoothing, num_steps):
  """Eqs. 19-20 in float64, in log space by scipy."""
  for _ in range(num_steps):
    log_k = -distance.cdist(data, psi, 'sqeuclidean') / (2 * beta)
    log_m = log_k - special.logsumexp(log_k, axis=1, b=prior, keepdims=True)
    target = special.softmax(log_m, axis=0).T @ data
    psi = smoothing * psi + (1 - smoothing) * target
  return psi, log_m


@pytest.mark.parametrize('beta', [1e-5, 1e-3, 0.03, 1.0])
@pytest.mark.parametrize('smoothing', [0.0, 0.9])
def test_iteration_agrees_with_float64(beta, smoothing):
  prior = np.random.default_rng(1).dirichlet(np.full(64, 5.0))
  points = fixed_points.fixed_points(
    *(DATA, INITIAL, [beta], prior),
    smoothing=smoothing,
    max_steps=10,
    tolerance=0.0,
  )
  psi, _ = literal_iteration(DATA, INITIAL, prior, beta, smoothing, 10)
  # Rounding distances to float32 changes an exponent by 1% at beta = 1e-5.
  np.testing.assert_allclose(
    points.psi[0], psi, atol=1e-5 if beta > 1e-4 else 2e-3
  )
  assert points.num_steps[0] == 10


def test_error_and_kl_agree_with_float64():
  beta, prior = 0.01, np.full(64, 1 / 64)
  points = fixed_points.fixed_points(DATA, INITIAL, [beta])
  psi = np.asarray(points.psi[0], np.float64)
  _, log_m = literal_iteration(DATA, psi, prior, beta, 0.0, 1)
  posterior = np.exp(log_m) * prior[None]
  squared = distance.cdist(DATA, psi, 'sqeuclidean')
  error = (posterior * squared).sum(axis=1).mean()
  kl = (posterior * log_m).sum(axis=1).mean()
  np.testing.assert_allclose(points.squared_error[0], error, rtol=1e-4)
  np.testing.assert_allclose(points.kl_nats[0], kl, rtol=1e-4)


def test_no_nan_for_nine_orders_of_beta():
  betas = np.geomspace(1e-6, 1e3, 19)
  points = fixed_points.fixed_points(DATA, INITIAL, betas, max_steps=100)
  for values in (points.psi, points.squared_error, points.kl_nats):
    assert np.isfinite(values).all()
  assert (np.asarray(points.kl_nats) >= -1e-5).all()


def test_a_prior_with_tiny_masses_stays_finite():
  prior = np.r_[np.full(63, 1e-12), 1 - 63e-12]
  points = fixed_points.fixed_points(DATA, INITIAL, [1e-6, 0.01], prior)
  assert np.isfinite(points.psi).all()
  assert np.isfinite(points.kl_nats).all()


def test_large_beta_merges_everything_in_the_mean():
  points = fixed_points.fixed_points(DATA, INITIAL, [10.0], tolerance=1e-5)
  mean = np.broadcast_to(DATA.mean(axis=0), INITIAL.shape)
  np.testing.assert_allclose(points.psi[0], mean, atol=1e-4)
  np.testing.assert_allclose(
    points.squared_error[0], DATA.var(axis=0).sum(), rtol=1e-4
  )
  np.testing.assert_allclose(points.kl_nats[0], 0, atol=1e-6)


def test_small_beta_gives_every_used_tile_one_datum():
  data = DATA[:4]
  points = fixed_points.fixed_points(data, INITIAL, [1e-5], smoothing=0.0)
  nearest = distance.cdist(np.asarray(points.psi[0]), data).min(axis=1)
  assert nearest.max() < 1e-5


def test_psi_stays_within_the_data():
  points = fixed_points.fixed_points(DATA, DATA[:9], np.geomspace(1e-4, 1, 5))
  psi = np.asarray(points.psi)
  assert (psi >= DATA.min(axis=0)[None, None] - 1e-6).all()
  assert (psi <= DATA.max(axis=0)[None, None] + 1e-6).all()


def test_iteration_lowers_the_free_energy():
  beta = 0.01
  points = fixed_points.fixed_points(
    *(DATA, INITIAL, [beta]), max_steps=30, tolerance=0, keep_trajectories=True
  )
  log_prior = jnp.full(64, -np.log(64.0), jnp.float32)
  data = jnp.asarray(DATA, jnp.float32)
  errors, kls = jax.lax.map(
    lambda psi: fixed_points.error_and_kl(data, psi, log_prior, beta),
    jnp.asarray(points.trajectories[0]),
  )
  energies = np.asarray(kls + errors / (2 * beta))
  assert (np.diff(energies) < 1e-5).all()


def test_trajectories_begin_at_the_start_and_end_at_the_fixed_points():
  points = fixed_points.fixed_points(
    DATA, INITIAL, [1.0, 0.01], max_steps=60, keep_trajectories=True
  )
  assert points.trajectories.shape == (2, 61, 64, 2)
  np.testing.assert_allclose(points.trajectories[0, 0], INITIAL, atol=1e-6)
  np.testing.assert_array_equal(points.trajectories[:, -1], points.psi)
  untraced = fixed_points.fixed_points(DATA, INITIAL, [1.0, 0.01], max_steps=60)
  assert untraced.trajectories is None
  np.testing.assert_allclose(points.psi, untraced.psi, atol=1e-6)


def test_stops_at_the_first_step_under_the_tolerance():
  points = fixed_points.fixed_points(
    DATA, INITIAL, [1.0], keep_trajectories=True
  )
  steps = np.diff(np.asarray(points.trajectories)[0], axis=0)
  lengths = np.sqrt((steps**2).sum(axis=(1, 2)))
  last = int(points.num_steps[0])
  assert last < 400
  assert lengths[last - 1] < 1e-3 <= lengths[last - 2]
  assert (lengths[last:] == 0).all()
  np.testing.assert_allclose(points.last_step[0], lengths[last - 1], rtol=1e-2)


def test_betas_do_not_influence_each_other():
  betas = np.array([0.003, 0.01, 0.3])
  together = fixed_points.fixed_points(DATA, INITIAL, betas)
  for i, beta in enumerate(betas):
    single = fixed_points.fixed_points(DATA, INITIAL, [beta])
    np.testing.assert_allclose(together.psi[i], single.psi[0], atol=1e-6)


def test_wherever_the_data_are_they_have_the_same_fixed_points():
  offset = np.array([[100.0, -50.0]])
  points = fixed_points.fixed_points(DATA, INITIAL, [0.01])
  moved = fixed_points.fixed_points(DATA + offset, INITIAL + offset, [0.01])
  np.testing.assert_allclose(moved.psi[0] - offset, points.psi[0], atol=1e-4)


@pytest.mark.parametrize('num_dims', [1, 3, 12])
def test_any_dimension_agrees_with_float64(num_dims):
  rng = np.random.default_rng(0)
  data = rng.normal(size=(20, num_dims))
  initial = rng.normal(size=(7, num_dims))
  prior = np.full(7, 1 / 7)
  points = fixed_points.fixed_points(
    data, initial, [0.3], max_steps=5, tolerance=0
  )
  psi, _ = literal_iteration(data, initial, prior, 0.3, 0.9, 5)
  np.testing.assert_allclose(points.psi[0], psi, atol=1e-5)


def test_kl_is_at_least_the_rate_of_the_error_reached():
  """Shannon's bound, for a discrete source: log n less what is confused."""
  data = np.array([[-1.0], [1.0]])
  initial = np.linspace(-1, 1, 64)[:, None]
  points = fixed_points.fixed_points(
    data, initial, np.geomspace(0.05, 0.8, 8), smoothing=0, max_steps=1_000
  )
  # Reconstructions +-t: u = 1 - t^2, rate >= log 2 - h(flip).
  amplitude = np.abs(np.asarray(points.psi)[:, :, 0]).max(axis=1)
  flip = (1 - amplitude) / 2
  rate = np.log(2) - special.entr(flip) - special.entr(1 - flip)
  np.testing.assert_allclose(points.kl_nats, rate, atol=2e-2)
  gaussian = rate_distortion.rate([1.0], np.asarray(points.squared_error))
  assert (np.asarray(points.kl_nats) <= gaussian + 2e-2).all()


def test_grid_tiles_the_cube():
  tiles = fixed_points.grid(4, 3)
  assert tiles.centers.shape == (64, 3)
  assert np.abs(tiles.centers).max() == 0.375
  assert len(np.unique(tiles.centers, axis=0)) == 64
  noise = fixed_points.initial_psi(tiles.centers, 1) - tiles.centers
  assert 0.09 < np.abs(noise).max() <= 0.1


@pytest.mark.parametrize(
  ('change', 'shown'),
  [
    ({'betas': [0.0]}, 'betas must .*0'),
    ({'betas': [np.nan]}, 'nan'),
    ({'data': np.zeros((3, 1))}, r'\(3, 1\)'),
    ({'data': np.full((3, 2), np.nan)}, 'data must be finite'),
    ({'smoothing': 1.0}, 'smoothing .*1.0'),
    ({'max_steps': 0}, 'max_steps .*0'),
    ({'tolerance': -1.0}, 'tolerance .*-1'),
    ({'prior': np.ones(3)}, r'shape \(64,\), got \(3,\)'),
    ({'prior': np.ones(64)}, 'sum 64'),
  ],
)
def test_bad_arguments_are_shown(change, shown):
  arguments = {'data': DATA, 'initial': INITIAL, 'betas': [0.1]} | change
  with pytest.raises(ValueError, match=shown):
    fixed_points.fixed_points(**arguments)
  with pytest.raises(ValueError, match='got 0 and 2'):
    fixed_points.grid(0, 2)


def test_without_a_tolerance_all_steps_are_taken():
  """Also where psi has come to rest: of one datum, at once."""
  points = fixed_points.fixed_points(
    DATA[:1], DATA[:1], [1.0], max_steps=5, tolerance=0.0
  )
  assert points.num_steps[0] == 5
  assert points.last_step[0] == 0


def test_the_start_s_noise_goes_both_ways():
  centers = fixed_points.grid(32).centers
  noise = fixed_points.initial_psi(centers, 0, 0.3) - centers
  assert -0.3 <= noise.min() < -0.29 and 0.29 < noise.max() <= 0.3
  assert abs(noise.mean()) < 4 * 0.3 / np.sqrt(3 * noise.size)


def test_a_tile_without_mass_is_refused():
  prior = np.r_[0.0, np.full(63, 1 / 63)]
  with pytest.raises(ValueError, match='prior must be > 0 .* got least 0 '):
    fixed_points.fixed_points(DATA, INITIAL, [0.1], prior)


def test_a_prior_that_hardly_misses_one_is_refused():
  prior = np.full(64, 1.001 / 64)
  with pytest.raises(ValueError, match='sum to 1, got .* sum 1.001'):
    fixed_points.fixed_points(DATA, INITIAL, [0.1], prior)
