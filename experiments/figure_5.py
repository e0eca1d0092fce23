r"""Figure 5: the average KL of GECO and the ELBO at one reconstruction error.

  python -m experiments.figure_5 --preset=quick --workdir=runs/figures \
      --data=mnist,cifar10
  python -m experiments.figure_5 --workdir=runs/figures --data=digits

Trains with the ELBO, takes the RMSE that it ends with on the training split,
trains the same model with GECO at kappa = that RMSE, and draws both KLs against
iterations. The paper's is ConvDRAW on CIFAR-10; digits is the VAE of
configs/digits_vae.py, a minute. Data sets can be run one by one: figure_5.json
keeps those that it has, and the figure shows all of them.

With --until_rest the steps of the ELBO are doubled until it rests or
--max_steps is reached (`shared.rest`), and GECO has as many: a row of its own.

The model can just reach that kappa, and reaches it at the very end: no kappa is
harder for a multiplier.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geco_jax import cli
from geco_jax.evaluation import verdicts
from geco_jax.sweep import completion
from geco_jax.sweep.grid import Point

from .shared import panels
from .shared import rest
from .shared import runs
from .shared.runs import Result
from .shared.runs import Run
from .shared.small_png import write_png

DATA = ('cifar10', 'mnist', 'digits')
_DIGITS = 4  # Significant digits of kappa, which is in the run's name.
_TICKS = (0.01, 0.03, 0.05, 0.1, 0.2)  # RMSEs; those of long runs are small.
_MAX_POINTS = 200  # Points of a curve; more would not show.
_COLORS = {'elbo': 'tab:green', 'geco': 'tab:blue'}  # The paper's colors.


def run_row(
  data: str,
  workdir: str,
  preset: str,
  seed: int = 0,
  num_steps: int | None = None,
  data_dir: str | None = None,
  *,
  until_rest: bool = False,
  max_steps: int | None = None,
) -> dict[str, Any]:
  """Train both runs, or reuse them; return what the figure shows of them.

  Args:
    data: of `DATA`.
    workdir: for the runs' folders.
    preset: of the configs; the digits' config has none.
    seed: of both runs.
    num_steps: training steps of each run, if not the configs'.
    data_dir: TFDS data directory.
    until_rest: whether the steps are doubled until the ELBO rests.
    max_steps: the cap of these; see `rest.lengths`.
  """
  variant, elbo = variant_of(data, preset), elbo_run(data, seed)
  args = [elbo], workdir, variant, num_steps, data_dir
  if until_rest:
    (first,) = rest.train_until_rest(*args, max_steps=max_steps)
  else:
    (first,) = runs.train_all(*args)
  geco = geco_run(elbo, first.evaluation['rmse'])
  place, steps = os.path.dirname(first.folder), first.config.num_steps
  (second,) = runs.train_all([geco], place, variant, steps, data_dir)
  both = [
    result._replace(rested=rest.is_at_rest(result))
    for result in (first, second)
  ]
  return {
    **runs.provenance(variant),
    'dataset': first.experiment.dataset.name,
    'runs': runs.records(both),
    'curves': {'elbo': curve(first), 'geco': curve(second)},
  }


def points(
  elbo: Run,
  workdir: str,
  preset: str,
  num_steps: int | None = None,
  *,
  until_rest: bool = False,
  max_steps: int | None = None,
) -> list[Point]:
  """Return the most that `run_row` trains after this run, named by folder."""
  variant = variant_of(elbo.data, preset)
  args = variant, num_steps, {}
  if until_rest:
    listed = rest.points([elbo], workdir, *args, max_steps)
  else:
    listed = [*runs.points_of([elbo], *args).values()]
  last = listed[-1]
  done = completion.read_evaluation(last, workdir, runs.EVALUATED_SPLITS)
  # Before the ELBO has ended nobody knows kappa, which costs nothing.
  geco = geco_run(elbo, done['rmse'] if done else 0.1)
  steps = last.config.num_steps
  (second,) = runs.points_of([geco], variant, steps, {}).values()
  name = os.path.join(os.path.dirname(last.name), second.name)
  return [
    *listed,
    second._replace(name=name if done else f'{last.name}, then GECO'),
  ]


def row_name(data: str, until_rest: bool) -> str:
  """Return the name of a row, of which those of other seeds begin with it."""
  return f'{data} until rest' if until_rest else data


def variant_of(data: str, preset: str) -> str | None:
  """Return the variant of a data set's config; the digits' has none."""
  return None if data == 'digits' else preset


def elbo_run(data: str, seed: int = 0) -> Run:
  """Return the run under the ELBO, which comes first."""
  model = 'vae' if data == 'digits' else 'conv_draw'
  return Run(data, 'elbo', model=model, seed=seed)


def geco_run(elbo: Run, rmse: float) -> Run:
  """Return the run of GECO at the RMSE that the ELBO's run ended with."""
  kappa = float(f'{rmse:.{_DIGITS}g}')
  return elbo._replace(objective='geco', kappas={'re': kappa})


def curve(result: Result) -> dict[str, list[float]]:
  """Return a run's training curves, at most 200 points of each.

  Raises:
    UserError: if its log is gone.
  """
  log = runs.training_log(result.folder)
  return {
    name: [float(f'{x:.6g}') for x in runs.thinned(log[name], _MAX_POINTS)]
    for name in ('step', 'kl_nats', 'rmse')
  }


