"""Frechet distances are those of closed forms and of scipy's square root."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from geco_jax.classifiers.base import Network
from geco_jax.evaluation.frechet import distance
from geco_jax.evaluation.frechet import extractor
from geco_jax.evaluation.frechet import Moments
from geco_jax.evaluation.frechet import moments


def gaussian(seed, num_features=5):
  """Return the moments of a Gaussian of correlated features."""
  rng = np.random.default_rng(seed)
  factor = rng.normal(size=(num_features, num_features))
  return Moments(rng.normal(size=num_features), factor @ factor.T)


def by_scipy(first, second):
  root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
  return (
    ((first.mean - second.mean) ** 2).sum()
    + np.trace(first.covariance)
    + np.trace(second.covariance)
    - 2 * np.trace(root).real
  )


def test_of_commuting_covariances_it_is_the_closed_form():
  stddevs = np.array([[1.0, 2.0, 0.0], [3.0, 0.5, 0.0]])
  means = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 4.0]])
  first, second = (
    Moments(m, np.diag(s**2)) for m, s in zip(means, stddevs, strict=True)
  )
  expected = 1 + 4 + (2.0**2 + 1.5**2)
  assert distance(first, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_it_is_that_of_scipys_square_root(seed):
  first, second = gaussian(seed), gaussian(seed + 10)
  expected = by_scipy(first, second)
  assert distance(first, second) == pytest.approx(expected, rel=1e-9)
  assert distance(second, first) == pytest.approx(expected, rel=1e-9)


def test_of_samples_it_tends_to_that_of_their_gaussians():
  first, second = gaussian(0), gaussian(1)
  sampled = [
    moments(
      scipy.stats.multivariate_normal(*own).rvs(
        100_000, random_state=np.random.default_rng(seed)
      )
    )
    for seed, own in enumerate((first, second))
  ]
  expected = distance(first, second)
  assert distance(*sampled) == pytest.approx(expected, rel=0.02)


def test_moments_are_those_of_numpy():
  features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
  mean, covariance = moments(features)
  exact = features.astype(np.float64)
  np.testing.assert_allclose(mean, exact.mean(axis=0))
  np.testing.assert_allclose(covariance, np.cov(exact, rowvar=False))
  assert mean.dtype == covariance.dtype == np.float64


@pytest.mark.parametrize('num_examples', [3, 40])
def test_of_a_set_to_itself_it_is_zero(num_examples):
  """Also where the covariance is singular: 10 features, 3 examples."""
  features = np.random.default_rng(0).normal(size=(num_examples, 10))
  own = moments(features)
  again = moments(features[::-1])
  assert distance(own, own) == pytest.approx(0, abs=1e-12)
  assert distance(own, again) == pytest.approx(0, abs=1e-12)


def test_rotations_of_the_features_and_shifts_do_not_matter():
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(50, 6)), 2 * rng.normal(size=(70, 6)) + 1
  rotation = scipy.stats.ortho_group(6, seed=1).rvs()
  expected = distance(moments(first), moments(second))
  turned = [moments(x @ rotation + 3) for x in (first, second)]
  assert distance(*turned) == pytest.approx(expected, rel=1e-10)
  scaled = [moments(3 * x) for x in (first, second)]
  assert distance(*scaled) == pytest.approx(9 * expected, rel=1e-10)


@pytest.mark.parametrize(
  ('features', 'message'),
  [
    (np.zeros((1, 3)), r'n > 1, got \(1, 3\)'),
    (np.zeros(3), r'got \(3,\)'),
    (np.array([[0.0], [np.nan]]), 'must be finite'),
  ],
)
def test_features_that_have_no_moments_are_refused(features, message):
  with pytest.raises(ValueError, match=message):
    moments(features)


def network(channels=1, side=2, vectors=('pooled',)):
  """Return a network of a linear map, which takes images of one size."""
  num_pixels = side * side * channels

  def features(image, layer):
    if layer == 'stem':
      return 2 * image
    matrix = jnp.arange(num_pixels * 3.0).reshape(num_pixels, 3)
    return image.reshape(len(image), -1) @ matrix

  layers = {'logits': 3, 'stem': channels, **dict.fromkeys(vectors, 3)}
  return Network(
    name='linear',
    image_shape=(side, side, channels),
    num_classes=3,
    logits=lambda image: features(image, 'logits'),
    features=features,
    feature_stddevs={layer: np.ones(n) for layer, n in layers.items()},
  )


def images(channels):
  return jnp.arange(5 * 4.0 * channels).reshape(5, 2, 2, channels) / 20


def test_the_layer_is_the_vector_before_the_logits():
  own, image = network(), images(1)
  layer, features, num_features = extractor(own, None, (2, 2, 1))
  assert (layer, num_features) == ('pooled', 3)
  np.testing.assert_allclose(features(image), own.features(image, 'pooled'))
  _, features, num_features = extractor(own, 'stem', (2, 2, 1))
  assert num_features == 1
  np.testing.assert_allclose(features(image), 2 * image.mean(axis=(1, 2)))


def test_gray_images_and_colored_networks_meet():
  gray, colored = images(1), images(3)
  _, features, num_features = extractor(network(3), None, (2, 2, 1))
  repeated = jnp.concatenate([gray] * 3, axis=-1)
  assert num_features == 3
  np.testing.assert_allclose(
    features(gray), network(3).features(repeated, 'pooled')
  )
  _, features, num_features = extractor(network(1), None, (2, 2, 3))
  assert num_features == 9
  one_by_one = [
    network(1).features(colored[..., c : c + 1], 'pooled') for c in range(3)
  ]
  np.testing.assert_allclose(
    features(colored), np.concatenate(one_by_one, axis=-1), rtol=1e-6
  )


@pytest.mark.parametrize(
  ('own', 'layer', 'shape', 'message'),
  [
    (network(), 'deep', (2, 2, 1), "no layer 'deep'; choose from logits, stem"),
    (network(3), None, (2, 2, 2), 'images of 3 channels, got 2'),
    (network(), None, (4, 4, 1), 'pooled .* images of 2x2, got 4x4'),
    (network(vectors=('a', 'b')), None, (2, 2, 1), 'has 2 layers of vectors'),
    (network(vectors=()), None, (2, 2, 1), 'has 0 layers of vectors'),
  ],
)
def test_what_a_network_cannot_see_is_refused(own, layer, shape, message):
  with pytest.raises(ValueError, match=message):
    extractor(own, layer, shape)


def test_rounding_brings_no_distance_below_zero():
  rng = np.random.default_rng(0)
  own = [moments(1e3 * rng.normal(size=(n, 6))) for n in (5, 20, 100)]
  assert all(distance(m, m) >= 0 for m in own)
  assert min(distance(m, m) for m in own) == 0
