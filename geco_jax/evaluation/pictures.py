"""Grids of images as PNG files."""

from collections.abc import Callable, Sequence
import io
import os
from typing import Any

import haiku as hk
import jax
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from PIL.PngImagePlugin import PngInfo

from geco_jax import feed
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import evenly_spaced
from geco_jax.datasets.images import Images
from geco_jax.experiment import Experiment
from geco_jax.experiment import once_per_experiment
from geco_jax.io.files import write_bytes
from geco_jax.keys import key_of

_MIN_TILE = 56  # Smaller images are enlarged by a whole factor.
_GAP = 2
_FONT_SIZE = 14
# Keys of the text chunks in PNG files.
_NUM_ROWS = 'rows'
_MARGIN = 'margin'


@once_per_experiment
def row_programs(
  experiment: Experiment,
) -> tuple[
  Callable[[Images, np.ndarray], Batch], Callable[[hk.Params, Batch], Any]
]:
  """Return the programs of `image_rows`: the batch, and the model's images.

  Returns:
    (images on the host, indices) -> batch; (params, batch) -> reconstructions,
    samples.
  """

  @jax.jit
  def reconstructions_samples(params, batch):
    keys = jax.random.split(key_of(0), (2, len(batch.image)))
    output = experiment.model.apply(params, keys[0], batch.image, batch.context)
    samples = experiment.model.sample(params, keys[1], batch.context)
    return output.reconstruction, samples

  return feed.fixed_examples(experiment.dataset), reconstructions_samples


def image_rows(
  experiment: Experiment, images: Images, num_columns: int = 12
) -> Callable[[hk.Params], np.ndarray]:
  """Return the function that makes data, reconstructions and samples.

  Three rows as in Figure 6; the samples do not depend on the images. A row of
  contexts stands above where the data set has them.

  Args:
    experiment: model and data set.
    images: of a split, on the host; `num_columns` of it are shown, evenly
      spaced.
    num_columns: images in a row.

  Returns:
    params, not replicated -> float32 [3 or 4, num_columns, height, width,
    channels]; see `stack_rows`.
  """
  make_batch, reconstructions_samples = row_programs(experiment)
  batch = make_batch(images, evenly_spaced(num_columns, len(images.image)))

  def rows(params):
    shown = reconstructions_samples(params, batch)
    return stack_rows(experiment.dataset, batch.context, batch.image, *shown)

  return rows


def row_labels(dataset: Dataset, are_met: bool = True) -> list[str]:
  """Return the labels of the rows of `image_rows`.

  Args:
    dataset: of the images.
    are_met: whether the run's constraints are met.
  """
  context = [] if dataset.context_shape is None else ['contexts']
  note = '' if are_met else ' (not met)'
  return [*context, 'data', f'reconstructions{note}', 'samples']


def shown_batch(dataset: Dataset, images: Images, num_examples: int) -> Batch:
  """Return examples of a split, evenly spaced, fewer if it has fewer."""
  indices = evenly_spaced(num_examples, len(images.image))
  return feed.fixed_examples(dataset)(images, indices)


def stack_rows(dataset: Dataset, *rows: jax.Array | None) -> np.ndarray:
  """Return rows of images for people to look at, all of one form.

  Args:
    dataset: has `channels_are_images`; if so, they stand side by side.
    *rows: float [columns, height, width, channels] each; None is left out.

  Returns:
    float32 [rows, columns, height, width, channels], the widest row's width;
    where rows differ in their channels these are three, as `grid` shows them.
  """
  arrays = [np.asarray(row) for row in rows if row is not None]
  if dataset.channels_are_images:
    arrays = [
      row.transpose(0, 1, 3, 2).reshape(*row.shape[:2], -1, 1) for row in arrays
    ]
  if len({row.shape[-1] for row in arrays}) > 1:
    arrays = [_in_color(row) for row in arrays]
  width = max(row.shape[2] for row in arrays)
  return np.stack(
    [
      np.pad(
        row,
        ((0, 0), (0, 0), (0, width - row.shape[2]), (0, 0)),
        constant_values=1.0,
      )
      for row in arrays
    ]
  )


