"""Where images come from: scikit-learn's digits and TensorFlow Datasets."""

from collections.abc import Callable
import os

import numpy as np

from geco_jax import console
from geco_jax.datasets import cache
from geco_jax.datasets import pixels
from geco_jax.datasets import tfds_source
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.datasets.images import SPLITS
from geco_jax.datasets.picture_files import crop_and_resize
from geco_jax.datasets.splits import fixed_permutation
from geco_jax.datasets.splits import from_arrays
from geco_jax.datasets.splits import has_room
from geco_jax.datasets.splits import take
from geco_jax.datasets.splits import to_arrays
from geco_jax.datasets.splits import with_missing_splits
from geco_jax.errors import UserError
from geco_jax.io import files
from geco_jax.io.paths import local_path

_VALIDATION_SIZES = {'mnist': 5_000, 'cifar10': 5_000}  # Others: a tenth.
_CELEB_A_CROP = 140


def digits() -> ImageSet:
  """Return scikit-learn's 1,797 handwritten digits of 8x8 pixels.

  They come with scikit-learn: no download, no preparation. Their 17 levels
  are spread over 0..255. A fixed permutation splits them into 1,437 for
  training, 180 for validation and 180 for testing.
  """
  import sklearn.datasets  # Takes a second, for which other sets need not wait.

  levels, labels = sklearn.datasets.load_digits(return_X_y=True)
  gray = np.round(levels * (255 / 16)).astype(np.uint8)
  images = Images(gray.reshape(-1, 8, 8, 1), labels.astype(np.int32))
  parts = np.split(fixed_permutation(len(labels)), [1_437, 1_617])
  splits = {
    name: take(images, part) for name, part in zip(SPLITS, parts, strict=True)
  }
  return ImageSet('digits', splits)


def celeb_a(
  image_size: int = 64,
  *,
  data_dir: str | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
) -> ImageSet:
  """Return CelebA's aligned faces, the center 140x140 pixels resized.

  The splits are CelebA's own. See `tfds_images` for the arguments.
  """
  return tfds_images(
    'celeb_a',
    data_dir=data_dir,
    cache_dir=cache_dir,
    image_size=image_size,
    centre_crop=_CELEB_A_CROP,
  )


def tfds_images(
  name: str,
  *,
  data_dir: str | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  image_size: int | None = None,
  centre_crop: int | None = None,
  white: int = pixels.WHITE,
) -> ImageSet:
  """Return a prepared image set of TensorFlow Datasets.

  Images are decoded once and kept in an on-disk cache. Labels are those of
  the feature 'label', or -1 where there is none.

  The splits are TFDS's own 'train', 'validation' and 'test'; others are left
  out. A fixed permutation carves a missing one out of 'train': 5,000 examples
  for the validation of mnist and cifar10 if they are at most half of 'train',
  otherwise a tenth of it.

  Args:
    name: TFDS's name: 'mnist', 'cifar10_1/v4', 'mnist:3.0.1'.
    data_dir: where TFDS keeps its sets; None means $TFDS_DATA_DIR, or
      TFDS's own default if that is not set.
    cache_dir: where decoded images are kept; None means $GECO_JAX_CACHE,
      or geco_jax in the user's cache folder if that is not set.
    image_size: height and width that images are resized to, antialiased;
      None keeps them as they are, and then they must all have one shape.
    centre_crop: side of the centered square that is cut out first; None
      means the whole image or, where it is resized, its largest square.
    white: the level that is white: 1 where images are 0 and 1.

  Raises:
    UserError: if the set is unknown, not prepared, or not of uint8 images of
      one shape, or a folder is not on this machine.
  """
  for option, value in (
    ('image_size', image_size),
    ('centre_crop', centre_crop),
  ):
    if value is not None and value < 1:
      raise ValueError(f'{option} must be at least 1, got {value}')
  data_dir = data_dir and local_path(data_dir)
  builder = tfds_source.open_prepared(name, data_dir)
  full_name = builder.info.full_name  # Name, config and version.

  def transform(image):
    scaled = pixels.scale(f'images of {name}', image, white)
    return crop_and_resize(centre_crop, image_size, scaled)

  arrays = cache.load_or_build(
    local_path(os.fspath(cache_dir)) if cache_dir else files.cache_folder(),
    full_name.replace('/', '-'),
    key={
      'set': full_name,
      'source': tfds_source.fingerprint(builder),
      'image_size': image_size,
      'centre_crop': centre_crop,
      # Only if not the default, so that earlier entries keep their keys.
      **({} if white == pixels.WHITE else {'white': white}),
      # Earlier entries of such sets have no training images left, or few.
      **({'validation': 'tenth'} if _is_subset(builder) else {}),
    },
    build=lambda: to_arrays(_decode(builder, transform)),
  )
  return ImageSet(builder.name, from_arrays(arrays))


def _is_subset(builder: tfds_source.Builder) -> bool:
  """Return whether a set is too small for the fixed size of its validation."""
  size, sizes = _VALIDATION_SIZES.get(builder.name), builder.info.splits
  if size is None or 'train' not in sizes:
    return False
  return not has_room(sizes['train'].num_examples, size)


def _decode(
  builder: tfds_source.Builder, transform: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Images]:
  sizes = {
    split: info.num_examples
    for split, info in builder.info.splits.items()
    if split in SPLITS and info.num_examples
  }
  if 'train' not in sizes:
    raise UserError(
      f"{builder.name} has no examples in a split 'train'; its splits: "
      f'{", ".join(builder.info.splits) or "none"}'
    )
  with console.bar(
    desc=f'Decoding {builder.info.full_name}', total=sum(sizes.values())
  ) as bar:
    splits = {
      split: tfds_source.read_split(builder, split, transform, bar.update)
      for split in sizes
    }
  return with_missing_splits(
    builder.name, splits, _VALIDATION_SIZES.get(builder.name)
  )
