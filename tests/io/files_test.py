"""Tests of `files`."""

import os
import pathlib
import time
import uuid

import pytest

from geco_jax.io import files
from geco_jax.io import lock


@pytest.mark.parametrize(
  ('environment', 'expected'),
  [
    ({'GECO_JAX_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}, '/a'),
    ({'XDG_CACHE_HOME': '/b', 'HOME': '/c'}, '/b/geco_jax'),
    ({'HOME': '/c'}, '/c/.cache/geco_jax'),
  ],
)
def test_the_cache_follows_the_environment(monkeypatch, environment, expected):
  for name in ('GECO_JAX_CACHE', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert files.cache_folder() == pathlib.Path(expected)


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / 'numbers.json'
  files.write_json(path, [1])
  written = []

  def fail(source, target):
    written.append(source)
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr('os.replace', fail)
    for _ in range(2):
      with pytest.raises(OSError, match='No space left'):
        files.write_json(path, [2])
  assert path.read_text() == '[\n  1\n]\n'
  assert [p.name for p in tmp_path.iterdir()] == ['numbers.json']
  assert len(set(written)) == 2  # Two writers have a file each.


def test_what_killed_writes_left_is_removed_once_nobody_can_be_at_it(tmp_path):
  """By whoever holds the folder next: an hour old, and of our names alone."""
  names = [f'config.json.{uuid.uuid4().hex}.tmp' for _ in range(2)]
  names += ['mine.tmp', 'config.json']
  for name in names:
    (tmp_path / name).write_text('')
  for name in names[1:]:
    os.utime(tmp_path / name, (time.time() - 7_200,) * 2)
  with lock.hold(str(tmp_path)):
    left = {path.name for path in tmp_path.iterdir()}
  assert left == {*names, '.lock'} - {names[1]}
