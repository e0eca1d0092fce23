"""What the system answers when it is asked for a file.

Only some of its answers are about the file: a failing disk or server, or a
missing permission, says nothing about what is stored.
"""

import errno
import os
import re

# Errors of a file that is not what it was. All others, such as EIO, ESTALE or
# EACCES, are refusals.
_ERRORS_OF_DAMAGE = {
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EINVAL,
  errno.ENAMETOOLONG,
  errno.ELOOP,
}


def refusal(error: BaseException | None) -> str | None:
  """Return the system's answer, None if it is one about damage."""
  while error is not None:
    if isinstance(error, MemoryError):
      return 'out of memory'
    number = _error_number(error)
    if number is not None and number not in _ERRORS_OF_DAMAGE:
      return os.strerror(number)
    error = error.__cause__ or error.__context__
  return None


def refusal_of_files(folder: str) -> str | None:
  """Return the system's answer if it does not let a folder be read."""

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
