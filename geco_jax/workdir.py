"""A run's folder: its config, and files written whole or not at all."""

import contextlib
import io
import json
import os
from typing import Any

from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.errors import UserError

_CONFIG = 'config.json'


def claim(workdir: str, config: ConfigDict) -> None:
  """Create the folder for a run, or make sure that it is this run's.

  Raises:
    UserError: if it was made by another config or cannot be written.
  """
  if holds_run(workdir):
    check_same(workdir, config)
    return
  with _reporting_errors(workdir):
    create(workdir)
    write_json(os.path.join(workdir, _CONFIG), _plain(config))


def holds_run(workdir: str) -> bool:
  """Return whether a run was started in a folder."""
  return os.path.exists(os.path.join(workdir, _CONFIG))


def check_same(workdir: str, config: ConfigDict) -> None:
  """Make sure that the run in a folder has a config.

  Raises:
    UserError: if it has another.
  """
  old, new = flatten(read_config(workdir)), flatten(config)
  differences = [
    f'{name} was {old.get(name)}, is {new.get(name)}'
    for name in sorted(old | new)
    if old.get(name) != new.get(name)
  ]
  if differences:
    raise UserError(
      f'--workdir={workdir} was made by another config '
      f'({"; ".join(differences)}); choose another workdir or that config'
    )


def create(workdir: str) -> None:
  """Create the folder unless it is there.

  Raises:
    UserError: if it cannot be.
  """
  with _reporting_errors(workdir):
    os.makedirs(workdir, exist_ok=True)


def read_config(workdir: str) -> ConfigDict:
  """Return the config of the run in a folder.

  Raises:
    UserError: if the folder holds no run.
  """
  path = os.path.join(workdir, _CONFIG)
  try:
    with open(path) as file:
      return ConfigDict(json.load(file))
  except (OSError, ValueError) as error:
    raise UserError(
      f'--workdir={workdir} holds no run: {_CONFIG} is missing or damaged'
    ) from error


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


def flatten(config: ConfigDict) -> dict[str, Any]:
  """Return the leaves of a config by dotted name."""

  def leaves(prefix, value):
    if isinstance(value, dict) and value:
      for key, inner in value.items():
        yield from leaves(f'{prefix}.{key}' if prefix else key, inner)
    else:
      yield prefix, value

  return dict(leaves('', _plain(config)))


@contextlib.contextmanager
def _reporting_errors(workdir):
  """Turn the error of a folder that cannot be written into a `UserError`."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f'--workdir={workdir} cannot be written: {error.strerror}'
    ) from error


def _plain(config):
  """Return the config as it reads back from JSON."""
  return json.loads(config.to_json())
