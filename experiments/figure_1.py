r"""Figure 1: blurred reconstructions and holes, computed.

  python -m experiments.figure_1 --workdir=runs/figure_1

Four data points have posteriors that are the prior on a rectangle of the latent
square each. Two rectangles overlap, and the four leave a hole. The optimal
decoder (Eq. 4) is evaluated at every tile of a grid and drawn: in the overlap
it is the average of Eq. 17, and in the hole the objective's gradient is exactly
0, so that anything may be there. The table compares the average KL with that of
an equiprobable partition, log 4, the least that is possible without overlap:
here it is lower, at the price of blur. Takes seconds.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from geco_jax import cli
from geco_jax.theory import fixed_points
from geco_jax.theory import propositions

from .shared import theory_panels

DATA = np.array([[-0.3, 0.28], [0.32, 0.3], [-0.32, -0.26], [0.3, -0.3]])
# Left, right, bottom and top of each support in [-1/2, 1/2]^2.
SUPPORTS = np.array(
  [
    [-0.5, 0.25, 0.0625, 0.5],
    [-0.125, 0.5, 0.0625, 0.5],
    [-0.5, -0.125, -0.5, 0.0625],
    [0.125, 0.5, -0.5, 0.0625],
  ]
)
COLORS = np.array(
  [[0.84, 0.25, 0.2], [0.2, 0.4, 0.85], [0.95, 0.7, 0.2], [0.25, 0.65, 0.4]]
)


def in_supports(points: np.ndarray) -> np.ndarray:
  """Return whether each point [points, 2] is in each support [points, n]."""
  left, right, bottom, top = SUPPORTS.T[:, None]
  x, y = points[:, :1], points[:, 1:]
  return (left <= x) & (x < right) & (bottom <= y) & (y < top)


def hole_gradient(supports: np.ndarray) -> float:
  """Return the largest gradient of the error with respect to psi in holes."""
  # The encoder's masses on the tiles: uniform within its support.
  encoder = jnp.asarray(supports / supports.sum(axis=0, keepdims=True))

  def error(psi):
    squared = fixed_points.squared_distances(jnp.asarray(DATA), psi)
    return (encoder * squared).sum(axis=0).mean()

  psi = jax.random.normal(jax.random.key(0), (len(supports), 2))
  gradients = jax.grad(error)(psi)
  return float(jnp.abs(gradients[~supports.any(axis=1)]).max())


def report(supports: np.ndarray, decoder: np.ndarray) -> dict[str, Any]:
  """Return the figure's numbers.

  Args:
    supports: [tiles, n].
    decoder: [tiles, 2], NaN in the hole.
  """
  masses = supports.mean(axis=0)
  overlap = supports.sum(axis=1) > 1
  weights = (1 / masses[:2]) / (1 / masses[:2]).sum()
  return {
    'masses': masses.tolist(),
    'overlap_mass': float(overlap.mean()),
    'overlap_weights': weights.tolist(),
    'overlap_data': DATA[:2].tolist(),
    'overlap_reconstruction': decoder[overlap][0].tolist(),
    'hole_mass': float((~supports.any(axis=1)).mean()),
    'hole_gradient': hole_gradient(supports),
    'average_kl_nats': propositions.partition_kl(masses),
    'least_kl_nats': float(np.log(len(DATA))),
  }


def figure_1(
  supports: np.ndarray, decoder: np.ndarray, tiles_per_side: int
) -> Figure:
  """Return the figure.

  Args:
    supports: [tiles, n].
    decoder: [tiles, 2], NaN in the hole.
    tiles_per_side: tiles along each side of the grid.
  """
  figure = Figure(figsize=(7.6, 3.9), layout='constrained')
  latent, space = figure.subplots(1, 2)
  _draw_latent(latent, supports, tiles_per_side)
  space.scatter(*DATA.T, s=110, c=COLORS, edgecolors='black', zorder=2)
  for i, point in enumerate(DATA):
    space.annotate(
      f'$x_{i + 1}$', point, textcoords='offset points', xytext=(9, 5)
    )
  overlap = supports.sum(axis=1) > 1
  blurred = decoder[overlap][0]
  space.plot(*DATA[:2].T, color='gray', linestyle='--', zorder=1)
  space.scatter(
    *blurred, s=110, color=_blend(supports)[overlap][0], edgecolors='black'
  )
  space.annotate(
    r'$\hat x$, blurred', blurred, textcoords='offset points', xytext=(-22, 10)
  )
  space.text(
    0, -0.02, r'$\tilde x$: anywhere', ha='center', style='italic', fontsize=10
  )
  space.set(
    xlim=(-0.5, 0.5), ylim=(-0.5, 0.5), title='data space', xticks=[], yticks=[]
  )
  space.set_aspect('equal')
  return figure


def _blend(supports):
  """Return colors [tiles, 3], the data's mixed by Eq. 17; black in holes."""
  masses = supports.mean(axis=0)
  mixed = propositions.overlap_reconstruction(COLORS, masses, supports)
  return np.nan_to_num(mixed)


