"""A run's folder belongs to one config, whatever happens to its files."""

import json
import os

import jax
from ml_collections.config_dict import ConfigDict
import numpy as np
import pytest

from geco_jax.errors import UserError
from geco_jax.io import manifest
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import Checkpointer


def make_config(**changes):
  """Return a config of two groups and of what may change."""
  return ConfigDict(
    {
      'seed': 0,
      'tolerance': 0.02,
      'checkpoint_every': 10,
      'model': {'name': 'mlp', 'kwargs': {'sizes': [1, 2]}},
      **changes,
    }
  )


def begin(workdir, **changes):
  """Start a run and save a checkpoint."""
  run_folder.claim(str(workdir), make_config(**changes))
  save(workdir, 10)


def save(workdir, step):
  checkpointer = Checkpointer(workdir)
  checkpointer.save(step, {'x': np.ones(3)}, 1.0)
  checkpointer.close()


WRONG = [
  *('', '[]', '3', 'null', '"x"', '{}', '{"seed": 0', '\x00\xff', '[' * 10_000),
  '{"model": null}',
  '{"model": {"name": "mlp"}}',
  '{"model": {"name": 3, "kwargs": {}}}',
  '{"__class__": "x"}',
  '{"model": {"name": "mlp", "kwargs": [1]}}',
]


@pytest.mark.parametrize('content', WRONG, ids=range(len(WRONG)))
def test_a_config_of_a_wrong_form_is_refused_in_one_sentence(tmp_path, content):
  path = tmp_path / 'config.json'
  path.write_bytes(content.encode('latin-1'))
  with pytest.raises(UserError, match=r'holds no run: .*config.json is damage'):
    run_folder.read_config(str(tmp_path))
  with pytest.raises(
    UserError, match=r'config.json is damaged: .*; restore it'
  ):
    run_folder.claim(str(tmp_path), make_config())
  assert path.read_bytes() == content.encode('latin-1')


def test_a_folder_in_the_place_of_the_config_is_refused(tmp_path):
  (tmp_path / 'config.json').mkdir()
  for read in (
    lambda: run_folder.claim(str(tmp_path), make_config()),
    lambda: run_folder.read_config(str(tmp_path)),
  ):
    with pytest.raises(UserError, match='config.json is a folder'):
      read()


@pytest.mark.parametrize('content', [None, '', '[]', '{"model": 1}'])
def test_the_checkpoints_know_the_config_too(tmp_path, caplog, content):
  begin(tmp_path)
  path = tmp_path / 'config.json'
  path.unlink() if content is None else path.write_text(content)
  assert run_folder.read_config(str(tmp_path)) == make_config()
  with pytest.raises(UserError, match='seed was 0, is 1.*choose another'):
    run_folder.claim(str(tmp_path), make_config(seed=1))
  assert content is None or path.read_text() == content
  run_folder.claim(str(tmp_path), make_config())
  assert 'config.json is made anew' in caplog.text
  assert json.loads(path.read_text()) == make_config().to_dict()


def test_an_edited_config_is_refused(tmp_path):
  begin(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(make_config(seed=7).to_dict()))
  for read in (
    lambda: run_folder.claim(str(tmp_path), make_config(seed=7)),
    lambda: run_folder.claim(str(tmp_path), make_config()),
    lambda: run_folder.read_config(str(tmp_path)),
  ):
    with pytest.raises(UserError, match='another config .seed was'):
      read()


def test_the_path_of_a_network_is_kept_absolute_and_its_name_as_it_is(
  tmp_path, caplog, monkeypatch
):
  run, home, other = tmp_path / 'run', tmp_path / 'home', tmp_path / 'other'
  for folder in (home, other):
    (folder / 'runs/cnn').mkdir(parents=True)
    (folder / 'mnist_cnn').mkdir()

  def constraints(fre):
    cla = {'kappa': 0.9, 'network': 'mnist_cnn'}
    return {'constraints': {'fre': {'network': fre}, 'cla': cla}}

  def kept():
    config = run_folder.read_config(str(run))
    return [config.constraints[name].network for name in ('fre', 'cla')]

  monkeypatch.chdir(home)
  begin(run, **constraints('runs/cnn'))
  assert kept() == [str(home / 'runs/cnn'), 'mnist_cnn']
  monkeypatch.setenv('HOME', str(home))
  for same in ('runs/cnn', 'runs/cnn/', str(home / 'runs/cnn'), '~/runs/cnn'):
    run_folder.claim(str(run), make_config(**constraints(same)))
    run_folder.check_same(str(run), make_config(**constraints(same)))
  (run / 'config.json').write_text(  # As earlier versions left it.
    json.dumps(make_config(**constraints('runs/cnn')).to_dict())
  )
  run_folder.claim(str(run), make_config(**constraints('runs/cnn')))
  assert not caplog.records
  monkeypatch.chdir(other)
  for refuse in (run_folder.claim, run_folder.check_same):
    with pytest.raises(UserError, match='network was .*home.*is .*other'):
      refuse(str(run), make_config(**constraints('runs/cnn')))


