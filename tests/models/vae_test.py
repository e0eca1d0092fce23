"""Contracts that every model keeps."""

import functools

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

from geco_jax.build import MODELS
from geco_jax.distributions import DiagonalGaussian
from geco_jax.models.vae import conv_vae
from geco_jax.models.vae import mlp_vae

FLOAT32 = jmp.get_policy('float32')
BFLOAT16 = jmp.get_policy('params=float32,compute=bfloat16,output=float32')
SMALL = {
  'mlp_vae': dict(latent_size=3, hidden_sizes=(8,)),
  'conv_vae': dict(latent_size=3, channels=(4, 6), hidden_size=8),
}
SHAPES = [(8, 8, 1), (8, 4, 3)]


@functools.cache
def build(name, shape=(8, 8, 1), policy=FLOAT32):
  """Returns a small jitted model, its parameters, 5 keys and images."""
  model = MODELS[name](shape, policy, **SMALL[name])
  model = model._replace(
    **{f: jax.jit(getattr(model, f)) for f in ('init', 'apply', 'sample')}
  )
  keys = jax.random.split(jax.random.key(1), 5)
  image = jax.random.uniform(jax.random.key(2), (5, *shape))
  params = model.init(jax.random.key(0), keys, image)
  return model, params, keys, image


def test_small_sizes_are_given_for_every_model():
  assert set(SMALL) == set(MODELS)


@pytest.mark.parametrize('name', MODELS)
class TestContract:
  """What every model promises."""

  @pytest.mark.parametrize('shape', SHAPES)
  def test_shapes_types_and_finite_values(self, name, shape):
    model, params, keys, image = build(name, shape)
    output = model.apply(params, keys, image)
    assert output.reconstruction.shape == image.shape
    assert output.kl.shape == (5,)
    assert output.likelihood_stddev.shape == ()
    assert model.sample(params, keys).shape == image.shape
    for leaf in jax.tree.leaves(output):
      assert leaf.dtype == jnp.float32
      assert np.all(np.isfinite(leaf))

  def test_every_parameter_gets_a_finite_gradient(self, name):
    model, params, keys, image = build(name)

    def loss(params):
      output = model.apply(params, keys, image)
      return output.kl.sum() + ((image - output.reconstruction) ** 2).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
      assert np.all(np.isfinite(leaf))
      assert np.any(leaf != 0)

  def test_kl_is_positive(self, name):
    model, params, keys, image = build(name)
    assert np.all(model.apply(params, keys, image).kl > 0)

  def test_examples_do_not_depend_on_their_batch(self, name):
    model, params, keys, image = build(name)
    whole = model.apply(params, keys, image)
    part = model.apply(params, keys[3:], image[3:])
    np.testing.assert_allclose(
      whole.reconstruction[3:], part.reconstruction, atol=1e-6
    )
    np.testing.assert_allclose(whole.kl[3:], part.kl, rtol=1e-5)

  def test_noise_comes_from_the_keys(self, name):
    model, params, keys, image = build(name)
    first = model.apply(params, keys, image)
    other = model.apply(params, keys[::-1], image)
    assert not np.allclose(first.latents, other.latents)
    np.testing.assert_array_equal(first.kl, other.kl)

  def test_jit_vmap_and_pmap_agree(self, name):
    model, params, keys, image = build(name)
    jitted = model.apply(params, keys, image).reconstruction
    for transform in (jax.vmap, jax.pmap):
      mapped = transform(model.apply, in_axes=(None, 0, 0))
      output = mapped(params, keys[None], image[None])
      np.testing.assert_allclose(output.reconstruction[0], jitted, atol=1e-5)

  def test_bfloat16_stays_close_and_keeps_float32_parameters(self, name):
    model, params, keys, image = build(name, policy=BFLOAT16)
    exact, *_ = build(name)
    for leaf in jax.tree.leaves(params):
      assert leaf.dtype == jnp.float32
    output = model.apply(params, keys, image)
    expected = exact.apply(params, keys, image)
    assert output.reconstruction.dtype == jnp.float32
    np.testing.assert_allclose(
      output.reconstruction, expected.reconstruction, atol=0.03
    )
    assert not np.array_equal(output.reconstruction, expected.reconstruction)


def test_kl_equals_the_monte_carlo_estimate():
  model, params, keys, image = build('mlp_vae')
  num_draws = 4_000
  output = model.apply(
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
