"""Paths that people give."""

from collections.abc import Callable
import os
import re
import reprlib
from typing import Any

from geco_jax.errors import UserError


def local_path(path: str | os.PathLike[str]) -> str:
  """Return a path of this machine, its `~` expanded.

  Raises:
    UserError: if it is no text, one of another machine (gs://...), or in a home
      folder that is not known.
  """
  path = check_path(path)
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', path):
    raise UserError(f'{path} is no path of this machine; mount it or copy it')
  expanded = os.path.expanduser(path)
  if expanded.startswith('~'):
    raise UserError(f'{path}: there is no home folder {path.split("/")[0]}')
  return expanded


def check_path(path: Any) -> str:
  """Return a path as text.

  Raises:
    UserError: if it is none.
  """
  if isinstance(path, os.PathLike):
    path = os.fspath(path)
  if not isinstance(path, str) or '\0' in path:
    raise UserError(f'a path must be a string, got {reprlib.repr(path)}')
  return path


def check_for_checkpoints(folder: str) -> None:
  """Refuse a folder in whose path checkpoints cannot be read back.

  Raises:
    UserError: if there is a backslash in it, which TensorStore reads as `/`.
  """
  if '\\' in os.path.abspath(folder):
    raise UserError(
      f'{folder}: checkpoints in a path with a backslash cannot be read back; '
      'choose another one'
    )


def output_path(path: str) -> str:
  """Return the path of a file to be written, its `~` expanded.

  Raises:
    UserError: if it is a folder, which is not to be replaced.
  """
  local = local_path(path)
  if os.path.isdir(local):
    raise UserError(f'{path} is a folder; name a file to be written')
  return local


def existing_path(path: str, kind: str, exists: Callable[[str], bool]) -> str:
  """Return the path from which a data set is read, its `~` expanded.

  Args:
    path: as given.
    kind: what must be there, for people.
    exists: whether it is of this kind.

  Raises:
    UserError: if the path is empty, or there is no such thing.
  """
  if not path:
    raise UserError(
      f'config.dataset.kwargs.path is missing: the path of {kind}'
    )
  local = local_path(path)
  if not exists(local):
    if os.path.lexists(local):
      raise UserError(f'{path} is not {kind}: config.dataset is to be {kind}')
    raise UserError(
      f'{path} is no such path: config.dataset is to be {kind}; where the data '
      'of a run have moved, train it with their new path, or write that into '
      'its config.json'
    )
  return local
