r"""A sweep of kappa and where its runs end in the information plane.

  python -m experiments.information_plane --config=configs/digits_vae.py \
      --workdir=runs/demo --kappas=0.06,0.08,0.1,0.15

Trains the config once per kappa (finished runs are not trained again),
evaluates it, prints a table and writes information_plane.png,
reconstructions.png and information_plane.json: compression against
reconstruction, as in the paper's Figure 4.
"""

from collections.abc import Mapping, Sequence
import copy
import os
from typing import Any

from absl import flags
from matplotlib.figure import Figure
from ml_collections.config_dict import ConfigDict

from geco_jax import cli
from geco_jax.errors import UserError
from geco_jax.evaluation import verdicts
from geco_jax.io.files import write_json
from geco_jax.io.provenance import trained_on
from geco_jax.sweep import figures as sweep_figures
from geco_jax.sweep import local
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep import throughput
from geco_jax.sweep.grid import points
from geco_jax.sweep.results import Result

from .shared.small_png import write_png

_KAPPAS = flags.DEFINE_list(
  'kappas', ['0.06', '0.08', '0.1', '0.15'], 'RMSEs per pixel to reach.'
)


def train_kappas(
  config: ConfigDict,
  kappas: Sequence[float],
  workdir: str,
  data_dir: str | None = None,
) -> list[Result]:
  """Train and evaluate the config at each kappa, compiled once.

  Raises:
    UserError: if a kappa failed.
  """
  config = copy.deepcopy(config)
  config.sweep = ({'constraints.re.kappa': kappas},)
  grid = points(config)
  choose_width = throughput.on_accelerators(workdir)
  failed = local.run_here(
    grid, workdir, choose_width, data_dir=data_dir, alone=True
  )
  local.raise_failures(failed)
  return sweep_results.read(grid, workdir)


def as_row(result: Result) -> dict[str, Any]:
  """Return the record of a kappa in the file of numbers."""
  config, evaluation = result.point.config, result.evaluation
  infeasible = verdicts.infeasibility_sentences(
    evaluation['constraints'], result.logged
  )
  return {
    'kappa': config.constraints.re.kappa,
    'steps': evaluation['step'],
    'multiplier_rule': config.multipliers.name,
    'seconds': sweep_results.seconds(result),
    **trained_on(result.folder),
    'infeasible': [*infeasible],
    'evaluation': evaluation,
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Return the records as text, a line per kappa."""
  return sweep_results.as_text(
    [
      {'kappa': str(row['kappa']), **sweep_results.cells(row['evaluation'])}
      for row in rows
    ]
  )


def plane_figure(results: Sequence[Result], name: str) -> Figure:
  """Return KL against NLL, and RMSE against kappa."""
  figure = Figure(figsize=(9, 4), layout='constrained')
  plane, met = figure.subplots(1, 2)
  sweep_figures.draw_plane(plane, sweep_results.lines(results), {})
  plane.set_title(f'{name}: information plane')
  kappas = [result.point.config.constraints.re.kappa for result in results]
  for split, style in (('train', 'o-'), ('test', 's--')):
    rmses = [result.record(split)['rmse'] for result in results]
    met.plot(kappas, rmses, style, label=split)
  met.axline(
    (0, 0), slope=1, color='gray', linewidth=1, label=r'RMSE = $\kappa$'
  )
  met.set(
    xlabel=r'$\kappa$ asked [RMSE per pixel]',
    ylabel='RMSE reached',
    title='the constraint',
  )
  met.legend()
  met.grid(alpha=0.3)
  return figure


def main(argv: Sequence[str]) -> None:
  """Run the sweep that the flags name."""
  del argv
  config, workdir = cli.config(), cli.workdir()
  try:
    kappas = sorted(float(text) for text in _KAPPAS.value)
  except ValueError as error:
    raise UserError(f'--kappas must be numbers, got {_KAPPAS.value}') from error
  if not kappas or 're' not in config.constraints:
    raise UserError(
      'the sweep needs --kappas and a config with an RE constraint'
    )
  results = train_kappas(config, kappas, workdir, cli.DATA_DIR.value)
  rows = [as_row(result) for result in results]
  print(table(rows))
  for row in rows:
    for line in row['infeasible']:
      print(line)

  write_json(os.path.join(workdir, 'information_plane.json'), rows)
  plane = os.path.join(workdir, 'information_plane.png')
  write_png(plane, plane_figure(results, config.dataset.name), dpi=120)
  picture = os.path.join(workdir, 'reconstructions.png')
  (line,) = sweep_results.lines(results)
  write_png(picture, sweep_figures.strip(line), dpi=110)
  print(f'\nthe information plane: {plane}')
  print(f'reconstructions:       {picture}')


if __name__ == '__main__':
  cli.run(main, takes_config=True, default_config='configs/digits_vae.py')
