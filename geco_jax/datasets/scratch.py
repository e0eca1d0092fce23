"""Arrays that are kept in a file where they are too large for memory.

The file has no name and vanishes with the array, even if a process is killed.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import contextvars
import math
import os
import pathlib
import tempfile
from typing import Any

from absl import logging
import numpy as np

_MOST_IN_MEMORY = 2**28  # Bytes of one array.
_BLOCK = 1_024  # Rows that are copied at once.

Folder = Callable[[], pathlib.Path]
_folder: contextvars.ContextVar[Folder | None] = contextvars.ContextVar(
  'folder', default=None
)


@contextlib.contextmanager
def in_folder(folder: Folder) -> Iterator[None]:
  """Let large arrays of `empty` and `take` lie in files in a folder.

  Args:
    folder: () -> its path; called when there is a large array.
  """
  token = _folder.set(folder)
  try:
    yield
  finally:
    _folder.reset(token)


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
  """Return an array to be filled; a large one lies in the folder, if any.

  Where that cannot be written to or is full, it lies in memory, with a warning.
  """
  num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
  folder = _folder.get()
  if folder is not None and num_bytes > _MOST_IN_MEMORY:
    try:
      return _mapped(folder(), shape, dtype, num_bytes)
    except OSError as error:
      logging.warning('%d MiB are held in memory: %s', num_bytes >> 20, error)
  return np.empty(shape, dtype)


def _mapped(folder, shape, dtype, num_bytes) -> np.ndarray:
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=folder) as file:
    # A disk that is full only when a page is written would kill the process.
    if hasattr(os, 'posix_fallocate'):  # Not on macOS.
      os.posix_fallocate(file.fileno(), 0, num_bytes)
    return np.asarray(np.memmap(file, dtype, mode='w+', shape=tuple(shape)))


def take(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
  """Return `array[indices]`, indices [m], in an array from `empty`."""
  taken = empty((len(indices), *array.shape[1:]), array.dtype)
  for start in range(0, len(indices), _BLOCK):
    part = slice(start, start + _BLOCK)
    taken[part] = array[indices[part]]
  return taken
