"""The figures of `rate_distortion`."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from geco_jax.theory import rate_distortion as theory

_TITLES = {
  'literal': 'literal: Algorithm 1',
  'geco': 'GECO, the default of `geco`',
}


def curve_figure(
  rows: Sequence[Mapping[str, Any]],
  traces: Mapping[str, np.ndarray],
  num_steps: int,
  eigenvalues: np.ndarray,
) -> Figure:
  """Return R(D) with the runs on it, and the multipliers during training.

  Args:
    rows: of `rate_distortion.run_update`, one step size for each update.
    traces: update -> multipliers [distortions, points].
    num_steps: steps of training.
    eigenvalues: of the source's covariance [n].
  """
  figure = Figure(figsize=(10, 4.2), layout='constrained')
  curve, multiplier = figure.subplots(1, 2)
  total = eigenvalues.sum()
  distortions = np.linspace(0.5, 1.05 * total, 300)
  curve.plot(
    distortions,
    theory.rate(eigenvalues, distortions),
    color='black',
    label='Shannon, R(D)',
  )
  styles = {'literal': ('s', ':'), 'geco': ('o', '-')}
  for name, trace in traces.items():
    update_rows = [row for row in rows if row['update'] == name]
    marker, line = styles[name]
    label = f'{_TITLES[name]}, step size {update_rows[0]["step_size"]:.2g}'
    curve.plot(
      [row['distortion'] * (1 + row['violation']) for row in update_rows],
      [row['kl_nats'] for row in update_rows],
      marker,
      markersize=6 if name == 'geco' else 12,
      fillstyle='full' if name == 'geco' else 'none',
      label=label,
    )
    for row in update_rows if name == 'geco' else ():
      curve.annotate(
        f'D = {row["distortion"]:g}: KL/R = {1 + row["kl_error"]:.4f}',
        (row['distortion'], row['kl_nats']),
        textcoords='offset points',
        xytext=(11, 3),
      )
    steps = np.linspace(0, num_steps, trace.shape[1])
    for i, values in enumerate(trace):
      multiplier.plot(steps, values, line, color=f'C{i}')
    multiplier.plot([], [], line, color='gray', label=label)
  num_distortions = len(next(iter(traces.values())))
  _draw_optimal_multipliers(multiplier, rows[:num_distortions], num_steps)
  curve.axvline(
    total, color='gray', linewidth=0.8, linestyle='--', label='total variance'
  )
  curve.set(
    xlabel='distortion D, expected squared error',
    ylabel='rate and average KL [nats]',
    title='Rate-distortion function',
    ylim=(-0.5, 27),
  )
  multiplier.plot([], [], 'k--', linewidth=0.8, label='exact, 1 / (2 m)')
  multiplier.set(
    yscale='log',
    xlabel='training step',
    ylabel=r'$\lambda$ [nats per squared error]',
    title='Multiplier',
  )
  top = max(row['optimal_multiplier'] for row in rows)
  multiplier.set_ylim(top=10 * top)  # The legend stands above the curves.
  for axes in (curve, multiplier):
    axes.grid(alpha=0.3)
    axes.legend()
  return figure


def _draw_optimal_multipliers(axes, rows, num_steps):
  """Draw a line for each distortion, its name at the right end."""
  for i, row in enumerate(rows):
    axes.axhline(
      row['optimal_multiplier'], color='black', linewidth=0.8, linestyle='--'
    )
    axes.annotate(
      f'D = {row["distortion"]:g}',
      (num_steps, row['optimal_multiplier']),
      textcoords='offset points',
      xytext=(0, 4),
      color=f'C{i}',
      ha='right',
    )


def robustness_figure(
  rows: Sequence[Mapping[str, Any]],
  kl_tolerance: float,
  multiplier_tolerance: float,
) -> Figure:
  """Return KL / R over step sizes and distortions, a panel an update.

  Args:
    rows: of `rate_distortion.run_update`.
    kl_tolerance: relative, within which a row is called accurate.
    multiplier_tolerance: likewise.
  """
  names = [*dict.fromkeys(row['update'] for row in rows)]
  step_sizes = sorted({row['step_size'] for row in rows})
  distortions = sorted({row['distortion'] for row in rows}, reverse=True)
  figure = Figure(figsize=(11, 4.2), layout='constrained')
  panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
  colors = ListedColormap(
    ['#74bd8c', '#c5e6bb', '#fbe6a2', '#f0a35e', '#d9644a']
  ).with_extremes(bad='#c8c8c8')
  norm = BoundaryNorm([0, 0.3, 1, 3, 10, 1000], colors.N)
  for axes, name in zip(panels, names, strict=True):
    errors = np.full((len(distortions), len(step_sizes)), np.nan)
    for row in rows:
      if row['update'] == name:
        y = distortions.index(row['distortion'])
        x = step_sizes.index(row['step_size'])
        errors[y, x] = np.nan if row['diverged'] else 100 * row['kl_error']
        _annotate_cell(axes, x, y, row)
    axes.imshow(np.abs(errors), cmap=colors, norm=norm, aspect='auto')
    axes.set(
      xticks=range(len(step_sizes)),
      xticklabels=[f'{s:g}' for s in step_sizes],
      yticks=range(len(distortions)),
      yticklabels=[f'{d:g}' for d in distortions],
      xlabel='step size of the multiplier',
      title=_TITLES[name],
    )
  panels[0].set_ylabel('distortion D asked, squared error')
  bar = figure.colorbar(
    ScalarMappable(norm, colors),
    ax=panels,
    spacing='uniform',
    label='$|KL / R - 1|$ [%]; gray \u00d7: diverged',
  )
  bar.set_ticks([0, 0.3, 1, 3, 10], labels=['0', '0.3', '1', '3', '10'])
  figure.suptitle(
    r'KL / R, below it $\lambda / \lambda^*$; framed: KL within '
    rf'{kl_tolerance:.0%} and $\lambda$ within {multiplier_tolerance:.0%}',
    fontsize=11,
  )
  return figure


def _annotate_cell(axes, x, y, row):
  """Write KL / R and the multiplier's ratio into a cell of the map."""
  if row['diverged']:
    text = f'\u00d7\n{1 + row["kl_error"]:.2g}'
  else:
    text = f'{1 + row["kl_error"]:.3f}\n{1 + row["multiplier_error"]:.3f}'
  axes.text(x, y, text, ha='center', va='center', fontsize=9)
  if row['accurate']:
    axes.add_patch(
      Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, linewidth=1.5)
    )
