"""A disk without room is said in a line, and loses nothing."""

import subprocess

import pytest

from tests.faults.commands import differences
from tests.faults.commands import left_in
from tests.faults.commands import run
from tests.faults.conftest import COMMANDS

# Bytes that a file may have; the first leaves room for none.
LIMITS = (0, 400, 3_000, 12_000)


def check_said(ended, path, max_bytes=None):
  """Check that a command that had no room said so, and where, in a line."""
  assert not ended.has_traceback, ended.printed
  if ended.code == 0:  # What it could not write is only a by-product.
    is_said = 'cannot' in ended.printed
    assert is_said or max_bytes != 0, 'all was lost, and nothing was said'
    return 'went on with a warning' if is_said else 'had room'
  lines = ended.printed.splitlines()
  errors = [line for line in lines if line.startswith('error: ')]
  failures = [
    line
    for line in lines
    if line.startswith(('failed: ', 'the report could not'))
  ]
  if ended.code == 2:
    assert len(errors) == 1, ended.printed
  else:
    assert ended.code == 1 and failures and not errors, ended.printed
  assert all(str(path) in line for line in errors + failures), ended.printed
  return 'one line'


@pytest.mark.faults
@pytest.mark.parametrize('max_bytes', LIMITS)
@pytest.mark.parametrize('name', COMMANDS)
def test_a_limit_of_files_is_a_line_and_what_is_begun_is_finished(
  name, max_bytes, whole, begun, count, tmp_path
):
  """The limit of a file's size stands for the disk's."""
  expected, folder = whole(name), tmp_path / 'run'
  begun(expected.command, folder)
  ended = run(expected.command, folder, max_bytes)
  count(f'full disks under {name}', check_said(ended, folder, max_bytes))
  ended = run(expected.command, folder)
  assert ended.code == 0, ended.printed
  assert differences(left_in(folder), expected.left) == []
  count(f'full disks under {name}', 'finished bit for bit equal')


def mount(folder, options):
  """Mount a disk in memory; return whether that is allowed here."""
  command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
  try:
    return subprocess.run(command, capture_output=True).returncode == 0
  except FileNotFoundError:
    return False


@pytest.mark.faults
@pytest.mark.parametrize('kibibytes', [8, 64, 200, 400])
@pytest.mark.parametrize('name', ['train', 'train_classifier', 'sweep'])
def test_a_disk_that_fills_is_a_line_and_what_is_begun_is_finished(
  name, kibibytes, whole, count, tmp_path
):
  expected, disk = whole(name), tmp_path / 'disk'
  disk.mkdir()
  if not mount(disk, f'size={kibibytes}k'):
    pytest.skip('no tmpfs can be mounted by this user')
  try:
    ended = run(expected.command, disk / 'run')
    count(f'full disks under {name}', check_said(ended, disk))
    assert mount(disk, 'remount,size=100m')
    ended = run(expected.command, disk / 'run')
    assert ended.code == 0, ended.printed
    assert differences(left_in(disk / 'run'), expected.left) == []
    count(f'full disks under {name}', 'finished bit for bit equal')
  finally:
    subprocess.run(['umount', str(disk)], check=True)
