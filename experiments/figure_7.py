r"""Figure 7: fixed points of beta-VAEs whose decoder is Lipschitz.

  python -m experiments.figure_7 --workdir=runs/figure_7

A mixture of lines and one of circles, each at three betas: without a Lipschitz
constraint, with a local one (pairs of tiles within 0.2) and with a global one
(within 1.0). Two minutes on two idle CPU cores, most of it global.

The paper names no L. On a convex latent space the local constraint implies the
global one of the same L, by adding up along the way, and the JSON's
`same_lipschitz` shows how near the two come. So the rows here have an L each:
at 1 the tiles can just cover the square, and reconstructions cover the regions
between the data; at 4 they are thin bridges.

The table has the largest slope after the last projection, to be within 5% of L;
below it stand the slopes of dual ascent with the paper's literal sign.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
import numpy as np

from geco_jax import cli
from geco_jax.theory import fixed_points
from geco_jax.theory import lipschitz
from geco_jax.theory import toy_data

from .shared import theory_panels

BETAS = (1e-3, 5e-3, 2e-2)
ROWS = {  # Name -> radius and L; None is no constraint.
  'none': None,
  'local': (0.2, 4.0),
  'global': (1.0, 1.0),
}
DATA_SETS = {
  'lines': toy_data.mixture_of_lines,
  'circles': toy_data.mixture_of_circles,
}
NUM_DUAL_STEPS = 150


def dual_ascent_report(
  data: np.ndarray, psi: np.ndarray, beta: float, pairs: lipschitz.Pairs
) -> dict[str, Any]:
  """Return the slopes during dual ascent, with our sign and the paper's.

  Both start from the same unconstrained fixed points and multipliers, L = 1.
  """
  target, precision = lipschitz.target_and_precision(data, psi, beta)
  corrected_slopes, literal_slopes = (
    lipschitz.dual_ascent(
      target, precision, pairs, 1.0, NUM_DUAL_STEPS, projection=projection
    ).largest_slopes
    for projection in (
      lipschitz.project,
      lipschitz.literal_projection(len(data)),
    )
  )
  return {
    'beta': beta,
    'lipschitz': 1.0,
    'unprojected': float(lipschitz.slopes(target, pairs).max()),
    'largest_slopes': corrected_slopes.tolist(),
    'steps_to_five_percent': int(np.argmax(corrected_slopes <= 1.05)) + 1,
    'largest_rise': float(np.diff(corrected_slopes).max(initial=0.0)),
    'literal_sign_largest_slopes': literal_slopes.tolist(),
    'literal_sign_steps_within_five_percent': int(
      (np.abs(literal_slopes - 1) <= 0.05).sum()
    ),
  }


def run_data_set(
  name: str, num_data: int, tiles_per_side: int, max_steps: int, seed: int
) -> tuple[np.ndarray, list[dict[str, Any]], list[Any]]:
  """Return the data, the rows of the table and psi with its trajectories."""
  data = DATA_SETS[name](num_data, seed)
  tiles = fixed_points.grid(tiles_per_side)
  initial = fixed_points.initial_psi(tiles.centers, seed)
  unconstrained = fixed_points.fixed_points(
    data, initial, BETAS, max_steps=max_steps, keep_trajectories=True
  )
  all_pairs = lipschitz.pairs_within(tiles, 2.0)
  rows, points = [], []
  for row, constraint in ROWS.items():
    for i, beta in enumerate(BETAS):
      if constraint is None:
        psi = unconstrained.psi[i]
        trajectory = np.asarray(unconstrained.trajectories)[i]
        bound, pairs = None, all_pairs
      else:
        radius, bound = constraint
        pairs = lipschitz.pairs_within(tiles, radius)
        psi, _, _, trajectory = lipschitz.lipschitz_fixed_points(
          data,
          initial,
          beta,
          pairs,
          bound,
          max_steps=max_steps,
          keep_trajectory=True,
        )
      psi = np.asarray(psi, np.float64)
      rows.append(
        {
          'data': name,
          'constraint': row,
          'beta': beta,
          'lipschitz': bound,
          'largest_slope': float(lipschitz.slopes(psi, pairs).max()),
          'largest_slope_anywhere': float(
            lipschitz.slopes(psi, all_pairs).max()
          ),
        }
      )
      points.append((psi, trajectory))
  return data, rows, points


def same_lipschitz(
  data: np.ndarray,
  initial: np.ndarray,
  tiles: fixed_points.Tiles,
  max_steps: int,
) -> dict[str, float]:
  """Return the distance between local and global psi, both with L = 1."""
  beta = BETAS[1]
  local_psi, global_psi = (
    lipschitz.lipschitz_fixed_points(
      data,
      initial,
      beta,
      lipschitz.pairs_within(tiles, radius),
      1.0,
      max_steps=max_steps,
    ).psi
    for radius in (0.2, 1.0)
  )
  distance = np.sqrt(((local_psi - global_psi) ** 2).sum(axis=1).mean())
  slopes = lipschitz.slopes(local_psi, lipschitz.pairs_within(tiles, 2.0))
  return {
    'beta': beta,
    'rms_distance': float(distance),
    'local_largest_slope_anywhere': float(slopes.max()),
  }


def figure_7(
  data: Mapping[str, np.ndarray], points: Mapping[str, list[Any]]
) -> Figure:
  """Return the figure.

  Args:
    data: by name, [n, 2].
    points: by name, psi and its trajectory, of each row and beta.
  """
  num_columns = len(data) * len(BETAS)
  figure = Figure(
    figsize=(1.75 * num_columns, 1.9 * len(ROWS)), layout='constrained'
  )
  panels = figure.subplots(len(ROWS), num_columns)
  for d, (name, set_points) in enumerate(points.items()):
    for k, (psi, trajectory) in enumerate(set_points):
      row, column = divmod(k, len(BETAS))
      axes = panels[row, d * len(BETAS) + column]
      title = rf'$\beta$ = {BETAS[column]:g}' if row == 0 else ''
      theory_panels.draw_fixed_points(
        axes, data[name], psi, trajectory[:, ::4], title
      )
  for axes, (name, constraint) in zip(panels[:, 0], ROWS.items(), strict=True):
    label = 'no constraint'
    if constraint:
      label = f'{name}\nr = {constraint[0]:g}, L = {constraint[1]:g}'
    axes.set_ylabel(label, fontsize=9)
  return figure


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Return the panels as text, a line each."""
  lines = ['data     constraint   beta    L  largest slope  anywhere']
  for row in rows:
    bound = '-' if row['lipschitz'] is None else f'{row["lipschitz"]:g}'
    lines.append(
      f'{row["data"]:<8} {row["constraint"]:<10} {row["beta"]:>6g} {bound:>4} '
      f'{row["largest_slope"]:>14.3f} {row["largest_slope_anywhere"]:>9.3f}'
    )
  return '\n'.join(lines)


