"""One rule for what images may be, in every way in."""

import jax.numpy as jnp
import numpy as np
import pytest

import geco_jax
from geco_jax.datasets import pixels
from geco_jax.datasets import shapes
from geco_jax.datasets.arrays import npz
from geco_jax.datasets.batches import decode
from geco_jax.errors import UserError

_LEVELS = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
_LEVELS[:, 0, 0] = 255


def _by_arrays(images, tmp_path):
  del tmp_path
  return geco_jax.dataset_from_arrays(images, images).splits['test'].image


def _by_npz(images, tmp_path):
  path = str(tmp_path / 'images.npz')
  np.savez(path, train=images, test=images)
  return npz(path).splits['test'].image


def _by_a_loaded_run(images, tmp_path):
  del tmp_path
  return np.asarray(shapes.as_pixels('images', images, (6, 6, 1))) * 255


ROUTES = [_by_arrays, _by_npz, _by_a_loaded_run]


@pytest.mark.parametrize('route', ROUTES)
@pytest.mark.parametrize(
  'change',
  [
    lambda x: x,
    lambda x: x[..., None],
    lambda x: x / 255,
    lambda x: np.float32(x) / np.float32(255),
    lambda x: (x / 255).astype(np.float16),
  ],
)
def test_every_form_is_the_same_images(route, change, tmp_path):
  taken = route(change(_LEVELS), tmp_path)
  assert taken.shape == (20, 6, 6, 1)
  np.testing.assert_allclose(taken[..., 0], _LEVELS, atol=0.07)
  if route is not _by_a_loaded_run:
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken[..., 0], _LEVELS)


@pytest.mark.parametrize('route', ROUTES)
def test_bool_is_black_and_white(route, tmp_path):
  taken = route(_LEVELS > 99, tmp_path)
  np.testing.assert_array_equal(taken[..., 0], 255 * (_LEVELS > 99))


@pytest.mark.parametrize('route', ROUTES)
@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x % 2, 'reach 1 of 255 only, as uint8 of 0 and 1'),
    (lambda x: x // 16, 'reach 15 of 255 only.* 0 to 15 by 17 .*white=15'),
    (lambda x: x / 255 / 255, 'reach 0.0039.* of 1 only.* 255 twice'),
    (lambda x: x * 1.0, r'within \[0, 1\] where they are floats, got \[0, 255'),
    (lambda x: x / 255 + 1e-7, r'within .* got \[1e-07, 1.0000001\]'),
    (lambda x: x / 255 + 1e-7, r'within .* got \[1e-07, 1.0000001\]'),
    (lambda x: x / 255 - 0.1, r'within \[0, 1\].* got \[-0.1, 0.9\]'),
    (lambda x: np.where(x > 9, x / 255, np.nan), r'within \[0, 1\].*nan'),
    (lambda x: np.where(x > 9, x / 255, np.inf), r'within \[0, 1\].*inf'),
    (lambda x: x.astype(np.int64), 'uint8, bool or floats.* got int64'),
    (lambda x: x.astype(np.uint16), 'uint8, bool or floats.* got uint16'),
    (lambda x: x * 1j, 'uint8, bool or floats.* got complex'),
    (lambda x: x.astype(str), 'uint8, bool or floats.* got <U3'),
  ],
)
def test_other_ranges_and_types_are_refused(route, change, message, tmp_path):
  with pytest.raises(UserError, match=message):
    route(change(_LEVELS), tmp_path)


@pytest.mark.parametrize('route', ROUTES[:2])
@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((20, 6), r'must be \[n, height, width\] or .*, got \(20, 6\)'),
    ((20, 6, 6, 2), r'got \(20, 6, 6, 2\)'),
    ((20, 3, 6, 6), r'\(20, 3, 6, 6\): np.moveaxis\(x, 1, -1\)'),
    ((64, 64, 3), r'one image in color\? images\[None\] is a set of it'),
    ((20, 0, 6), r'got \(20, 0, 6, 1\)'),
    ((0, 6, 6), 'there are none'),
    ((9, 6, 6), r'images \(9\): a tenth each is taken.*10 at least'),
    ((1, 6, 6), r'too few training images \(1\)'),
  ],
)
def test_other_shapes_are_refused(route, shape, message, tmp_path):
  images = np.full(shape, 255, np.uint8)

  def one_split(images, tmp_path):
    if route is _by_arrays:
      return geco_jax.dataset_from_arrays(images)
    np.savez(tmp_path / 'a.npz', train=images)
    return npz(str(tmp_path / 'a.npz'))

  with pytest.raises(UserError, match=message):
    one_split(images, tmp_path)


def test_what_white_is_scales_uint8_alone():
  binary = _LEVELS % 2
  np.testing.assert_array_equal(
    pixels.as_uint8('x', binary, white=1)[..., 0], 255 * binary
  )
  levels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
  taken = pixels.as_uint8('x', levels, white=15)
  np.testing.assert_array_equal(taken.ravel(), 17 * np.arange(16))
  with pytest.raises(UserError, match='x: 255 is brighter than white=1'):
    pixels.as_uint8('x', _LEVELS, white=1)
  with pytest.raises(UserError, match='white=1 is for uint8, not float64'):
    pixels.as_uint8('x', _LEVELS / 255, white=1)
  for white in (0, 256, None, '1', 2.5, True):
    with pytest.raises(UserError, match=rf'in \[1, 255\], got {white!r}'):
      pixels.as_uint8('x', _LEVELS, white=white)


def test_a_few_dark_images_and_black_ones_are_taken():
  dark = np.full((3, 6, 6), 40, np.uint8)
  for images in (dark, dark * 0, dark / 255, np.zeros((20, 6, 6))):
    assert pixels.as_uint8('x', images).max() in (0, 40)


def test_a_few_images_divided_by_255_twice_and_masked_ones_are_refused():
  with pytest.raises(UserError, match='divided by 255 twice'):
    pixels.as_uint8('x', _LEVELS[:1] / 255 / 255)
  with pytest.raises(UserError, match='x are a masked array'):
    pixels.as_uint8('x', np.ma.masked_less(_LEVELS, 9))


def test_nothing_is_divided_by_255_twice():
  image = jnp.asarray(_LEVELS[..., None])
  with pytest.raises(UserError, match='to decode must be uint8, got float32'):
    decode(decode(image))


@pytest.mark.parametrize('num', [1_023, 1_024, 1_025, 2_050])
def test_any_number_of_images_is_converted_whole(num):
  levels = np.arange(num * 4).reshape(num, 2, 2) % 256
  images = pixels.as_uint8('x', levels / 255)
  np.testing.assert_array_equal(images[..., 0], levels)


def test_the_first_images_of_many_may_be_dark():
  images = np.full((110, 6, 6), 40, np.uint8)
  images[105] = 200
  for stored in (images, images / 255):
    assert pixels.as_uint8('x', stored).max() == 200


def test_levels_are_scaled_to_the_nearest():
  levels = np.arange(101, dtype=np.uint8).reshape(1, 101, 1)
  taken = pixels.as_uint8('x', levels, white=100).ravel()
  assert np.abs(taken - 2.55 * levels.ravel()).max() <= 0.5


def test_a_split_is_too_dark_beside_one_that_reaches_a_fourth_of_white():
  dark = np.full((1, 2, 2, 1), 63, np.uint8)
  pixels.check_same_scale('x', dark, 63)
  with pytest.raises(UserError, match='x reach 63 of 255 only, .* splits 64'):
    pixels.check_same_scale('x', dark, 64)
