"""The importance-weighted likelihood agrees with that of a linear Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from geco_jax.evaluation.importance import log_likelihood
from geco_jax.evaluation.importance import log_weights
from geco_jax.models.base import Posterior

# x = 1/2 + W z + noise, two pixels of one latent, far from 0 and 1 and with a
# noise of 12 levels: the mass of a level is its density times 1/255.
W = np.array([[0.06, -0.03]])
SIGMA = 12 / 255
NUM_IMAGES = 4


def images():
  rng = np.random.default_rng(0)
  x = 0.5 + rng.normal(size=(NUM_IMAGES, 1)) @ W
  x += SIGMA * rng.normal(size=x.shape)
  return (np.round(x * 255) / 255).reshape(-1, 1, 2, 1).astype(np.float32)


def exact(image):
  """Return log p(x) [n], of the levels."""
  covariance = W.T @ W + SIGMA**2 * np.eye(2)
  density = scipy.stats.multivariate_normal([0.5, 0.5], covariance)
  return density.logpdf(image.reshape(-1, 2)) - 2 * np.log(255)


def posterior(widened=1.0, shift=0.0):
  """Return p(z|x) itself, or a wrong one: a wider and a shifted Gaussian."""
  variance = 1 / (1 + (W @ W.T).item() / SIGMA**2)
  stddev = widened * np.sqrt(variance)

  def condition(params, image):
    del params
    deviations = (image.reshape(-1, 2) - 0.5) @ W.T
    return variance / SIGMA**2 * deviations + shift

  def sample(params, keys, mean):
    del params
    noise = jax.vmap(lambda key: jax.random.normal(key, [1]))(keys)
    return mean + stddev * noise

  return Posterior(
    condition=condition,
    sample=sample,
    log_prob=lambda params, z, mean: jax.scipy.stats.norm.logpdf(
      z, mean[:, 0][jnp.newaxis], stddev
    ),
    log_prior=lambda params, z: jax.scipy.stats.norm.logpdf(z)[:, 0],
  )


def decode(params, z, context):
  del params, context
  return (0.5 + z @ W).reshape(-1, 1, 2, 1)


def weights(own, num_draws, seed=0):
  keys = jax.random.split(jax.random.key(seed), NUM_IMAGES)
  draw = jax.jit(log_weights(own, decode, num_draws))
  return np.asarray(draw({}, keys, images(), SIGMA))


def test_of_the_true_posterior_every_draw_weighs_the_likelihood():
  expected = np.broadcast_to(exact(images())[:, np.newaxis], (NUM_IMAGES, 3))
  np.testing.assert_allclose(weights(posterior(), 3), expected, atol=2e-3)


def test_it_rises_from_the_elbo_to_the_likelihood():
  drawn = weights(posterior(widened=1.5, shift=0.5), 20_000)
  likelihood, elbo = exact(images()), drawn.mean(axis=1)
  kl = 0.5 * (1.5**2 - 1) - np.log(1.5)
  variance = 1 / (1 + (W @ W.T).item() / SIGMA**2)
  kl += 0.5 * 0.5**2 / variance
  np.testing.assert_allclose(elbo, likelihood - kl, atol=0.06)
  bounds = [
    log_likelihood(drawn.reshape(-1, k)).reshape(NUM_IMAGES, -1).mean(axis=1)
    for k in (1, 2, 10, 100, 20_000)
  ]
  np.testing.assert_allclose(bounds[0], elbo, atol=1e-4)
  assert (np.diff(bounds, axis=0) > 0).all()
  np.testing.assert_allclose(bounds[-1], likelihood, atol=0.02)


def test_more_draws_than_are_made_at_once_begin_with_the_same():
  own = posterior(widened=2.0)
  few, many = weights(own, 5), weights(own, 131)
  assert many.shape == (NUM_IMAGES, 131)
  np.testing.assert_allclose(many[:, :5], few, rtol=1e-5)
  assert len(np.unique(many)) == many.size


def test_a_mean_of_tiny_likelihoods_does_not_vanish():
  bound = log_likelihood(np.array([[-2e4, -2e4 + np.log(3)]]))
  np.testing.assert_allclose(bound, -2e4 + np.log(2))


def test_no_draws_are_refused():
  with pytest.raises(ValueError, match='num_draws must be >= 1, got 0'):
    log_weights(posterior(), decode, 0)
