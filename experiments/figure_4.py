r"""Figure 4: the information plane with and without the RE constraint.

  python -m experiments.figure_4 --preset=quick --workdir=runs/figures \
      --only=color_mnist,mnist_triplets,mnist_sum,mnist_sum_hard,mnist_rotate

ConvDRAW, conditional ConvDRAW and VAE+NVP under the ELBO, the ELBO with hand
annealed beta and GECO at the paper's five kappas, or those of --objectives:
seven runs for each row of --only, by default all ten rows. Rows can be run one
by one, and so can the objectives of a row: figure_4.json keeps the rows and
runs that it has, and the figure shows all of them.
A dashed line beside each row is the rate of a Gaussian with the data's
covariance (`gaussian_rate`).

In quick, the five rows above are of 8x8 digits and their runs short: ConvDRAW
of two steps trains 2,000 times on batches of 32, in WORKDIR/short. A row takes
290 seconds of CPU time, the five about a quarter of an hour on two idle cores.
The ELBO is far from converged then: it ends at a larger RMSE than GECO at the
small kappas, whose KL it cannot exceed. With --noshort these rows too are the
runs of their configs, which other figures share. With --until_rest the steps of
ELBO and annealed beta are doubled until both rest or --max_steps is reached
(`shared.rest`), and GECO has those of the ELBO. Either way figure_4.json says
of each baseline whether it `rested`. --network has the samples compared with
the test split too.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any, NamedTuple

from absl import flags

from geco_jax import cli
from geco_jax.base_config import PAPER_KAPPAS
from geco_jax.evaluation import gaussian_rate
from geco_jax.sweep.grid import Point

from .shared import figure_4_plane
from .shared import panels
from .shared import rest
from .shared import runs
from .shared.runs import Run
from .shared.small_png import write_png

OBJECTIVES = ('elbo', 'annealed_beta', 'geco')
_KAPPAS = tuple({'re': kappa} for kappa in PAPER_KAPPAS)


class Row(NamedTuple):
  """A model on a data set: a color of the figure."""

  panel: str
  data: str
  model: str

  def runs(self, objectives: Sequence[str] = OBJECTIVES) -> list[Run]:
    """Return the runs of its points in the figure, for the objectives."""
    return [
      Run(self.data, objective, kappas, self.model)
      for objective in OBJECTIVES
      if objective in objectives
      for kappas in (_KAPPAS if objective == 'geco' else ({},))
    ]


ROWS = {
  name: Row(
    panel,
    name.removesuffix('_nvp'),
    'nvp' if name.endswith('_nvp') else 'conv_draw',
  )
  for panel, names in figure_4_plane.PANELS.items()
  for name in names
}
# Changes to the configs of ConvDRAW on 8x8 digits; there are no fewer latents.
SHORT = {
  'num_steps': 2_000,
  'batch_size': 32,
  'learning_rate.kwargs.init_value': 2e-3,
  'model.kwargs.num_steps': 2,
  'model.kwargs.latent_channels': 8,
}


def is_short(row: Row, preset: str) -> bool:
  """Return whether `SHORT` applies to the row."""
  dataset = row.runs()[0].config(preset).dataset
  return row.model == 'conv_draw' and dataset.kwargs.get('base') == 'digits'


def points(
  row_runs: Sequence[Run],
  workdir: str,
  preset: str,
  num_steps: int | None = None,
  *,
  short: bool = False,
  until_rest: bool = False,
  max_steps: int | None = None,
) -> list[Point]:
  """Return the most that `run_row` trains, named by folder."""
  folder, changes = _short(short)
  if until_rest:
    folder_path = os.path.join(workdir, folder)
    args = folder_path, preset, num_steps, changes, max_steps
    listed = rest.points(row_runs, *args)
  else:
    listed = runs.points_of(row_runs, preset, num_steps, changes).values()
  return [
    point._replace(name=os.path.join(folder, point.name)) for point in listed
  ]


def _short(short: bool) -> tuple[str, Mapping[str, Any]]:
  """Return the subfolder of a row's runs, and the changes to their configs."""
  return ('short', SHORT) if short else ('', {})


