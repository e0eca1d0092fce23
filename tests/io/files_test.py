"""Tests of `files`."""

import contextlib
import os
import pathlib
import time
import uuid

import numpy as np
import pytest

from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import lock
from geco_jax.io import logs
from geco_jax.io import run_folder


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
  with contextlib.closing(lock.Lock(str(tmp_path))):
    left = {path.name for path in tmp_path.iterdir()}
  assert left == {*names, '.lock'} - {names[1]}


def in_its_place(path, kind):
  """Put something in the place of a file."""
  if kind == 'folder':
    os.mkdir(path)
  elif kind == 'pipe':
    os.mkfifo(path)
  else:
    os.symlink(path if kind == 'a link to itself' else f'{path}.gone', path)


@pytest.mark.parametrize(
  'kind', ['folder', 'pipe', 'a link to itself', 'a link to nowhere']
)
def test_what_is_no_file_is_not_waited_for_and_set_aside(
  tmp_path, kind, caplog
):
  """The lock, the log, the best, the config: one in each other's place."""
  for name in ('.lock', 'metrics.jsonl', 'best.json', 'config.json'):
    in_its_place(str(tmp_path / name), kind)
  assert logs.read_metrics(str(tmp_path)) == {}
  assert by_products.read(str(tmp_path / 'best.json'), dict) is None
  with pytest.raises(UserError, match='holds no run: .*config.json'):
    run_folder.read_config(str(tmp_path))
  lock.Lock(str(tmp_path)).close()
  logs.MetricsWriter(str(tmp_path), 0).close()
  files.write_json(str(tmp_path / 'best.json'), {})
  for name in ('.lock', 'metrics.jsonl', 'best.json'):
    assert (tmp_path / name).is_file()
    assert os.path.lexists(tmp_path / f'{name}.set_aside')
    assert f'{name} was no file' in caplog.text
  assert not list(tmp_path.glob('*.gone'))


@pytest.mark.parametrize(
  ('write', 'content'),
  [
    (files.write_json, {'a': '\udcc3\udca9'}),
    (files.write_npz, {'a': np.ones(3)}),
    (files.write_text, '\udcc3\udca9'),
    (files.write_bytes, b'\xff'),
  ],
)
def test_a_folder_in_a_file_s_place_is_set_aside(
  tmp_path, write, content, caplog
):
  path = tmp_path / 'file'
  for number in ('', 1):
    path.mkdir()
    (path / 'mine').touch()
    write(str(path), content)
    assert path.is_file()
    assert (tmp_path / f'file.set_aside{number}' / 'mine').is_file()
    assert f'now {path}.set_aside{number}' in caplog.text
    path.unlink()


def test_a_text_is_written_in_utf8(tmp_path):
  files.write_text(tmp_path / 'page', 'é \udcc3\udca9 \udcff')
  assert (tmp_path / 'page').read_bytes() == 'é é \ufffd'.encode()


def test_a_link_to_a_file_is_one(tmp_path):
  (tmp_path / 'elsewhere').write_text('{"step": 1}\n')
  (tmp_path / 'metrics.jsonl').symlink_to(tmp_path / 'elsewhere')
  logs.MetricsWriter(str(tmp_path), 1).close()
  np.testing.assert_array_equal(logs.read_metrics(str(tmp_path))['step'], [1])
  assert (tmp_path / 'metrics.jsonl').is_symlink()


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  """Else a power failure could leave an empty file in the place of a whole."""
  path, calls = tmp_path / 'numbers.json', []
  fsync, replace = os.fsync, os.replace

  def sync(handle):
    fsync(handle)
    calls.append(('synced', os.fstat(handle).st_size))

  def rename(source, target):
    calls.append(('renamed', os.stat(source).st_size))
    replace(source, target)

  monkeypatch.setattr(os, 'fsync', sync)
  monkeypatch.setattr(os, 'replace', rename)
  files.write_json(path, [1])
  size = path.stat().st_size
  assert calls == [('synced', size), ('renamed', size)]
