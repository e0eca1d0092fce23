"""A Gaussian's rate is that of the data's covariance, in closed form."""

import itertools

import jax
import numpy as np
import pytest

from geco_jax.choices import COMPOSITIONS
from geco_jax.datasets import sources
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.evaluation import gaussian_rate
from geco_jax.keys import per_example_keys
from geco_jax.theory import rate_distortion


def dataset_of(pixels):
  """Return a data set of uint8 images [n, height, width, channels]."""
  images = Images(pixels, np.zeros(len(pixels), np.int32))
  return as_dataset(ImageSet('test', {'train': images}))


@pytest.fixture(scope='module')
def corners():
  """Return the 16 corners of a cube: covariance I / 4, exactly isotropic."""
  pixels = 255 * np.array([*itertools.product([0, 1], repeat=4)], np.uint8)
  return dataset_of(pixels.reshape(16, 2, 2, 1))


@pytest.fixture(scope='module')
def gray():
  """Return correlated Gaussian pixels, far from 0 and 1."""
  rng = np.random.default_rng(0)
  directions, _ = np.linalg.qr(rng.normal(size=(4, 4)))
  stddevs = [[0.1, 0.08, 0.06, 0.05]]
  values = 0.5 + rng.normal(size=(8_000, 4)) * stddevs @ directions
  pixels = np.round(255 * values)
  assert pixels.min() > 0 and pixels.max() < 255
  return dataset_of(pixels.astype(np.uint8).reshape(-1, 2, 2, 1))


def first_images(dataset, count):
  indices = np.arange(count)
  return fixed_batch(dataset, dataset.splits['train'], indices).image


def rmse(images, reconstructions):
  return float(np.sqrt(np.mean(np.square(images - reconstructions))))


def test_isotropic_data_cost_half_a_log_per_dimension(corners):
  np.testing.assert_allclose(gaussian_rate.eigenvalues(corners), [0.25] * 4)
  kappas = [0.05, 0.1, 0.25, 0.5, 0.7]
  curve = gaussian_rate.curve(corners, kappas)
  exact = 4 * np.log(0.5 / np.minimum(kappas, 0.5))
  np.testing.assert_allclose(curve.rate_nats, exact, atol=1e-9)


def test_rate_is_that_of_the_sample_covariance(gray):
  flat = gray.splits['train'].image.reshape(-1, 4) / 255
  values = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
  spectrum = gaussian_rate.spectrum(gray)
  np.testing.assert_allclose(spectrum.eigenvalues, values[::-1], rtol=1e-6)
  np.testing.assert_allclose(
    gaussian_rate.rate_nats(spectrum, [0.02, 0.05]),
    rate_distortion.rate(values, 4 * np.square([0.02, 0.05])),
    rtol=1e-6,
  )


def test_fewer_images_than_pixels_have_the_same_covariance(make_images):
  images = make_images(6, (3, 3, 1)).image
  spectrum = gaussian_rate.spectrum(dataset_of(images))
  flat = images.reshape(6, -1) / 255
  covariance = np.cov(flat.T, bias=True)
  scaled = spectrum.eigenvectors * spectrum.eigenvalues
  np.testing.assert_allclose(
    scaled @ spectrum.eigenvectors.T, covariance, atol=1e-8
  )
  assert gaussian_rate.rate_nats(spectrum, [0.1]) == pytest.approx(
    rate_distortion.rate(
      np.maximum(np.linalg.eigvalsh(covariance), 0), 9 * 0.1**2
    )
  )


