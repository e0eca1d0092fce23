"""A sweep in one process against a command line for each of its runs.

  python -m benchmarks.sweep --output=sweep.json

The VAE of configs/digits_vae.py at the paper's five kappas, two seeds each:
`geco_jax.sweep` with each of its executors, against ten times `geco_jax.train`
and `geco_jax.evaluate`. All start as fresh processes, compile, train, evaluate
and write their files; the sweep writes its report too. A "step" of the table is
a run. Twelve minutes a round of two cores; run it on an idle machine.
"""

from collections.abc import Callable, Sequence
import itertools
import os
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from geco_jax import cli
from geco_jax.base_config import PAPER_KAPPAS

_CONFIG = 'configs/digits_vae.py'
_COMMANDS = 'a command for each'
_SEEDS = (0, 1)
_EXECUTORS = ('auto', 'local')


def _python(module: str, *arguments: str) -> None:
  """Run a command line to its end."""
  subprocess.run(
    [sys.executable, '-m', module, *arguments],
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def in_one(executor: str, steps: Sequence[str]) -> Callable[[], None]:
  """Return a function that runs the sweep in one process."""

  def run():
    grid = [{'constraints.re.kappa': [*PAPER_KAPPAS]}, {'seed': [*_SEEDS]}]
    with tempfile.TemporaryDirectory() as folder:
      _python(
        'geco_jax.sweep',
        f'--config={_CONFIG}',
        f'--workdir={folder}',
        f'--config.sweep={grid}',
        f'--executor={executor}',
        *steps,
      )

  return run


def one_by_one(steps: Sequence[str]) -> Callable[[], None]:
  """Return a function that trains and evaluates each run by command lines."""

  def run():
    with tempfile.TemporaryDirectory() as folder:
      for kappa, seed in itertools.product(PAPER_KAPPAS, _SEEDS):
        workdir = os.path.join(folder, f'{kappa}_{seed}')
        _python(
          'geco_jax.train',
          f'--config={_CONFIG}',
          f'--workdir={workdir}',
          f'--config.constraints.re.kappa={kappa}',
          f'--config.seed={seed}',
          *steps,
        )
        _python('geco_jax.evaluate', f'--workdir={workdir}')

  return run


def define_flags() -> None:
  """Define the command's flags."""
  side_by_side.define_flags(rounds=3)
  flags.DEFINE_integer(
    'num_steps', None, "Training steps of each run; else the config's."
  )


def main(argv: Sequence[str]) -> None:
  """Measure, print and write the rows."""
  del argv
  num_steps = flags.FLAGS.num_steps
  steps = [f'--config.num_steps={num_steps}'] if num_steps else []
  num_runs = len(PAPER_KAPPAS) * len(_SEEDS)
  contenders = {
    f'sweep, {name}': Contender(in_one(name, steps), num_runs)
    for name in _EXECUTORS
  } | {_COMMANDS: Contender(one_by_one(steps), num_runs)}
  rates = side_by_side.measure(contenders, flags.FLAGS.rounds, warmups=0)
  rows = [
    side_by_side.compare('runs', rates, f'sweep, {name}', _COMMANDS)
    for name in _EXECUTORS
  ]
  side_by_side.report(rows, num_runs=num_runs)


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
