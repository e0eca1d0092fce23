"""Checkpoints survive damage and keep what they should."""

import os

import numpy as np
import pytest

from geco_jax.errors import UserError
from geco_jax.io.checkpoint import Checkpointer
from geco_jax.io.checkpoint import score


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


def test_nothing_saved_restores_nothing(tmp_path):
  assert restore(tmp_path) is None


def test_keeps_the_last_few_and_the_best(tmp_path):
  save(tmp_path, {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 6.0})
  checkpointer = Checkpointer(tmp_path)
  assert checkpointer.steps() == [2, 4, 5, 6]
  assert checkpointer.best() == {'step': 2, 'score': 1.0}
  checkpointer.close()


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


def test_passed_over_checkpoints_can_be_deleted(tmp_path):
  save(tmp_path, {10: 1.0, 20: 2.0})
  checkpointer = Checkpointer(tmp_path)
  checkpointer.delete_after(10)
  assert checkpointer.steps() == [10]
  checkpointer.close()


def test_score_prefers_met_constraints_then_low_kl():
  met_scores = [score(kl, {'re': 0.01}, tolerance=0.02) for kl in (3.0, 5.0)]
  violated = [score(1.0, {'re': v}, tolerance=0.02) for v in (0.03, 0.5)]
  assert met_scores[0] < met_scores[1] < violated[0] < violated[1]


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
