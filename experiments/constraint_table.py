"""Every constraint of the paper alone, and two together, on one data set.

  python -m experiments.constraint_table --data=digits --workdir=runs/table

It trains the VAE of configs/digits_vae.py or configs/mnist_vae.py seven times
and prints what each run was asked and what it reached. Rows can be run one
by one, `--only=re+cla`, each for as long as time allows: the file of numbers
keeps those that it has. The classifiers must have been trained:
`python -m geco_jax.train_classifier`.
"""

from collections.abc import Sequence
import os

from absl import flags

from geco_jax import cli

from .shared import runs
from .shared.runs import Run

ROWS = {
  '+'.join(kappas): kappas
  for kappas in (
    {'re': 0.1},
    {'fre': 0.5},
    {'fre_stats': 0.05},
    {'cla': 0.9},
    {'pncc': 0.8},
    {'re': 0.1, 'cla': 0.9},
    {'re': 0.1, 'pncc': 0.9},
  )
}


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum(
    'data',
    'digits',
    ['digits', 'mnist'],
    'Data set, DATA in configs/DATA_vae.py.',
  )
  flags.DEFINE_multi_enum(
    'only', [*ROWS], [*ROWS], 'A row to run; can be given several times.'
  )


def main(argv: Sequence[str]) -> None:
  """Train what is missing, print the table and write the numbers."""
  del argv
  workdir = cli.workdir()
  results = runs.train_all(
    [
      Run(flags.FLAGS.data, 'geco', ROWS[name], 'vae')
      for name in flags.FLAGS.only
    ],
    workdir,
    num_steps=runs.NUM_STEPS.value,
    data_dir=cli.DATA_DIR.value,
  )
  print(runs.table(results))
  path = os.path.join(workdir, f'constraint_table_{flags.FLAGS.data}.json')
  runs.save_records(path, results, keep=True)
  print(f'\nnumbers: {path}')


if __name__ == '__main__':
  cli.run(main, define_flags)
