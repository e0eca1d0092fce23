"""Files written whole or not at all, and where the caches are."""

from collections.abc import Iterator
import contextlib
import errno
import io
import json
import os
import pathlib
import re
import stat
import time
from typing import Any
import uuid

from absl import logging
import numpy as np

from geco_jax import signals
from geco_jax.errors import UserError
from geco_jax.io.encodings import in_unicode

# Files of killed writes; a younger one may be in use by another process.
_TEMPORARY = re.compile(r'.*\.[0-9a-f]{32}\.tmp')
_ABANDONED_AFTER = 3600.0  # Seconds.


class UnwritableError(UserError, OSError):
  """A file that cannot be written: its path, and what the system says."""


def cache_folder() -> pathlib.Path:
  """Return $GECO_JAX_CACHE, else geco_jax in the user's cache folder.

  Raises:
    UserError: if neither that nor a home is known.
  """
  if folder := os.environ.get('GECO_JAX_CACHE'):
    return _in_home(folder)
  caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return _in_home(caches) / 'geco_jax'


def _in_home(path) -> pathlib.Path:
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:  # Containers' users may have none.
    raise UserError(
      f'no folder for caches: {path} names a home folder, and this user has '
      'none; set HOME, or GECO_JAX_CACHE to a folder'
    ) from error


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Turn the error of a path that cannot be written into a sentence.

  Raises:
    UnwritableError: where an `OSError` would have been.
  """
  try:
    yield
  except UnwritableError:
    raise
  except OSError as error:
    reason = error.strerror or error
    raise UnwritableError(f'{path} cannot be written: {reason}') from error


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Write a JSON file, whole or not at all.

  Anything else in its place is set aside with a warning, here and in the next
  three functions.

  Raises:
    UnwritableError: if it cannot be written; there too.
  """
  write_bytes(path, f'{json.dumps(value, indent=2)}\n'.encode())


def write_npz(path: str | os.PathLike, arrays: dict[str, Any]) -> None:
  """Write a NumPy archive, whole or not at all."""
  content = io.BytesIO()
  np.savez(content, **arrays)
  write_bytes(path, content.getvalue())


def write_text(path: str | os.PathLike, text: str) -> None:
  """Write a text in UTF-8, whole or not at all."""
  write_bytes(path, in_unicode(text).encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Write a file, whole or not at all, even if the power fails."""
  # A name of its own: two processes may write one file at once.
  temporary = f'{path}.{uuid.uuid4().hex}.tmp'
  try:
    with writing(path), signals.removed_by_end(temporary):
      with open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      make_room(path)
      os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(temporary)
    raise


def remove_abandoned(folder: str | os.PathLike) -> None:
  """Remove what killed writes left in a folder over an hour ago."""
  newest = time.time() - _ABANDONED_AFTER
  for entry in os.scandir(folder):
    with contextlib.suppress(OSError):  # Another process was first.
      if _TEMPORARY.fullmatch(entry.name) and entry.stat().st_mtime < newest:
        os.remove(entry.path)


def is_no_file(path: str | os.PathLike) -> bool:
  """Return whether a folder, pipe or bad link stands in a file's place."""
  try:
    return not stat.S_ISREG(os.stat(path).st_mode)
  except OSError as error:  # Other errors are not about the path.
    is_of_links = error.errno in (errno.ENOENT, errno.ELOOP)
    return is_of_links and os.path.islink(path)


def make_room(path: str | os.PathLike) -> None:
  """Set aside anything in a file's place that is no file, with a warning.

  Raises:
    UnwritableError: if it cannot be renamed.
  """
  if is_no_file(path):
    logging.warning('%s was no file, it is now %s', path, set_aside(path))


def read_text(path: str | os.PathLike) -> str:
  """Return the text of a file; do not wait for a pipe.

  Raises:
    OSError: if it is not there or cannot be read.
    ValueError: if it is no text, or no file.
  """
  if is_no_file(path) and not os.path.isdir(path):
    raise ValueError('it is no file, nor a link to one')
  with open(path, encoding='utf-8') as file:
    return file.read()


def set_aside(path: str | os.PathLike) -> str:
  """Rename what stands in a file's or folder's place; return its new path.

  Raises:
    UnwritableError: if it cannot be renamed.
  """
  number = 0
  while os.path.lexists(aside := f'{path}.set_aside{number or ""}'):
    number += 1
  with writing(path):
    os.rename(path, aside)
  return aside
