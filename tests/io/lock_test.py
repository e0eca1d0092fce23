"""A lock names who holds it, and a file system without locks ends no run."""

import contextlib
import errno
import os

import pytest

from geco_jax.io import lock


@pytest.fixture
def fail_to_lock(monkeypatch):
  """Return number -> None, which lets every lock fail with this error."""

  def fail(number):
    def flock(*_):
      raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, 'flock', flock)

  return fail


def test_a_lock_names_its_latest_holder_alone(tmp_path):
  for _ in range(2):
    lock.Lock(str(tmp_path)).close()
  (line,) = (tmp_path / '.lock').read_text().splitlines()
  assert line.startswith(f'process {os.getpid()} on ')


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_costs_a_warning(
  number, fail_to_lock, tmp_path, caplog
):
  fail_to_lock(number)
  with contextlib.closing(lock.Lock(str(tmp_path))):
    assert 'on a file system without locks: start one process' in caplog.text
  with lock.taking_turns(str(tmp_path)):
    pass


def test_a_disk_that_fails_is_no_file_system_without_locks(
  fail_to_lock, tmp_path
):
  fail_to_lock(errno.EIO)
  with pytest.raises(OSError, match='Input/output error'):
    lock.Lock(str(tmp_path))
