r"""Figure 3: the trajectory that GECO takes through the information plane.

  python -m experiments.figure_3 --workdir=runs/figure_3

Trains a run with a RE constraint (or reuses it) and draws its negative
log-likelihood against its KL, and the constraint, the equivalent beta = 1 /
lambda and the pixel error over iterations, all colored by iteration.

The paper's example, conditional ConvDRAW on MNIST-rotate: of 8x8 digits three
minutes on two CPU cores, of MNIST's own twenty
(--config=mnist_rotate_conv_draw:medium). Any config with a RE constraint will
do.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from matplotlib.figure import Figure
import numpy as np

from geco_jax import cli
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.errors import UserError
from geco_jax.io.files import write_json
from geco_jax.training.loop import train

from .shared import runs
from .shared.small_png import write_png

_CONFIG = 'configs/mnist_rotate_conv_draw.py:quick'
_MAX_LINES = 400  # Lines of the log that are drawn; more would not show.


def gaussian_nll(rmse: np.ndarray | float) -> np.ndarray:
  """Return nats per dimension of 8-bit pixels whose error is Gaussian.

  A normal with sigma = RMSE has density entropy 1/2 log(2 pi e RMSE^2), and
  bins 1/255 wide add log 255: Appendix D's NLL where bins are narrow and pixels
  far from 0 and 1, cheap enough for every logged step.
  """
  return 0.5 * np.log(2 * np.pi * np.e * rmse**2) + np.log(255)


def figure_3(
  metrics: Mapping[str, np.ndarray], kappa: float, name: str
) -> Figure:
  """Return the figure.

  Args:
    metrics: of a run, each [lines].
    kappa: of its RE constraint.
    name: name of its data set.
  """
  step = metrics['step']
  beta = np.exp(-metrics['re/log_multiplier'])
  figure = Figure(figsize=(10, 6.5), layout='constrained')
  plane, *over_time = figure.subplot_mosaic(
    [['plane', 'constraint'], ['plane', 'beta'], ['plane', 'error']],
    width_ratios=[1.15, 1],
  ).values()

  colors: dict[str, Any] = dict(c=step, cmap='viridis', s=14)
  points = plane.scatter(
    gaussian_nll(metrics['rmse']), metrics['kl_nats'], **colors
  )
  plane.axvline(float(gaussian_nll(kappa)), color='gray', linestyle='--')
  plane.set(
    xlabel=r'NLL at $\sigma$ = RMSE [nats per dimension]',
    ylabel='KL [nats]',
    title=rf'{name}, GECO+RE, $\kappa$ = {kappa:g}',
  )
  panels = (
    (metrics['re/violation'], 0.0, r'constraint $C / (D \kappa^2)$'),
    (beta, None, r'equivalent $\beta = 1/\lambda$'),
    (metrics['rmse'], kappa, 'pixel error [RMSE]'),
  )
  for axes, (values, threshold, label) in zip(over_time, panels, strict=True):
    axes.scatter(step, values, **colors)
    axes.set(ylabel=label, xscale='log')
    axes.grid(alpha=0.3)
    if threshold is not None:
      axes.axhline(threshold, color='gray', linestyle='--')
  over_time[0].set_yscale('symlog', linthresh=0.1)
  over_time[1].set_yscale('log')
  over_time[2].annotate(
    r'$\kappa$', (step[0], kappa), textcoords='offset points', xytext=(0, 3)
  )
  over_time[2].set_xlabel('iteration')
  plane.grid(alpha=0.3)
  figure.colorbar(points, ax=over_time, label='iteration')
  return figure


def numbers(
  metrics: Mapping[str, np.ndarray], kappa: float, name: str
) -> dict[str, Any]:
  """Return the numbers that are drawn, for figure_3.json."""
  return {
    **runs.provenance(None),
    'dataset': name,
    'kappa': kappa,
    'steps': int(metrics['step'][-1]),
    'curve': {
      'step': metrics['step'].tolist(),
      'kl_nats': metrics['kl_nats'].tolist(),
      'rmse': metrics['rmse'].tolist(),
      'beta': np.exp(-metrics['re/log_multiplier']).tolist(),
    },
  }


def main(argv: Sequence[str]) -> None:
  """Train the run that the flags name, or reuse it, and draw it."""
  del argv
  config, workdir = cli.config(), cli.workdir()
  if 're' not in config.constraints:
    raise UserError('Figure 3 needs a config with an RE constraint')
  experiment = build(config, build_dataset(config, cli.DATA_DIR.value))
  run = os.path.join(workdir, 'run')
  train(config, run, experiment=experiment)
  metrics = {
    name: runs.thinned(values, _MAX_LINES)
    for name, values in runs.training_log(run).items()
  }
  args = metrics, config.constraints.re.kappa, experiment.dataset.name
  record = {
    **numbers(*args),
    'tolerance': config.tolerance,
    'multiplier_rule': config.multipliers.name,
  }
  write_json(os.path.join(workdir, 'figure_3.json'), record)
  path = os.path.join(workdir, 'figure_3.png')
  write_png(path, figure_3(*args), dpi=110)
  print(f'figure 3: {path}')


if __name__ == '__main__':
  cli.run(main, takes_config=True, default_config=_CONFIG)
