"""Figures 6, 9, 10 and 11: panels of data, reconstructions and samples."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from absl import flags
from matplotlib.figure import Figure
import numpy as np

from geco_jax import cli
from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.sizes import SIZES

from . import runs
from .runs import Result
from .runs import Run
from .small_png import write_png

PRESETS = (*SIZES,)
_COLUMNS = 8  # Images in a row of a panel.
_PANELS_IN_ROW = 4  # The most panels side by side; six are two rows of three.


def figure(results: Sequence[Result]) -> Figure:
  """Return the panels; rows of each: data, reconstructions, samples."""
  names = {result.experiment.dataset.name for result in results}
  return draw(
    [_picture(result) for result in results],
    [title(runs.records([result])[0], len(names) > 1) for result in results],
    pictures.row_labels(results[0].experiment.dataset),
  )


def draw(
  images: Sequence[np.ndarray], titles: Sequence[str], labels: Sequence[str]
) -> Figure:
  """Return titled panels, the rows of the leftmost ones labeled.

  Args:
    images: uint8 [height, width, 3], each of rows of one height.
    titles: of the panels.
    labels: of the rows.
  """
  num_rows = -(-len(images) // _PANELS_IN_ROW)
  columns = -(-len(images) // num_rows)
  height, width = images[0].shape[:2]
  canvas = Figure(
    figsize=(4 * columns + 0.9, (4 * height / width + 0.6) * num_rows),
    layout='constrained',
  )
  grid = canvas.subplots(num_rows, columns, squeeze=False).ravel()
  for axes in grid:
    axes.set_axis_off()
  for i, (axes, image) in enumerate(zip(grid, images, strict=False)):
    axes.imshow(image)
    axes.set_title(titles[i], fontsize=9)
    if i % columns == 0:
      axes.set_axis_on()
      axes.spines[:].set_visible(False)
      middles = (np.arange(len(labels)) + 0.5) * len(image) / len(labels)
      axes.set_yticks(middles, labels, fontsize=9)
      axes.tick_params(length=0)
      axes.set_xticks([])
  return canvas


def title(record: Mapping[str, Any], name_data: bool) -> str:
  """Return a panel's title: what was asked, whether it was met, what it cost.

  It also has the samples' distance to the test split, where measured.

  Args:
    record: of `runs.records`.
    name_data: whether to name the data set.
  """
  evaluation = record['evaluation']
  data = f'{record["data"]}, ' if name_data else ''
  lines = [
    f'{data}{asked(record)}',
    f'KL {evaluation["kl_nats"]:.0f} nats, RMSE {evaluation["rmse"]:.3f}',
  ]
  if 'sample_quality' in record:
    distances = record['sample_quality']['frechet']
    lines.append(
      f'Frechet distance {distances["samples"]:.3g}, of training images '
      f'{distances["train"]:.3g}'
    )
  return '\n'.join(lines)


def asked(record: Mapping[str, Any]) -> str:
  """Return what a run was asked, and whether it was not met."""
  run = Run(**{field: record[field] for field in Run._fields})
  outcomes = {
    verdicts.read(record['evaluation'], name, record['infeasible'])
    for name in record['kappas']
  }
  return f'{run.title} (not met)' if outcomes - {verdicts.MET} else run.title


def _picture(result: Result) -> np.ndarray:
  """Return rows of data, reconstructions and samples, uint8."""
  rows = pictures.image_rows(
    result.experiment, result.experiment.dataset.splits['test'], _COLUMNS
  )
  return pictures.grid(rows(result.params()))


def define_flags() -> None:
  """Define the command's flags."""
  define_preset_flag()
  runs.define_network_flag()


def define_preset_flag() -> None:
  """Define --preset."""
  flags.DEFINE_enum(
    'preset',
    'quick',
    PRESETS,
    'Size of the models and data: the config variant.',
  )


def main(name: str, panels: Sequence[Run], first: int | None = None) -> None:
  """Train and draw the panels of a figure, as the flags say.

  Args:
    name: name of the figure.
    panels: its runs.
    first: how many of them also have a picture of their own.
  """
  workdir = cli.workdir()
  results = runs.train_all(
    panels,
    workdir,
    flags.FLAGS.preset,
    runs.NUM_STEPS.value,
    cli.DATA_DIR.value,
  )
  results = runs.with_sample_quality(
    results, flags.FLAGS.network, cli.DATA_DIR.value
  )
  print(runs.table(results))
  runs.save_records(os.path.join(workdir, f'{name}.json'), results)
  drawn = {name: results}
  if first is not None:
    drawn[f'{name}_{results[0].run.data}'] = results[:first]
  for picture, shown in drawn.items():
    path = os.path.join(workdir, f'{picture}.png')
    write_png(path, figure(shown), dpi=100)
    print(f'{picture}: {path}')
