"""Checkpoints survive damage and keep what they should."""

import collections
import errno
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from geco_jax.errors import UserError
from geco_jax.io import checkpoint
from geco_jax.io import manifest
from geco_jax.io.checkpoint import Checkpointer


def make_state(step):
  """Return a state that tells its step."""
  rng = np.random.default_rng(step)
  return {
    'step': np.int32(step),
    'layer': (rng.normal(size=(64, 64)).astype(np.float32), np.float32(0.5)),
  }


def save(workdir, scores):
  """Save a checkpoint for every step of {step: score}."""
  checkpointer = Checkpointer(workdir)
  for step, value in scores.items():
    checkpointer.save(step, make_state(step), value)
  checkpointer.close()


def restore(workdir, step=None):
  """Return what a new process would restore."""
  checkpointer = Checkpointer(workdir)
  try:
    return checkpointer.restore(make_state(0), step)
  finally:
    checkpointer.close()


def largest_file(folder):
  """Return the path of the largest file below a folder."""
  paths = [os.path.join(d, f) for d, _, files in os.walk(folder) for f in files]
  return max(paths, key=os.path.getsize)


def test_restores_the_latest_exactly(tmp_path):
  save(tmp_path, {10: 1.0, 20: 2.0})
  restored = restore(tmp_path)
  assert restored.step == 20
  expected = make_state(20)
  matrix, number = restored.state['layer']
  np.testing.assert_array_equal(matrix, expected['layer'][0])
  assert restored.state['step'] == 20
  assert number.dtype == np.float32


def test_restores_a_step_by_number(tmp_path):
  save(tmp_path, {10: 1.0, 20: 2.0})
  assert restore(tmp_path, step=10).state['step'] == 10


def test_metrics_that_no_line_holds_yet_are_kept(tmp_path):
  checkpointer = Checkpointer(tmp_path)
  unlogged = {'loss': [0.1, float('inf')], 'kl': np.float32([0.3]).tolist()}
  checkpointer.save(10, make_state(10), 1.0, unlogged)
  checkpointer.close()
  assert restore(tmp_path).unlogged == unlogged
  save(tmp_path, {20: 1.0})
  assert restore(tmp_path).unlogged == {}


def test_nothing_saved_restores_nothing(tmp_path):
  assert restore(tmp_path) is None


def test_keeps_the_last_few_and_the_best(tmp_path):
  save(tmp_path, {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 6.0})
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.steps() == [2, 4, 5, 6]
  assert checkpointer.best() == {'step': 2, 'score': 1.0}
  checkpointer.close()


