"""What the system answers when it is asked for a file.

Only some of its answers are about the file: a disk or a server that fails, or a
right that is missing, say nothing about what is stored.
"""

import errno
import os
import re

# What is answered where a file is not what it was. Whatever else is, as EIO,
# ESTALE or EACCES, is a refusal.
_ERRORS_OF_DAMAGE = {
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EINVAL,
  errno.ENAMETOOLONG,
  errno.ELOOP,
}


def refusal(error: BaseException | None) -> str | None:
  """Return what the system answered, unless it answers so of damage."""
  while error is not None:
    if isinstance(error, MemoryError):
      return 'out of memory'
    number = _error_number(error)
    if number is not None and number not in _ERRORS_OF_DAMAGE:
      return os.strerror(number)
    error = error.__cause__ or error.__context__
  return None


def refusal_of_files(folder: str) -> str | None:
  """Return what the system answers if it does not let a folder be read."""

  def fail(error):
    raise error

  try:
    for parent, _, names in os.walk(folder, onerror=fail):
      for name in names:
        with open(os.path.join(parent, name), 'rb') as file:
          while file.read(1 << 24):
            pass
  except OSError as error:
    return refusal(error)
  return None


def _error_number(error):
  """Return the system's number of an error, which TensorStore has as text."""
  if isinstance(error, OSError):
    return error.errno
  match = re.search(r"os_error_code='(\d+)'", str(error))
  return int(match[1]) if match else None


def reason(error: BaseException) -> str:
  """Return an error as the end of a sentence."""
  number = _error_number(error)
  if number is not None:
    return os.strerror(number)
  return str(error).split('\n')[0][:200] or type(error).__name__