def table(rows: Mapping[str, Any]) -> str:
  """Return a line per data set: both RMSEs and both KLs."""
  width = max(16, *map(len, rows))
  lines = [
    f'{"":<{width}}  RMSE: ELBO     GECO  difference   KL: ELBO     GECO  '
    'GECO/ELBO'
  ]
  for name, row in rows.items():
    elbo, geco = (run['evaluation'] for run in row['runs'])
    lines.append(
      f'{name:<{width}} {elbo["rmse"]:>11.4f} {geco["rmse"]:>8.4f} '
      f'{geco["rmse"] / elbo["rmse"] - 1:>+11.2%} {elbo["kl_nats"]:>10.1f} '
      f'{geco["kl_nats"]:>8.1f} {geco["kl_nats"] / elbo["kl_nats"]:>10.3f}'
    )
  return '\n'.join(lines)


def figure(rows: Mapping[str, Any]) -> Figure:
  """Return the figure: KLs against iterations, and RMSEs below them."""
  seeds_by_data: dict[str, list] = {}
  for name, row in rows.items():
    seeds_by_data.setdefault(name.partition(',')[0], []).append(row)
  canvas = Figure(figsize=(3.6 * len(seeds_by_data), 5), layout='constrained')
  grid = canvas.subplots(
    2, len(seeds_by_data), squeeze=False, sharex='col', height_ratios=[2, 1]
  )
  for (kl, rmse), (data, seeds) in zip(
    grid.T, seeds_by_data.items(), strict=True
  ):
    for row in seeds:
      _draw_row(kl, rmse, row, labeled=row is seeds[0])
    kl.set(title='\n'.join([data, _asked(seeds)]), ylabel='KL [nats]')
    kl.legend()
    rmse.set(xlabel='iteration', ylabel='RMSE', yscale='log')
    rmse.yaxis.set_major_formatter('{x:g}')
    rmse.yaxis.set_minor_formatter('')
    lowest = min(row['runs'][1]['kappas']['re'] for row in seeds)
    rmse.set_yticks([t for t in _TICKS if t > lowest or t >= 0.03])
    for axes in (kl, rmse):
      axes.grid(alpha=0.3)
  return canvas


def _draw_row(
  kl: Axes, rmse: Axes, row: Mapping[str, Any], labeled: bool
) -> None:
  """Draw a row's two runs; the seeds of a data set share axes."""
  for objective, values in row['curves'].items():
    for axes, quantity in ((kl, 'kl_nats'), (rmse, 'rmse')):
      axes.plot(
        values['step'],
        values[quantity],
        color=_COLORS[objective],
        linewidth=1.2,
        label=objective.upper() if labeled else None,
      )
  kappa = row['runs'][1]['kappas']['re']
  rmse.axhline(kappa, color='gray', linestyle='--', linewidth=1)


def _asked(seeds: Sequence[Mapping[str, Any]]) -> str:
  """Return the kappas of a data set's seeds, and whether any was not met."""
  kappas = ', '.join(f'{row["runs"][1]["kappas"]["re"]:g}' for row in seeds)
  outcomes = [
    verdicts.read(
      row['runs'][1]['evaluation'], 're', row['runs'][1]['infeasible']
    )
    for row in seeds
  ]
  failed = sum(verdict != verdicts.MET for verdict in outcomes)
  note = '' if not failed else ', not met'
  if 0 < failed < len(seeds):
    note = f', not met by {failed} of {len(seeds)} seeds'
  return rf'$\kappa$ = {kappas}{note}'


def define_flags() -> None:
  """Define the command's flags."""
  panels.define_preset_flag()
  runs.define_seed_flags()
  rest.define_flags()
  flags.DEFINE_list('data', ['cifar10', 'mnist'], f'Any of {", ".join(DATA)}.')
  flags.register_validator(
    'data',
    lambda names: names and set(names) <= set(DATA),
    f'choose from {", ".join(DATA)}',
  )


def main(argv: Sequence[str]) -> None:
  """Train what is missing, print the table and draw the figure."""
  del argv
  workdir = cli.workdir()
  numbers = os.path.join(workdir, 'figure_5.json')
  rows: Mapping[str, Any] = {}
  first = flags.FLAGS.seed
  for data in flags.FLAGS.data:
    for seed in range(first, first + flags.FLAGS.num_seeds):
      row = run_row(
        data,
        workdir,
        flags.FLAGS.preset,
        seed,
        runs.NUM_STEPS.value,
        cli.DATA_DIR.value,
        until_rest=flags.FLAGS.until_rest,
        max_steps=flags.FLAGS.max_steps,
      )
      name = row_name(data, flags.FLAGS.until_rest)
      rows = runs.save_row(
        numbers, f'{name}, seed {seed}' if seed else name, row
      )
  print(table(rows))
  path = os.path.join(workdir, 'figure_5.png')
  write_png(path, figure(rows), dpi=110)
  print(f'\nnumbers: {numbers}\nfigure 5: {path}')


if __name__ == '__main__':
  cli.run(main, define_flags)