def test_what_a_killed_process_had_no_time_to_remove_is_removed(
  tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, '_LATEST_KEPT', 6)
    save(tmp_path, {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 6.0})
  reader = Checkpointer(tmp_path, read_only=True)
  assert reader.restore(make_state(0)).step == 6
  assert reader.steps() == [1, 2, 3, 4, 5, 6]
  reader.close()
  assert restore(tmp_path).step == 6
  reader = Checkpointer(tmp_path, read_only=True)
  assert reader.steps() == [2, 4, 5, 6]
  reader.close()


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'removed'])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(
  tmp_path, damage, caplog
):
  save(tmp_path, {10: 1.0, 20: 2.0})
  path = largest_file(tmp_path / 'checkpoints' / '20')
  with open(path, 'rb') as file:
    content = bytearray(file.read())
  match damage:
    case 'truncated':
      content = content[: len(content) // 2]
    case 'flipped':
      content[len(content) // 2] ^= 0xFF
    case 'removed':
      os.remove(path)
  if damage != 'removed':
    with open(path, 'wb') as file:
      file.write(content)
  with caplog.at_level('WARNING'):
    assert restore(tmp_path).step == 10
  assert 'checkpoint of step 20' in caplog.text


def test_arrays_that_do_not_match_their_digest_are_damage(
  tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    patch.setattr('geco_jax.io.checkpoint._digest', lambda state: 'another')
    save(tmp_path, {10: 1.0})
  with pytest.raises(UserError, match='no checkpoint .* could be read.*10'):
    restore(tmp_path)


def folder_of(workdir, step):
  return workdir / 'checkpoints' / str(step)


def cut(workdir, step):
  """Truncate the largest file of a checkpoint."""
  path = largest_file(folder_of(workdir, step))
  os.truncate(path, os.path.getsize(path) // 2)


def test_what_was_passed_over_is_kept_until_a_newer_one_is_whole(tmp_path):
  save(tmp_path, {10: 1.0, 20: 2.0})
  cut(tmp_path, 20)
  restore(tmp_path)
  assert (tmp_path / 'set_aside' / '20' / 'state').is_dir()
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.steps() == [10]
  checkpointer.save(15, make_state(15), None)
  checkpointer.finish()
  assert (tmp_path / 'set_aside' / '20').is_dir()
  checkpointer.save(20, make_state(20), 2.0)
  checkpointer.finish()
  checkpointer.close()
  assert not (tmp_path / 'set_aside').exists()
  assert restore(tmp_path).step == 20


def test_readers_change_nothing(tmp_path):
  save(tmp_path, {10: 1.0, 20: 2.0})
  cut(tmp_path, 20)
  checkpointer = Checkpointer(tmp_path, read_only=True)
  assert checkpointer.restore(make_state(0)).step == 10
  checkpointer.close()
  assert folder_of(tmp_path, 20).is_dir()


PASSING = [
  OSError(errno.EIO, 'Input/output error'),
  OSError(errno.ESTALE, 'Stale file handle'),
  PermissionError(errno.EACCES, 'Permission denied'),
  # As TensorStore words it.
  ValueError("UNKNOWN: Error reading local file [os_error_code='5']"),
  MemoryError(),
]


@pytest.mark.parametrize('error', PASSING, ids=repr)
@pytest.mark.parametrize('times', [1, 100])
def test_an_error_of_the_disk_is_not_taken_for_damage(
  tmp_path, monkeypatch, error, times
):
  save(tmp_path, {10: 1.0, 20: 2.0})
  read, errors = Checkpointer._read, [error] * times

  def failing_read(*args):
    if errors:
      raise errors.pop()
    return read(*args)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, '_SECONDS_BEFORE_READS', (0, 0, 0))
    patch.setattr(Checkpointer, '_read', failing_read)
    if times == 1:
      assert restore(tmp_path).step == 20
    else:
      with pytest.raises(UserError, match='step 20 .* cannot be read: .*again'):
        restore(tmp_path)
  assert folder_of(tmp_path, 20).is_dir()
  assert restore(tmp_path).step == 20


def test_a_file_that_may_not_be_read_is_not_taken_for_damage(
  tmp_path, monkeypatch
):
  """Where Orbax takes it for one that is missing."""
  save(tmp_path, {10: 1.0, 20: 2.0})
  monkeypatch.setattr(checkpoint, '_SECONDS_BEFORE_READS', (0, 0, 0))
  hidden = folder_of(tmp_path, 20) / 'state'
  walk = os.walk

  def refusing_walk(top, onerror):
    if str(top) == str(folder_of(tmp_path, 20)):
      onerror(PermissionError(errno.EACCES, 'Permission denied'))
    return walk(top, onerror=onerror)

  hidden.rename(tmp_path / 'hidden')
  with monkeypatch.context() as patch:
    patch.setattr('os.walk', refusing_walk)
    with pytest.raises(UserError, match='cannot be read: Permission denied'):
      restore(tmp_path)
  assert folder_of(tmp_path, 20).is_dir()


def test_checkpoints_that_changed_places_are_damage(tmp_path):
  state = collections.namedtuple('State', ['step', 'x'])
  checkpointer = Checkpointer(tmp_path)
  for step in (10, 20, 30):
    checkpointer.save(step, state(np.int32(step), np.ones(3)), step)
  checkpointer.close()
  swapped = [folder_of(tmp_path, step) for step in (20, 30)]
  swapped[0].rename(tmp_path / 'x')
  swapped[1].rename(swapped[0])
  (tmp_path / 'x').rename(swapped[1])
  checkpointer = Checkpointer(tmp_path)
  restored = checkpointer.restore(state(np.int32(0), np.ones(3)))
  assert restored.step == restored.state.step == 10
  checkpointer.save(20, state(np.int32(20), np.ones(3)), 20)
  checkpointer.close()


@pytest.mark.parametrize('is_of_earlier_version', [False, True])
@pytest.mark.parametrize(
  ('change', 'difference'),
  [
    ({'more': np.float32(1)}, r'more is missing, not float32\[\]'),
    ({'layer': (np.ones((64, 32), np.float32), np.float32(0))}, 'layer.0 is'),
    ({'layer': (np.ones((64, 64)), np.float32(0))}, r'not float64\[64, 64\]'),
    ({'layer': np.float32(1)}, 'layer is missing.*and 2 more'),
  ],
)
def test_a_state_of_another_form_is_not_called_damaged(
  tmp_path, monkeypatch, change, difference, is_of_earlier_version
):
  if is_of_earlier_version:
    monkeypatch.setattr(manifest, 'seal', lambda sha256, *_: {'sha256': sha256})
  save(tmp_path, {10: 1.0})
  checkpointer = Checkpointer(tmp_path)
  with pytest.raises(
    UserError, match=f'of another form .*{difference}'
  ) as info:
    checkpointer.restore({**make_state(0), **change})
  checkpointer.close()
  assert 'damaged' not in str(info.value)
  assert restore(tmp_path).step == 10


@pytest.mark.parametrize('change', [{}, {'more': np.float32(1)}])
def test_another_format_is_refused_in_one_sentence(
  tmp_path, monkeypatch, caplog, change
):
  with monkeypatch.context() as patch:
    patch.setattr(manifest, 'FORMAT', 1)
    save(tmp_path, {10: 1.0, 20: 2.0})
  checkpointer = Checkpointer(tmp_path)
  with pytest.raises(
    UserError, match='steps 20; .*form .its format is 1, that of .* is 3'
  ) as info:
    checkpointer.restore({**make_state(0), **change})
  checkpointer.close()
  assert 'damaged' not in str(info.value)
  assert not [r for r in caplog.records if r.name == 'absl']
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['10', '20']


def test_checkpoints_of_an_earlier_version_are_restored(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(manifest, 'seal', lambda sha256, *_: {'sha256': sha256})
    save(tmp_path, {10: 1.0})
  assert manifest.runs(tmp_path) == {}
  assert restore(tmp_path).step == 10


@pytest.mark.parametrize('change', ['format', 'run', 'seal'])
def test_a_manifest_that_was_changed_is_damage(tmp_path, change):
  save(tmp_path, {10: 1.0, 20: 2.0})
  path = folder_of(tmp_path, 20) / 'manifest' / 'metadata'
  path.write_text(json.dumps({**json.loads(path.read_text()), change: -1}))
  assert list(manifest.runs(tmp_path)) == [10]
  assert restore(tmp_path).step == 10


def test_what_is_saved_off_schedule_leaves_no_trace(tmp_path):
  checkpointer = Checkpointer(tmp_path, is_scheduled=lambda s: s % 10 == 0)
  for step in (10, 20, 30):
    checkpointer.save(step, make_state(step), step)
  for step in (33, 36):
    checkpointer.save(step, make_state(step), None)
    checkpointer.finish()
  assert checkpointer.steps() == [10, 20, 30, 33, 36]
  assert checkpointer.best() == {'step': 10, 'score': 10}
  checkpointer.save(40, make_state(40), 40)
  checkpointer.close()
  assert sorted(os.listdir(tmp_path / 'checkpoints'), key=int) == [
    *('10', '20', '30', '40')
  ]


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(10, make_state(10), 1.0)
  checkpointer.finish()
  checkpointer.save(20, make_state(20), 1.0)
  wait = checkpointer._manager.wait_until_finished

  def wait_and_cut():
    wait()
    cut(tmp_path, 20)

  with monkeypatch.context() as patch:
    patch.setattr(checkpointer._manager, 'wait_until_finished', wait_and_cut)
    with pytest.raises(UserError, match='step 20 .* cannot be read back'):
      checkpointer.finish()
  checkpointer.close()


def test_a_first_checkpoint_that_is_lost_ends_the_run_at_once(
  tmp_path, monkeypatch
):
  checkpointer = Checkpointer(tmp_path)
  wait = checkpointer._manager.wait_until_finished

  def wait_and_lose():
    wait()
    shutil.rmtree(tmp_path / 'checkpoints' / '10', ignore_errors=True)

  with monkeypatch.context() as patch:
    patch.setattr(checkpointer._manager, 'wait_until_finished', wait_and_lose)
    with pytest.raises(UserError, match='step 10 .* cannot be read back'):
      checkpointer.save(10, make_state(10), 1.0)
  checkpointer.close()


def test_later_checkpoints_are_not_waited_for(tmp_path, monkeypatch):
  checkpointer = Checkpointer(tmp_path)
  reads = []
  monkeypatch.setattr(checkpointer, '_read', lambda *args: reads.append(args))
  for step in (10, 20, 30):
    checkpointer.save(step, make_state(step), 1.0)
  assert [step for _, step in reads] == [10]
  checkpointer.close()


def test_a_write_that_fails_is_one_sentence_by_the_next_call(
  tmp_path, monkeypatch
):
  checkpointer = Checkpointer(tmp_path)

  def fail(*args, **kwargs):
    raise ValueError("Failed to write: No space left [os_error_code='28']")

  expected = r'checkpoints cannot be written: No space left on device; '
  with monkeypatch.context() as patch:
    patch.setattr(checkpointer._manager, 'save', fail)
    with pytest.raises(UserError, match=expected + 'there was no checkpoint'):
      checkpointer.save(10, make_state(10), 1.0)
  checkpointer.save(10, make_state(10), 1.0)
  checkpointer.finish()
  with monkeypatch.context() as patch:
    patch.setattr(checkpointer._manager, 'wait_until_finished', fail)
    with pytest.raises(UserError, match=expected + 'the .* of step 10 is'):
      checkpointer.finish()
  checkpointer.close()


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_leaves_the_last_good(tmp_path):
  """The limit of a file's size stands for the disk's."""
  save(tmp_path, {10: 1.0})
  program = f"""
import resource
from tests.io.checkpoint_test import *
checkpointer = Checkpointer({str(tmp_path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
try:
  checkpointer.save(20, make_state(20), 2.0)
  checkpointer.finish()
except UserError as error:
  print(error)
checkpointer.close()
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )
  assert done.stdout == (
    f'{tmp_path}/checkpoints cannot be written: File too large; '
    'the checkpoint of step 10 is intact\n'
  )
  assert 'Traceback' not in done.stderr
  assert restore(tmp_path).step == 10


@pytest.mark.parametrize(
  'content',
  ['', '[]', '3', 'null', '{}', '{"step": [], "score": 1}', '{"step": 10}']
  + ['{"step": 10, "score": "x"}', '\x00\xff'],
)
def test_a_wrong_file_of_the_best_is_none(tmp_path, content):
  save(tmp_path, {10: 5.0})
  (tmp_path / 'best.json').write_bytes(content.encode('latin-1'))
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.best() is None
  checkpointer.save(20, make_state(20), 9.0)
  assert checkpointer.best() is None or checkpointer.best()['step'] == 20
  checkpointer.close()


@pytest.mark.parametrize('read_only', [False, True])
def test_a_file_in_the_place_of_the_checkpoints_is_refused(tmp_path, read_only):
  (tmp_path / 'checkpoints').write_text('')
  with pytest.raises(UserError, match='checkpoints is a file'):
    Checkpointer(tmp_path, read_only=read_only)


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
  save(tmp_path, {10: 1.0})
  checkpointer = Checkpointer(tmp_path)
  holder = f'process {os.getpid()} on {socket.gethostname()}'
  with pytest.raises(UserError, match=f'in use by {holder}; choose another'):
    Checkpointer(tmp_path)
  reader = Checkpointer(tmp_path, read_only=True)
  assert reader.restore(make_state(0)).step == 10
  reader.close()
  checkpointer.close()
  Checkpointer(tmp_path).close()


def test_a_lock_that_was_deleted_is_taken_anew(tmp_path, caplog):
  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(10, make_state(10), 2.0)
  (tmp_path / '.lock').unlink()
  checkpointer.save(20, make_state(20), 1.0)
  assert '.lock was deleted' in caplog.text
  with pytest.raises(UserError, match='in use by process'):
    Checkpointer(tmp_path)
  checkpointer.close()
  assert restore(tmp_path).step == 20


def test_whoever_lost_the_folder_to_another_writes_nothing(tmp_path):
  first = Checkpointer(tmp_path)
  first.save(10, make_state(10), 2.0)
  (tmp_path / '.lock').unlink()
  second = Checkpointer(tmp_path)
  with pytest.raises(UserError, match='in use by process'):
    first.save(20, make_state(20), 1.0)
  assert second.steps() == [10]
  assert second.best()['step'] == 10
  first.close()
  second.close()


def test_a_checkpoint_says_with_how_many_runs_it_was_trained(tmp_path):
  for step, width in ((10, 2), (20, 2), (30, 1)):
    checkpointer = Checkpointer(tmp_path, runs_at_once=width)
    checkpointer.restore(make_state(0))
    checkpointer.save(step, make_state(step), 1.0)
    checkpointer.close()
  widths = [manifest.runs_at_once(tmp_path, step) for step in (10, 20, 30, 40)]
  assert widths == [[2], [2], [1, 2], []]


def test_the_lock_of_a_killed_process_is_not_in_the_way(tmp_path):
  """It leaves its file, which says nothing without the lock."""
  (tmp_path / '.lock').write_text('process 1 on elsewhere\n')
  save(tmp_path, {10: 1.0})
  assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} ')


@pytest.mark.parametrize('name', ['exp [1]', '[a-z]*?', '{x} é $HOME'])
def test_a_folder_may_have_any_name(tmp_path, name):
  workdir = tmp_path / name / 'run [2]'
  save(workdir, {10: 1.0})
  save(workdir, {20: 2.0})
  assert restore(workdir).step == 20
  assert restore(workdir, 10).state['step'] == 10
  checkpointer = Checkpointer(tmp_path / '[nothing]', read_only=True)
  assert not checkpointer.steps()
  checkpointer.close()
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_readers_leave_what_another_process_is_writing(tmp_path):
  save(tmp_path, {10: 1.0})
  unfinished = tmp_path / 'checkpoints' / '20.orbax-checkpoint-tmp'
  (unfinished / 'state').mkdir(parents=True)
  checkpointer = Checkpointer(tmp_path, read_only=True)
  assert checkpointer.restore(make_state(0)).step == 10
  checkpointer.close()
  assert (unfinished / 'state').is_dir()
  save(tmp_path, {30: 1.0})  # The next writer removes what killed ones left.
  assert not unfinished.exists()


def test_a_manifest_without_its_seal_is_damage(tmp_path):
  """Only those of an earlier version, the digest alone, never had one."""
  save(tmp_path, {10: 1.0, 20: 2.0})
  path = folder_of(tmp_path, 20) / 'manifest' / 'metadata'
  content = json.loads(path.read_text())
  del content['seal']
  path.write_text(json.dumps(content))
  assert list(manifest.runs(tmp_path)) == [10]
  assert restore(tmp_path).step == 10
