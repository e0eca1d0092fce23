"""Figure 8: how posteriors tile the latent space of Micro-MNIST.

  python -m experiments.figure_8 --preset=digits --workdir=runs/figures

VAE+NVP with two latents under the ELBO, GECO+RE and GECO+CLA: 100 samples of
q(z|x) for each of seven digits. Beside it, the average KL against kappa: by the
theory it is ln 7 if the digits are distinguished and the prior is filled
(Proposition 2). CLA's network must have been trained:
`python -m geco_jax.train_classifier`.
"""

from collections.abc import Sequence
import math
import os
from typing import Any, NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from geco_jax import cli
from geco_jax.datasets.batches import fixed_batch
from geco_jax.evaluation.aggregate_posterior import estimate
from geco_jax.keys import per_example_keys
from geco_jax.sweep import results as sweep_results

from .shared import runs
from .shared.panels import asked
from .shared.runs import Result
from .shared.runs import Run
from .shared.small_png import write_png

KAPPAS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.5)
SHOWN = (
  Run('micro_mnist', 'elbo', model='nvp'),
  Run('micro_mnist', 'geco', {'re': 0.05}, 'nvp'),
  Run('micro_mnist', 'geco', {'re': 0.5}, 'nvp'),
  Run('micro_mnist', 'geco', {'cla': 0.9}, 'nvp'),
)
CURVE = tuple(Run('micro_mnist', 'geco', {'re': k}, 'nvp') for k in KAPPAS)
_SAMPLES_PER_DIGIT = 100
_AXIS_LIMIT = 3.5


class Panel(NamedTuple):
  """A run and the estimate of its marginal KL."""

  result: Result
  kl: dict[str, Any]


def posterior_samples(result: Result) -> np.ndarray:
  """Return samples of q(z|x) [digits, samples, 2] of the training digits."""
  posterior = result.experiment.model.posterior
  dataset = result.experiment.dataset
  assert posterior is not None
  images = dataset.splits['train']
  num_digits = len(images.label)
  indices = np.tile(np.arange(num_digits), _SAMPLES_PER_DIGIT)
  batch = fixed_batch(dataset, images, jnp.asarray(indices))
  keys = per_example_keys(jax.random.key(0), jnp.arange(len(indices)))
  params = result.params()
  conditions = posterior.condition(params, batch.image)
  z = posterior.sample(params, keys, conditions)
  return np.asarray(z).reshape(_SAMPLES_PER_DIGIT, num_digits, 2).swapaxes(0, 1)


def tiles_figure(panels: Sequence[Panel]) -> Figure:
  """Return the panels of samples, colored by digit."""
  canvas = Figure(figsize=(3.2 * len(panels), 3.9), layout='constrained')
  grid = canvas.subplots(1, len(panels), squeeze=False)[0]
  for axes, panel in zip(grid, panels, strict=True):
    for number, z in enumerate(posterior_samples(panel.result)):
      axes.scatter(*z.T, s=5, color=f'C{number}', linewidths=0)
    axes.set(
      xlim=(-_AXIS_LIMIT, _AXIS_LIMIT),
      ylim=(-_AXIS_LIMIT, _AXIS_LIMIT),
      aspect='equal',
      xticks=(),
      yticks=(),
    )
    (record,) = runs.records([panel.result])
    axes.set_title(asked(record), fontsize=10)
    axes.set_xlabel(
      f'average KL {panel.kl["average_kl_nats"]:.3f}\n'
      f'marginal KL {panel.kl["marginal_kl_nats"]:.3f}\n'
      f'ln {panel.kl["num_data"]} = {panel.kl["ln_n_nats"]:.3f}'
    )
  return canvas


def curve_figure(panels: Sequence[Panel]) -> Figure:
  """Return average and marginal KL against kappa, beside ln n.

  Their difference is the mutual information of x and z: at most ln n, whether
  or not the prior is filled.
  """
  kappas = [panel.result.run.kappas['re'] for panel in panels]
  canvas = Figure(figsize=(5, 3.5), layout='constrained')
  axes = canvas.subplots()
  for name in ('average', 'marginal'):
    axes.errorbar(
      kappas,
      [panel.kl[f'{name}_kl_nats'] for panel in panels],
      yerr=[2 * panel.kl[f'{name}_kl_error_nats'] for panel in panels],
      marker='o',
      markersize=4,
      label=f'{name} KL',
    )
  information = [
    panel.kl['average_kl_nats'] - panel.kl['marginal_kl_nats']
    for panel in panels
  ]
  axes.plot(
    kappas, information, color='black', linewidth=1, label='their difference'
  )
  num_data, bound = (panels[0].kl[k] for k in ('num_data', 'ln_n_nats'))
  axes.axhline(
    bound, color='gray', linestyle='--', label=f'ln {num_data} = {bound:.3f}'
  )
  axes.set(xscale='log', xlabel=r'$\kappa$ (RMSE per pixel)', ylabel='nats')
  axes.set_xticks(kappas, [f'{kappa:g}' for kappa in kappas])
  axes.minorticks_off()
  axes.legend()
  return canvas


def table(panels: Sequence[Panel]) -> str:
  """Return the runs as text."""
  text = sweep_results.as_text(
    [
      {
        'run': panel.result.run.title,
        'average KL': f'{panel.kl["average_kl_nats"]:.4f}',
        'marginal KL': f'{panel.kl["marginal_kl_nats"]:.4f}',
        'standard error': f'{panel.kl["marginal_kl_error_nats"]:.4f}',
        'RMSE': f'{panel.result.evaluation["rmse"]:.4f}',
      }
      for panel in panels
    ]
  )
  return f'{text}\nln n = {math.log(panels[0].kl["num_data"]):.4f}'


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum(
    'preset',
    'digits',
    ['digits', 'mnist'],
    'Source of the digits: the config variant.',
  )
  flags.DEFINE_integer(
    'num_samples', 10_000, 'Samples of each marginal KL.', lower_bound=2
  )


def main(argv: Sequence[str]) -> None:
  """Train what is missing, draw the figure and the curve."""
  del argv
  workdir, preset = cli.workdir(), flags.FLAGS.preset
  folder = os.path.join(workdir, preset)
  runs_by_name = {run.name: run for run in (*SHOWN, *CURVE)}
  results = runs.train_all(
    [*runs_by_name.values()],
    folder,
    preset,
    runs.NUM_STEPS.value,
    cli.DATA_DIR.value,
  )
  panels = {
    result.run.name: Panel(
      result,
      estimate(
        os.path.join(folder, result.run.name),
        flags.FLAGS.num_samples,
        experiment=result.experiment,
        show_progress=False,
      ),
    )
    for result in results
  }
  print(table([*panels.values()]))
  records = [
    {**record, 'marginal': panels[record['run']].kl}
    for record in runs.records(results)
  ]
  row = {**runs.provenance(preset), 'runs': records}
  runs.save_row(os.path.join(workdir, 'figure_8.json'), preset, row)
  for name, figure in (
    ('figure_8', tiles_figure([panels[run.name] for run in SHOWN])),
    ('figure_8_kappa', curve_figure([panels[run.name] for run in CURVE])),
  ):
    path = os.path.join(workdir, f'{name}_{preset}.png')
    write_png(path, figure, dpi=100)
    print(f'{name}: {path}')


if __name__ == '__main__':
  cli.run(main, define_flags)