def run(
  workdir: str, num_data: int, tiles_per_side: int, max_steps: int, seed: int
) -> dict[str, Any]:
  """Compute, print and write everything; return the numbers."""
  data, points, rows = {}, {}, []
  for name in DATA_SETS:
    data[name], set_rows, points[name] = run_data_set(
      name, num_data, tiles_per_side, max_steps, seed
    )
    rows += set_rows
  tiles = fixed_points.grid(tiles_per_side)
  initial = fixed_points.initial_psi(tiles.centers, seed)
  circles = data['circles']
  unconstrained, _ = points['circles'][1]
  ascent = dual_ascent_report(
    circles, unconstrained, BETAS[1], lipschitz.pairs_within(tiles, 0.2)
  )
  numbers = {
    'settings': {
      'num_data': num_data,
      'num_tiles': len(initial),
      'max_steps': max_steps,
      'seed': seed,
    },
    'panels': rows,
    'dual_ascent': ascent,
    'same_lipschitz': same_lipschitz(circles, initial, tiles, max_steps),
  }
  print(table(rows))
  print(
    f'\ndual ascent to L = 1 from {ascent["unprojected"]:.1f}: within 5% after '
    f'{ascent["steps_to_five_percent"]} steps, largest rise between steps '
    f'{ascent["largest_rise"]:.3f}; the literal sign begins at '
    f'{ascent["literal_sign_largest_slopes"][0]:.4g} and is within 5% after '
    f'{ascent["literal_sign_steps_within_five_percent"]} of {NUM_DUAL_STEPS}'
  )
  theory_panels.save(workdir, 'figure_7', figure_7(data, points), numbers)
  return numbers


def main(argv: Sequence[str]) -> None:
  """Draw what the flags ask for."""
  del argv
  workdir = cli.workdir()
  theory_panels.check_at_least(num_points=3, tiles_per_side=6, max_iterations=1)
  run(
    workdir,
    theory_panels.NUM_POINTS.value,
    theory_panels.TILES_PER_SIDE.value or 32,
    theory_panels.MAX_ITERATIONS.value,
    theory_panels.DATA_SEED.value,
  )


if __name__ == '__main__':
  cli.run(main)
