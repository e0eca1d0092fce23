r"""A sweep of kappa and where its runs end in the information plane.

  python -m experiments.information_plane --config=configs/digits_vae.py \
      --workdir=runs/demo --kappas=0.06,0.08,0.1,0.15

Trains the config once per kappa (what is trained already is not trained again),
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
import numpy as np

from geco_jax import cli
from geco_jax.build import build_dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.io.files import write_json
from geco_jax.sweep import local
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep.grid import points
from geco_jax.sweep.results import Result

_KAPPAS = flags.DEFINE_list(
  'kappas', ['0.06', '0.08', '0.1', '0.15'], 'RMSEs per pixel to reach.'
)


def train_kappas(
  config: ConfigDict,
  kappas: Sequence[float],
  workdir: str,
  data_dir: str | None = None,
) -> list[Result]:
  """Trains and evaluates the config at each kappa, compiled once.

  Raises:
    UserError: if a kappa failed.
  """
  config = copy.deepcopy(config)
  config.sweep = ({'constraints.re.kappa': kappas},)
  grid = points(config)
  failed = local.run_here(grid, workdir, data_dir=data_dir)
  if failed:
    names = ', '.join(point.name for point in failed)
    raise UserError(
      f'{names} failed; {local.ERROR_LOG} in its folder in {workdir} says why'
    )
  return sweep_results.read(grid, workdir)


def as_row(result: Result) -> dict[str, Any]:
  """Return what is kept of a kappa, a row of the table."""
  config, evaluation = result.point.config, result.evaluation
  infeasible = verdicts.infeasible(evaluation['constraints'], result.logged)
  return {
    'kappa': config.constraints.re.kappa,
    'steps': evaluation['step'],
    'multiplier_rule': config.multipliers.name,
    'seconds': sweep_results.seconds(result),
    'infeasible': [*infeasible],
    'evaluation': evaluation,
  }


def reconstructions(results: Sequence[Result]) -> np.ndarray:
  """Return training images, then a row per kappa, uint8, one picture."""
  rows = [
    pictures.read_rows(os.path.join(r.folder, 'reconstructions_train.png'))
    for r in results
  ]
  # The last three: data, reconstructions, samples.
  return np.concatenate([rows[0][-3], *(row[-2] for row in rows)])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Return the sweep as text, a line per kappa."""
  lines = [
    '  kappa     RMSE  C/scale  constraint   KL/nats  NLL/dim    lambda'
    '  test RMSE   steps  seconds'
  ]
  for row in rows:
    train = row['evaluation']
    test = train['other_splits']['test']
    constraint = train['constraints']['re']
    verdict = verdicts.read(train, 're', row['infeasible'])
    lines.append(
      f'{row["kappa"]:>7g} {train["rmse"]:>8.4f} '
      f'{constraint["violation"]:>+8.2%}  {verdict:<10} '
      f'{train["kl_nats"]:>9.3f} {train["nll_nats_per_dim"]:>8.3f} '
      f'{constraint["multiplier"]:>9.4g} {test["rmse"]:>10.4f}'
      f' {row["steps"]:>7} {row["seconds"]:>8.1f}'
    )
  return '\n'.join(lines)


def plane_figure(rows: Sequence[Mapping[str, Any]], name: str) -> Figure:
  """Return KL against NLL, and RMSE against kappa."""
  figure = Figure(figsize=(9, 4), layout='constrained')
  plane, met = figure.subplots(1, 2)
  for split, marker in (('train', 'o-'), ('test', 's--')):
    records = [
      row['evaluation']
      if split == 'train'
      else row['evaluation']['other_splits'][split]
      for row in rows
    ]
    nll = [record['nll_nats_per_dim'] for record in records]
    kl = [record['kl_nats'] for record in records]
    plane.plot(nll, kl, marker, label=split)
    kappas = [row['kappa'] for row in rows]
    met.plot(kappas, [r['rmse'] for r in records], marker, label=split)
    if split == 'train':
      for kappa, x, y in zip(kappas, nll, kl, strict=True):
        plane.annotate(
          rf'$\kappa$={kappa:g}',
          (x, y),
          textcoords='offset points',
          xytext=(6, -12),
        )
  plane.set(
    xlabel=r'NLL at $\sigma_{opt}$ [nats per dimension]',
    ylabel='KL [nats]',
    title=f'{name}: information plane',
  )
  met.axline(
    (0, 0), slope=1, color='gray', linewidth=1, label=r'RMSE = $\kappa$'
  )
  met.set(
    xlabel=r'$\kappa$ asked [RMSE per pixel]',
    ylabel='RMSE reached',
    title='the constraint',
  )
  for axes in (plane, met):
    axes.legend()
    axes.grid(alpha=0.3)
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
  dataset = build_dataset(config, cli.DATA_DIR.value)
  rows = [as_row(result) for result in results]
  print(table(rows))
  for row in rows:
    for line in row['infeasible']:
      print(line)

  write_json(os.path.join(workdir, 'information_plane.json'), rows)
  plane = os.path.join(workdir, 'information_plane.png')
  figure = plane_figure(rows, dataset.name)
  figure.savefig(plane, dpi=120)
  picture = os.path.join(workdir, 'reconstructions.png')
  labels = ['data', *(f'kappa {kappa:g}' for kappa in kappas)]
  pictures.save_png(picture, reconstructions(results), labels)
  print(f'\nthe information plane: {plane}')
  print(f'reconstructions:       {picture}')


if __name__ == '__main__':
  cli.run(main, takes_config=True, default_config='configs/digits_vae.py')
