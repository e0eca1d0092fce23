"""How many runs to train at once, by measurement.

What wins depends on the model and the machine: on one CPU device `vmap` gains
nothing and convolutions lose by it, on several CPU devices one run on each
saves the splitting of every batch, an accelerator is filled by many small runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import math
import os
import time
from typing import NamedTuple

from absl import logging
import jax
import numpy as np

from geco_jax import parallel
from geco_jax.build import run_inputs
from geco_jax.console import say
from geco_jax.experiment import Experiment
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.io.lock import taking_turns
from geco_jax.step import dispatch
from geco_jax.step import init_state
from geco_jax.step import training_images
from geco_jax.sweep.grid import Point

_FILE = 'runs_at_once.json'  # Widths by experiment and number of devices.
_SECONDS = 2.0  # Time for which a program's steps are timed, if they allow.
_TIMINGS = 3  # The median of these counts.


class Speed(NamedTuple):
  """What was measured of a compiled program."""

  compile_seconds: float
  steps_per_second: float  # All runs together.


# An experiment and the runs that share it -> how many to train at once.
ChooseWidth = Callable[[Experiment, Sequence[Point]], int]


def in_turn(experiment: Experiment, points: Sequence[Point]) -> int:
  """Return 1: one run after another, as `geco_jax.train` does each."""
  del experiment, points
  return 1


def remembered_width(workdir: str) -> ChooseWidth:
  """Return `fastest_width`, its choices kept in a sweep's folder.

  A sweep that goes on trains as it began, so that it ends as if it had never
  been interrupted.
  """
  path = os.path.join(workdir, _FILE)

  def choose(experiment, points):
    known = by_products.read(path, by_products.counts) or {}
    setting = f'[{experiment.key}, {parallel.num_devices()}]'
    key = hashlib.sha256(setting.encode()).hexdigest()[:16]
    if known.get(key, 1) > len(points):  # From a larger grid.
      width = known.pop(key)
      logging.warning('%s says %d at once of %d runs', path, width, len(points))
    if key not in known:
      known[key] = fastest_width(experiment, points)
      run_folder.create(workdir)
      try:
        with taking_turns(workdir):  # Figures side by side share a folder.
          others = by_products.read(path, by_products.counts) or {}
          files.write_json(path, {**others, key: known[key]})
      except OSError as error:
        logging.warning('the choice is not kept for later: %s', error)
    return known[key]

  return choose


def on_accelerators(workdir: str) -> ChooseWidth:
  """Return `remembered_width` on accelerators, `in_turn` on CPUs."""
  return remembered_width(workdir) if parallel.on_accelerator() else in_turn


def fastest_width(experiment: Experiment, points: Sequence[Point]) -> int:
  """Return how many of the runs to train at once; say why.

  A few steps are timed for each number, and the grid's time is estimated: runs
  that are left over take as long as a full number. On a CPU with one device,
  the only choice is one run after another.

  Args:
    experiment: of all of the runs.
    points: the runs, two or more.
  """
  widths = _widths(
    len(points), parallel.num_devices(), parallel.on_accelerator()
  )
  if len(widths) == 1:
    say('one run after another: a CPU that is one device gains by nothing else')
    return 1
  trials = ' and '.join(map(_words, widths))
  config = points[0].config
  say(
    f'{len(points)} runs of {config.model.name} on {experiment.dataset.name}, '
    f'{config.num_steps:,} steps each: timing {trials}; the first steps '
    'compile, seconds to minutes'
  )
  rates = {}
  for width in widths:
    try:
      rates[width] = speed(experiment, points[:width]).steps_per_second
    except jax.errors.JaxRuntimeError as error:  # Out of memory.
      say(f'{_words(width)} cannot be: {str(error).splitlines()[0]}')
  seconds = {
    width: math.ceil(len(points) / width) * width / rate
    for width, rate in rates.items()
  }
  best = min(seconds, key=seconds.__getitem__, default=1)
  say(f'{_words(best)}: {_report(rates)}')
  return best


def _widths(num_runs: int, num_devices: int, accelerated: bool) -> list[int]:
  """Return the numbers of runs at once that are worth a measurement."""
  widths = {1, min(num_devices, num_runs)}
  if accelerated:
    # All, a half, a quarter: a card may hold five that does not hold ten.
    widths |= {math.ceil(num_runs / parts) for parts in (1, 2, 4)}
  return sorted(widths)


def speed(
  experiment: Experiment, points: Sequence[Point], seconds: float = _SECONDS
) -> Speed:
  """Return how fast runs train here together, and how long that compiles.

  Args:
    experiment: of all of the runs.
    points: the runs; several are trained at once.
    seconds: time for which steps are timed; at most a few dispatches, on an
      accelerator a few whole ones.
  """
  max_steps = experiment.steps_per_dispatch
  # On an accelerator the only program is that of a whole dispatch.
  fewest = max_steps if parallel.on_accelerator() else 1
  start = time.monotonic()
  with timed(experiment, points) as take:
    take(fewest)
    compiled = time.monotonic() - start
    second = take(fewest)
    num_steps = int(seconds / _TIMINGS / max(second / fewest, 1e-9))
    num_steps = min(max(num_steps, fewest), max_steps)
    taken = float(np.median([take(num_steps) for _ in range(_TIMINGS)]))
  return Speed(
    compile_seconds=max(compiled - second, 0.0),
    steps_per_second=len(points) * num_steps / max(taken, 1e-9),
  )


@contextlib.contextmanager
def timed(
  experiment: Experiment, points: Sequence[Point]
) -> Iterator[Callable[[int], float]]:
  """Yield a function that takes first steps of runs and drops the results.

  Args:
    experiment: of all of the runs.
    points: the runs; several are trained at once.

  Yields:
    Number of steps, at most `steps_per_dispatch` -> the seconds that they took.
    The first call compiles.
  """
  inputs = [run_inputs(point.config, experiment) for point in points]
  layout = parallel.SHARED if len(points) == 1 else parallel.SPREAD
  take_steps = dispatch(experiment, layout)
  state = layout.place([init_state(experiment, run) for run in inputs])
  placed = layout.place([run.step_inputs() for run in inputs])
  seeds = [run.seed for run in inputs]
  with training_images(experiment, layout, seeds, [0] * len(seeds)) as images:

    def take(num_steps):
      nonlocal state
      start = time.monotonic()
      results = take_steps(
        state, placed, images(num_steps), num_steps=num_steps
      )
      state, _ = jax.block_until_ready(results)
      return time.monotonic() - start

    yield take
  experiment.compiled_layouts.add(layout)


def _words(width: int) -> str:
  return 'one run after another' if width == 1 else f'{width} runs at once'


def _report(rates: Mapping[int, float]) -> str:
  """Return the measured rates as text."""
  return 'training steps per second are ' + ', '.join(
    f'{rate:.0f} with {_words(width)}' for width, rate in rates.items()
  )
