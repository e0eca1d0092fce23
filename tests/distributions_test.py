"""Distributions against scipy, Monte Carlo and their own total mass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from geco_jax.distributions import DiagonalGaussian
from geco_jax.distributions import gaussian_nll
from geco_jax.distributions import per_example_normal
from geco_jax.distributions import quantized_normal_log_prob

LEVELS = np.arange(256, dtype=np.float32) / 255
compiled_log_prob = jax.jit(quantized_normal_log_prob)


def filled(size, value):
  return np.full(size, value, np.float32)


@pytest.fixture
def gaussian():
  rng = np.random.default_rng(0)
  return DiagonalGaussian(
    mean=rng.normal(size=(4, 3, 2)).astype(np.float32),
    log_stddev=rng.normal(size=(4, 3, 2)).astype(np.float32),
  )


def test_log_prob_equals_scipy(gaussian):
  value = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32)
  expected = scipy.stats.norm.logpdf(
    value, gaussian.mean, np.exp(gaussian.log_stddev)
  ).sum(axis=(1, 2))
  np.testing.assert_allclose(gaussian.log_prob(value), expected, rtol=1e-5)


def test_kl_equals_the_monte_carlo_estimate(gaussian):
  num_draws = 20_000
  repeated = DiagonalGaussian(*(np.repeat(x, num_draws, 0) for x in gaussian))

  @jax.jit
  def log_ratio(key):
    z = repeated.sample(jax.random.split(key, 4 * num_draws))
    prior = DiagonalGaussian(jnp.zeros_like(z), jnp.zeros_like(z))
    return repeated.log_prob(z) - prior.log_prob(z)

  ratio = np.asarray(log_ratio(jax.random.key(0))).reshape(4, num_draws)
  standard_error = ratio.std(axis=1) / np.sqrt(num_draws)
  difference = gaussian.kl_to_standard_normal() - ratio.mean(axis=1)
  assert np.all(np.abs(difference) < 4 * standard_error)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere(gaussian):
  zeros = jnp.zeros((2, 5))
  np.testing.assert_array_equal(
    DiagonalGaussian(zeros, zeros).kl_to_standard_normal(), 0
  )
  assert np.all(gaussian.kl_to_standard_normal() > 0)


def test_noise_of_an_example_does_not_depend_on_its_batch():
  keys = jax.random.split(jax.random.key(0), 6)
  whole = per_example_normal(keys, (3,))
  np.testing.assert_array_equal(whole[2:5], per_example_normal(keys[2:5], (3,)))


def test_gaussian_nll_equals_scipy():
  rng = np.random.default_rng(0)
  value, mean = rng.normal(size=(2, 3, 4, 4, 1)).astype(np.float32)
  expected = -scipy.stats.norm.logpdf(value, mean, 0.3).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(
    gaussian_nll(value, mean, jnp.float32(0.3)), expected, rtol=1e-5
  )


@pytest.mark.parametrize('stddev', [1e-3, 1e-2, 0.1, 0.5, 3.0])
@pytest.mark.parametrize('mean', [0.0, 0.3, 0.5, 1.0, 1.7])
def test_masses_of_the_256_levels_sum_to_one(mean, stddev):
  log_prob = compiled_log_prob(LEVELS, filled(256, mean), filled(256, stddev))
  assert np.exp(np.asarray(log_prob, np.float64)).sum() == pytest.approx(
    1, abs=2e-4
  )


def test_quantized_normal_equals_differences_of_scipys_cdf():
  mean, stddev = 0.4, 0.07
  edges = (np.arange(257) - 0.5) / 255
  edges[0], edges[-1] = -np.inf, np.inf
  expected = np.diff(scipy.stats.norm.cdf(edges, mean, stddev))
  got = compiled_log_prob(LEVELS, filled(256, mean), filled(256, stddev))
  inside = expected > 1e-9  # Elsewhere scipy's own difference loses digits.
  np.testing.assert_allclose(
    np.asarray(got)[inside], np.log(expected[inside]), atol=2e-4
  )


@pytest.mark.parametrize('sign', [-1, 1])
def test_quantized_normal_is_finite_and_right_40_sigma_away(sign):
  stddev = 0.01
  value = np.float32(100 / 255)
  mean = np.float32(value + sign * 40 * stddev)
  got = compiled_log_prob(value, mean, np.float32(stddev))
  edge_distance = (
    40 * stddev - 0.5 / 255
  )  # The bin's edge on the side of the mean.
  assert np.isfinite(got)
  assert got == pytest.approx(
    scipy.stats.norm.logsf(edge_distance / stddev), rel=1e-3
  )


def test_quantized_normal_approaches_the_density_where_bins_are_narrow():
  mean, stddev = 0.45, 0.2
  value = LEVELS[50:200]
  density = scipy.stats.norm.logpdf(value, mean, stddev) - np.log(255)
  got = compiled_log_prob(value, filled(150, mean), filled(150, stddev))
  np.testing.assert_allclose(got, density, atol=1e-3)