def grid(rows: np.ndarray) -> np.ndarray:
  """Return one picture of rows of images.

  A single channel is shown as gray, two as red and green; channels beyond the
  third are not shown.

  Args:
    rows: float [rows, columns, height, width, channels] in [0, 1].

  Returns:
    uint8 [height, width, 3] on a white ground.
  """
  num_rows, num_columns, height, width, _ = rows.shape
  pixels = np.round(np.clip(_in_color(rows), 0, 1) * 255).astype(np.uint8)
  scale = -(-_MIN_TILE // min(height, width))
  pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
  padded = np.pad(
    pixels,
    ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)),
    constant_values=255,
  )
  tiles = padded.transpose(0, 2, 1, 3, 4)
  return tiles.reshape(num_rows * tiles.shape[1], -1, pixels.shape[-1])


def tiles(dataset: Dataset, images: jax.Array, num_columns: int) -> np.ndarray:
  """Return one picture of images, row by row, the last filled up with white.

  Args:
    dataset: as `stack_rows` takes it.
    images: float [n, height, width, channels] in [0, 1].
    num_columns: images in a row.

  Returns:
    As `grid`.
  """
  shown = _in_color(stack_rows(dataset, images)[0])
  missing = -len(shown) % num_columns
  full = np.pad(
    shown, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=1.0
  )
  return grid(full.reshape(-1, num_columns, *full.shape[1:]))


def _in_color(images: np.ndarray) -> np.ndarray:
  """Return images [..., channels] as [..., 3]; see `grid`."""
  if images.shape[-1] == 1:
    return images.repeat(3, axis=-1)
  shown = images[..., :3]
  missing = 3 - shown.shape[-1]
  return np.pad(shown, [*[(0, 0)] * (shown.ndim - 1), (0, missing)])


def labeled(image: np.ndarray, labels: Sequence[str]) -> np.ndarray:
  """Return a picture with a label left of each of its rows.

  Args:
    image: uint8 [height, width, 3], rows of one height.
    labels: of the rows, from the top.

  Returns:
    uint8 [height, margin + width, 3].
  """
  font = ImageFont.load_default(_FONT_SIZE)
  margin = max(round(font.getlength(label)) for label in labels) + 4 * _GAP
  canvas = Image.new('RGB', (margin, len(image)), 'white')
  for number, label in enumerate(labels):
    ImageDraw.Draw(canvas).text(
      (margin - 2 * _GAP, len(image) * (number + 0.5) / len(labels)),
      label,
      fill='black',
      anchor='rm',
      font=font,
    )
  return np.concatenate([np.asarray(canvas), image], axis=1)


def save_png(
  path: str | os.PathLike, image: np.ndarray, labels: Sequence[str] = ()
) -> None:
  """Write a picture, whole or not at all.

  Args:
    path: the file's path.
    image: uint8 [height, width, 3].
    labels: of the rows of a `grid`, drawn beside them; `read_rows` takes them
      off again.
  """
  buffer = io.BytesIO()
  notes = PngInfo()
  if labels:
    width = image.shape[1]
    image = labeled(image, labels)
    notes.add_text(_NUM_ROWS, str(len(labels)))
    notes.add_text(_MARGIN, str(image.shape[1] - width))
  Image.fromarray(image).save(buffer, 'PNG', optimize=True, pnginfo=notes)
  write_bytes(path, buffer.getvalue())


def read_rows(path: str | os.PathLike) -> np.ndarray:
  """Return a grid's rows without labels, uint8 [rows, height, width, 3].

  Raises:
    OSError: if there is no such file or it is damaged.
    ValueError: if it does not say how many rows it has.
  """
  with Image.open(path) as file:
    image = np.asarray(file.convert('RGB'))
    num_rows = file.info.get(_NUM_ROWS)
    margin = int(file.info.get(_MARGIN, 0))
  if num_rows is None:
    raise ValueError(f'{path} does not say how many rows it has')
  image = image[:, margin:]
  return image.reshape(int(num_rows), -1, *image.shape[1:])