def test_a_run_of_an_earlier_version_goes_on(tmp_path, monkeypatch, caplog):
  with monkeypatch.context() as patch:
    patch.setattr(manifest, 'seal', lambda sha256, *_: {'sha256': sha256})
    begin(tmp_path)
  run_folder.claim(str(tmp_path), make_config())
  assert not caplog.records
  (tmp_path / 'config.json').unlink()
  with pytest.raises(UserError, match='holds no run: config.json is missing'):
    run_folder.read_config(str(tmp_path))
  run_folder.claim(str(tmp_path), make_config())
  assert 'do not tell theirs' in caplog.text


def test_what_no_number_depends_on_may_change(tmp_path, caplog):
  begin(tmp_path)
  config = make_config(tolerance=0.1, checkpoint_every=5)
  run_folder.claim(str(tmp_path), config)
  assert 'tolerance was 0.02, is 0.1' in caplog.text
  assert 'checkpoint_every was 10, is 5' in caplog.text
  assert run_folder.read_config(str(tmp_path)) == config
  with pytest.raises(UserError, match='tolerance was 0.1, is 0.02'):
    run_folder.check_same(str(tmp_path), make_config())
  save(tmp_path, 15)
  assert manifest.runs(tmp_path)[15]['config'] == config.to_dict()
  caplog.clear()
  run_folder.claim(str(tmp_path), config)
  assert not caplog.records


def test_where_images_are_placed_may_change_and_need_not_be_said(
  tmp_path, caplog
):
  dataset = {'name': 'digits', 'kwargs': {}}
  begin(tmp_path, dataset=dataset)  # As configs of earlier versions.
  for placement, words in (('device', ''), ('host', "was 'device', is 'host'")):
    config = make_config(dataset={**dataset, 'placement': placement})
    run_folder.claim(str(tmp_path), config)
    assert words in caplog.text and bool(words) == bool(caplog.records)


def test_a_path_of_data_is_kept_absolute_and_may_change(
  tmp_path, caplog, monkeypatch
):
  run, one, other = tmp_path / 'run', tmp_path / 'one', tmp_path / 'other'
  for folder in (one, other):
    (folder / 'my').mkdir(parents=True)

  def dataset(path):
    return {'dataset': {'name': 'image_folder', 'kwargs': {'path': path}}}

  def kept():
    return run_folder.read_config(str(run)).dataset.kwargs.path

  monkeypatch.chdir(one)
  begin(run, **dataset('my'))
  assert kept() == str(one / 'my')
  assert manifest.runs(run)[10]['config']['dataset']['kwargs']['path'] == kept()
  run_folder.claim(str(run), make_config(**dataset(os.path.join('my', ''))))
  assert not caplog.records
  monkeypatch.chdir(other)
  with pytest.raises(UserError, match='path was .*one/my.*is .*other/my'):
    run_folder.check_same(str(run), make_config(**dataset('my')))
  run_folder.claim(str(run), make_config(**dataset('my')))
  assert kept() == str(other / 'my')
  words = f"path was '{one / 'my'}', is '{other / 'my'}'"
  assert words in caplog.text
  path = run / 'config.json'  # Edited where the checkpoints have the old one.
  path.write_text(path.read_text().replace(str(other), str(one)))
  assert kept() == str(one / 'my')
  run_folder.claim(str(run), make_config(**dataset('my')))
  monkeypatch.setenv('HOME', str(one))
  run_folder.claim(str(run), make_config(**dataset('~/my')))
  assert kept() == str(one / 'my')


@pytest.mark.parametrize(
  'path', ['', 'no/such', 'gs://bucket/x', 'a\0b', None, 3]
)
def test_what_is_no_path_that_is_there_is_kept_as_it_is(tmp_path, path):
  config = make_config(dataset={'name': 'own', 'kwargs': {'path': path}})
  run_folder.claim(str(tmp_path), config)
  assert run_folder.read_config(str(tmp_path)).dataset.kwargs.path == path


