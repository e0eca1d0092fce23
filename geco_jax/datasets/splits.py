"""The splits of a data set: carved where they are missing, hashed, kept."""

from collections.abc import Mapping
import hashlib

import numpy as np

from geco_jax.datasets import scratch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import SPLITS
from geco_jax.errors import UserError

_BLOCK = 4_096  # Images of a memory-mapped file that are hashed at once.


def fixed_permutation(count: int) -> np.ndarray:
  """Return a fixed order of a number of examples."""
  return np.random.default_rng(0).permutation(count)


def take(images: Images, indices: np.ndarray) -> Images:
  """Return some of the images of a split."""
  return Images(*(scratch.take(array, indices) for array in images))


def with_missing_splits(
  name: str, splits: Mapping[str, Images], validation_size: int | None = None
) -> dict[str, Images]:
  """Carve missing splits out of 'train', a fixed random tenth of it each.

  Args:
    name: name of the data set.
    splits: at least 'train'.
    validation_size: images for validation, if 'train' has room for them; None
      is a tenth.

  Raises:
    UserError: if 'train' is too small.
  """
  train = splits['train']
  tenth = len(train.label) // 10
  sizes = {'validation': tenth, 'test': tenth}
  if validation_size and has_room(len(train.label), validation_size):
    sizes['validation'] = validation_size
  missing = {n: size for n, size in sizes.items() if n not in splits}
  if missing and not tenth:
    raise UserError(
      f'{name} has too few training images ({len(train.label)}): a tenth each '
      f'is taken for {" and ".join(missing)}, so it needs 10 at least'
    )
  complete = dict(splits)
  rest = fixed_permutation(len(train.label))
  for split, size in missing.items():
    complete[split] = take(train, rest[:size])
    rest = rest[size:]
  if missing:
    complete['train'] = take(train, rest)
  return {split: complete[split] for split in SPLITS}


def has_room(num_train: int, validation_size: int) -> bool:
  """Return whether 'train' keeps half of its images, as full sets do."""
  return 2 * validation_size <= num_train


def fingerprint(splits: Mapping[str, Images]) -> str:
  """Return the SHA-256 of all images and labels, split by split."""
  digest = hashlib.sha256()
  for name in sorted(splits):
    for array in splits[name]:
      digest.update(f'{name} {array.dtype.str} {array.shape} '.encode())
      for start in range(0, len(array), _BLOCK):
        block = np.ascontiguousarray(array[start : start + _BLOCK])
        digest.update(block.data)
  return digest.hexdigest()


def to_arrays(splits: Mapping[str, Images]) -> dict[str, np.ndarray]:
  """Return the arrays of all splits, as a cache keeps them."""
  return {
    f'{name}_{field}': array
    for name, images in splits.items()
    for field, array in images._asdict().items()
  }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Images]:
  """Return the splits of `to_arrays`."""
  return {
    name: Images(arrays[f'{name}_image'], arrays[f'{name}_label'])
    for name in SPLITS
  }
