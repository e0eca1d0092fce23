"""A folder of checksummed arrays, so that images are decoded once.

An entry is a folder that holds one `.npy` file per array and a manifest with
the entry's key and each file's shape and SHA-256. It is built under a hidden
name beside its place and renamed once it is whole. A build that is killed thus
leaves nothing that could be read, and of two builds at once the first to finish
wins. The next build removes what killed ones have left: a build holds a lock on
its manifest as long as it lives.

Arrays are mapped, not read: the system keeps the parts that are used in memory,
as long as there is room.
"""

from collections.abc import Callable, Mapping
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
from typing import TextIO
import uuid

from absl import logging
import numpy as np

from geco_jax.datasets import scratch

_FORMAT = 1  # Raise it whenever the meaning of an entry changes.
_MANIFEST = 'manifest.json'
_HIDDEN = re.compile(r'\..+\.[0-9a-f]{32}')
_SECONDS_OF_A_FILE = 600  # No build takes longer to write one.

Arrays = dict[str, np.ndarray]
Key = Mapping[str, str | int | None]


def load_or_build(
  folder: str | os.PathLike[str],
  label: str,
  key: Key,
  build: Callable[[], Arrays],
) -> Arrays:
  """Return the arrays kept under `key`, built and stored if need be.

  An entry that is damaged, or of another format, is built again with a
  warning; a folder that cannot be written to costs a warning and the cache.

  Args:
    folder: where all entries live; made if it is not there.
    label: what a person calls the entry; part of its folder's name.
    key: everything that the arrays depend on, as JSON values.
    build: makes the arrays when there is no sound entry; large ones should
      come from `scratch`.

  Returns:
    Arrays by name, not to be written to.
  """
  entry = pathlib.Path(folder) / f'{label}-{_digest(key)}'
  if os.path.lexists(entry):
    try:
      return _read(entry, key)
    except _UnsoundError as error:
      logging.warning('Rebuilding the cache entry %s: %s', entry, error)
  with scratch.in_folder(lambda: entry.parent):
    arrays = build()
  try:
    return _store(entry, key, arrays)
  except (OSError, _UnsoundError) as error:
    logging.warning('Going on uncached, cannot write to the cache: %s', error)
    return arrays


class _UnsoundError(Exception):
  """Why an entry cannot be trusted."""


def _digest(key: Key) -> str:
  text = json.dumps(dict(key), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(entry: pathlib.Path, key: Key) -> Arrays:
  try:
    manifest = json.loads((entry / _MANIFEST).read_text('utf-8'))
    if manifest['format'] != _FORMAT:
      raise ValueError(f'format {manifest["format"]} is not {_FORMAT}')
    if manifest['key'] != dict(key):
      raise ValueError('its manifest belongs to another key')
    return {
      name: _read_array(entry / f'{name}.npy', file_info['sha256'])
      for name, file_info in manifest['arrays'].items()
    }
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise _UnsoundError(f'{type(error).__name__}: {error}') from error


def _read_array(path: pathlib.Path, sha256: str) -> np.ndarray:
  with path.open('rb') as file:
    if hashlib.file_digest(file, 'sha256').hexdigest() != sha256:
      raise ValueError(f'{path.name} fails its checksum')
  return np.asarray(np.load(path, mmap_mode='r', allow_pickle=False))


def _store(entry: pathlib.Path, key: Key, arrays: Arrays) -> Arrays:
  """Write the entry and return the arrays that now stand there."""
  _remove_abandoned(entry.parent)
  building = _hidden_sibling(entry)
  try:
    building.mkdir(parents=True)
    with (building / _MANIFEST).open('w', encoding='utf-8') as manifest:
      _lock(manifest)
      _write(building, manifest, key, arrays)
      _publish(building, entry)
    return _read(entry, key)
  except _UnsoundError:  # The entry to be replaced is there.
    replaced = _hidden_sibling(entry)
    os.rename(entry, replaced)
    shutil.rmtree(replaced, ignore_errors=True)
    os.rename(building, entry)
    return _read(entry, key)
  finally:
    shutil.rmtree(building, ignore_errors=True)


def _hidden_sibling(entry: pathlib.Path) -> pathlib.Path:
  return entry.with_name(f'.{entry.name}.{uuid.uuid4().hex}')


def _remove_abandoned(folder: pathlib.Path) -> None:
  """Remove the hidden folders of builds whose process is gone."""
  for path in folder.iterdir() if folder.is_dir() else ():
    if _HIDDEN.fullmatch(path.name) and _is_abandoned(path):
      shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(building: pathlib.Path) -> bool:
  try:
    with (building / _MANIFEST).open('r+', encoding='utf-8') as manifest:
      return _lock(manifest)
  except FileNotFoundError:  # A build just begun, or of an earlier version.
    return time.time() - _latest_change(building) > _SECONDS_OF_A_FILE
  except OSError:
    return False


def _latest_change(building: pathlib.Path) -> float:
  """Return when a folder or a file in it was last written."""
  times = [time.time()]
  with contextlib.suppress(OSError):  # Another process removes it.
    times = [p.stat().st_mtime for p in (building, *building.iterdir())]
  return max(times)


def _lock(file: TextIO) -> bool:
  """Lock an open file; return whether this process now holds the lock."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:  # Another process holds it, or there are no locks.
    return False
  return True


def _write(
  building: pathlib.Path, manifest: TextIO, key: Key, arrays: Arrays
) -> None:
  file_info = {}
  for name, array in arrays.items():
    path = building / f'{name}.npy'
    np.save(path, array, allow_pickle=False)
    with path.open('rb') as file:
      sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    file_info[name] = {'shape': list(array.shape), 'sha256': sha256}
  content = {'format': _FORMAT, 'key': dict(key), 'arrays': file_info}
  manifest.write(json.dumps(content, indent=2) + '\n')
  manifest.flush()


def _publish(building: pathlib.Path, entry: pathlib.Path) -> None:
  """Put the entry in its place, unless the place is taken."""
  try:
    os.rename(building, entry)
  except OSError:
    if not os.path.lexists(entry):
      raise
