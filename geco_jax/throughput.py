"""How many runs to train at once, by measurement.

What wins depends on the model and the machine: on one CPU device `vmap` gains
nothing and convolutions lose by it, on several CPU devices one run on each
saves the splitting of every batch, an accelerator is filled by many small runs.
"""

from collections.abc import Mapping, Sequence
import hashlib
import json
import os
import time

import jax
import numpy as np

from geco_jax import parallel
from geco_jax import workdir as workdirs
from geco_jax.build import build_like
from geco_jax.grid import Point
from geco_jax.metrics import say
from geco_jax.programs import Programs
from geco_jax.sweeping import ChooseWidth
from geco_jax.update import init_state
from geco_jax.update import run_inputs

_FILE = 'runs_at_once.json'  # By programs and number of devices.
_DISPATCHES = 3  # The median of these is what counts.


def remembered_width(workdir: str) -> ChooseWidth:
  """Returns `fastest_width`, its choices kept in a sweep's folder.

  A sweep that goes on trains as it began, so that it ends as if it had never
  been interrupted.
  """
  path = os.path.join(workdir, _FILE)

  def choose(programs, points):
    try:
      with open(path) as file:
        known = json.load(file)
    except (OSError, ValueError):
      known = {}
    of = json.dumps([programs.key, parallel.num_devices()], sort_keys=True)
    key = hashlib.sha256(of.encode()).hexdigest()[:16]
    if key not in known:
      known[key] = fastest_width(programs, points)
      workdirs.create(workdir)
      workdirs.write_json(path, known)
    return known[key]

  return choose


def fastest_width(programs: Programs, points: Sequence[Point]) -> int:
  """Returns how many of the runs to train at once; says why.

  A few steps are taken in each way. On a CPU with one device only one run after
  another comes into question.

  Args:
    programs: of all of the runs.
    points: the runs, two or more.
  """
  widths = _widths(len(points), parallel.num_devices(), jax.default_backend())
  if len(widths) == 1:
    say('one run after another: a CPU that is one device gains by nothing else')
    return 1
  rates = {}
  for width in widths:
    try:
      rates[width] = _steps_per_second(programs, points[:width])
    except jax.errors.JaxRuntimeError as error:  # Out of memory.
      say(f'{_words(width)} cannot be: {str(error).splitlines()[0]}')
  best = max(rates, key=rates.__getitem__)
  say(f'{_words(best)}: {_report(rates)}')
  return best


def _widths(num_runs: int, num_devices: int, backend: str) -> list[int]:
  """Returns the numbers of runs at once that are worth a measurement."""
  widths = {1, min(num_devices, num_runs)}
  if backend != 'cpu':
    widths.add(num_runs)
  return sorted(widths)


def _steps_per_second(programs: Programs, points: Sequence[Point]) -> float:
  """Returns the training steps per second of all runs together."""
  experiments = [build_like(p.config, programs.experiment) for p in points]
  inputs = [run_inputs(experiment) for experiment in experiments]
  states = [init_state(*pair) for pair in zip(experiments, inputs, strict=True)]
  images = parallel.replicate(programs.experiment.dataset.splits['train'])
  layout = parallel.SHARED if len(points) == 1 else parallel.SPREAD
  take_steps = programs.take_steps(layout)
  state, placed = layout.place(states), layout.place(inputs)
  seconds = []
  for _ in range(1 + _DISPATCHES):
    start = time.monotonic()
    state, _ = jax.block_until_ready(take_steps(state, placed, images))
    seconds.append(time.monotonic() - start)
  steps = len(points) * programs.steps_per_dispatch
  return steps / float(np.median(seconds[1:]))  # The first compiled.


def _words(width: int) -> str:
  return 'one run after another' if width == 1 else f'{width} runs at once'


def _report(rates: Mapping[int, float]) -> str:
  """Returns the measured rates as text."""
  return 'training steps per second are ' + ', '.join(
    f'{rate:.0f} with {_words(width)}' for width, rate in rates.items()
  )
