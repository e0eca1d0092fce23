"""The importance-weighted likelihood of images (Burda et al. 2016, Eq. 8).

`L_k(x) = E log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x)` over k draws of q(z|x):
a lower bound on log p(x) that is the ELBO at k = 1, never falls as k grows and
tends to log p(x).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from geco_jax.distributions import quantized_normal_log_prob
from geco_jax.keys import per_example_keys
from geco_jax.models.base import Posterior

_DRAWS_AT_ONCE = 128  # Draws of an image that are in memory at once.


def log_weights(
  posterior: Posterior, decode: Callable[..., jax.Array], num_draws: int
) -> Callable[..., jax.Array]:
  """Return the function that draws the weights of images.

  p(x|z) is the normal quantized to 256 levels (Appendix D of Rezende & Viola
  2018), around the decoded image. Images are taken one after another, so
  that only the draws of one are in memory.

  Args:
    posterior: q(z|x) and p(z).
    decode: (params, z, context) -> means of p(x|z), of `Model`.
    num_draws: k >= 1.

  Returns:
    (params, keys [n], image [n, height, width, channels], stddev of p(x|z) [])
    -> log p(x|z) + log p(z) - log q(z|x) in nats [n, k]; the first weights are
    the same for any k.

  Raises:
    ValueError: if k is not >= 1.
  """
  if num_draws < 1:
    raise ValueError(f'num_draws must be >= 1, got {num_draws}')

  def all_weights(params, keys, image, stddev):
    def image_weights(key_and_image):
      key, image = key_and_image
      image = image[jnp.newaxis]
      conditions = posterior.condition(params, image)

      def draw_weight(key):
        z = posterior.sample(params, key[jnp.newaxis], conditions)
        mean = decode(params, z, None)
        likelihood = quantized_normal_log_prob(image, mean, stddev).sum()
        log_prior = posterior.log_prior(params, z)[0]
        return (
          likelihood
          + log_prior
          - posterior.log_prob(params, z, conditions)[0, 0]
        )

      draw_keys = per_example_keys(key, jnp.arange(num_draws))
      return jax.lax.map(draw_weight, draw_keys, batch_size=_DRAWS_AT_ONCE)

    return jax.lax.map(image_weights, (keys, image))

  return all_weights


def log_likelihood(weights: np.ndarray) -> np.ndarray:
  """Return the bound on log p(x) of weights [n, k], in nats, float64 [n]."""
  weights = np.asarray(weights, np.float64)
  return np.asarray(logsumexp(weights, axis=1)) - np.log(weights.shape[1])
