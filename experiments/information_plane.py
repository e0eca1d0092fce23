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
from geco_jax import pictures
from geco_jax import training
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import evaluate
from geco_jax.metrics import read_metrics
from geco_jax.metrics import say
from geco_jax.workdir import write_json

_KAPPAS = flags.DEFINE_list(
  'kappas', ['0.06', '0.08', '0.1', '0.15'], 'RMSEs per pixel to reach.'
)
_COLUMNS = 12  # Images in a row of the picture.


def run_one(
  config: ConfigDict, kappa: float, workdir: str, dataset: Dataset
) -> tuple[dict[str, Any], np.ndarray]:
  """Trains and evaluates one kappa.

  Returns:
    Its row of the table, and [2, columns, height, width, channels]: training
    images and their reconstructions.
  """
  config = copy.deepcopy(config)
  config.constraints.re.kappa = kappa
  state = training.train(config, workdir, dataset=dataset)
  evaluation = evaluate(workdir, dataset=dataset)
  experiment = build(config, dataset)
  logged = read_metrics(workdir)
  row = {
    'kappa': kappa,
    'steps': int(state.step),
    'seconds': float(
      np.nansum(config.steps_per_dispatch / logged['steps_per_second'])
    ),
    'infeasible': [
      *training.infeasible(workdir, experiment, state.log_multipliers)
    ],
    'evaluation': evaluation,
  }
  rows = pictures.image_rows(experiment, dataset.splits['train'], _COLUMNS)
  return row, rows(state.params)[:2]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the sweep as text, a line per kappa."""
  lines = [
    '  kappa     RMSE  C/scale  constraint   KL/nats  NLL/dim    lambda'
    '  test RMSE   steps  seconds'
  ]
  for row in rows:
    train = row['evaluation']
    test = train['other_splits']['test']
    constraint = train['constraints']['re']
    verdict = 'met' if constraint['holds'] else 'violated'
    if row['infeasible']:
      verdict = 'infeasible'
    lines.append(
      f'{row["kappa"]:>7g} {train["rmse"]:>8.4f} '
      f'{constraint["violation"]:>+8.2%}  {verdict:<10} '
      f'{train["kl_nats"]:>9.3f} {train["nll_nats_per_dim"]:>8.3f} '
      f'{constraint["multiplier"]:>9.4g} {test["rmse"]:>10.4f}'
      f' {row["steps"]:>7} {row["seconds"]:>8.1f}'
    )
  return '\n'.join(lines)


def plane_figure(rows: Sequence[Mapping[str, Any]], name: str) -> Figure:
  """Returns KL against NLL, and RMSE against kappa."""
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
    (0, 0), slope=1, color='grey', linewidth=1, label=r'RMSE = $\kappa$'
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
  """Runs the sweep that the flags name."""
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
  dataset = build_dataset(config, cli.DATA_DIR.value)
  rows, reconstructions = [], []
  for kappa in kappas:
    say(f'kappa {kappa:g}')
    row, images = run_one(
      config, kappa, os.path.join(workdir, f'kappa_{kappa:g}'), dataset
    )
    rows.append(row)
    reconstructions.append(images)
  print(table(rows))
  for row in rows:
    for line in row['infeasible']:
      print(line)

  write_json(os.path.join(workdir, 'information_plane.json'), rows)
  plane = os.path.join(workdir, 'information_plane.png')
  figure = plane_figure(rows, dataset.name)
  figure.savefig(plane, dpi=120)
  picture = os.path.join(workdir, 'reconstructions.png')
  data = reconstructions[0][0]
  pictures.save_png(
    picture, pictures.grid(np.stack([data, *(r[1] for r in reconstructions)]))
  )
  print(f'\nthe information plane: {plane}')
  print(f'reconstructions:       {picture}')
  names = ', '.join(f'{kappa:g}' for kappa in kappas)
  print(f'  (top row: data; then kappa {names})')


if __name__ == '__main__':
  cli.run(main, takes_config=True, default_config='configs/digits_vae.py')
