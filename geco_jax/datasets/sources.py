"""Where images come from: scikit-learn's digits and TensorFlow Datasets."""

from collections.abc import Mapping
import functools
import os

import numpy as np
import PIL.Image
import tqdm

from geco_jax.datasets import cache
from geco_jax.datasets import scratch
from geco_jax.datasets import tfds_source
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.datasets.images import SPLITS
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
  import sklearn.datasets  # Takes a second, which other sets need not wait.

  levels, labels = sklearn.datasets.load_digits(return_X_y=True)
  pixels = np.round(levels * (255 / 16)).astype(np.uint8)
  images = Images(pixels.reshape(-1, 8, 8, 1), labels.astype(np.int32))
  parts = np.split(_fixed_permutation(len(labels)), [1_437, 1_617])
  splits = {
    name: _take(images, part) for name, part in zip(SPLITS, parts, strict=True)
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
) -> ImageSet:
  """Return a prepared image set of TensorFlow Datasets.

  Images are decoded once and kept in an on-disk cache. Labels are those of
  the feature 'label', or -1 where there is none.

  The splits are TFDS's own 'train', 'validation' and 'test'; others are left
  out. A fixed permutation carves a missing one out of 'train': 5,000 examples
  for the validation of mnist and cifar10, otherwise a tenth of 'train'.

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
  arrays = cache.load_or_build(
    local_path(os.fspath(cache_dir)) if cache_dir else files.cache_folder(),
    full_name.replace('/', '-'),
    key={
      'set': full_name,
      'source': tfds_source.fingerprint(builder),
      'image_size': image_size,
      'centre_crop': centre_crop,
    },
    build=lambda: _to_arrays(_decode(builder, centre_crop, image_size)),
  )
  return ImageSet(builder.name, _from_arrays(arrays))


def _decode(
  builder: tfds_source.Builder,
  centre_crop: int | None,
  image_size: int | None,
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
  transform = functools.partial(_crop_and_resize, centre_crop, image_size)
  with tqdm.tqdm(
    desc=f'Decoding {builder.info.full_name}', total=sum(sizes.values())
  ) as bar:
    splits = {
      split: tfds_source.read_split(builder, split, transform, bar.update)
      for split in sizes
    }
  return _with_missing_splits(splits, _VALIDATION_SIZES.get(builder.name))


def _with_missing_splits(
  splits: Mapping[str, Images], validation_size: int | None
) -> dict[str, Images]:
  """Carve missing splits out of 'train', a tenth of it by default."""
  train = splits['train']
  tenth = len(train.label) // 10
  sizes = {'validation': validation_size or tenth, 'test': tenth}
  complete = dict(splits)
  rest = _fixed_permutation(len(train.label))
  for name, size in sizes.items():
    if name not in splits:
      complete[name] = _take(train, rest[:size])
      rest = rest[size:]
  if len(complete) > len(splits):
    complete['train'] = _take(train, rest)
  return {name: complete[name] for name in SPLITS}


def _fixed_permutation(count: int) -> np.ndarray:
  return np.random.default_rng(0).permutation(count)


def _take(images: Images, indices: np.ndarray) -> Images:
  return Images(*(scratch.take(array, indices) for array in images))


def _crop_and_resize(
  centre_crop: int | None, image_size: int | None, image: np.ndarray
) -> np.ndarray:
  """Cut out the centered square, then resize it.

  Pillow widens its bilinear filter with the reduction, so every pixel of the
  crop counts (antialiasing); and as the filter is nowhere negative it adds no
  halos, unlike Lanczos, and no values outside the crop's own range.
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


def _to_arrays(splits: Mapping[str, Images]) -> cache.Arrays:
  return {
    f'{name}_{field}': array
    for name, images in splits.items()
    for field, array in images._asdict().items()
  }


def _from_arrays(arrays: cache.Arrays) -> dict[str, Images]:
  return {
    name: Images(arrays[f'{name}_image'], arrays[f'{name}_label'])
    for name in SPLITS
  }
