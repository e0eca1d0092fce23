r"""Train and evaluate the runs of a grid, and report them together.

  python -m geco_jax.sweep --config=configs/digits_vae.py --workdir=runs/sweep \
      --config.sweep="[{'constraints.re.kappa': [0.06, 0.1]}, {'seed': [0, 1]}]"

The grid stands in the config (`geco_jax.sweep.grid`). Every run has its own
folder, which the ordinary commands continue and evaluate. The same command goes
on with a sweep that was interrupted: what is finished is not trained again.
"""

from collections.abc import Sequence
import math
import os
import shlex

from absl import flags

from geco_jax import cli
from geco_jax import parallel
from geco_jax.build import check_config
from geco_jax.errors import UserError
from geco_jax.io import provenance
from geco_jax.sweep import curves as sweep_curves
from geco_jax.sweep import grid as grids
from geco_jax.sweep import local as sweeping
from geco_jax.sweep import report
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep import slurm
from geco_jax.sweep import throughput
from geco_jax.sweep.completion import check_same
from geco_jax.sweep.completion import is_finished
from geco_jax.sweep.grid import Point

_EXIT_FAILURES = 1


def define_flags() -> None:
  """Define the command's flags."""
  cli.define_trackers()
  flags.DEFINE_enum(
    'executor',
    'auto',
    # vectorised, its former spelling, goes on working.  # codespell:ignore
    ['auto', 'local', 'vectorized', 'vectorised', 'slurm'],  # codespell:ignore
    'local: one run after another, each as geco_jax.train would. vectorized: '
    'several at once where that is measured to be faster, a CPU split into a '
    'device per core. auto: vectorized. slurm: a job per run.',
  )
  flags.DEFINE_integer(
    'runs_at_once',
    None,
    'How many runs to train at once, else as many as is measured to be '
    'fastest. The numbers of a run depend on it in their rounding; its '
    'evaluation.json says how many there were.',
    lower_bound=1,
  )
  flags.DEFINE_enum(
    'cluster',
    'slurm',
    ['slurm', 'local'],
    'Where the jobs of --executor=slurm run; local is this machine.',
  )
  flags.DEFINE_list(
    'job_options',
    [],
    "Options of the jobs, in submitit's words: timeout_min=60,"
    'gpus_per_node=1,slurm_partition=gpu',
  )
  flags.DEFINE_integer(
    'max_jobs', None, 'Jobs at a time, else all.', lower_bound=1
  )
  flags.DEFINE_bool('dry_run', False, 'Print the grid and train nothing.')
  flags.DEFINE_bool('progress', True, 'Draw progress bars.')


def main(argv: Sequence[str]) -> int:
  """Run the sweep that the flags name; return the exit code."""
  del argv
  config, workdir = cli.config(), cli.workdir()
  cli.use_trackers()
  check_config(config)
  grid = grids.points(config)
  if flags.FLAGS.dry_run:
    print(_listing(grid, workdir))
    return 0
  failed = _run(grid, workdir)
  problems = [f'failed: {name}: {reason}' for name, reason in failed.items()]
  try:
    _report(grid, workdir)
  except OSError as error:
    problems.append(f'the report could not be written whole: {error}')
  for problem in problems:
    print(problem)
  return _EXIT_FAILURES if problems else 0


def _run(grid: Sequence[Point], workdir: str) -> dict[str, str]:
  """Run what is not finished; return why runs failed, by name."""
  executor, width = flags.FLAGS.executor, flags.FLAGS.runs_at_once
  if width is not None and executor in ('local', 'slurm'):
    raise UserError(
      f'--runs_at_once={width} is for --executor=vectorized; '
      f'--executor={executor} trains each run alone'
    )
  if executor == 'slurm':
    return slurm.run_jobs(
      grid,
      workdir,
      flags.FLAGS.cluster,
      slurm.parse_options(flags.FLAGS.job_options),
      flags.FLAGS.max_jobs,
      data_dir=cli.DATA_DIR.value,
    )
  choose_width = throughput.in_turn
  if executor != 'local':
    parallel.split_cpu(_num_cpu_devices(grid))
    choose_width = (
      (lambda _, group: min(width, len(group)))
      if width
      else throughput.remembered_width(workdir)
    )
  return sweeping.run_here(
    grid,
    workdir,
    choose_width,
    data_dir=cli.DATA_DIR.value,
    alone=True,
    show_progress=flags.FLAGS.progress,
  )


def _report(grid: Sequence[Point], workdir: str) -> None:
  """Print the table, write the report, print where each file is.

  The table comes first: it is shown where nothing can be written.

  Raises:
    OSError: if the report cannot be written.
  """
  results = sweep_results.read(grid, workdir)
  if not results:
    return
  print(sweep_results.as_text(sweep_results.table(results)))
  curves = sweep_curves.curves(grid, workdir, cli.DATA_DIR.value)
  written = {'Written': provenance.now(), 'By': provenance.command()}
  report.write(grid, results, workdir, curves, written)
  print(f'\nthe report: {os.path.join(workdir, report.PAGE)}')
  print(f'all digits: {os.path.join(workdir, report.TABLE)}')
  print(f'TensorBoard: tensorboard --logdir={shlex.quote(workdir)}')


def _num_cpu_devices(grid: Sequence[Point]) -> int:
  """Return the number of devices to split a CPU into: one run per core.

  Every run must still be able to share a batch between them.
  """
  common = math.gcd(*(point.config.batch_size for point in grid))
  max_devices = min(parallel.num_cores(), len(grid))
  return max(n for n in range(1, max_devices + 1) if common % n == 0)


def _listing(grid: Sequence[Point], workdir: str) -> str:
  """Return the grid as text, a line per run."""
  names = [*grid[0].values]
  width = max(len(point.name) for point in grid)
  states = [_state(point, workdir) for point in grid]
  state_width = max(9, *map(len, states))
  lines = [f'{"run":<{width}}  {"":<{state_width}} {", ".join(names)}']
  for point, state in zip(grid, states, strict=True):
    values = ', '.join(str(value) for value in point.values.values())
    lines.append(f'{point.name:<{width}}  {state:<{state_width}} {values}')
  return '\n'.join(lines)


def _state(point: Point, workdir: str) -> str:
  """Return what stands in a run's folder, '' if there is work to do."""
  try:
    check_same(point, workdir)
  except UserError:  # The sweep would refuse it.
    return 'another config'
  return 'finished' if is_finished(point, workdir) else ''


if __name__ == '__main__':
  cli.run(main, define_flags, takes_config=True)
