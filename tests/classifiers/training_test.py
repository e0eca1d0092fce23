"""What classifiers are trained on."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.classifiers import training
from geco_jax.classifiers.networks import Classifier
from geco_jax.datasets.images import Images


def test_what_fades_into_noise_is_less_sure():
  image = jax.random.uniform(jax.random.key(0), (6, 6, 1))
  target = jax.nn.one_hot(2, 4)
  keys = jax.random.split(jax.random.key(1), 500)
  fade = jax.vmap(training.fade, in_axes=(0, None, None))
  faded, targets = jax.jit(fade)(keys, image, target)
  shares = (targets[:, 2] - 1 / 4) / (1 - 1 / 4)
  others = (1 - targets[:, 2]) / 3
  np.testing.assert_allclose(targets[:, 0], others, atol=1e-6)
  # All but the image's share is noise in [0, 1].
  noise = faded - shares[:, None, None, None] * image[None]
  assert noise.min() > -1e-5
  assert np.all(noise.max(axis=(1, 2, 3)) <= 1 - shares + 1e-5)
  kept = np.isclose(shares, 1, atol=1e-6)
  assert 0.4 < kept.mean() < 0.6
  np.testing.assert_allclose(faded[kept][0], image, atol=1e-6)
  assert shares.min() < 0.1


def test_augmentation_shifts_and_mirrors():
  image = jnp.arange(1.0, 13).reshape(3, 4, 1)
  keys = jax.random.split(jax.random.key(0), 400)
  augment = jax.vmap(
    lambda key: training.augment(key, image, max_shift=1, flip=True)
  )
  images = {each.tobytes() for each in np.asarray(jax.jit(augment)(keys))}
  padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)))
  expected = set()
  for row in range(3):
    for column in range(3):
      shifted = padded[row : row + 3, column : column + 4]
      expected |= {shifted.tobytes(), shifted[:, ::-1].tobytes()}
  assert images == expected
  same = training.augment(keys[0], image, max_shift=0, flip=False)
  np.testing.assert_array_equal(same, image)


def test_a_channel_that_never_varies_has_no_deviation():
  """Its float32 moments are off by their rounding."""
  rng = np.random.default_rng(0)
  image = rng.integers(256, size=(700, 8, 8, 1)).astype(np.uint8)

  def apply(params, state, image, is_training):
    assert not is_training
    channels = [image, jnp.full_like(image, 0.7), 1e-2 * image, 0 * image]
    features = jnp.concatenate(channels, axis=-1)
    return (None, {'only': features}), None

  stddevs = training.feature_stddevs(
    Classifier(init=None, apply=apply),
    training.State(None, None, None, None),
    Images(image, np.zeros(700, np.int32)),
  )
  expected = (image / 255).std()
  np.testing.assert_allclose(
    stddevs['only'], [expected, 0, 1e-2 * expected, 0], rtol=1e-4
  )


def test_accuracy_and_probability_are_means_over_all_images():
  def apply(params, state, image, is_training):
    assert not is_training
    return (jnp.tile(jnp.log(jnp.array([1.0, 3.0])), (len(image), 1)), {}), None

  label = np.repeat([0, 1], [500, 200]).astype(np.int32)
  measured = training.evaluator(Classifier(init=None, apply=apply))(
    training.State(None, None, None, None),
    Images(np.zeros((700, 2, 2, 1), np.uint8), label),
  )
  assert measured['accuracy'] == pytest.approx(2 / 7)
  # The right label has 1/4 in 500 images and 3/4 in 200.
  assert measured['mean_probability'] == pytest.approx(275 / 700)


def test_examples_do_not_depend_on_the_default_generator():
  config = types.SimpleNamespace(seed=3)
  expected = training.examples_at(config, 100)(jnp.arange(100))
  with jax.default_prng_impl('rbg'):
    examples = training.examples_at(config, 100)(jnp.arange(100))
  np.testing.assert_array_equal(examples, expected)
  assert set(np.asarray(examples)) == set(range(100))
