"""PNG and JPEG files as arrays."""

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from geco_jax.errors import UserError
from geco_jax.io.system_errors import reason

_GRAY_MODES = ('1', 'L', 'LA')
_COLOR_MODES = ('RGB', 'RGBA', 'P', 'PA')
_PNG = b'\x89PNG\r\n\x1a\n'
_DEPTH_AT = 24  # Offset of a PNG's bits per channel.
_LARGEST = 4_096  # Most height and width of resized pictures.


def read(path: str, channels: int | None = None) -> np.ndarray:
  """Return the picture of a file, uint8 [height, width, 1 or 3].

  It stands upright, as its EXIF says. Palettes become colors, black and white
  0 and 255; an alpha channel that is opaque everywhere is left out.

  Args:
    path: path of a PNG or JPEG.
    channels: 1 makes colors gray (their luma, Rec. 601), 3 gray a color; None
      is gray where the file is.

  Raises:
    UserError: naming the file, if it cannot be read or is anything else:
      transparent, of 16 bits, CMYK, or several pictures.
  """
  try:
    with open(path, 'rb') as file:
      header = file.read(_DEPTH_AT + 1)
    with PIL.Image.open(path, formats=('PNG', 'JPEG')) as file:
      is_animated = file.format == 'PNG' and getattr(file, 'n_frames', 1) > 1
      image = PIL.ImageOps.exif_transpose(file)
  except Exception as error:  # Each format's decoder raises its own.
    why = (
      'no PNG or JPEG'
      if isinstance(error, PIL.UnidentifiedImageError)
      else reason(error)
    )
    raise UserError(f'{path} is no image that can be read: {why}') from error
  if is_animated:
    raise UserError(f'{path} is an animation, not one picture')
  if header.startswith(_PNG) and header[_DEPTH_AT] > 8:
    raise UserError(
      f'{path} has {header[_DEPTH_AT]} bits per channel, images have 8: '
      'convert it first'
    )
  if image.mode not in (*_GRAY_MODES, *_COLOR_MODES):
    raise UserError(f'{path} is {image.mode}, images are gray or RGB')
  if image.has_transparency_data and _is_transparent(image):
    raise UserError(
      f'{path} is transparent in places, images are not: lay it over a color '
      'first'
    )
  if channels is None:
    channels = 1 if image.mode in _GRAY_MODES else 3
  pixels = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
  return pixels.reshape(*pixels.shape[:2], channels)


def _is_transparent(image: Any) -> bool:
  lowest, _ = image.convert('RGBA').getchannel('A').getextrema()
  return lowest < 255


def check_size(image_size: int | None) -> None:
  """Check the `image_size` that a data set is given.

  Raises:
    ValueError: if it is neither None nor an integer in [1, 4096].
  """
  if image_size is None:
    return
  is_integer = isinstance(image_size, int) and image_size is not True
  if not (is_integer and 1 <= image_size <= _LARGEST):
    raise ValueError(
      f'image_size must be an integer in [1, {_LARGEST}], got {image_size!r}'
    )


def crop_and_resize(
  centre_crop: int | None, image_size: int | None, image: np.ndarray
) -> np.ndarray:
  """Cut out the centered square, then resize it.

  Pillow widens its bilinear filter with the reduction, so every pixel of the
  crop counts (antialiasing); and as the filter is nowhere negative it adds no
  halos, unlike Lanczos, and no values outside the crop's own range.

  Args:
    centre_crop: the square's side; None is the whole image or, where it is
      resized, its largest square.
    image_size: height and width of the result; None does not resize.
    image: uint8 [height, width, channels].

  Raises:
    UserError: if the square does not fit.
  """
  if centre_crop is None and image_size is not None:
    centre_crop = min(image.shape[:2])
  if centre_crop is not None:
    image = _crop(image, centre_crop)
  if image_size is None:
    return image
  # Pillow has no images of one channel with an axis for it.
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  resized = PIL.Image.fromarray(pixels).resize(
    (image_size, image_size), PIL.Image.Resampling.BILINEAR
  )
  return np.asarray(resized).reshape(image_size, image_size, -1)


def _crop(image: np.ndarray, size: int) -> np.ndarray:
  height, width = image.shape[:2]
  if size > min(height, width):
    raise UserError(
      f'centre_crop={size} does not fit into an image of {height}x{width}'
    )
  top, left = (height - size) // 2, (width - size) // 2
  return image[top : top + size, left : left + size]
