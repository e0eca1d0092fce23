"""A run's folder and its config."""

import contextlib
import json
import os

from ml_collections.config_dict import ConfigDict

from geco_jax.config_tree import flatten
from geco_jax.config_tree import plain
from geco_jax.errors import UserError
from geco_jax.io.files import write_json

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
    write_json(os.path.join(workdir, _CONFIG), plain(config))


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


@contextlib.contextmanager
def _reporting_errors(workdir):
  """Turn the error of a folder that cannot be written into a `UserError`."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f'--workdir={workdir} cannot be written: {error.strerror}'
    ) from error