def test_results_are_those_of_a_sweep_whatever_no_number_depends_on(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.npz').touch()
  dataset = {'name': 'npz', 'kwargs': {'path': 'a.npz'}}
  begin(tmp_path, dataset=dataset)
  placed = {'kwargs': {'path': './a.npz'}, 'placement': 'host'}
  changes = {'dataset': {**dataset, **placed}, 'imports': ['my.parts']}
  config = make_config(checkpoint_every=5, **changes)
  run_folder.check_same(str(tmp_path), config)
  with pytest.raises(UserError, match=r'config \(tolerance was 0.02, is 0.1\)'):
    run_folder.check_same(str(tmp_path), make_config(tolerance=0.1, **changes))
  # A finished run does not read its data: other ones would not be noticed.
  changes['dataset']['kwargs']['path'] = 'b.npz'
  with pytest.raises(UserError, match=r"dataset.kwargs.path was '.*a.npz', is"):
    run_folder.check_same(str(tmp_path), make_config(**changes))


def test_settings_of_jax_that_change_numbers_are_the_run_s(
  tmp_path, monkeypatch
):
  begin(tmp_path)
  changed = {**manifest.settings(), 'jax_enable_x64': True}
  monkeypatch.setattr(manifest, 'settings', lambda: changed)
  with pytest.raises(UserError, match='jax_enable_x64=False, now it is True'):
    run_folder.claim(str(tmp_path), make_config())


def test_a_config_that_cannot_be_read_is_not_called_damaged(
  tmp_path, monkeypatch
):
  begin(tmp_path)

  def fail(*args, **kwargs):
    raise OSError(5, 'Input/output error')

  with monkeypatch.context() as patch:
    patch.setattr(run_folder, 'read_text', fail)
    with pytest.raises(UserError, match='config.json cannot be read: Input/'):
      run_folder.claim(str(tmp_path), make_config())


def test_a_run_on_other_data_is_refused_by_what_checkpoints_or_a_file_say(
  tmp_path,
):
  ours, others = 64 * 'a', 64 * 'b'
  data = tmp_path / run_folder.DATA
  run_folder.check_data(str(tmp_path), 'pictures', others)  # There is no run.
  data.write_text(json.dumps({'sha256': ours}))
  run_folder.check_data(str(tmp_path), 'pictures', others)  # It did not begin.
  begin(tmp_path)
  run_folder.check_data(str(tmp_path), 'pictures', ours)
  message = 'other data: the images or labels of pictures have SHA-256 bbbb'
  for content in (json.dumps({'sha256': ours}), '{', '[]', '{"sha256": 3}'):
    data.write_text(content)
    with pytest.raises(UserError, match=message):
      run_folder.check_data(str(tmp_path), 'pictures', others)
  data.unlink()
  with pytest.raises(UserError, match=message):
    run_folder.check_data(str(tmp_path), 'pictures', others)


def test_a_run_of_an_earlier_version_knows_nothing_of_its_data(tmp_path):
  begin(tmp_path)
  for content in (None, '{}', '{"name": "digits"}'):
    if content is not None:
      (tmp_path / run_folder.DATA).write_text(content)
    run_folder.check_data(str(tmp_path), 'pictures', 64 * 'b')


def test_a_run_that_never_saved_anything_is_moved_out_of_the_way(
  tmp_path, caplog
):
  left = {'metrics.jsonl', 'run.json', 'trackers.json', 'init_from.json'}
  kept = {'notes.txt', 'checkpoints', '.lock'}
  for seed in range(3):
    config = make_config(seed=seed)
    if seed:
      run_folder.check_same(str(tmp_path), config)
      run_folder.check_same(str(tmp_path), make_config(tolerance=0.1))
    run_folder.claim(str(tmp_path), config)
    assert run_folder.read_config(str(tmp_path)) == config
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & left
    for name in left:
      (tmp_path / name).write_text('{"sessions": [{"last_step": 0}]}')
    if not seed:
      (tmp_path / 'notes.txt').touch()
      (tmp_path / '.lock').touch()
      (tmp_path / 'checkpoints' / '10.orbax-checkpoint-tmp').mkdir(parents=True)
      run_folder.claim(str(tmp_path), config)  # Goes on, as it would have.
      assert not caplog.records
  assert names == {*kept, 'config.json', 'abandoned', 'abandoned1'}
  for seed, folder in enumerate(('abandoned', 'abandoned1')):
    assert {p.name for p in (tmp_path / folder).iterdir()} == {
      *left,
      'config.json',
    }
    assert run_folder.read_config(str(tmp_path / folder)).seed == seed
  assert len(caplog.records) == 2
  assert f'{tmp_path} begins anew: its run of another config' in caplog.text


def test_what_an_abandoned_try_has_drawn_and_logged_moves_too(tmp_path):
  run_folder.claim(str(tmp_path), make_config())
  names = {'best.json', 'data.json', 'error.log', 'progress.png'}
  for name in names:
    (tmp_path / name).write_text('{}')
  (tmp_path / 'tensorboard').mkdir()
  run_folder.claim(str(tmp_path), make_config(seed=1))
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {'abandoned', 'config.json'}
  moved = {path.name for path in (tmp_path / 'abandoned').iterdir()}
  assert moved == {*names, 'tensorboard', 'config.json'}


@pytest.mark.parametrize(
  'trace',
  [
    *('checkpoints/10', 'checkpoints/10.bak', 'set_aside/10'),
    *('evaluation.json', 'network.npz', 'run.json'),
  ],
)
def test_a_run_that_saved_something_is_not(tmp_path, trace):
  run_folder.claim(str(tmp_path), make_config())
  path = tmp_path / trace
  path.parent.mkdir(exist_ok=True)
  path.write_text('{"sessions": [{"last_step": 0}, {"last_step": 10}]}')
  for refuse in (run_folder.claim, run_folder.check_same):
    with pytest.raises(UserError, match='another config .seed was 0, is 1'):
      refuse(str(tmp_path), make_config(seed=1))


def test_a_folder_in_the_place_of_a_run_s_config_is_set_aside(tmp_path):
  begin(tmp_path)
  path = tmp_path / 'config.json'
  for mend in (run_folder.claim, run_folder.mend):
    path.unlink()
    path.mkdir()
    mend(str(tmp_path), make_config())
    assert json.loads(path.read_text()) == make_config().to_dict()
  assert (tmp_path / 'config.json.set_aside1').is_dir()


@pytest.mark.parametrize('damage', [b'', b'{"a": ', b'\xff', None])
def test_a_finished_run_s_config_is_mended(damage, tmp_path):
  begin(tmp_path)
  path = tmp_path / 'config.json'
  whole = path.read_bytes()
  if damage is None:
    path.unlink()
  else:
    path.write_bytes(damage)
  for _ in range(2):
    assert run_folder.holds_run(str(tmp_path))
    run_folder.mend(str(tmp_path), make_config())
    assert path.read_bytes() == whole


def test_a_file_in_the_place_of_checkpoints_is_no_run_that_is_held(tmp_path):
  """So that it fails where it is trained, and a sweep's others do not."""
  (tmp_path / 'checkpoints').write_text('not a folder')
  assert not run_folder.holds_run(str(tmp_path))


def test_a_try_that_was_moved_half_way_is_moved_whole_later(
  tmp_path, monkeypatch
):
  """Its config goes last, so that the rest is never taken for the next's."""
  run_folder.claim(str(tmp_path), make_config())
  for name in ('data.json', 'metrics.jsonl', 'run.json'):
    (tmp_path / name).write_text('{"sessions": []}')
  rename, renamed = os.rename, []

  def rename_one(source, target):
    if renamed:
      raise KeyboardInterrupt
    renamed.append(source)
    rename(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'rename', rename_one)
    with pytest.raises(KeyboardInterrupt):
      run_folder.claim(str(tmp_path), make_config(seed=1))
  run_folder.claim(str(tmp_path), make_config(seed=1))
  assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
    'config.json'
  }
  assert run_folder.read_config(str(tmp_path)).seed == 1


