"""Tests of the VAEs; what all models promise is in contract_test."""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest

from geco_jax.distributions import DiagonalGaussian
from geco_jax.models.vae import conv_vae
from geco_jax.models.vae import mlp_vae

FLOAT32 = jmp.get_policy('float32')


def test_kl_equals_the_monte_carlo_estimate():
  model = mlp_vae((8, 8, 1), FLOAT32, latent_size=3, hidden_sizes=(8,))
  keys = jax.random.split(jax.random.key(1), 5)
  image = jax.random.uniform(jax.random.key(2), (5, 8, 8, 1))
  params = jax.jit(model.init)(jax.random.key(0), keys, image)
  num_draws = 4_000
  output = jax.jit(model.apply)(
    params,
    jax.random.split(jax.random.key(3), num_draws),
    jnp.repeat(image[:1], num_draws, axis=0),
  )
  # The posterior of one image, from the moments of its own draws.
  mean, stddev = output.latents.mean(axis=0), output.latents.std(axis=0)
  moments = DiagonalGaussian(mean[None], jnp.log(stddev)[None])
  assert output.kl[0] == pytest.approx(
    float(moments.kl_to_standard_normal()[0]), abs=0.05
  )


def test_sigma_is_a_parameter_only_where_it_is_learned():
  keys, image = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 2, 2, 1))
  for learn in (False, True):
    model = mlp_vae(
      (2, 2, 1), FLOAT32, likelihood_stddev=0.2, learn_likelihood_stddev=learn
    )
    params = jax.jit(model.init)(jax.random.key(0), keys, image)
    output = jax.jit(model.apply)(params, keys, image)
    assert output.likelihood_stddev == pytest.approx(0.2)
    learned = [k for group in params.values() for k in group if 'stddev' in k]
    assert bool(learned) == learn


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (dict(latent_size=0), r'latent_size must be .* got \[0\]'),
    (dict(hidden_sizes=(8, -1)), 'hidden_sizes must be'),
    (dict(hidden_sizes=()), 'hidden_sizes must be'),
    (dict(likelihood_stddev=0.0), 'likelihood_stddev must be > 0.*got 0.0'),
  ],
)
def test_mlp_vae_refuses_bad_sizes(kwargs, message):
  with pytest.raises(ValueError, match=message):
    mlp_vae((8, 8, 1), FLOAT32, **kwargs)


def test_conv_vae_refuses_images_it_cannot_halve():
  with pytest.raises(ValueError, match='divisible by 4, got 30x28'):
    conv_vae((30, 28, 1), FLOAT32, channels=(4, 4))


@pytest.mark.parametrize(
  ('shape', 'channels'),
  [
    ((28, 28, 1), (32, 64)),
    ((32, 32, 3), (32, 64)),
    ((8, 8, 1), (32,)),
    ((5, 7, 1), (32,)),
    ((33, 30, 3), (32, 64)),
    ((61, 200, 3), (32, 64, 128)),
    ((257, 257, 1), (32, 64, 128, 256, 256, 256)),
  ],
)
def test_conv_vae_follows_the_size_of_images(shape, channels):
  model = conv_vae(shape, FLOAT32, channels=None)
  image, keys = jnp.zeros((1, *shape)), jax.random.split(jax.random.key(0), 1)
  params = jax.eval_shape(model.init, jax.random.key(0), keys, image)
  kernels = {
    name: group['w'].shape[-1]
    for name, group in params.items()
    if name.startswith('conv2_d') and 'transpose' not in name
  }
  assert tuple(kernels.values()) == channels
  output = jax.eval_shape(model.apply, params, keys, image)
  assert output.reconstruction.shape == (1, *shape)


def test_channels_that_follow_are_those_that_could_be_given():
  keys = jax.random.split(jax.random.key(0), 1)
  followed, given = (
    jax.eval_shape(
      conv_vae((28, 28, 1), FLOAT32, channels=channels).init,
      jax.random.key(0),
      keys,
      jnp.zeros((1, 28, 28, 1)),
    )
    for channels in (None, (32, 64))
  )
  assert jax.tree.map(jnp.shape, followed) == jax.tree.map(jnp.shape, given)


def test_a_posterior_that_has_collapsed_comes_back_with_its_multiplier():
  # 300 steps on the KL alone, then 300 with a multiplier worth its nats.
  model = conv_vae(
    (8, 8, 1), FLOAT32, latent_size=4, channels=(8,), hidden_size=16
  )
  num_images = 16
  optimizer = optax.adam(1e-2)
  image = np.random.default_rng(0).random((num_images, 8, 8, 1)).round()

  def loss(params, key, multiplier):
    output = model.apply(params, jax.random.split(key, num_images), image)
    error = jnp.square(output.reconstruction - image).sum() / num_images
    return output.kl.mean() + multiplier * error, output.kl.mean()

  @jax.jit
  def train(params, multiplier):
    def step(carry, key):
      params, state = carry
      gradient, kl = jax.grad(loss, has_aux=True)(params, key, multiplier)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(params, updates), state), kl

    start = params, optimizer.init(params)
    keys = jax.random.split(jax.random.key(2), 300)
    (params, _), kls = jax.lax.scan(step, start, keys)
    return params, kls[-20:].mean()

  keys = jax.random.split(jax.random.key(1), num_images)
  params = jax.jit(model.init)(jax.random.key(0), keys, image)
  params, collapsed_nats = train(params, 0.0)
  _, nats = train(params, 10.0)
  assert collapsed_nats < 1e-3
  assert nats > 5
