"""Tests of Propositions 1 to 5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from geco_jax.theory import fixed_points
from geco_jax.theory import propositions
from geco_jax.theory import rate_distortion
from geco_jax.theory import toy_data

BETA = 0.02
DATA = toy_data.cluster_hierarchy((0.3, 0.1), 40, 0, 0.01)
INITIAL = fixed_points.initial_psi(fixed_points.grid(8).centers, 0)
PRIOR = np.full(64, 1 / 64)


@pytest.fixture(scope='module')
def psi():
  computed = fixed_points.fixed_points(
    DATA, INITIAL, [BETA], smoothing=0, max_steps=1_000, tolerance=1e-6
  )
  return np.asarray(computed.psi[0])


def as_float32(*arrays):
  return [jnp.asarray(x, jnp.float32) for x in arrays]


def gradients(psi, **kwargs):
  data, psi, log_prior = as_float32(DATA, psi, np.log(PRIOR))
  multiplier = 1 / (2 * BETA)
  logits = propositions.optimal_logits(
    data, psi, log_prior, multiplier, **kwargs
  )
  return jax.grad(propositions.lagrangian, argnums=(0, 1))(
    logits, psi, data, log_prior, multiplier, **kwargs
  )


def test_fixed_points_are_stationary_points_of_the_lagrangian(psi):
  encoder, decoder = gradients(psi)
  np.testing.assert_allclose(encoder, jnp.zeros_like(encoder), atol=1e-7)
  np.testing.assert_allclose(decoder, jnp.zeros_like(decoder), atol=1e-6)
  _, decoder = gradients(INITIAL)
  assert jnp.abs(decoder).max() > 1e-2


def test_equations_5_and_6_hold_for_another_constraint():
  """C = sum log cosh(x - g) has the gradient -tanh(x - g)."""

  def constraint(data, psi):
    difference = data[None] - psi[:, None]
    return jnp.log(jnp.cosh(difference)).sum(axis=2)

  encoder, decoder = gradients(INITIAL, constraint=constraint)
  np.testing.assert_allclose(encoder, jnp.zeros_like(encoder), atol=1e-6)
  # The decoder's gradient is Eq. 6's right side, over n.
  difference = DATA[None] - INITIAL[:, None]
  energy = np.log(np.cosh(difference)).sum(axis=2) / (2 * BETA)
  posterior = special.softmax(np.log(PRIOR)[:, None] - energy, axis=0)
  equation_6 = (posterior[:, :, None] * -np.tanh(difference)).sum(axis=1)
  np.testing.assert_allclose(
    decoder, equation_6 / (2 * BETA * len(DATA)), atol=1e-5
  )


def test_lagrangian_is_kl_plus_scaled_error(psi):
  data, psi, log_prior = as_float32(DATA, psi, np.log(PRIOR))
  error, kl = fixed_points.error_and_kl(data, psi, log_prior, BETA)
  logits = propositions.optimal_logits(data, psi, log_prior, 1 / (2 * BETA))
  value = propositions.lagrangian(logits, psi, data, log_prior, 1 / (2 * BETA))
  np.testing.assert_allclose(value, kl + error / (2 * BETA), rtol=1e-5)


@pytest.mark.parametrize('num_data', [2, 7, 16])
def test_equiprobable_partition_is_a_fixed_point_of_kl_log_n(num_data):
  data = np.random.default_rng(0).uniform(-0.5, 0.5, (num_data, 2))
  owner = np.arange(8 * num_data) % num_data
  computed = fixed_points.fixed_points(data, data[owner], [1e-6], max_steps=3)
  np.testing.assert_allclose(computed.psi[0], data[owner], atol=1e-6)
  np.testing.assert_allclose(computed.kl_nats, np.log(num_data), rtol=1e-5)
  np.testing.assert_allclose(computed.squared_error, 0, atol=1e-6)


def test_any_other_partition_is_a_fixed_point_too_but_worse():
  rng = np.random.default_rng(0)
  data = rng.uniform(-0.5, 0.5, (4, 2))
  for _ in range(3):
    owner = np.r_[np.arange(4), rng.choice(4, 60, p=rng.dirichlet(np.ones(4)))]
    masses = np.bincount(owner) / 64
    computed = fixed_points.fixed_points(data, data[owner], [1e-6], max_steps=3)
    np.testing.assert_allclose(computed.psi[0], data[owner], atol=1e-6)
    np.testing.assert_allclose(
      computed.kl_nats, propositions.partition_kl(masses), rtol=1e-4
    )
    assert propositions.partition_kl(masses) > np.log(4)


def test_micro_mnist_has_log_7():
  assert propositions.partition_kl(np.full(7, 1 / 7)) == pytest.approx(
    np.log(7)
  )


def test_overlapping_supports_reconstruct_their_weighted_average():
  """Eq. 17 is Eq. 4 with indicator posteriors."""
  rng = np.random.default_rng(0)
  data = rng.normal(size=(5, 3))
  supports = rng.uniform(size=(50, 5)) < 0.4
  masses = supports.mean(axis=0)
  computed = propositions.overlap_reconstruction(data, masses, supports)
  used = supports.any(axis=1)
  assert 0 < used.sum() < 50
  assert np.isnan(computed[~used]).all()
  with np.errstate(divide='ignore'):
    log_m = np.log(supports / masses[None])[used]
  decoded = fixed_points.decode(*as_float32(data, log_m))
  np.testing.assert_allclose(computed[used], decoded, atol=1e-5)


def test_two_overlapping_supports_weigh_inversely_to_their_masses():
  data, masses = np.array([[0.0], [1.0]]), np.array([0.75, 0.25])
  computed = propositions.overlap_reconstruction(
    data, masses, np.array([[True, True]])
  )
  np.testing.assert_allclose(computed, [[0.75]])


def test_iteration_is_kernel_pcas_preimage_iteration_step_for_step():
  psi, preimages = as_float32(INITIAL)[0], INITIAL
  data, log_prior = as_float32(DATA, np.log(PRIOR))
  for _ in range(20):
    coefficients = propositions.normalized_coefficients(
      DATA, preimages, PRIOR, BETA
    )
    preimages = propositions.kernel_pca_preimage_step(
      DATA, preimages, coefficients, BETA
    )
    psi = fixed_points.transition(data, psi, log_prior, jnp.float32(BETA))
    np.testing.assert_allclose(psi, preimages, atol=1e-5)


def test_preimage_step_is_that_of_mika_et_al():
  """The sums are written out for a point, with a kernel PCA's coefficients."""
  rng = np.random.default_rng(0)
  coefficients, z = rng.uniform(size=40), np.array([0.1, 0.05])
  total = np.zeros(2)
  norm = 0.0
  for x, alpha in zip(DATA, coefficients, strict=True):
    weight = alpha * np.exp(-((x - z) ** 2).sum() / (2 * BETA))
    total, norm = total + weight * x, norm + weight
  step = propositions.kernel_pca_preimage_step(
    DATA, z[None], coefficients, BETA
  )
  np.testing.assert_allclose(step, (total / norm)[None])


