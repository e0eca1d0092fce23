"""Tests of the VAEs; what all models promise is in contract_test."""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest

from geco_jax.distributions import DiagonalGaussian
from geco_jax.distributions import gaussian_nll
from geco_jax.distributions import per_example_normal
from geco_jax.models.nvp import standard_normal_log_prob
from geco_jax.models.vae import conv_vae
from geco_jax.models.vae import gaussian_vae
from geco_jax.models.vae import mlp_vae
from geco_jax.models.vae import vae_nvp

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


NVP = dict(
  latent_size=4,
  channels=(4,),
  hidden_size=8,
  num_couplings=2,
  coupling_sizes=(8,),
)


def flow_outputs(perturbation, num_draws, **kwargs):
  """Return noise [draws, samples, 4] of one image, and what comes of it."""
  model = vae_nvp((4, 4, 1), FLOAT32, **NVP, **kwargs)
  keys = jax.random.split(jax.random.key(1), num_draws)
  image = np.random.default_rng(0).random((1, 4, 4, 1), np.float32)
  params = jax.device_get(
    jax.jit(model.init)(jax.random.key(0), keys[:1], image)
  )
  rng = np.random.default_rng(2)
  params = jax.tree.map(
    lambda x: x + perturbation * rng.standard_normal(x.shape, np.float32),
    params,
  )
  noise = per_example_normal(keys, (kwargs.get('num_kl_samples', 1), 4))
  image = np.repeat(image, num_draws, axis=0)
  return noise, jax.jit(model.apply)(params, keys, image)


def test_more_samples_make_a_flow_s_kl_more_precise():
  """With four the standard deviation is halved, the mean is the same."""
  one, four = (
    np.asarray(flow_outputs(0.3, 2_000, num_kl_samples=n)[1].kl) for n in (1, 4)
  )
  assert four.std() / one.std() == pytest.approx(0.5, rel=0.1)
  error = np.hypot(one.std(), four.std()) / np.sqrt(2_000)
  assert abs(one.mean() - four.mean()) < 4 * error


def test_the_first_of_a_flow_s_samples_is_decoded():
  """At the start z is the noise itself."""
  noise, output = flow_outputs(0.0, 5, num_kl_samples=3)
  np.testing.assert_allclose(output.latents, noise[:, 0], rtol=1e-6)


@pytest.mark.parametrize('permute', [False, True])
def test_a_flow_s_dimensions_are_shuffled_where_it_is_asked(permute):
  """At the start z is the noise, but for its order."""
  noise, output = flow_outputs(0.0, 5, permute=permute)
  np.testing.assert_allclose(
    np.sort(output.latents), np.sort(noise[:, 0]), rtol=1e-6
  )
  assert np.allclose(output.latents, noise[:, 0]) != permute


@pytest.mark.parametrize('bound', [0.1, 2.0])
def test_a_flow_s_scales_are_bounded_as_asked(bound):
  """KL = log N(u) - log |dz / du| - log N(z); two couplings of two scales."""
  noise, output = flow_outputs(30.0, 50, log_scale_bound=bound)
  log_determinant = (
    standard_normal_log_prob(noise[:, 0])
    - standard_normal_log_prob(output.latents)
    - output.kl
  )
  size = np.abs(log_determinant).max()
  assert bound < size < 4 * bound + 1e-2


def test_the_decoder_s_convolutions_mirror_the_encoder_s():
  model = conv_vae((16, 16, 3), FLOAT32, channels=(4, 6, 8))
  keys = jax.random.split(jax.random.key(0), 1)
  image = jnp.zeros((1, 16, 16, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), keys, image)
  kernels = {'conv2_d': [], 'conv2_d_transpose': []}
  for name, group in params.items():
    kind = name.split('/')[-1].rstrip('_0123456789')
    if kind in kernels:
      kernels[kind].append(group['w'].shape[2:])
  assert kernels['conv2_d'] == [(3, 4), (4, 6), (6, 8)]
  assert kernels['conv2_d_transpose'] == [(8, 6), (6, 4), (4, 3)]


def test_the_decoder_s_layers_mirror_the_encoder_s():
  model = mlp_vae((2, 2, 1), FLOAT32, latent_size=3, hidden_sizes=(7, 5))
  keys, image = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 2, 2, 1))
  params = jax.eval_shape(model.init, jax.random.key(0), keys, image)
  layers = {
    part: [w['w'].shape for name, w in params.items() if part in name]
    for part in ('encoder', 'decoder')
  }
  assert layers['encoder'] == [(4, 7), (7, 5), (5, 6)]
  assert layers['decoder'] == [(3, 5), (5, 7), (7, 4)]


def test_an_encoder_gives_means_first_then_log_deviations():
  def encoder():
    numbers = jnp.array([[2.0, -1.0, -0.5, 0.25]])
    return lambda image: jnp.tile(numbers, (len(image), 1))

  model = gaussian_vae(
    encoder,
    lambda: lambda latent: latent,
    FLOAT32,
    image_shape=(1, 2, 1),
    latent_size=2,
  )
  keys, image = jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 1, 2, 1))
  output = model.apply(model.init(keys[0], keys, image), keys, image)
  mean, log_stddev = np.array([2.0, -1.0]), np.array([-0.5, 0.25])
  kl = 0.5 * (mean**2 + np.exp(2 * log_stddev) - 1) - log_stddev
  np.testing.assert_allclose(output.kl, np.full(3, kl.sum()), rtol=1e-6)
  np.testing.assert_allclose(model.encode({}, image)[0], mean)


def test_a_learned_sigma_gets_the_gradient_of_its_likelihood():
  """It is D - ||x - g||^2 / sigma^2 in log sigma."""
  model = mlp_vae(
    (2, 2, 1), FLOAT32, likelihood_stddev=0.2, learn_likelihood_stddev=True
  )
  keys, image = jax.random.split(jax.random.key(0), 1), jnp.ones((1, 2, 2, 1))
  params = jax.jit(model.init)(jax.random.key(0), keys, image)

  def nll(params):
    output = model.apply(params, keys, image)
    value = gaussian_nll(
      image, output.reconstruction, output.likelihood_stddev
    ).sum()
    return value, ((image - output.reconstruction) ** 2).sum()

  gradient, squared = jax.jit(jax.grad(nll, has_aux=True))(params)
  (learned,) = [
    group['log_likelihood_stddev']
    for group in gradient.values()
    if 'log_likelihood_stddev' in group
  ]
  np.testing.assert_allclose(learned, 4 - squared / 0.2**2, rtol=1e-4)


@pytest.mark.parametrize('make', [mlp_vae, conv_vae, vae_nvp])
@pytest.mark.parametrize('learn', [False, True])
def test_every_vae_has_the_sigma_that_it_is_given(make, learn):
  model = make(
    (4, 4, 1),
    FLOAT32,
    likelihood_stddev=0.3,
    learn_likelihood_stddev=learn,
  )
  keys, image = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 4, 4, 1))
  params = jax.jit(model.init)(jax.random.key(0), keys, image)
  sigma = jax.jit(model.apply)(params, keys, image).likelihood_stddev
  assert sigma == pytest.approx(0.3)
  learned = [k for group in params.values() for k in group if 'stddev' in k]
  assert bool(learned) == learn