def run_row(
  name: str,
  workdir: str,
  preset: str,
  row_runs: Sequence[Run],
  num_steps: int | None = None,
  data_dir: str | None = None,
  short: bool = False,
  until_rest: bool = False,
  max_steps: int | None = None,
  network: str | None = None,
) -> dict[str, Any]:
  """Train a row's runs, or reuse them; return what the figure shows.

  Args:
    name: key of `ROWS`.
    workdir: for the runs' folders.
    preset: of the configs.
    row_runs: the row's runs.
    num_steps: training steps of each run, if not the configs' or `SHORT`'s.
    data_dir: TFDS data directory.
    short: whether the runs are shortened by `SHORT`.
    until_rest: whether the steps are doubled until the baselines rest.
    max_steps: the cap of these; None is 16 times the first number.
    network: of `runs.with_sample_quality`.
  """
  folder, changes = _short(short)
  place = os.path.join(workdir, folder) if folder else workdir
  args = row_runs, place, preset, num_steps, data_dir, changes
  if until_rest:
    results = rest.train_until_rest(*args, max_steps)
  else:
    results = runs.train_all(*args)
  results = runs.with_sample_quality(rest.judged(results), network, data_dir)
  print(f'\n{name}\n{runs.table(results)}', flush=True)
  curve = gaussian_rate.curve(results[0].experiment.dataset, PAPER_KAPPAS)
  return {
    **runs.provenance(preset),
    'panel': ROWS[name].panel,
    'dataset': results[0].experiment.dataset.name,
    'short': short,
    'gaussian': {k: v.tolist() for k, v in curve._asdict().items()},
    'runs': runs.records(results),
  }


def define_flags() -> None:
  """Define the command's flags."""
  panels.define_flags()
  runs.define_seed_flags()
  flags.DEFINE_list('only', [*ROWS], f'Rows: any of {", ".join(ROWS)}.')
  flags.register_validator(
    'only',
    lambda names: names and set(names) <= set(ROWS),
    f'choose from {", ".join(ROWS)}',
  )
  flags.DEFINE_list(
    'objectives', [*OBJECTIVES], f'Runs: any of {", ".join(OBJECTIVES)}.'
  )
  flags.register_validator(
    'objectives',
    lambda names: names and set(names) <= set(OBJECTIVES),
    f'choose from {", ".join(OBJECTIVES)}',
  )
  flags.DEFINE_bool(
    'short', True, 'Whether the quick rows of 8x8 digits have short runs.'
  )
  rest.define_flags()


def main(argv: Sequence[str]) -> None:
  """Train what is missing, print tables and draw the figure."""
  del argv
  workdir, preset = cli.workdir(), flags.FLAGS.preset
  numbers = os.path.join(workdir, 'figure_4.json')
  rows: Mapping[str, Any] = {}
  for name in flags.FLAGS.only:
    row = run_row(
      name,
      workdir,
      preset,
      runs.with_seeds(ROWS[name].runs(flags.FLAGS.objectives)),
      runs.NUM_STEPS.value,
      cli.DATA_DIR.value,
      short=flags.FLAGS.short and is_short(ROWS[name], preset),
      until_rest=flags.FLAGS.until_rest,
      max_steps=flags.FLAGS.max_steps,
      network=flags.FLAGS.network,
    )
    rows = runs.save_row(numbers, name, row, keep=True)
  print(f'\n{figure_4_plane.table(rows)}')
  path = os.path.join(workdir, 'figure_4.png')
  write_png(path, figure_4_plane.figure(rows), dpi=110)
  print(f'\nnumbers: {numbers}\nfigure 4: {path}')


if __name__ == '__main__':
  cli.run(main, define_flags)
