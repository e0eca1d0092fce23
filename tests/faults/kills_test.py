"""Whatever is killed at whatever moment ends as if it had not been."""

import shutil
import time
import zlib

import numpy as np
import pytest

from tests.faults.commands import differences
from tests.faults.commands import left_in
from tests.faults.commands import run
from tests.faults.commands import Running
from tests.faults.commands import SEED
from tests.faults.commands import wait_until
from tests.faults.commands import Watch

KILLS = {
  'train': 36,
  'evaluate': 14,
  'sweep': 14,
  'sweep_together': 10,
  'train_classifier': 20,
  'cache': 14,
  'figure': 12,
}


def kill(whole, folder, quantile, after_path, rng):
  """Start a command and kill it; return whether it was alive.

  Args:
    whole: what it leaves.
    folder: of the command.
    quantile: of its uninterrupted time or paths, at which it is killed.
    after_path: whether a path that appears is the moment, rather than a time.
    rng: for a delay behind that.
  """
  watch = Watch(folder / whole.command.watched)
  start = time.monotonic()
  process = Running(whole.command, folder)
  if after_path:
    wait_until(process, lambda: watch.count() > quantile * whole.num_paths)
    time.sleep(rng.uniform(0, 0.02))
  else:
    moment = start + quantile * whole.seconds
    wait_until(process, lambda: time.monotonic() > moment)
  return process.kill()


def kill_and_finish(whole, begun, folder, index, count, name):
  """Kill the `index`-th of so many times, and finish with the same command."""
  rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), index])
  quantile = (index + rng.uniform()) / KILLS[name]
  for _ in range(8):
    shutil.rmtree(folder, ignore_errors=True)
    begun(whole.command, folder)
    if kill(whole, folder, quantile, index % 2, rng):
      break
    quantile *= 0.8  # It had ended: on a quieter machine it is faster.
  else:
    pytest.fail(f'{name} {index} ended before it was killed')
  count(f'kills of {name}', 'killed')
  if index % 4 == 3 and kill(whole, folder, rng.uniform(0, 0.9), False, rng):
    count(f'kills of {name}', 'killed again while it went on')
  ended = run(whole.command, folder)
  assert ended.code == 0, ended.printed
  assert not ended.has_traceback, ended.printed
  assert 'has lost its lines' not in ended.printed, ended.printed
  differ = differences(left_in(folder), whole.left)
  # A file that was being written whole, under a name that nothing reads.
  temporary = [path for path in differ if path.endswith('.tmp')]
  if temporary:
    count(f'kills of {name}', 'left a temporary file')
  assert differ == temporary
  count(f'kills of {name}', 'finished bit for bit equal')


@pytest.mark.faults
@pytest.mark.parametrize(
  ('name', 'index'), [(n, i) for n, many in KILLS.items() for i in range(many)]
)
def test_what_was_killed_ends_bit_for_bit_the_same(
  name, index, whole, begun, count, tmp_path
):
  kill_and_finish(whole(name), begun, tmp_path / 'run', index, count, name)
