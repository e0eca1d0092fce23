r"""Figure 2: reconstruction fixed points, and the phase transitions in beta.

  python -m experiments.figure_2 --workdir=runs/figure_2

Iterates Appendix A's equations (32x32 tiles, smoothing 0.9, 400 steps or a step
under 1e-3) on 300 points of nested clusters for 200 betas, finds the three
highest peaks of the curvature, and draws trajectories and fixed points between
them. Half a minute on two idle CPU cores.

The table then holds the last transition of four data sets against the largest
eigenvalue of their covariance, above which the mean attracts: the ratio should
be within 5% of 1 where the variance proxy agrees with the eigenvalue. For the
circles, which are skewed, the proxy is 6% larger, and the transition is near
it. It comes from 64 betas around the eigenvalue, without smoothing, since at
a transition convergence is slow.
"""

from collections.abc import Mapping, Sequence
import time
from typing import Any

from absl import flags
from matplotlib.figure import Figure
import numpy as np

from geco_jax import cli
from geco_jax.theory import fixed_points
from geco_jax.theory import phase_transitions
from geco_jax.theory import toy_data

from .shared import theory_panels

_NUM_BETAS = flags.DEFINE_integer(
  'num_betas', 200, 'Betas of the curve, at least 10.'
)

HALF_DISTANCES = (0.3, 0.14, 0.05)  # One for each planted level.
STDDEV = 0.012  # Standard deviation of each cluster.
BETA_RANGE = (3e-4, 0.6)
NUM_BETAS_AROUND = 64  # Betas around the last transition.


def data_sets(num_data: int, seed: int) -> dict[str, np.ndarray]:
  """Return the points [num_data, 2] by name; the figure's come first."""
  return {
    'clusters': toy_data.cluster_hierarchy(
      HALF_DISTANCES, num_data, seed, STDDEV
    ),
    'lines': toy_data.mixture_of_lines(num_data, seed),
    'rectangle': toy_data.rectangle((1.0, 0.6), num_data, seed),
    'circles': toy_data.mixture_of_circles(num_data, seed),
  }


def last_transition(
  data: np.ndarray, initial: np.ndarray, max_steps: int
) -> dict[str, float]:
  """Return the last detected critical beta and the theory's."""
  exact = phase_transitions.last_critical_beta(data)
  betas = np.geomspace(exact / 3, 3 * exact, NUM_BETAS_AROUND)
  points = fixed_points.fixed_points(
    data, initial, betas, smoothing=0.0, max_steps=max_steps, tolerance=1e-5
  )
  critical = phase_transitions.critical_betas(
    betas, np.asarray(points.squared_error), num=None
  ).betas
  last = float(critical.max(initial=0.0))
  return {
    'detected': last,
    'largest_eigenvalue': exact,
    'ratio': last / exact,
    'proxy_ratio': phase_transitions.variance_proxy(data) / exact,
  }


def panel_betas(critical: np.ndarray) -> np.ndarray:
  """Return betas below, between and above the critical ones, ascending."""
  edges = np.sort(critical)
  edges = np.concatenate([[BETA_RANGE[0]], edges, [BETA_RANGE[1]]])
  return np.sqrt(edges[1:] * edges[:-1])


def figure_2(
  data: np.ndarray,
  betas: np.ndarray,
  squared_error: np.ndarray,
  critical: np.ndarray,
  points: fixed_points.FixedPoints,
  chosen_betas: np.ndarray,
) -> Figure:
  """Return the figure.

  Args:
    data: [n, 2].
    betas: [betas], of the curve.
    squared_error: [betas], u.
    critical: [transitions], critical betas, the highest peak first.
    points: fixed points with trajectories, a panel each.
    chosen_betas: [panels].
  """
  figure = Figure(figsize=(2.5 * len(chosen_betas), 5.6), layout='constrained')
  (top,), (bottom,) = figure.subfigures(
    2, 1, height_ratios=[1.05, 1], squeeze=False
  )
  top.suptitle(
    'trajectories (gray) to fixed points (red) of the data (blue)', fontsize=10
  )
  panels = top.subplots(1, len(chosen_betas), squeeze=False)[0]
  for i, (axes, beta) in enumerate(zip(panels, chosen_betas, strict=True)):
    psi = np.asarray(points.psi[i])
    trajectory = np.asarray(points.trajectories)[i]
    title = rf'$\beta$ = {beta:.2g}, u = {float(points.squared_error[i]):.2g}'
    theory_panels.draw_fixed_points(axes, data, psi, trajectory, title, 6)
  error, curvature = bottom.subplots(1, 2)
  error.plot(betas, squared_error, color='black')
  curvature.plot(
    betas[1:-1],
    phase_transitions.curvature(betas, squared_error),
    color='black',
    linewidth=1,
  )
  error.set(ylabel=r'$u(\beta) = E\|x - g(z)\|^2$', yscale='log')
  curvature.set_ylabel(r'curvature $-\beta\, \partial^2 u / \partial \beta^2$')
  for axes in (error, curvature):
    axes.set(xscale='log', xlabel=r'$\beta$')
    for k, beta in enumerate(critical):
      axes.axvline(float(beta), color='gray', linewidth=0.8, linestyle='--')
      axes.annotate(
        rf'$\beta_c^{k + 1}$',
        (float(beta), 0),
        xycoords=('data', 'axes fraction'),
        textcoords='offset points',
        xytext=(2, 4),
        fontsize=9,
      )
  return figure


