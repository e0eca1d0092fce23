"""Alternating measurements: what is compared is timed in turn, in one run.

A machine's speed drifts while programs are timed on it. Contenders that take
turns meet the same drift, and the ratio within each round is free of most.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import importlib.metadata
import os
import platform
import statistics
import time
from typing import Any, NamedTuple

from absl import flags

from geco_jax import cli
from geco_jax import parallel
from geco_jax.io import files

_PACKAGES = (
  *('jax', 'jaxlib', 'dm-haiku', 'optax', 'torch', 'triton'),
  *('jax-cuda12-plugin', 'jax-cuda13-plugin'),
  *('nvidia-cudnn-cu12', 'nvidia-cudnn-cu13'),
)
# --help shows what is defined here as the command's own.
flags.disclaim_key_flags()


class Contender(NamedTuple):
  """Something to time."""

  run: Callable[[], Any]  # Takes its steps and waits until they are done.
  num_steps: int  # How many steps `run` takes.
  flops: float | None = None  # Operations of a step, if counted.


class Row(NamedTuple):
  """One contender against another."""

  name: str
  contender: str
  baseline: str
  steps_per_second: float  # Median over the rounds.
  baseline_steps_per_second: float
  ratio: float  # Median over the rounds of the ratio of steps per second.
  rounds: int
  ratios: Sequence[float]  # The ratio in every round.


def define_flags(
  rounds: int,
  steps_per_round: int | None = None,
  num_cpu_devices: int | None = None,
) -> None:
  """Define the flags of all commands that measure side by side.

  Args:
    rounds: default of --rounds.
    steps_per_round: default of --steps_per_round; None defines no such flag.
    num_cpu_devices: default of --num_cpu_devices, which `split_cpu` reads; None
      defines no such flag.
  """
  flags.DEFINE_integer('rounds', rounds, 'Timed rounds.', lower_bound=1)
  if steps_per_round is not None:
    flags.DEFINE_integer(
      'steps_per_round',
      steps_per_round,
      'Steps per round, and per dispatch.',
      lower_bound=1,
    )
  if num_cpu_devices is not None:
    flags.DEFINE_integer(
      'num_cpu_devices',
      num_cpu_devices,
      'XLA:CPU devices that share the examples.',
      lower_bound=1,
    )
  cli.define_path('output', None, 'JSON file to write.')


def split_cpu() -> None:
  """Make XLA see the CPU as --num_cpu_devices devices; call it first."""
  parallel.split_cpu(flags.FLAGS.num_cpu_devices)


def measure(
  contenders: Mapping[str, Contender], rounds: int, warmups: int = 1
) -> dict[str, list[float]]:
  """Time the contenders in turn.

  Args:
    contenders: by name.
    rounds: how often each is timed, >= 1.
    warmups: rounds before, which compile and are not counted.

  Returns:
    Steps per second in each round, by name.

  Raises:
    ValueError: if `rounds` is less than 1.
  """
  if rounds < 1:
    raise ValueError(f'rounds must be >= 1, got {rounds}')
  rates = {name: [] for name in contenders}
  for number in range(warmups + rounds):
    for name, contender in contenders.items():
      start = time.perf_counter()
      contender.run()
      seconds = time.perf_counter() - start
      if number >= warmups:
        rates[name].append(contender.num_steps / seconds)
  return rates


def compare(
  name: str, rates: Mapping[str, Sequence[float]], contender: str, baseline: str
) -> Row:
  """Return how much faster `contender` was than `baseline`."""
  ratios = [
    a / b for a, b in zip(rates[contender], rates[baseline], strict=True)
  ]
  return Row(
    name=name,
    contender=contender,
    baseline=baseline,
    steps_per_second=statistics.median(rates[contender]),
    baseline_steps_per_second=statistics.median(rates[baseline]),
    ratio=statistics.median(ratios),
    rounds=len(ratios),
    ratios=ratios,
  )


def table(rows: Sequence[Row]) -> str:
  """Return the rows as text."""
  lines = [('', 'contender', 'steps/s', 'baseline', 'steps/s', 'ratio', '')]
  for row in rows:
    lines.append(
      (
        row.name,
        row.contender,
        f'{row.steps_per_second:#.3g}',
        row.baseline,
        f'{row.baseline_steps_per_second:#.3g}',
        f'{row.ratio:.3f}',
        f'[{min(row.ratios):.3f}, {max(row.ratios):.3f}]',
      )
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in lines
  )


def report(rows: Sequence[Row], **more: Any) -> None:
  """Print the rows as a table; write them, and more, to --output if given."""
  print(table(rows))
  if flags.FLAGS.output:
    write_json(flags.FLAGS.output, rows, **more)


def write_json(path: str, rows: Sequence[Row], **more: Any) -> None:
  """Write the rows, whatever else there is, and what they were measured on."""
  measured = {'rows': [row._asdict() for row in rows], **more}
  files.write_json(path, machine() | measured)


def machine() -> dict[str, Any]:
  """Return what a measurement depends on: devices, processor, versions."""
  return {
    'device': parallel.device_name(),
    'num_devices': parallel.num_devices(),
    'processor': _processor(),
    'num_cores': parallel.num_cores(),
    'load_average_at_end': os.getloadavg()[0],
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'versions': {'python': platform.python_version()} | _versions(),
  }


def _versions() -> dict[str, str]:
  """Return the versions of the packages that are compared, if installed."""
  versions = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return versions


def _processor() -> str:
  """Return the processor's name where the system tells it."""
  try:
    with open('/proc/cpuinfo') as file:
      for line in file:
        if line.startswith('model name'):
          return line.partition(':')[2].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
