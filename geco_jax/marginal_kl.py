r"""Estimate the marginal KL of a run, KL[q(z); p(z)].

  python -m geco_jax.marginal_kl --workdir=runs/digits --num_samples=1000

q(z) is the mean of q(z|x) over all images of the split. The same command goes
on with an estimate that was interrupted. Writes marginal_kl.json.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from absl import flags

from geco_jax import cli
from geco_jax.datasets.images import SPLITS
from geco_jax.evaluation.aggregate_posterior import choose_tiles
from geco_jax.evaluation.aggregate_posterior import DATA_TILE
from geco_jax.evaluation.aggregate_posterior import estimate


def table(result: Mapping[str, Any]) -> str:
  """Return the result as a table."""
  lines = [
    f'{result["num_samples"]} samples, n = {result["num_data"]} examples'
  ]
  for name in ('average', 'marginal'):
    lines.append(
      f'{name + " KL":<14}{result[f"{name}_kl_nats"]:>10.4f} nats, standard '
      f'error {result[f"{name}_kl_error_nats"]:.4f}'
    )
  information = result['average_kl_nats'] - result['marginal_kl_nats']
  lines.append(
    f'{"difference":<14}{information:>10.4f} nats, at most ln n = '
    f'{result["ln_n_nats"]:.4f}'
  )
  return '\n'.join(lines)


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_integer('num_samples', 1_000, 'Samples of q(z).', lower_bound=2)
  flags.DEFINE_enum('split', 'train', SPLITS, 'Split whose images make q(z).')
  flags.DEFINE_integer(
    'num_data',
    None,
    'Examples that make q(z); else as many as the split has images. Composed '
    'sets may have more.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'step', None, "Checkpoint's step; else the latest that is intact."
  )
  cli.define_seed('Seed of the samples.')
  flags.DEFINE_integer(
    'sample_tile',
    None,
    'Samples in memory at once; else as many as suit the devices.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'data_tile',
    DATA_TILE,
    'Images paired with the samples at once, on each device.',
    lower_bound=1,
  )


def main(argv: Sequence[str]) -> None:
  """Estimate the marginal KL of the run that the flags name."""
  del argv
  workdir = cli.workdir()
  result = estimate(
    workdir,
    flags.FLAGS.num_samples,
    split=flags.FLAGS.split,
    num_data=flags.FLAGS.num_data,
    step=flags.FLAGS.step,
    seed=flags.FLAGS.seed,
    tiles=choose_tiles(flags.FLAGS.sample_tile, flags.FLAGS.data_tile),
    data_dir=cli.DATA_DIR.value,
  )
  print(table(result))
  print(f'\nwrote {os.path.join(workdir, "marginal_kl.json")}')


if __name__ == '__main__':
  cli.run(main, define_flags)
