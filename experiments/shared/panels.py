"""Figures 6, 9, 10 and 11: panels of data, reconstructions and samples."""

from collections.abc import Sequence
import os

from absl import flags
from matplotlib.figure import Figure
import numpy as np

from geco_jax import cli
from geco_jax.evaluation import pictures

from . import runs
from .runs import Result
from .runs import Run

PRESETS = ('quick', 'gpu', 'paper')
_COLUMNS = 8  # Images in a row of a panel.
_PANELS_IN_ROW = 4  # The most panels side by side; six are two rows of three.


def figure(results: Sequence[Result]) -> Figure:
  """Return the panels; rows of each: data, reconstructions, samples."""
  images = [_picture(result) for result in results]
  rows = -(-len(results) // _PANELS_IN_ROW)
  columns = -(-len(results) // rows)
  height, width = images[0].shape[:2]
  canvas = Figure(
    figsize=(4 * columns, (4 * height / width + 0.5) * rows),
    layout='constrained',
  )
  grid = canvas.subplots(rows, columns, squeeze=False).ravel()
  for axes in grid:
    axes.set_axis_off()
  for axes, image, result in zip(grid, images, results, strict=False):
    evaluation = result.evaluation
    axes.imshow(image, interpolation='nearest')
    axes.set_title(
      f'{result.run.title}\nKL {evaluation["kl_nats"]:.0f} nats, RMSE '
      f'{evaluation["rmse"]:.3f}',
      fontsize=9,
    )
  return canvas


def _picture(result: Result) -> np.ndarray:
  """Return rows of data, reconstructions and samples, uint8."""
  rows = pictures.image_rows(
    result.experiment, result.experiment.dataset.splits['test'], _COLUMNS
  )
  return pictures.grid(rows(result.params))


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum(
    'preset',
    'quick',
    PRESETS,
    'Size of the models and data: the config variant.',
  )


def main(name: str, panels: Sequence[Run]) -> None:
  """Train and draw the panels of a figure, as the flags say."""
  workdir = cli.workdir()
  results = runs.train_all(
    panels,
    workdir,
    flags.FLAGS.preset,
    runs.NUM_STEPS.value,
    cli.DATA_DIR.value,
  )
  print(runs.table(results))
  runs.save_records(os.path.join(workdir, f'{name}.json'), results)
  path = os.path.join(workdir, f'{name}.png')
  figure(results).savefig(path, dpi=100)
  print(f'\n{name}, rows: data, reconstructions, samples: {path}')
