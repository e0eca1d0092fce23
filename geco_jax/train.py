r"""Train a model under constraints.

  python -m geco_jax.train --config=configs/digits_vae.py --workdir=runs/a \
      --config.constraints.re.kappa=0.1

The same command continues a run that was interrupted, bit for bit. On many
hosts start it once per host, with --distributed.
"""

from collections.abc import Sequence
import shlex

from absl import flags

from geco_jax import cli
from geco_jax import parallel
from geco_jax.console import say
from geco_jax.errors import UserError
from geco_jax.training.loop import train


def define_flags() -> None:
  """Define the command's flags."""
  cli.define_trackers()
  flags.DEFINE_bool('progress', True, 'Draw a progress bar.')
  flags.DEFINE_string(
    'init_from',
    None,
    'Workdir of a run whose latest parameters this one begins with, so that a '
    'finished run can be trained further; all else is new.',
  )
  flags.DEFINE_bool(
    'distributed',
    False,
    'Train as one of several processes. A cluster (TPU pod, Slurm, ...) says '
    'which; elsewhere --coordinator, --num_processes and --process_id do.',
  )
  flags.DEFINE_string(
    'coordinator', None, 'Address of process 0, as host:port.'
  )
  flags.DEFINE_integer('num_processes', None, 'Number of processes.')
  flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')


def main(argv: Sequence[str]) -> None:
  """Train the run that the flags name."""
  del argv
  config, workdir = cli.config(), cli.workdir()
  cli.use_trackers()
  cluster = ('coordinator', 'num_processes', 'process_id')
  if not flags.FLAGS.distributed:
    for name in cluster:  # Each process would train the whole run.
      if flags.FLAGS[name].value is not None:
        raise UserError(f'--{name} is for --distributed, which is missing')
  else:
    parallel.initialize_distributed(*(flags.FLAGS[n].value for n in cluster))
  train(
    config,
    workdir,
    data_dir=cli.DATA_DIR.value,
    init_from=flags.FLAGS.init_from,
    show_progress=flags.FLAGS.progress,
  )
  say(
    f'done; next: python -m geco_jax.evaluate --workdir={shlex.quote(workdir)}'
  )


if __name__ == '__main__':
  cli.run(main, define_flags, takes_config=True)
