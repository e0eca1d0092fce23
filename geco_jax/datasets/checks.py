"""The checks of a data set before anything is built on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import DEVICE
from geco_jax.datasets.batches import HOST
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import SPLITS
from geco_jax.datasets.pixels import check_same_scale
from geco_jax.datasets.pixels import check_stored
from geco_jax.datasets.pixels import FEW
from geco_jax.errors import UserError


def check_dataset(dataset: Any) -> None:
  """Check a data set that a program passes, which it may have changed.

  Raises:
    UserError: if it is not a data set, or a part has another form.
  """
  if not isinstance(dataset, Dataset):
    raise UserError(
      'a data set must be what build_dataset or dataset_from_arrays returns, '
      f'got {type(dataset).__name__}'
    )
  placements = DEVICE, HOST
  if dataset.placement not in placements:
    raise UserError(
      f'the placement of a data set must be {" or ".join(placements)}, got '
      f'{dataset.placement!r}'
    )
  for name in ('choose', 'compose'):
    if not callable(getattr(dataset, name)):
      raise UserError(f'{name} of a data set must be a function')
  splits = dataset.splits
  if not isinstance(splits, Mapping) or not all(
    isinstance(images, Images) for images in splits.values()
  ):
    raise UserError('splits of a data set must be Images by name')
  check_images(dataset.name, splits)
  for name in ('image_shape', 'context_shape'):
    shape = getattr(dataset, name)
    if not _is_shape(shape) and (shape, name) != (None, 'context_shape'):
      raise UserError(
        f'{name} of a data set must be three integers, height, width and '
        f'channels, got {shape!r}'
      )
  stored = splits[SPLITS[0]].image.shape[1:]
  if not dataset.is_composed and tuple(dataset.image_shape) != stored:
    raise UserError(
      f'image_shape of a data set must be that of its images, {stored}, got '
      f'{dataset.image_shape}'
    )


def _is_shape(value: Any) -> bool:
  return (
    isinstance(value, (tuple, list))
    and len(value) == 3
    and all(isinstance(n, (int, np.integer)) and n > 0 for n in value)
  )


def check_images(name: str, splits: Mapping[str, Images]) -> None:
  """Check that splits hold images as the rest of the package takes them.

  Args:
    name: name of the data set.
    splits: by name.

  Raises:
    UserError: if a split is missing or empty, or its images are not uint8
      [n, height, width, channels] of one shape that use the range 0 to 255.
  """
  for split in SPLITS:
    if split not in splits:
      raise UserError(
        f'{name} has no {split} split; it has {", ".join(splits)}'
      )
    for part, array in splits[split]._asdict().items():
      if not hasattr(array, 'dtype'):
        raise UserError(
          f'{name}: {part} of the {split} split must be an array, got '
          f'{type(array).__name__}'
        )
  for split in SPLITS:
    image, label = splits[split]
    subject = f'{name}: images of the {split} split'
    check_stored(subject, image)
    if split == SPLITS[0] and len(image) > 1:  # Loaded runs have one, black.
      _check_differ(subject, image)
    if len(image) < FEW:
      others = [splits[other].image for other in SPLITS if other != split]
      brightest = max(int(x[:FEW].max(initial=0)) for x in others)
      check_same_scale(subject, image, brightest)
    shape = splits[SPLITS[0]].image.shape[1:]
    if image.shape[1:] != shape:
      raise UserError(
        f'{name}: images of the {split} split are {image.shape[1:]}, those of '
        f'{SPLITS[0]} {shape}; all must have one shape'
      )
    is_integer = np.issubdtype(label.dtype, np.integer)
    if not is_integer or label.shape != image.shape[:1] or label.min() < -1:
      lowest = f' from {label.min()} on' if is_integer and label.size else ''
      raise UserError(
        f'{name}: the {split} split needs an integer label for each of its '
        f'{len(image)} images (-1 is none), got {label.dtype} {label.shape}'
        f'{lowest}'
      )


def _check_differ(subject: str, image: np.ndarray) -> None:
  """Refuse images of a single level: any model reconstructs them."""
  for some in (image[:100], image):  # Usually the first ones decide.
    level = some.min()
    if level != some.max():
      return
  raise UserError(
    f'{subject} have no pixel that is not {level}: nothing to learn'
  )


def check_labels(
  name: str, splits: Mapping[str, Images], num_classes: int | None = None
) -> None:
  """Check that every image of every split has a label.

  Args:
    name: name of the data set.
    splits: by name.
    num_classes: labels must be below it; None is no such bound.

  Raises:
    UserError: if an image has no label, or one outside the classes.
  """
  for split, images in splits.items():
    lowest, highest = int(images.label.min()), int(images.label.max())
    if lowest < 0:
      count = int((images.label < 0).sum())
      raise UserError(
        f'{name} has no labels for {count} of the {len(images.label)} images '
        f'of its {split} split'
      )
    if num_classes is not None and highest >= num_classes:
      raise UserError(
        f'{name} has the label {highest} in its {split} split, the network '
        f'knows 0 to {num_classes - 1}'
      )
