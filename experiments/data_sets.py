r"""Contact sheets of the composed data sets, to check them by eye.

  python -m experiments.data_sets --base=digits --output=runs/data_sets

Writes NAME.png for every data set of `choices.COMPOSITIONS`, and data_sets.png
with a panel for each. The examples are of the test split. Contexts stand above
targets, an example's labels above both, in the order of its channels.
"""

from collections.abc import Sequence
import inspect
import os

from absl import flags
import jax
from ml_collections.config_dict import ConfigDict
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from geco_jax import cli
from geco_jax.base_config import group
from geco_jax.build import build_dataset
from geco_jax.choices import COMPOSITIONS
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.io import run_folder

_IMAGES_IN_LINE = 12
_LINES = 4  # Lines of a data set's own sheet.
_PANEL_LINES = 2  # Lines of its panel in data_sets.png.
_PANELS_IN_ROW = 2
# Sizes in pixels.
_TITLE_SIZE = 18
_LABEL_SIZE = 15
_MARGIN = 12


def sheet(title: str, dataset: Dataset, num_lines: int) -> np.ndarray:
  """Return lines of labeled examples below a title.

  Args:
    title: stands above the examples.
    dataset: the examples are of its test split, evenly spaced.
    num_lines: lines of examples; fewer where the split has fewer.

  Returns:
    uint8 [height, width, 3].
  """
  channels = [dataset.image_shape[-1]]
  if dataset.context_shape is not None:
    channels.append(dataset.context_shape[-1])
  images_per_example = max(channels) if dataset.channels_are_images else 1
  examples_per_line = _IMAGES_IN_LINE // images_per_example
  batch = pictures.shown_batch(
    dataset, dataset.splits['test'], examples_per_line * num_lines
  )

  def line(start):
    part = jax.tree.map(lambda x: x[start : start + examples_per_line], batch)
    return _line(dataset, part)

  starts = range(0, len(batch.image), examples_per_line)
  return _add_margin(_stack([_text(title), *map(line, starts)]))


def overview(panels: Sequence[np.ndarray]) -> np.ndarray:
  """Return one picture of panels, uint8 [height, width, 3], two in a row."""
  width = max(panel.shape[1] for panel in panels)
  rows = []
  for start in range(0, len(panels), _PANELS_IN_ROW):
    row = panels[start : start + _PANELS_IN_ROW]
    height = max(panel.shape[0] for panel in row)
    rows.append(np.concatenate([_pad(p, height, width) for p in row], axis=1))
  return _stack(rows)


def _line(dataset: Dataset, batch: Batch) -> np.ndarray:
  """Return contexts above targets, with their labels above both."""
  rows = pictures.stack_rows(dataset, batch.context, batch.image)
  grid = pictures.grid(rows)
  column = grid.shape[1] // len(batch.image)
  if batch.context is not None:
    grid = pictures.labeled(grid, ['context', 'target'])
  picture = Image.fromarray(grid)
  margin = picture.width - column * len(batch.image)
  canvas = Image.new(
    'RGB', (picture.width, picture.height + _LABEL_SIZE + _MARGIN), 'white'
  )
  canvas.paste(picture, (0, _LABEL_SIZE))
  draw = ImageDraw.Draw(canvas)
  for i in range(len(batch.image)):
    draw.text(
      (margin + column * (i + 0.5), 0),
      labels_text(batch, i),
      fill='black',
      anchor='mt',
      font=ImageFont.load_default(_LABEL_SIZE),
    )
  return np.asarray(canvas)


def labels_text(batch, i):
  """Return an example's labels as text: those of the context first."""
  parts = [batch.label[i]]
  if batch.context_label is not None:
    parts.insert(0, batch.context_label[i])
  return ' -> '.join(
    ', '.join(str(label) for label in np.ravel(part)) for part in parts
  )


def _text(text):
  font = ImageFont.load_default(_TITLE_SIZE)
  size = (round(font.getlength(text)) + 1, _TITLE_SIZE + _MARGIN)
  canvas = Image.new('RGB', size, 'white')
  ImageDraw.Draw(canvas).text((0, 0), text, fill='black', font=font)
  return np.asarray(canvas)


def _pad(picture, height, width):
  """Return the picture at the top left of a white one of that size."""
  padding = (height - picture.shape[0], width - picture.shape[1])
  return np.pad(
    picture, ((0, padding[0]), (0, padding[1]), (0, 0)), constant_values=255
  )


def _add_margin(picture):
  """Return the picture with a white margin."""
  margins = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
  return np.pad(picture, margins, constant_values=255)


def _stack(parts):
  """Return one picture with the parts one above the other."""
  width = max(part.shape[1] for part in parts)
  return np.concatenate([_pad(p, p.shape[0], width) for p in parts])


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_string(
    'base', 'digits', 'Labeled digits: digits, mnist or a like set of TFDS.'
  )
  cli.define_path('output', None, 'Folder of the sheets.')


def main(argv: Sequence[str]) -> None:
  """Draw the data sets of the base that the flags name."""
  del argv
  output = flags.FLAGS.output
  if not output:
    raise UserError('--output is missing, e.g. --output=runs/data_sets')
  run_folder.create(output)
  panels = []
  for name, composition in COMPOSITIONS.items():
    config = ConfigDict({'dataset': group(name, base=flags.FLAGS.base)})
    dataset = build_dataset(config, cli.DATA_DIR.value)
    first_line = (inspect.getdoc(composition) or name).splitlines()[0]
    title = first_line.removeprefix('Return ').removesuffix('.')
    panels.append(sheet(title, dataset, _PANEL_LINES))
    pictures.save_png(
      os.path.join(output, f'{name}.png'), sheet(title, dataset, _LINES)
    )
  path = os.path.join(output, 'data_sets.png')
  pictures.save_png(path, overview(panels))
  print(f'wrote {path} and a sheet of each')


if __name__ == '__main__':
  cli.run(main, define_flags)
