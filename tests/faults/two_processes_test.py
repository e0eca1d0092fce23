"""The second of two processes in one folder is refused."""

import signal

import pytest

from tests.faults.commands import differences
from tests.faults.commands import left_in
from tests.faults.commands import run
from tests.faults.commands import Running
from tests.faults.commands import wait_until


@pytest.mark.faults
@pytest.mark.parametrize(
  'name', ['train', 'train_classifier', 'sweep', 'sweep_together', 'figure']
)
def test_the_second_names_the_first_which_ends_the_same(
  name, whole, count, tmp_path
):
  expected, folder = whole(name), tmp_path / 'run'
  first = Running(expected.command, folder)
  wait_until(first, lambda: any(folder.rglob('checkpoints/*')))
  first.signal(signal.SIGSTOP)
  second = run(expected.command, folder)
  first.signal(signal.SIGCONT)
  assert second.code == 2, second.printed
  assert f'is in use by process {first.pid} on ' in second.printed
  assert not second.has_traceback, second.printed
  ended = first.wait()
  assert ended.code == 0, ended.printed
  assert differences(left_in(folder), expected.left) == []
  count(f'second processes of {name}', 'refused, the first ended equal')