def table(numbers: Mapping[str, Any]) -> str:
  """Return transitions and comparisons as text."""
  lines = ['transition  critical beta  curvature']
  for k, row in enumerate(numbers['transitions']):
    lines.append(f'{k + 1:>10}  {row["beta"]:>13.5f}  {row["curvature"]:>9.2f}')
  lines += [
    '',
    'data       last transition  largest eigenvalue  ratio  proxy/eigenvalue',
  ]
  for name, row in numbers['last_transition'].items():
    lines.append(
      f'{name:<9}  {row["detected"]:>15.5f}  {row["largest_eigenvalue"]:>18.5f}'
      f'  {row["ratio"]:>5.3f}  {row["proxy_ratio"]:>16.3f}'
    )
  return '\n'.join(lines)


def run(
  workdir: str,
  num_betas: int,
  num_data: int,
  tiles_per_side: int,
  max_steps: int,
  seed: int,
) -> dict[str, Any]:
  """Compute, print and write everything; return the numbers."""
  sets = data_sets(num_data, seed)
  data = next(iter(sets.values()))
  initial = fixed_points.initial_psi(
    fixed_points.grid(tiles_per_side).centers, seed
  )
  betas = np.geomspace(*BETA_RANGE, num_betas)
  start = time.perf_counter()
  curve = fixed_points.fixed_points(data, initial, betas, max_steps=max_steps)
  squared_error = np.asarray(curve.squared_error, np.float64)
  seconds = time.perf_counter() - start
  transitions = phase_transitions.critical_betas(betas, squared_error)
  chosen_betas = panel_betas(transitions.betas)
  points = fixed_points.fixed_points(
    data, initial, chosen_betas, max_steps=max_steps, keep_trajectories=True
  )
  numbers = {
    'settings': {
      'num_betas': num_betas,
      'num_data': num_data,
      'num_tiles': len(initial),
      'max_steps': max_steps,
      'seed': seed,
      'half_distances': HALF_DISTANCES,
      'stddev': STDDEV,
    },
    'seconds': seconds,
    'transitions': [
      {'beta': float(beta), 'curvature': float(height)}
      for beta, height in zip(*transitions, strict=True)
    ],
    'panels': [
      {
        'beta': float(beta),
        'distinct_fixed_points': phase_transitions.count_distinct(psi, 1e-2),
        'squared_error': float(u),
        'kl_nats': float(kl),
      }
      for beta, psi, u, kl in zip(
        chosen_betas,
        points.psi,
        points.squared_error,
        points.kl_nats,
        strict=True,
      )
    ],
    'last_transition': {
      name: last_transition(points, initial, max_steps)
      for name, points in sets.items()
    },
  }
  print(f'{num_betas} betas in {seconds:.1f} s\n\n{table(numbers)}')
  figure = figure_2(
    data, betas, squared_error, transitions.betas, points, chosen_betas
  )
  theory_panels.save(workdir, 'figure_2', figure, numbers)
  return numbers


def main(argv: Sequence[str]) -> None:
  """Draw what the flags ask for."""
  del argv
  workdir = cli.workdir()
  theory_panels.check_at_least(
    num_betas=10, num_points=8, tiles_per_side=2, max_iterations=1
  )
  run(
    workdir,
    _NUM_BETAS.value,
    theory_panels.NUM_POINTS.value,
    theory_panels.TILES_PER_SIDE.value or 32,
    theory_panels.MAX_ITERATIONS.value,
    theory_panels.DATA_SEED.value,
  )


if __name__ == '__main__':
  cli.run(main)
