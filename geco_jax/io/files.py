"""Files written whole or not at all, and where the caches are."""

import contextlib
import io
import json
import os
import pathlib
from typing import Any
import uuid

import numpy as np


def cache_folder() -> pathlib.Path:
  """Return $GECO_JAX_CACHE, else geco_jax in the user's cache folder."""
  if folder := os.environ.get('GECO_JAX_CACHE'):
    return pathlib.Path(folder).expanduser()
  caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(caches).expanduser() / 'geco_jax'


def write_json(path: str, value: Any) -> None:
  """Write a JSON file, whole or not at all."""
  write_bytes(path, f'{json.dumps(value, indent=2)}\n'.encode())


def write_npz(path: str | os.PathLike, arrays: dict[str, Any]) -> None:
  """Write a NumPy archive, whole or not at all."""
  content = io.BytesIO()
  np.savez(content, **arrays)
  write_bytes(path, content.getvalue())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Write a file, whole or not at all, even where the power fails."""
  # A name of its own: two processes may write one file at once.
  temporary = f'{path}.{uuid.uuid4().hex}.tmp'
  try:
    with open(temporary, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(temporary)
    raise
