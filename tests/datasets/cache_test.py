"""The cache returns what was built, whatever befalls its folder."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from geco_jax.datasets import cache

_KEY = {'set': 'toy/1.0.0', 'image_size': None}


def _arrays():
  return {
    'image': np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1),
    'label': np.array([3, -1], np.int32),
  }


def _fail():
  pytest.fail('built again')


def _assert_right(arrays):
  assert arrays.keys() == _arrays().keys()
  for name, expected in _arrays().items():
    assert arrays[name].dtype == expected.dtype
    np.testing.assert_array_equal(arrays[name], expected)


def _load(folder, build=_arrays, key=_KEY):
  return cache.load_or_build(folder, 'toy', key, build)


def _only_entry(folder) -> pathlib.Path:
  (entry,) = folder.iterdir()
  return entry


def _warnings(caplog):
  return [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']


def test_second_load_returns_the_same_arrays_without_building(tmp_path):
  _assert_right(_load(tmp_path))
  _assert_right(_load(tmp_path, build=_fail))


def test_arrays_are_mapped_when_they_are_built_and_later(tmp_path):
  for arrays in (_load(tmp_path), _load(tmp_path, build=_fail)):
    for array in arrays.values():
      assert type(array) is np.ndarray
      assert isinstance(array.base, np.memmap)
      assert not array.flags.writeable


def test_keys_do_not_share_an_entry(tmp_path):
  _load(tmp_path)
  other = {'image': np.zeros(1, np.uint8)}
  got = _load(tmp_path, lambda: other, key={**_KEY, 'image_size': 8})
  assert got.keys() == other.keys()
  _assert_right(_load(tmp_path, build=_fail))


def test_manifest_names_the_key_the_shapes_and_the_checksums(tmp_path):
  _load(tmp_path)
  manifest = json.loads((_only_entry(tmp_path) / 'manifest.json').read_text())
  assert manifest['key'] == _KEY
  assert manifest['arrays']['image']['shape'] == [2, 3, 4, 1]
  assert len(manifest['arrays']['label']['sha256']) == 64


def _flip_a_bit(entry):
  path = entry / 'image.npy'
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)


def _truncate(entry):
  path = entry / 'label.npy'
  path.write_bytes(path.read_bytes()[:-1])


def _edit_manifest(**changes):
  def edit(entry):
    path = entry / 'manifest.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

  return edit


def _replace_by_file(entry):
  for path in entry.iterdir():
    path.unlink()
  entry.rmdir()
  entry.write_text('not a folder')


_DAMAGES = {
  'bit_flipped': _flip_a_bit,
  'truncated': _truncate,
  'array_missing': lambda entry: (entry / 'image.npy').unlink(),
  'manifest_missing': lambda entry: (entry / 'manifest.json').unlink(),
  'manifest_cut': lambda e: (e / 'manifest.json').write_text('{"format": 1'),
  'manifest_odd': lambda e: (e / 'manifest.json').write_text('[]'),
  'old_format': _edit_manifest(format=0),
  'other_key': _edit_manifest(key={}),
  'a_file': _replace_by_file,
}


@pytest.mark.parametrize('damage', _DAMAGES)
def test_damaged_entry_is_rebuilt_with_one_warning(tmp_path, caplog, damage):
  _load(tmp_path)
  _DAMAGES[damage](_only_entry(tmp_path))
  _assert_right(_load(tmp_path))
  (warning,) = _warnings(caplog)
  assert 'Rebuilding the cache entry' in warning
  assert '\n' not in warning
  _assert_right(_load(tmp_path, build=_fail))


def test_entry_from_a_faster_build_is_kept_and_used(tmp_path):
  def overtaken():
    _load(tmp_path)
    return {name: array + 1 for name, array in _arrays().items()}

  _assert_right(_load(tmp_path, overtaken))
  _assert_right(_load(tmp_path, build=_fail))
  assert len(list(tmp_path.iterdir())) == 1


def test_unwritable_folder_costs_a_warning_not_the_run(tmp_path, caplog):
  (tmp_path / 'file').write_text('')
  _assert_right(_load(tmp_path / 'file' / 'cache'))
  (warning,) = _warnings(caplog)
  assert 'Going on uncached' in warning


def test_failed_build_leaves_nothing(tmp_path):
  with pytest.raises(ZeroDivisionError):
    _load(tmp_path, lambda: 1 / 0)
  assert not list(tmp_path.iterdir())


def test_full_disk_leaves_nothing_and_costs_a_warning(
  tmp_path, caplog, monkeypatch
):
  def no_space(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(np, 'save', no_space)
  _assert_right(_load(tmp_path))
  assert 'No space left' in _warnings(caplog)[0]
  assert not list(tmp_path.iterdir())


def _start(script, folder):
  source = textwrap.dedent(script)
  return subprocess.Popen(
    [sys.executable, '-c', source, str(folder)], stdout=subprocess.PIPE
  )


_KILLED_WHILE_WRITING = """
    import os, signal, sys
    import numpy as np
    from geco_jax.datasets import cache

    save = np.save
    def save_half(path, array, **kwargs):
      save(path, array[:1], **kwargs)
      os.kill(os.getpid(), signal.SIGKILL)
    np.save = save_half

    arrays = {'image': np.zeros((2, 3, 4, 1), np.uint8)}
    key = {'set': 'toy/1.0.0', 'image_size': None}
    cache.load_or_build(sys.argv[1], 'toy', key, lambda: arrays)
