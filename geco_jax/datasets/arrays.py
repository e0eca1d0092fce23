"""Arrays of one's own as a data set: in a program, or in an npz."""

from collections.abc import Mapping
import functools
import os
from typing import Any

import numpy as np

from geco_jax.config_schema import hint
from geco_jax.datasets import pixels
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.datasets.picture_files import check_size
from geco_jax.datasets.picture_files import crop_and_resize
from geco_jax.datasets.splits import with_missing_splits
from geco_jax.errors import UserError
from geco_jax.io.paths import existing_path
from geco_jax.io.system_errors import reason

# Arguments of `dataset_from_arrays` by keys of an npz, Keras's among them.
_KEYS = {
  **dict.fromkeys(['train', 'images', 'x_train'], 'train'),
  **dict.fromkeys(['labels', 'train_labels', 'y_train'], 'labels'),
  **dict.fromkeys(['test', 'x_test'], 'test'),
  **dict.fromkeys(['test_labels', 'y_test'], 'test_labels'),
  'validation': 'validation',
  'validation_labels': 'validation_labels',
}
# The argument of each split's labels.
_LABELS = {
  'train': 'labels',
  'validation': 'validation_labels',
  'test': 'test_labels',
}
_MAX_LABEL = 2**31 - 1


def npz(
  path: str, image_size: int | None = None, *, white: int = pixels.WHITE
) -> ImageSet:
  """Return the images of a NumPy archive.

  Its arrays are arguments of `dataset_from_arrays` by name: `train`, and maybe
  `labels`, `test`, `test_labels`, `validation`, `validation_labels`. Objects,
  which would have to be unpickled, are never loaded.

  Args:
    path: the file's path.
    image_size: see `image_folder`.
    white: the level that is white: 1 where uint8 images are 0 and 1.

  Raises:
    UserError: if the file or an array is refused.
    ValueError: if an option is out of its range.
  """
  check_size(image_size)
  arrays = _load_npz(path, existing_path(path, 'an npz file', os.path.isfile))
  splits = _splits(path, white, arrays)
  if image_size is not None:
    resize = functools.partial(crop_and_resize, None, image_size)
    splits = {
      name: Images(np.stack([*map(resize, images.image)]), images.label)
      for name, images in splits.items()
    }
  return ImageSet(path, splits)


def dataset_from_arrays(
  train: Any,
  test: Any = None,
  labels: Any = None,
  *,
  test_labels: Any = None,
  validation: Any = None,
  validation_labels: Any = None,
  white: int = pixels.WHITE,
  name: str = 'arrays',
) -> Dataset:
  """Return the data set of arrays, for `build` and `train`.

  Images are [n, height, width] or [n, height, width, 1 or 3], uint8, bool, or
  floats in [0, 1], which are rounded to the nearest of 256 levels. Splits that
  are missing are carved out of the training images, a fixed random tenth each.

  Args:
    train: images to train on.
    test: images to test on.
    labels: of `train`, integers from 0 on [n]; None is none.
    test_labels: labels of `test`.
    validation: images to choose by: the pictures and the best checkpoint.
    validation_labels: labels of `validation`.
    white: of uint8 images, the level that is white: 1 where they are 0 and 1.
    name: display name.

  Raises:
    UserError: if images or labels are anything else.
  """
  arrays = {
    'train': train,
    'labels': labels,
    'validation': validation,
    'validation_labels': validation_labels,
    'test': test,
    'test_labels': test_labels,
  }
  splits = _splits(name, white, arrays)
  return as_dataset(ImageSet(name, splits))


def _load_npz(path: str, local: str) -> dict[str, np.ndarray]:
  """Return the arrays of a file by argument of `dataset_from_arrays`."""
  try:
    content = np.load(local, allow_pickle=False)
  except Exception as error:  # Zip files fail in many ways.
    raise _no_npz(path, error) from error
  if isinstance(content, np.ndarray):
    raise UserError(
      f'{path} is a single array: np.savez(path, train=array) makes an npz'
    )
  with content:
    names = content.files
    for name in names:
      if name not in _KEYS:
        raise UserError(
          f'{path} has an array {name!r}{hint(name, _KEYS)}; an npz may have '
          f'{", ".join(_KEYS)}'
        )
    arguments = [_KEYS[name] for name in names]
    if 'train' not in arguments or len({*arguments}) < len(arguments):
      raise UserError(
        f'{path} has {", ".join(names) or "no arrays"}, where training images '
        f"are to be in one array called 'train'; an npz may have "
        f'{", ".join(_KEYS)}'
      )
    try:
      return {_KEYS[name]: content[name] for name in names}
    except Exception as error:
      raise _no_npz(path, error) from error


def _no_npz(path, error) -> UserError:
  why = reason(error)
  if 'pickle' in why:
    why = 'it is another file, or holds objects, which are never unpickled'
  return UserError(f'{path} is no npz of plain arrays that can be read: {why}')


def _splits(
  name: str, white: int, arrays: Mapping[str, Any]
) -> dict[str, Images]:
  """Return all splits of arrays by argument of `dataset_from_arrays`.

  Those that are missing are carved out.
  """
  splits = {}
  for split, key in _LABELS.items():
    images, split_labels = arrays.get(split), arrays.get(key)
    subject = f'{name}: images of the {split} split'
    if images is not None:
      image = pixels.as_uint8(subject, images, white)
      splits[split] = Images(image, _labels(name, split, split_labels, image))
    elif split == 'train':
      raise UserError(f'{subject} are missing')
    elif split_labels is not None:
      raise UserError(f'{name}: labels of the {split} split, but no images')
  return with_missing_splits(name, splits)


def _labels(name: str, split: str, labels: Any, image: np.ndarray):
  """Return labels as a data set holds them, int32 [n]."""
  if labels is None:
    return np.full(len(image), -1, np.int32)
  subject = f'{name}: labels of the {split} split'
  array = pixels.as_array(subject, labels)
  if array.shape[1:] == (1,):  # As in Keras's CIFAR-10.
    array = array[:, 0]
  if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
    raise UserError(
      f'{subject} must be integers [{len(image)}], got {array.dtype} '
      f'{list(array.shape)}'
    )
  if len(array) != len(image):
    raise UserError(f'{subject}: {len(array)} for {len(image)} images')
  lowest, highest = array.min(), array.max()
  if lowest < 0 or highest > _MAX_LABEL:
    raise UserError(
      f'{subject} must be in [0, {_MAX_LABEL}], got {lowest} to {highest}; '
      'where there are none, leave them out'
    )
  return array.astype(np.int32)
