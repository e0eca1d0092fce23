"""Grids of images as PNG files."""

from collections.abc import Callable
import io
import os

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from geco_jax.build import Experiment
from geco_jax.datasets.images import Images
from geco_jax.workdir import write_bytes

_MIN_TILE = 56  # Smaller images are enlarged by a whole factor.
_GAP = 2


def image_rows(
  experiment: Experiment, images: Images, num_columns: int = 12
) -> Callable[[hk.Params], np.ndarray]:
  """Returns the function that makes data, reconstructions and samples.

  Three rows as in Figure 6; the samples do not depend on the images.

  Args:
    experiment: model and data set.
    images: of a split, on the host; its first `num_columns` are shown.
    num_columns: images in a row.

  Returns:
    params, not replicated -> float32 [3, num_columns, height, width, channels].
  """
  num_columns = min(num_columns, len(images.image))
  shown = Images(*(array[:num_columns] for array in images))

  @jax.jit
  def rows(params):
    keys = jax.random.split(jax.random.key(0), (2, num_columns))
    batch = experiment.dataset.assemble(shown, jnp.arange(num_columns))
    output = experiment.model.apply(params, keys[0], batch.image)
    samples = experiment.model.sample(params, keys[1])
    return jnp.stack([batch.image, output.reconstruction, samples])

  return lambda params: np.asarray(rows(params))


def grid(rows: np.ndarray) -> np.ndarray:
  """Returns one picture of rows of images.

  Args:
    rows: float [rows, columns, height, width, channels] in [0, 1].

  Returns:
    uint8 [height, width, 3] on a white ground.
  """
  num_rows, num_columns, height, width, channels = rows.shape
  pixels = np.round(np.clip(rows, 0, 1) * 255).astype(np.uint8)
  pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], max(channels, 3)))
  scale = -(-_MIN_TILE // min(height, width))
  pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
  padded = np.pad(
    pixels,
    ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)),
    constant_values=255,
  )
  tiles = padded.transpose(0, 2, 1, 3, 4)
  return tiles.reshape(num_rows * tiles.shape[1], -1, pixels.shape[-1])


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes a picture, uint8 [height, width, 3], whole or not at all."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='PNG', optimize=True)
  write_bytes(path, buffer.getvalue())