def _draw_latent(axes: Axes, supports: np.ndarray, tiles_per_side: int):
  """Draw what the decoder does at each tile."""
  image = _blend(supports).reshape(tiles_per_side, tiles_per_side, 3)
  axes.imshow(
    image.transpose(1, 0, 2), origin='lower', extent=(-0.5, 0.5, -0.5, 0.5)
  )
  names = ((-0.32, 0.28), (0.375, 0.28), (-0.32, -0.22), (0.32, -0.22))
  for i, (left, right, bottom, top) in enumerate(SUPPORTS):
    axes.add_patch(
      Rectangle(
        (left, bottom), right - left, top - bottom, fill=False, linewidth=1.2
      )
    )
    axes.text(*names[i], rf'$\Omega_{i + 1}$', ha='center', fontsize=13)
  axes.text(0.06, 0.28, r'$\Omega_1 \cap \Omega_2$', ha='center', fontsize=12)
  axes.text(0, -0.24, 'hole', ha='center', color='white', fontsize=12)
  axes.set(title='latent space', xticks=[], yticks=[])


def table(numbers: dict[str, Any]) -> str:
  """Return the numbers as text."""
  weights = ' and '.join(f'{w:.3f}' for w in numbers['overlap_weights'])
  blurred = ', '.join(f'{x:.3f}' for x in numbers['overlap_reconstruction'])
  return '\n'.join(
    [
      'support masses          '
      + ', '.join(f'{mass:.3f}' for mass in numbers['masses']),
      f'overlap, share of prior {numbers["overlap_mass"]:.3f}',
      f'weights of x_1 and x_2  {weights}',
      f'reconstruction there    ({blurred})',
      f'hole, share of prior    {numbers["hole_mass"]:.3f}',
      f'gradient in the hole    {numbers["hole_gradient"]:g}',
      f'average KL              {numbers["average_kl_nats"]:.4f} nats',
      f'equiprobable partition  {numbers["least_kl_nats"]:.4f} nats',
    ]
  )


def run(workdir: str, tiles_per_side: int) -> dict[str, Any]:
  """Compute, print and write everything; return the numbers."""
  supports = in_supports(fixed_points.grid(tiles_per_side).centers)
  decoder = propositions.overlap_reconstruction(
    DATA, supports.mean(axis=0), supports
  )
  numbers = report(supports, decoder)
  print(table(numbers))
  figure = figure_1(supports, decoder, tiles_per_side)
  theory_panels.save(workdir, 'figure_1', figure, numbers)
  return numbers


def main(argv: Sequence[str]) -> None:
  """Draw what the flags ask for."""
  del argv
  workdir = cli.workdir()
  theory_panels.check_at_least(tiles_per_side=16)
  run(workdir, theory_panels.TILES_PER_SIDE.value or 64)


if __name__ == '__main__':
  cli.run(main)
