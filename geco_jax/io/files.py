"""Files written whole or not at all, and where the caches are."""

import io
import json
import os
import pathlib
from typing import Any

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
  """Write a file, whole or not at all."""
  temporary = f'{path}.tmp'
  with open(temporary, 'wb') as file:
    file.write(content)
  os.replace(temporary, path)