@pytest.mark.parametrize('kappa', [0.02, 0.05, 0.1])
def test_reconstructions_have_the_rmse_that_was_asked(gray, kappa):
  spectrum = gaussian_rate.spectrum(gray)
  images = first_images(gray, 8_000)
  exact = gaussian_rate.pca_reconstructions(spectrum, kappa, images)
  most = np.sqrt(spectrum.eigenvalues.sum() / 4)
  assert rmse(images, exact) == pytest.approx(min(kappa, most), rel=1e-4)
  keys = per_example_keys(jax.random.key(0), np.arange(8_000))
  noisy = gaussian_rate.channel_reconstructions(spectrum, kappa, images, keys)
  assert rmse(images, noisy) == pytest.approx(min(kappa, most), rel=2e-2)


def test_of_digits_too_the_rmse_is_the_one_asked():
  dataset = as_dataset(sources.digits())
  spectrum = gaussian_rate.spectrum(dataset)
  images = first_images(dataset, len(dataset.splits['train'].image))
  num_components = []
  for kappa in (0.06, 0.1, 0.175):
    reconstruction = gaussian_rate.pca_reconstructions(spectrum, kappa, images)
    assert rmse(images, reconstruction) == pytest.approx(kappa, rel=1e-4)
    num_components.append(len(gaussian_rate.pca_gains(spectrum, kappa)))
  assert 64 > num_components[0] > num_components[1] > num_components[2] > 0


def test_nll_is_the_entropy_of_the_error_where_pixels_are_gray(gray):
  """Error N(0, kappa^2), bins 1/255 wide: log(255 kappa sqrt(2 pi e))."""
  kappas = np.array([0.03, 0.04])
  assert (kappas**2 < gaussian_rate.eigenvalues(gray).min()).all()
  curve = gaussian_rate.curve(gray, kappas)
  exact = np.log(255 * kappas * np.sqrt(2 * np.pi * np.e))
  np.testing.assert_allclose(curve.nll_nats_per_dim, exact, atol=0.02)


def test_the_nll_is_that_of_the_whole_split(monkeypatch):
  rng = np.random.default_rng(0)
  dull = rng.integers(126, 129, (500, 2, 2, 1))
  noise = rng.integers(0, 256, (499, 2, 2, 1))
  dataset = dataset_of(np.concatenate([dull, noise]).astype(np.uint8))
  whole = gaussian_rate.curve(dataset, [0.1]).nll_nats_per_dim
  monkeypatch.setattr(gaussian_rate, '_NLL_EXAMPLES', 500)
  half = gaussian_rate.curve(dataset, [0.1]).nll_nats_per_dim
  np.testing.assert_allclose(half, whole, rtol=0.01)


def test_nothing_to_send_leaves_the_mean(corners):
  spectrum = gaussian_rate.spectrum(corners)
  images = first_images(corners, 16)
  reconstruction = gaussian_rate.pca_reconstructions(spectrum, 0.6, images)
  np.testing.assert_allclose(reconstruction, 0.5, atol=1e-6)
  curve = gaussian_rate.curve(corners, [0.6, 0.9])
  assert curve.rate_nats.tolist() == [0, 0]
  # Both end at the RMSE of the mean.
  assert curve.nll_nats_per_dim[0] == pytest.approx(curve.nll_nats_per_dim[1])


def test_independent_channels_cost_three_times_one():
  """Color-MNIST is three independent digits: its rate is three times theirs."""
  digits = sources.digits()
  one = gaussian_rate.spectrum(as_dataset(digits))
  three = gaussian_rate.spectrum(COMPOSITIONS['color_mnist'](digits))
  assert three.mean.shape == (192,)
  np.testing.assert_allclose(
    gaussian_rate.rate_nats(three, [0.1]),
    3 * gaussian_rate.rate_nats(one, [0.1]),
    rtol=0.05,  # 1,437 triples fill 192 dimensions less evenly.
  )


@pytest.mark.parametrize(
  'kappa', [0.0, -0.1, float('nan'), float('inf'), 1e-200, 1e200]
)
def test_kappas_out_of_range_are_refused(corners, kappa):
  with pytest.raises(UserError, match='kappas and their squares must be'):
    gaussian_rate.curve(corners, [0.1, kappa])
