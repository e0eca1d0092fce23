"""What a model needs to know about a run's images, without the images."""

import os
from typing import Any

import jax
from jax.core import Tracer
import jax.numpy as jnp
import numpy as np

from geco_jax.datasets import pixels
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import decode
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import SPLITS
from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io.files import write_json
from geco_jax.io.run_folder import DATA


def record(workdir: str, dataset: Dataset, sha256: str) -> None:
  """Record the form of a run's images in its folder.

  Args:
    workdir: the folder.
    dataset: of the run.
    sha256: its `splits.fingerprint`.
  """
  content = {
    'name': dataset.name,
    'image_shape': [*dataset.image_shape],
    'context_shape': dataset.context_shape and [*dataset.context_shape],
    'channels_are_images': dataset.channels_are_images,
    'sha256': sha256,
  }
  write_json(os.path.join(workdir, DATA), content)


def read(workdir: str) -> Dataset | None:
  """Return a data set of one black image, shaped as those of a run.

  None if the folder does not record it, as in earlier versions.
  """
  return by_products.read(os.path.join(workdir, DATA), _parse)


def _parse(content: Any) -> Dataset:
  image_shape = _shape(content['image_shape'])
  context_shape = content['context_shape']
  black = Images(np.zeros((1, *image_shape), np.uint8), np.zeros(1, np.int32))
  return Dataset(
    name=str(content['name']),
    splits=dict.fromkeys(SPLITS, black),
    image_shape=image_shape,
    choose=_no_batches,
    compose=_no_batches,
    context_shape=None if context_shape is None else _shape(context_shape),
    channels_are_images=bool(content['channels_are_images']),
  )


def _no_batches(*args: Any):
  raise UserError('a loaded run has no data set; build it with build_dataset')


def _shape(content: Any) -> tuple[int, int, int]:
  height, width, channels = map(int, content)
  return height, width, channels


def as_pixels(
  subject: str, images: Any, shape: tuple[int, int, int]
) -> jax.Array:
  """Return images as float32 in [0, 1], [n, height, width, channels].

  Args:
    subject: what messages call them.
    images: uint8 from 0 to 255, bool or floats in [0, 1]; of one channel also
      without its axis. Traced ones have no values that could be checked.
    shape: of one image.

  Raises:
    UserError: if they are anything else.
  """
  is_traced = isinstance(images, Tracer)
  array: Any = images if is_traced else pixels.as_array(subject, images)
  if shape[-1] == 1 and array.shape[1:] == shape[:-1]:
    array = array[..., np.newaxis]
  if array.shape[1:] != shape or array.ndim != 4:
    raise UserError(
      f'{subject} must be [n, {", ".join(map(str, shape))}], got '
      f'{np.shape(images)}'
    )
  check = pixels.check_type if is_traced else pixels.check_values
  check(subject, array)
  if array.dtype == np.uint8:
    return decode(jnp.asarray(array))
  return jnp.float32(array)
