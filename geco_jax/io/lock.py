"""One writer per folder: a lock that dies with its process."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import socket
from typing import BinaryIO

from absl import logging

from geco_jax.errors import UserError
from geco_jax.io.files import make_room
from geco_jax.io.files import remove_abandoned
from geco_jax.io.files import writing

_FILE = '.lock'
# Errors of file systems that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class InUse(UserError):
  """Another process holds the lock of a folder: nothing is written there."""


@contextlib.contextmanager
def taking_turns(folder: str) -> Iterator[None]:
  """Hold a lock while adding to files that several processes share.

  Args:
    folder: of the files, which exists. Nothing is written into it.
  """
  handle = os.open(folder or os.curdir, os.O_RDONLY)
  try:
    _flock(handle, fcntl.LOCK_EX)
    yield
  finally:
    os.close(handle)


class Lock:
  """The lock of a folder, until it is closed or the process ends.

  A process that is killed leaves the file, but not the lock; what it was
  writing is removed an hour later.
  """

  def __init__(self, folder: str):
    """Lock a folder, which is made if need be.

    Raises:
      InUse: if another process, which it names, holds the lock.
      UserError: if the folder cannot be written.
    """
    self._folder = folder
    self._path = os.path.join(folder, _FILE)
    self._file = self._take()

  def keep(self) -> None:
    """Take the lock again if its file has been deleted.

    Raises:
      InUse: if another process took it first: this one's files would mix with
        its own.
    """
    try:
      is_there = os.path.samestat(
        os.stat(self._path), os.fstat(self._file.fileno())
      )
    except OSError:
      is_there = False
    if not is_there and os.path.isdir(self._folder):
      logging.warning('%s was deleted, and is made anew', self._path)
      deleted, self._file = self._file, self._take()
      deleted.close()

  def close(self) -> None:
    """Release the lock."""
    self._file.close()

  def _take(self) -> BinaryIO:
    with writing(self._folder):
      os.makedirs(self._folder, exist_ok=True)
    make_room(self._path)
    with writing(self._path):
      file = open(self._path, 'a+b', buffering=0)
    try:
      has_locks = _flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      holder = file.read(1000).decode('utf-8', 'replace').strip()
      file.close()
      raise InUse(
        f'--workdir={self._folder} is in use by {holder or "another process"}; '
        'choose another workdir, or wait until that one ends'
      ) from error
    except OSError:
      file.close()
      raise
    if not has_locks:
      logging.warning(
        '%s is on a file system without locks: start one process there',
        self._folder,
      )
    with writing(self._path):
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
      remove_abandoned(self._folder)
    return file


def _flock(handle: int, operation: int) -> bool:
  """Lock an open file; return whether its file system has locks."""
  try:
    fcntl.flock(handle, operation)
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    return False
  return True
