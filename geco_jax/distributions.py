"""The distributions of the paper's models and of its evaluation."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

_BIN_WIDTH = 1.0 / 255.0


def per_example_normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Return unit Gaussian noise, one key per example.

  An example's noise then depends on its own key alone and not on which
  examples share its device.

  Args:
    keys: typed PRNG keys [batch].
    shape: of one example's noise.

  Returns:
    float32 [batch, *shape].
  """
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


class DiagonalGaussian(NamedTuple):
  """A batch of Gaussians with diagonal covariance."""

  mean: jax.Array  # [batch, *event].
  log_stddev: jax.Array  # [batch, *event].

  def sample(self, keys: jax.Array) -> jax.Array:
    """Return a reparameterized sample [batch, *event]; keys [batch]."""
    return self.at(per_example_normal(keys, self.mean.shape[1:]))

  def at(self, noise: jax.Array) -> jax.Array:
    """Return unit Gaussian noise as a draw, both [batch, *event]."""
    return self.mean + jnp.exp(self.log_stddev) * noise

  def log_prob(self, value: jax.Array) -> jax.Array:
    """Return the per-example log density [batch] in nats."""
    standardized = (value - self.mean) * jnp.exp(-self.log_stddev)
    per_dimension = -0.5 * (standardized**2 + jnp.log(2 * jnp.pi))
    return _sum_event(per_dimension - self.log_stddev)

  def kl_to(self, other: 'DiagonalGaussian') -> jax.Array:
    """Return KL[self; other], per example [batch] in nats."""
    return _sum_event(self.kl_to_by_value(other))

  def kl_to_by_value(self, other: 'DiagonalGaussian') -> jax.Array:
    """Return the terms of KL[self; other] in nats [batch, *event]."""
    log_ratio = self.log_stddev - other.log_stddev
    standardized = (self.mean - other.mean) * jnp.exp(-other.log_stddev)
    return 0.5 * (standardized**2 + jnp.exp(2 * log_ratio) - 1) - log_ratio

  def kl_to_standard_normal(self) -> jax.Array:
    """Return KL[self; N(0, I)], per example [batch] in nats."""
    return _sum_event(self.kl_to_standard_normal_by_value())

  def kl_to_standard_normal_by_value(self) -> jax.Array:
    """Return the terms of KL[self; N(0, I)] in nats [batch, *event]."""
    variance = jnp.exp(2 * self.log_stddev)
    return 0.5 * (self.mean**2 + variance - 1) - self.log_stddev


def gaussian_nll(
  value: jax.Array, mean: jax.Array, stddev: jax.Array
) -> jax.Array:
  """Return -log N(value; mean, stddev^2 I), per example [batch] in nats.

  Args:
    value: [batch, *event].
    mean: [batch, *event].
    stddev: [], one global standard deviation (Section 3).
  """
  num_dims = math.prod(value.shape[1:])
  log_normalizer = num_dims * (jnp.log(stddev) + 0.5 * math.log(2 * math.pi))
  return 0.5 * _sum_event((value - mean) ** 2) / stddev**2 + log_normalizer


def quantized_normal_log_prob(
  value: jax.Array, mean: jax.Array, stddev: jax.Array
) -> jax.Array:
  """Return the log mass of 8-bit values under a quantized normal.

  Appendix D (after Rosca et al. 2018): the normal's mass in bins 1/255 wide
  around 0, 1/255, ..., 1, the first and last bin open to -inf and +inf. The
  masses of the 256 values sum to 1. They are differences of normal CDFs, taken
  in the tail where these are small and in logarithms, so that they keep their
  digits and stay finite far away.

  Args:
    value: [...], multiples of 1/255 in [0, 1].
    mean: [...].
    stddev: broadcastable to [...], > 0.

  Returns:
    [...], log probability in nats.
  """
  lower = jnp.where(
    value < 0.5 * _BIN_WIDTH,
    -jnp.inf,
    (value - 0.5 * _BIN_WIDTH - mean) / stddev,
  )
  upper = jnp.where(
    value > 1 - 0.5 * _BIN_WIDTH,
    jnp.inf,
    (value + 0.5 * _BIN_WIDTH - mean) / stddev,
  )
  # Phi(upper) - Phi(lower) = Phi(-lower) - Phi(-upper): take the form whose
  # terms are below one half.
  right = lower > -upper
  high = log_ndtr(jnp.where(right, -lower, upper))
  low = log_ndtr(jnp.where(right, -upper, lower))
  return high + jnp.log(-jnp.expm1(low - high))


def _sum_event(per_dimension: jax.Array) -> jax.Array:
  return per_dimension.reshape(per_dimension.shape[0], -1).sum(axis=-1)
