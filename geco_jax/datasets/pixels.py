"""What images may be: one rule, wherever they come from.

Images are uint8 from 0 to 255, bool, or floats in [0, 1]. Data sets hold them
as uint8, the form of the likelihood's 256 levels; images of other forms are
converted here, floats rounded to the nearest level. Only `batches.decode`,
which takes uint8 alone, divides by 255.
"""

from typing import Any

import numpy as np

from geco_jax.errors import UserError

WHITE = 255
# If no pixel of at least FEW images is as bright as this, their scale is wrong.
_DARKEST, FEW = 64, 10
_BLOCK = 1_024  # Images that are converted at once.
_CHANNELS = (1, 3)
_WIDE = 8  # So many rows of 3 pixels are one picture in color.


def as_uint8(subject: str, images: Any, white: int = WHITE) -> np.ndarray:
  """Return images as a data set holds them, uint8 [n, height, width, channels].

  Args:
    subject: what messages call them.
    images: [n, height, width] or [n, height, width, 1 or 3]; see above.
    white: of uint8, the level that is white: 1 where they are 0 and 1.

  Raises:
    UserError: if they are anything else.
  """
  array = as_array(subject, images)
  check_type(subject, array)
  array = _with_channels(subject, array)
  if not len(array):
    raise UserError(f'{subject}: there are none')
  array = scale(subject, array, white)
  check_values(subject, array)
  return array if array.dtype == np.uint8 else _rounded(array)


def scale(subject: str, images: np.ndarray, white: int) -> np.ndarray:
  """Return uint8 images whose white is 255.

  Raises:
    UserError: if one is brighter than `white`, or `white` not in [1, 255].
  """
  is_integer = isinstance(white, (int, np.integer)) and white is not True
  if not (is_integer and 1 <= white <= WHITE):
    raise UserError(f'white must be an integer in [1, {WHITE}], got {white!r}')
  if white == WHITE:
    return images
  if images.dtype != np.uint8:
    raise UserError(
      f'{subject}: white={white} is for uint8, not {images.dtype}'
    )
  brightest = int(images.max(initial=0))
  if brightest > white:
    raise UserError(f'{subject}: {brightest} is brighter than white={white}')
  levels = np.round(np.arange(white + 1) * (WHITE / white)).astype(np.uint8)
  return levels[images]


def as_array(subject: str, images: Any) -> np.ndarray:
  """Return images or labels, an array or nested lists, as a NumPy array.

  Raises:
    UserError: if they have no common shape, or are masked.
  """
  if isinstance(images, np.ma.MaskedArray):
    raise UserError(f'{subject} are a masked array; x.filled(...) has no mask')
  try:
    return np.asarray(images)
  except (ValueError, TypeError) as error:
    raise UserError(f'{subject} are no array of one shape: {error}') from error


def check_stored(subject: str, image: np.ndarray) -> None:
  """Check images of a data set.

  Args:
    subject: what messages call them.
    image: of a whole split.

  Raises:
    UserError: if they are not uint8 [n, height, width, channels] that use the
      range 0 to 255, or there are none.
  """
  if image.dtype != np.uint8:
    raise UserError(
      f'{subject} must be uint8 from 0 to 255, got {image.dtype}; for pixels x '
      'in [0, 1]: np.round(255 * x).astype(np.uint8), as '
      'geco_jax.dataset_from_arrays does'
    )
  if image.ndim != 4 or 0 in image.shape[1:]:
    raise UserError(
      f'{subject} must be [n, height, width, channels], got {image.shape}'
    )
  if not len(image):
    raise UserError(f'{subject}: there are none, the split is empty')
  check_values(subject, image)


def check_values(subject: str, images: np.ndarray) -> None:
  """Check types and values of images, not their shape.

  Raises:
    UserError: if they are not uint8, bool or floats in [0, 1], or so dark that
      their scale must be wrong: uint8 of 0 and 1, or ten images or more
      without a pixel above a fourth of white.
  """
  check_type(subject, images)
  if images.dtype == bool or not images.size:
    return
  if images.dtype == np.uint8:
    _check_scale(subject, images, 1, 'uint8')
    return
  lowest, highest = images.min(), images.max()
  if not (lowest >= 0 and highest <= 1):  # NaN is neither.
    raise UserError(
      f'{subject} must be within [0, 1] where they are floats, got '
      f'[{lowest:.9g}, {highest:.9g}]'
    )
  _check_scale(subject, images, WHITE, 'floats')


def check_same_scale(subject: str, image: np.ndarray, others: int) -> None:
  """Refuse a few images that are far darker than the rest of their set.

  Args:
    subject: what messages call them.
    image: of a split, uint8.
    others: the brightest level of the other splits.

  Raises:
    UserError: if they are.
  """
  brightest = int(image.max())
  if 0 < brightest < _DARKEST <= others:
    raise UserError(
      f'{subject} reach {brightest} of 255 only, those of other splits '
      f'{others}: were they scaled otherwise?'
    )


def check_type(subject: str, images: Any) -> None:
  """Refuse images that are not uint8, bool or floats."""
  is_float = np.issubdtype(images.dtype, np.floating)
  if not (is_float or images.dtype in (bool, np.uint8)):
    raise UserError(
      f'{subject} must be uint8, bool or floats in [0, 1], got {images.dtype}'
    )


def _check_scale(subject, images, unit, kind):
  """Refuse images that are too dark; `unit` converts their pixels to levels."""
  # Usually the first images decide; there is nothing to scale in black ones.
  brightest = images[:100].max()
  if brightest * unit < _DARKEST:
    brightest = images.max()
  level = float(brightest) * unit
  is_binary = level <= 1
  if not 0 < level < _DARKEST or (len(images) < FEW and not is_binary):
    return
  if kind == 'floats':
    raise UserError(
      f'{subject} reach {brightest:g} of 1 only, and 1 is white, where they '
      'are floats: were they divided by 255 twice?'
    )
  brightest = int(brightest)
  levels = '0 and 1' if brightest == 1 else f'0 to {brightest}'
  raise UserError(
    f'{subject} reach {brightest} of 255 only, as uint8 of {levels}, and 255 '
    f'is white: scale them, for 0 to {brightest} by {WHITE // brightest} (an '
    f'image_folder, npz, TFDS set or dataset_from_arrays by white={brightest})'
  )


def _with_channels(subject: str, array: np.ndarray) -> np.ndarray:
  """Return [n, height, width, channels], also from [n, height, width]."""
  form = '[n, height, width] or [n, height, width, 1 or 3]'
  if array.ndim == 3:
    _, height, width = array.shape
    if width in (3, 4) and height >= _WIDE:
      raise UserError(
        f'{subject} must be {form}, got {array.shape}: one image in color? '
        'images[None] is a set of it'
      )
    array = array[..., np.newaxis]
  if array.ndim != 4 or 0 in array.shape[1:]:
    raise UserError(f'{subject} must be {form}, got {array.shape}')
  if array.shape[-1] not in _CHANNELS:
    channels_first = array.shape[1] in _CHANNELS
    hint = (
      ': np.moveaxis(x, 1, -1) puts channels last' if channels_first else ''
    )
    raise UserError(f'{subject} must be {form}, got {array.shape}{hint}')
  return array


def _rounded(array: np.ndarray) -> np.ndarray:
  """Return bool or float images as uint8."""
  pixels = np.empty(array.shape, np.uint8)
  for start in range(0, len(array), _BLOCK):
    block = array[start : start + _BLOCK]
    pixels[start : start + _BLOCK] = np.round(block.astype(np.float32) * WHITE)
  return pixels