def test_of_several_checkpoints_the_latest_knows_the_config(tmp_path):
  begin(tmp_path)
  config = make_config(checkpoint_every=5)
  run_folder.claim(str(tmp_path), config)
  save(tmp_path, 15)
  (tmp_path / 'config.json').unlink()
  assert run_folder.read_config(str(tmp_path)) == config


def test_the_file_says_which_data_where_the_checkpoints_do_not(tmp_path):
  begin(tmp_path)  # Without its file, so that the checkpoint knows nothing.
  assert manifest.runs(tmp_path)[10]['data'] is None
  (tmp_path / run_folder.DATA).write_text(json.dumps({'sha256': 64 * 'a'}))
  run_folder.check_data(str(tmp_path), 'pictures', 64 * 'a')
  with pytest.raises(UserError, match='was trained on other data'):
    run_folder.check_data(str(tmp_path), 'pictures', 64 * 'b')


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('jax_enable_x64', True),
    ('jax_threefry_partitionable', False),
    ('jax_default_matmul_precision', 'float32'),
  ],
)
def test_every_setting_of_jax_that_changes_numbers_is_recorded(
  tmp_path, name, value
):
  """They change the random stream, or arithmetic."""
  begin(tmp_path)
  before = getattr(jax.config, name)
  assert before != value
  jax.config.update(name, value)
  try:
    with pytest.raises(UserError, match=f'{name}={before}, now it is {value}'):
      run_folder.claim(str(tmp_path), make_config())
  finally:
    jax.config.update(name, before)
  run_folder.claim(str(tmp_path), make_config())