def test_energy_is_equally_shared_when_masses_have_adapted(psi):
  computed = propositions.equilibrium(DATA, psi, BETA)
  n = len(DATA)
  used = np.asarray(computed.masses) > 1e-4
  np.testing.assert_allclose(computed.balance[used], n, rtol=1e-4)
  assert (np.asarray(computed.balance) <= n * (1 + 1e-4)).all()
  np.testing.assert_allclose(computed.masses.sum(), 1, rtol=1e-5)
  plain = propositions.balance(*as_float32(DATA, psi, PRIOR), BETA)
  assert jnp.abs(plain / n - 1).max() > 1e-2


def test_equipartition_is_stationary_in_the_masses(psi):
  """The gradient is jax.grad's, of the free energy over the simplex."""
  computed = propositions.equilibrium(DATA, psi, BETA)
  (data,) = as_float32(DATA)
  energies = fixed_points.squared_distances(data, computed.psi) / (2 * BETA)

  def free_energy(logits):
    log_masses = jax.nn.log_softmax(logits)
    return -jax.nn.logsumexp(log_masses[:, None] - energies, axis=0).mean()

  gradient = jax.grad(free_energy)(jnp.log(computed.masses))
  np.testing.assert_allclose(gradient, jnp.zeros_like(gradient), atol=1e-5)


def test_adapted_masses_need_no_more_nats_than_a_gaussian_source(psi):
  eigenvalues = np.linalg.eigvalsh(np.cov(DATA, rowvar=False, bias=True))
  for beta in (0.002, 0.05):
    computed = propositions.equilibrium(DATA, psi, beta, num_steps=500)
    bound = rate_distortion.rate(eigenvalues, float(computed.squared_error))
    assert 0 < computed.kl_nats < bound
