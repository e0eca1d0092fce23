"""What a checkpoint says of itself and of the run that it belongs to.

A manifest is a small JSON file inside the checkpoint: the digest of its arrays,
the number of its format, the run's config, the settings of JAX that change
numbers, metrics that no line of the log holds yet, and a seal, the digest of
all these. Checkpoints of earlier versions have the first of these alone.
"""

from collections.abc import Mapping, Sequence
import hashlib
import json
import os
from typing import Any

import jax

from geco_jax.errors import UserError
from geco_jax.io.files import read_text

FORMAT = 3  # Raise it whenever the tree of a state, or its meaning, changes.
FOLDER = 'checkpoints'
SET_ASIDE = 'set_aside'  # Folder of damaged checkpoints.
_UNFINISHED = '.orbax-checkpoint-tmp'  # In the name of one being written.
# Settings of the random stream that `keys` cannot pin, and of arithmetic.
_SETTINGS = (
  'jax_enable_x64',
  'jax_threefry_partitionable',
  'jax_default_matmul_precision',
)


class OtherFormatError(ValueError):
  """A checkpoint is as it was written, by a version of another format."""


def seal(
  sha256: str,
  run: Mapping[str, Any],
  unlogged: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
  """Return the manifest of a checkpoint.

  Args:
    sha256: of its arrays.
    run: what it says of the run, JSON values.
    unlogged: metrics of the steps since the last line of the log.
  """
  content = {
    'sha256': sha256,
    'format': FORMAT,
    'run': dict(run),
    'unlogged': dict(unlogged),
  }
  return {**content, 'seal': _digest(content)}


def check(content: Any) -> None:
  """Make sure that a manifest is as it was written, of this format.

  Raises:
    ValueError: if it is damaged.
    OtherFormatError: if it is of another format.
  """
  if not isinstance(content, dict) or 'sha256' not in content:
    raise ValueError('its manifest is damaged')
  if content.keys() == {'sha256'}:  # From an earlier version.
    return
  unsealed = {k: v for k, v in content.items() if k != 'seal'}
  if _digest(unsealed) != content.get('seal'):
    raise ValueError('its manifest is damaged')
  if unsealed.get('format') != FORMAT:
    raise OtherFormatError(
      f'its format is {unsealed.get("format")}, that of this version of '
      f'geco_jax is {FORMAT}'
    )


def runs(workdir: str | os.PathLike) -> dict[int, dict[str, Any]]:
  """Return what the checkpoints in a folder say of their run, by step.

  Those that are damaged, or say nothing, are left out.
  """
  by_step = {}
  for step in steps(workdir):
    try:
      content = _read(workdir, step)
      check(content)
      by_step[step] = content['run']
    except (OSError, ValueError, KeyError):  # `restore` reports it.
      continue
  return by_step


def other_format(workdir: str | os.PathLike, step: int) -> str:
  """Return in words which format a checkpoint has if it is not this one."""
  try:
    check(_read(workdir, step))
  except OtherFormatError as error:
    return str(error)
  except (OSError, ValueError):
    pass
  return ''


def _read(workdir: str | os.PathLike, step: int) -> Any:
  path = os.path.join(workdir, FOLDER, str(step), 'manifest', 'metadata')
  return json.loads(read_text(path))


def runs_at_once(workdir: str | os.PathLike, step: int) -> list[int]:
  """Return how many runs were trained at once, a checkpoint's run included.

  There are several numbers if it was trained with one, then with another, and
  none if it is not known.
  """
  return runs(workdir).get(step, {}).get('runs_at_once', [])


def steps(workdir: str | os.PathLike) -> list[int]:
  """Return the steps of a run's checkpoints, oldest first, damaged or not.

  Raises:
    UserError: if their folder is a file, or cannot be read.
  """
  folder = os.path.join(workdir, FOLDER)
  try:
    names = os.listdir(folder)
  except FileNotFoundError:
    return []
  except NotADirectoryError as error:
    if not os.path.lexists(folder):  # Its parent is a file.
      return []
    raise UserError(
      f'{folder} is a file, where a folder of checkpoints is to be; move it '
      'away'
    ) from error
  except OSError as error:
    raise UserError(f'{folder} cannot be read: {error.strerror}') from error
  return sorted(int(name) for name in names if name.isdecimal())


def are_there(workdir: str | os.PathLike) -> bool:
  """Return whether a folder has checkpoints, be they damaged or set aside.

  Raises:
    UserError: as `steps` does.
  """
  if os.path.lexists(os.path.join(workdir, SET_ASIDE)) or steps(workdir):
    return True
  folder = os.path.join(workdir, FOLDER)
  names = os.listdir(folder) if os.path.isdir(folder) else ()
  return any(_UNFINISHED not in name for name in names)


def settings() -> dict[str, Any]:
  """Return the settings of JAX that change a run's numbers."""
  return {name: getattr(jax.config, name) for name in _SETTINGS}


def _digest(content) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
