"""Files written whole or not at all."""

import io
import json
import os
from typing import Any

import numpy as np


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
