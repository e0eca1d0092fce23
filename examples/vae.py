"""A VAE under a constraint, in one file: Haiku, optax and geco_jax.geco.

  python examples/vae.py [NUM_STEPS]

minimizes the KL of a small VAE on scikit-learn's 8x8 handwritten digits under
`RMSE per pixel <= 0.1`, in under a minute, and prints the result. From
geco_jax it takes `geco` and `lagrangian` alone. Beside the core it needs
`pip install dm-haiku scikit-learn`.
"""

import sys
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

import geco_jax

KAPPA = 0.1  # RMSE per pixel to reach.
LATENT_SIZE = 16
BATCH_SIZE = 128


class Output(NamedTuple):
  """The model's output for a batch."""

  reconstruction: jax.Array  # [batch, pixels], in [0, 1].
  kl: jax.Array  # KL[q(z|x); N(0, I)] in nats [batch].


class Params(NamedTuple):
  """What the optimizer moves: down the gradient, and up the constraint."""

  model: hk.Params
  log_lambda: jax.Array


def decoder(latents: jax.Array, num_pixels: int) -> jax.Array:
  """Return the means of p(x|z) [batch, pixels]."""
  network = hk.nets.MLP((256, 256, num_pixels), name='decoder')
  return jax.nn.sigmoid(network(latents))


def vae(images: jax.Array) -> Output:
  """Encode, sample by reparametrization, and decode."""
  encoder = hk.nets.MLP((256, 256, 2 * LATENT_SIZE), name='encoder')
  mean, log_stddev = jnp.split(encoder(images), 2, axis=-1)
  noise = jax.random.normal(hk.next_rng_key(), mean.shape)
  latents = mean + jnp.exp(log_stddev) * noise
  kl = jnp.sum(
    (mean**2 + jnp.exp(2 * log_stddev) - 1) / 2 - log_stddev, axis=-1
  )
  return Output(decoder(latents, images.shape[-1]), kl)


def train(images: np.ndarray, num_steps: int, seed: int = 0):
  """Train on images [n, pixels] in [0, 1]; return parameters and metrics.

  Returns:
    The `Params` and the last steps' mean KL, RMSE and lambda.
  """
  model = hk.transform(vae)
  num_pixels = images.shape[-1]
  scale = num_pixels * KAPPA**2  # A violation of one scale is a bad one.
  optimizer = optax.partition(
    {
      'model': optax.adam(optax.cosine_decay_schedule(1e-3, num_steps)),
      'multiplier': geco_jax.geco(step_size=40 / num_steps),
    },
    Params('model', 'multiplier'),
  )

  def loss(params, key, batch):
    output = model.apply(params.model, key, batch)
    squared_error = jnp.sum((batch - output.reconstruction) ** 2, axis=-1)
    constraint = jnp.mean(squared_error) - scale  # C <= 0 holds.
    kl = jnp.mean(output.kl)
    value = geco_jax.lagrangian(kl, constraint, params.log_lambda)
    return value, (kl, constraint / scale)

  @jax.jit
  def step(params, state, key):
    batch_key, noise_key = jax.random.split(key)
    batch = jax.random.choice(batch_key, images, (BATCH_SIZE,))
    gradients, (kl, violation) = jax.grad(loss, has_aux=True)(
      params, noise_key, batch
    )
    # The Lagrangian's gradient by log lambda is 0: geco takes C / scale.
    updates = gradients._replace(log_lambda=violation)
    updates, state = optimizer.update(updates, state, params)
    return optax.apply_updates(params, updates), state, kl, violation

  init_key, key = jax.random.split(jax.random.key(seed))
  # lambda0 / 10: docs/multipliers.md.
  log_lambda = jnp.log(num_pixels / (2 * scale) / 10)
  params = Params(model.init(init_key, images[:1]), log_lambda)
  state = optimizer.init(params)
  history = []
  for t in range(num_steps):
    params, state, kl, violation = step(
      params, state, jax.random.fold_in(key, t)
    )
    history.append((kl, violation))
  kl, violation = np.mean(history[-num_steps // 10 :], axis=0)
  return params, {
    'kl_nats': float(kl),
    'rmse': float(KAPPA * np.sqrt(1 + violation)),
    'lambda': float(jnp.exp(params.log_lambda)),
  }


def sample(params: Params, key: jax.Array, count: int, num_pixels: int):
  """Return the means of p(x|z) [count, pixels], z from the prior."""
  latents = jax.random.normal(key, (count, LATENT_SIZE))
  network = hk.without_apply_rng(hk.transform(lambda z: decoder(z, num_pixels)))
  return network.apply(params.model, latents)


def main(num_steps: int = 4_000) -> dict[str, float]:
  """Train, print the metrics and a sample; return the metrics."""
  images = sklearn.datasets.load_digits().data.astype(np.float32) / 16
  params, metrics = train(images, num_steps)
  for name, value in metrics.items():
    print(f'{name:<8} {value:.4f}')
  digit = sample(params, jax.random.key(1), 1, images.shape[-1]).reshape(8, 8)
  for row in np.asarray(digit):
    print(''.join(' .:-=+*#%@'[int(9.99 * pixel)] * 2 for pixel in row))
  return metrics


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
