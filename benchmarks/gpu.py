"""Everything that is timed on one NVIDIA card, beside PyTorch, in minutes.

  python -m benchmarks.gpu --output=results/gpu_speed.json

Training steps of ConvDRAW, of the VAEs and of VAE+NVP, sweeps, the ELBO, and
log densities of pairs; PyTorch in three forms with fused Adam and
channels_last, in bf16 under autocast. Images are random bytes. Every program
has a process (`workers`): they compile side by side, then each is timed alone,
in turns; rates are medians over the rounds. TFLOP/s are those of our step's
convolutions and matrix products (`flops`), forward and backward, for PyTorch's
too, and stand beside those of an 8192^3 matrix product on the same card.

XLA chooses algorithms by timing them while other programs compile;
--at_once=1 gives it the card alone and takes several times as long.
--dry_run goes through everything in small sizes, on a CPU.
"""

from collections.abc import Mapping, Sequence
import os
import statistics
import subprocess
import time
from typing import Any

from absl import flags
import jax

from benchmarks import gpu_programs
from benchmarks import gpu_table
from benchmarks import kernels
from benchmarks import side_by_side
from benchmarks import workers
from benchmarks.gpu_programs import Program
from benchmarks.workers import Worker
from geco_jax import cli
from geco_jax import parallel
from geco_jax.errors import UserError
from geco_jax.io import files

_PROFILED = f'ConvDRAW, gpu preset, bf16: {gpu_table.OURS}'
_EXIT_FAILURES = 1


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
  flags.DEFINE_float(
    'round_seconds', 0.4, 'Seconds of a round, about.', lower_bound=0
  )
  flags.DEFINE_integer(
    'at_once',
    None,
    'Programs that compile side by side, else as many as there are cores.',
    lower_bound=1,
  )
  flags.DEFINE_float(
    'limit_s', 340.0, 'Seconds after which the results so far are written.'
  )
  flags.DEFINE_multi_string(
    'only', [], 'Part of the names of the programs to time, else all.'
  )
  flags.DEFINE_list(
    'variants',
    [],
    'More programs of ConvDRAW, each named by what is on of '
    f'{", ".join(gpu_programs.SWITCHES)}: none,unrolled,unrolled+padded.',
  )
  flags.DEFINE_bool('profile', False, 'List the kernels of ConvDRAW in bf16.')
  flags.DEFINE_bool('dry_run', False, 'Run tiny programs on the CPU.')
  cli.define_path('output', None, 'JSON file to write.')


def main(argv: Sequence[str]) -> int:
  """Measure all programs, print and write them; return the exit code."""
  del argv
  start = time.monotonic()
  _set_environment()
  if flags.FLAGS.dry_run:
    jax.config.update('jax_platforms', 'cpu')
  elif jax.default_backend() != 'gpu':
    raise UserError(
      'an NVIDIA card that JAX sees is needed, got '
      f'{parallel.device_name()}; --dry_run needs none'
    )
  print(f'{parallel.device_name()}, driver {_driver()}', flush=True)
  listed = _programs()
  models = {
    model: gpu_programs.description(model, flags.FLAGS.dry_run)
    for model in gpu_programs.WORKLOADS
  }
  crew = {program.full_name: Worker(program.build) for program in listed}
  try:
    profile = _measure(crew, start)
  finally:
    workers.stop([*crew.values()])
  report = side_by_side.machine() | {
    'driver': _driver(),
    'platform': jax.devices()[0].client.platform_version,
    'dry_run': flags.FLAGS.dry_run,
    'round_seconds': flags.FLAGS.round_seconds,
    'at_once': _at_once(),
    'seconds': time.monotonic() - start,
    'models': models,
    'programs': rows(listed, crew),
    'profile': profile,
  }
  print(gpu_table.table(report))
  if flags.FLAGS.output:
    files.write_json(flags.FLAGS.output, report)
  return _EXIT_FAILURES if any(w.error for w in crew.values()) else 0


def rows(
  listed: Sequence[Program], crew: Mapping[str, Worker]
) -> list[dict[str, Any]]:
  """Return what was measured, a row for each program.

  Args:
    listed: the programs.
    crew: their workers, by full name.
  """
  # A model's programs do the same work, whichever of them was counted.
  counts = {
    program.model: crew[program.full_name].flops
    for program in listed
    if crew[program.full_name].flops
  }
  table = []
  for program in listed:
    worker, counted = crew[program.full_name], counts.get(program.model)
    rate = statistics.median(worker.rates) if worker.rates else None
    table.append(
      {
        'model': program.model,
        'precision': program.precision,
        'program': program.name,
        'per_second': rate,
        'tflops': rate and counted and rate * counted / 1e12,
        'flops': counted,
        'ready_seconds': worker.ready_seconds,
        'rates': worker.rates,
        'error': worker.error,
      }
    )
  return table


def _measure(crew: Mapping[str, Worker], start: float) -> Any:
  """Fill the workers' rates; return the profile if it is asked for."""
  values = flags.FLAGS
  timing_s = len(crew) * (values.rounds + 1) * (values.round_seconds + 0.1)
  deadline = start + values.limit_s
  compile_by = max(deadline - timing_s, start + values.limit_s / 2)
  workers.prepare(crew, _at_once(), compile_by - time.monotonic())
  workers.measure(
    [*crew.values()], values.rounds, values.round_seconds, deadline
  )
  profiled = crew.get(_PROFILED)
  if not values.profile or profiled is None or profiled.error is not None:
    return None
  return profiled.ask(kernels.profile, timeout_s=60)


def _at_once() -> int:
  """Return how many programs compile side by side."""
  return flags.FLAGS.at_once or parallel.num_cores()


def _programs() -> list[Program]:
  """Return the programs that the flags ask for."""
  listed = gpu_programs.programs(flags.FLAGS.dry_run, flags.FLAGS.variants)
  parts = flags.FLAGS.only or ['']
  listed = [p for p in listed if any(part in p.full_name for part in parts)]
  if not listed:
    raise UserError(f'no program has a name with {" or ".join(parts)} in it')
  return listed


def _set_environment() -> None:
  """Set what this process's JAX and the workers' frameworks read."""
  os.environ.setdefault('CUDA_VISIBLE_DEVICES', '0')
  # Otherwise the first process takes most of the card's memory.
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  # XLA warns of every timing of its own that another process disturbs.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # Every process would start as many threads as there are cores.
  os.environ.setdefault('TORCHINDUCTOR_COMPILE_THREADS', '4')
  if flags.FLAGS.dry_run:  # On a CPU, compilation takes minutes.
    os.environ.setdefault('TORCHDYNAMO_DISABLE', '1')
    os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')


def _driver() -> str:
  """Return the driver's version, empty where there is none."""
  query = ['--query-gpu=driver_version', '--format=csv,noheader']
  try:
    output = subprocess.check_output(['nvidia-smi', *query], text=True)
  except (OSError, subprocess.CalledProcessError):
    return ''
  return output.split()[0]


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
