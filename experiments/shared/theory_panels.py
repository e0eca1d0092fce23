"""What the figures of the theory share: flags, points, trajectories, files."""

import os
from typing import Any

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from geco_jax.errors import UserError
from geco_jax.io.files import write_json
from geco_jax.io.run_folder import create

from .small_png import write_small_png

TILES_PER_SIDE = flags.DEFINE_integer(
  'tiles_per_side',
  None,
  "Tiles per side of the latent grid; else the figure's.",
)
NUM_POINTS = flags.DEFINE_integer('num_points', 300, 'Data points.')
MAX_ITERATIONS = flags.DEFINE_integer(
  'max_iterations', 400, 'Most iterations for each beta.'
)
DATA_SEED = flags.DEFINE_integer('data_seed', 0, 'Seed of data and start.')


def check_at_least(**bounds: int) -> None:
  """Check flags, given their least values by name.

  Raises:
    UserError: if one is less.
  """
  for name, bound in bounds.items():
    value = flags.FLAGS[name].value
    if value is not None and value < bound:
      raise UserError(f'--{name} must be >= {bound}, got {value}')


def draw_fixed_points(
  axes: Axes,
  data: np.ndarray,
  psi: np.ndarray,
  trajectory: np.ndarray,
  title: str,
  psi_size: float = 2.5,
) -> None:
  """Draw data in blue, fixed points in red and trajectories in gray.

  Args:
    axes: to draw into.
    data: [n, 2].
    psi: [tiles, 2].
    trajectory: [steps, tiles, 2].
    title: of the panel.
    psi_size: size of the red points' markers.
  """
  # A panel has one line, with NaN between the trajectories, and no more steps
  # than can be seen: 1,024 lines of 400 steps would be slow to draw.
  steps = np.unique(np.geomspace(1, len(trajectory), 40).astype(int)) - 1
  lines = np.concatenate(
    [trajectory[steps], np.full_like(trajectory[:1], np.nan)]
  )
  axes.plot(
    *lines.transpose(2, 1, 0).reshape(2, -1), color='0.82', linewidth=0.3
  )
  axes.plot(*data.T, '.', color='#2f5fd0', markersize=2.5)
  axes.plot(*psi.T, '.', color='#d0312d', markersize=psi_size)
  axes.set(xlim=(-0.62, 0.62), ylim=(-0.62, 0.62), xticks=[], yticks=[])
  axes.set_aspect('equal')
  axes.set_title(title, fontsize=9, pad=3)


def save(workdir: str, name: str, figure: Figure, numbers: Any) -> None:
  """Write NAME.png, with few colors, and NAME.json; say where."""
  create(workdir)
  path = os.path.join(workdir, name)
  write_json(f'{path}.json', numbers)
  write_small_png(f'{path}.png', figure)
  print(f'\nfigure:  {path}.png\nnumbers: {path}.json')
