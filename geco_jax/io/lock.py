"""One writer per folder: a lock that dies with its process."""

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
# What file systems answer that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def hold(folder: str) -> BinaryIO:
  """Lock a folder, which is made if need be, until the file returned closes.

  A process that is killed leaves the file, but not the lock; what it was
  writing is removed an hour later.

  Raises:
    UserError: if another process, which it names, holds the lock; or the folder
      cannot be written.
  """
  path = os.path.join(folder, _FILE)
  with writing(folder):
    os.makedirs(folder, exist_ok=True)
  make_room(path)
  with writing(path):
    file = open(path, 'a+b', buffering=0)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    holder = file.read(1000).decode('utf-8', 'replace').strip()
    file.close()
    raise UserError(
      f'--workdir={folder} is in use by {holder or "another process"}; choose '
      'another workdir, or wait until that one ends'
    ) from error
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      file.close()
      raise
    logging.warning(
      '%s is on a file system without locks: start one process there', folder
    )
  with writing(path):
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
    remove_abandoned(folder)
  return file