"""


def test_killed_build_leaves_nothing_to_read(tmp_path, caplog):
  assert _start(_KILLED_WHILE_WRITING, tmp_path).wait() < 0
  assert [path.name[0] for path in tmp_path.iterdir()] == ['.']
  _assert_right(_load(tmp_path))
  assert [path.name[0] for path in tmp_path.iterdir()] == ['t']
  _assert_right(_load(tmp_path, build=_fail))
  assert not _warnings(caplog)


@pytest.mark.parametrize('seconds', [0, 10_000])
@pytest.mark.parametrize('has_manifest', [False, True])
def test_only_builds_whose_process_is_gone_are_removed(
  tmp_path, seconds, has_manifest
):
  left = tmp_path / f'.other-0123.{"ab" * 16}'
  left.mkdir()
  (left / 'image.npy').write_bytes(b'half')
  if has_manifest:
    (left / 'manifest.json').touch()
  for path in (*left.iterdir(), left):
    os.utime(path, (time.time() - seconds,) * 2)
  others = [tmp_path / '.other-0123', tmp_path / 'other-0123']
  for other in others:
    other.mkdir()
  _load(tmp_path)
  assert left.exists() == (not has_manifest and not seconds)
  assert all(other.exists() for other in others)


def test_a_build_that_is_alive_is_left_alone(tmp_path, monkeypatch):
  save = np.save

  def save_while_another_builds(path, array, **kwargs):
    with monkeypatch.context() as patch:
      patch.setattr(np, 'save', save)
      cache.load_or_build(tmp_path, 'other', {'set': 'b'}, _arrays)
    save(path, array, **kwargs)

  monkeypatch.setattr(np, 'save', save_while_another_builds)
  _assert_right(_load(tmp_path))
  _assert_right(_load(tmp_path, build=_fail))


_BUILT_AT_THE_SAME_TIME = """
    import pathlib, sys, time, uuid
    import numpy as np
    from geco_jax.datasets import cache

    folder = pathlib.Path(sys.argv[1])
    def build():
      (folder / 'builders' / uuid.uuid4().hex).touch()
      while len(list((folder / 'builders').iterdir())) < 2:
        time.sleep(0.01)
      return {
        'image': np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1),
        'label': np.array([3, -1], np.int32),
      }
    key = {'set': 'toy/1.0.0', 'image_size': None}
    arrays = cache.load_or_build(folder / 'cache', 'toy', key, build)
    print(arrays['image'].sum(), arrays['label'].sum())
"""


def test_two_processes_building_at_once_both_get_the_arrays(tmp_path):
  (tmp_path / 'builders').mkdir()
  processes = [_start(_BUILT_AT_THE_SAME_TIME, tmp_path) for _ in range(2)]
  outputs = [process.communicate(timeout=60)[0] for process in processes]
  assert outputs == [b'276 2\n', b'276 2\n']
  assert len(list((tmp_path / 'cache').iterdir())) == 1
  _assert_right(_load(tmp_path / 'cache', build=_fail))
