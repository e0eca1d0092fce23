"""Where a program's time on a GPU goes, kernel by kernel."""

import collections
from collections.abc import Iterable
import glob
import os
import tempfile
from typing import Any

import jax

from benchmarks.side_by_side import Contender

_MOST = 25  # Kernels of a profile.


def profile(contender: Contender) -> dict[str, Any]:
  """Run a program once and return `summary` of what the GPU did."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      contender.run()
    pattern = os.path.join(folder, '**', '*.xplane.pb')
    (path,) = glob.glob(pattern, recursive=True)
    planes = jax.profiler.ProfileData.from_file(path).planes
    return summary(planes, contender.num_steps)


def summary(planes: Iterable[Any], num_steps: int) -> dict[str, Any]:
  """Return the kernels that take most time, in microseconds a step.

  Args:
    planes: of a `jax.profiler.ProfileData`; a GPU's streams count alone.
    num_steps: that were profiled.
  """
  events = [
    event
    for plane in planes
    if plane.name.startswith('/device:GPU')
    for line in plane.lines
    # The other lines group the same kernels by operation and module.
    if line.name.startswith('Stream')
    for event in line.events
  ]
  busy_ns, launches = collections.Counter(), collections.Counter()
  for event in events:
    busy_ns[event.name] += event.duration_ns
    launches[event.name] += 1
  end = max((e.start_ns + e.duration_ns for e in events), default=0)
  span_ns = end - min((e.start_ns for e in events), default=0)
  return {
    'span_us': span_ns / 1e3 / num_steps,
    'busy_us': busy_ns.total() / 1e3 / num_steps,
    'launches': launches.total() / num_steps,
    'kernels': [
      {
        'name': name,
        'busy_us': busy / 1e3 / num_steps,
        'launches': launches[name] / num_steps,
      }
      for name, busy in busy_ns.most_common(_MOST)
    ],
  }
