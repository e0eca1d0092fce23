"""A classifier's training stops, resumes and refuses like every other."""

import json
import os
import shutil
import signal

import jax
from ml_collections.config_dict import ConfigDict
import numpy as np
import pytest

from geco_jax import train_classifier
from geco_jax.base_config import get_classifier_config
from geco_jax.base_config import group
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import Interrupted
from geco_jax.errors import UserError
from geco_jax.io.logs import read_metrics
from geco_jax.train_classifier import ClassifierRun


def small_config(**changes) -> ConfigDict:
  config = get_classifier_config(
    group('digits'), group('cnn', channels=(2,), hidden_size=4), 20, max_shift=1
  )
  config.steps_per_dispatch = 5
  config.checkpoint_every = 10
  config.batch_size = 8
  config.update_from_flattened_dict(changes)
  return config


def train(config, folder):
  """Return the evaluation, the network's arrays and the losses logged."""
  folder = str(folder)
  evaluation = train_classifier.train(config, folder, show_progress=False)
  with np.load(os.path.join(folder, 'network.npz')) as file:
    arrays = dict(file)
  return evaluation, arrays, losses(folder)


def losses(folder):
  """Return steps and losses of the log, in its order."""
  logged = read_metrics(str(folder))
  trained = np.isfinite(logged['loss'])
  return logged['step'][trained], logged['loss'][trained]


@pytest.fixture(scope='module')
def whole_folder(tmp_path_factory):
  return tmp_path_factory.mktemp('whole')


@pytest.fixture(scope='module')
def whole(whole_folder):
  return train(small_config(), whole_folder)


def assert_equal_bit_for_bit(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_losses_and_the_validation_are_logged(whole, whole_folder):
  steps, _ = losses(whole_folder)
  np.testing.assert_array_equal(steps, [5, 10, 15, 20])
  logged = read_metrics(str(whole_folder))
  accuracy = logged['validation/accuracy']
  assert np.isfinite(accuracy).sum() == 2
  assert accuracy[-1] == whole[0]['validation']['accuracy']


def test_images_on_the_host_give_the_same_bit_for_bit(whole, tmp_path):
  config = small_config()
  config.dataset.placement = 'host'
  assert_equal_bit_for_bit(train(config, tmp_path), whole)


def test_a_finished_training_is_not_trained_again(
  whole, whole_folder, monkeypatch
):
  monkeypatch.setattr(train_classifier.training, 'train_steps', lambda *_: None)
  assert_equal_bit_for_bit(train(small_config(), whole_folder), whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_training_continues_bit_for_bit(
  number, whole, tmp_path, monkeypatch
):
  log = ClassifierRun.log

  def log_and_signal(self, step, *args):
    if step == 5:
      os.kill(os.getpid(), number)
    return log(self, step, *args)

  with monkeypatch.context() as patch:
    patch.setattr(ClassifierRun, 'log', log_and_signal)
    with pytest.raises(Interrupted, match=number.name):
      train(small_config(), tmp_path)
  assert not (tmp_path / 'network.npz').exists()
  assert os.listdir(tmp_path / 'checkpoints')
  assert_equal_bit_for_bit(train(small_config(), tmp_path), whole)


def test_a_damaged_latest_checkpoint_falls_back_and_ends_the_same(
  whole, whole_folder, tmp_path
):
  shutil.copytree(whole_folder, tmp_path, dirs_exist_ok=True)
  for folder, _, files in os.walk(tmp_path / 'checkpoints' / '20'):
    for file in files:
      path = os.path.join(folder, file)
      with open(path, 'r+b') as handle:
        handle.truncate(os.path.getsize(path) // 2)
  for _ in range(2):  # A checkpoint passed over is in the way of neither.
    assert_equal_bit_for_bit(train(small_config(), tmp_path), whole)


@pytest.mark.parametrize('last_good_update', [12, 19])
def test_a_classifier_that_diverged_is_not_finished(
  last_good_update, tmp_path, monkeypatch
):
  # A config with such a rate is refused.
  monkeypatch.setattr('geco_jax.config_schema._RANGES', {})
  monkeypatch.setattr('geco_jax.build._HIGHEST_RATE', np.inf)
  config = small_config()
  config.learning_rate = group(
    'linear',
    init_value=1e-3,
    end_value=9e36,
    transition_begin=last_good_update - 1,
    transition_steps=1,
  )
  with pytest.raises(UserError, match='not finite.* step 10 .*is intact'):
    train(config, tmp_path)
  assert not (tmp_path / 'network.npz').exists()
  assert os.listdir(tmp_path / 'checkpoints') == ['10']


def test_a_training_that_saved_nothing_is_in_no_other_s_way(
  tmp_path, monkeypatch, caplog
):
  def fail(runs, *_):
    runs[0].close()
    raise UserError('the loss is not finite')

  monkeypatch.setattr(train_classifier, 'train_to_end', fail)
  for seed in range(2):
    with pytest.raises(UserError, match='the loss is not finite'):
      train(small_config(seed=seed), tmp_path)
  assert 'begins anew' in caplog.text and 'seed was 0, is 1' in caplog.text
  for seed, folder in enumerate((tmp_path / 'abandoned', tmp_path)):
    config = json.loads((folder / 'config.json').read_text())
    assert config['seed'] == seed


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model.name': 'vgg'}, "unknown name 'vgg'; choose from cnn, resnet"),
    ({'model.kwargs.channels': ()}, 'config.model: channels must be'),
    ({'num_steps': 3}, 'num_steps must be a multiple of .*=5, got 3'),
    ({'num_steps': 0}, 'num_steps must be >= 1, got 0'),
    ({'checkpoint_every': 0}, 'checkpoint_every must be .*, got 0'),
    ({'checkpoint_every': 7}, 'checkpoint_every must be .*, got 7'),
    ({'steps_per_dispatch': 0}, 'steps_per_dispatch must be >= 1, got 0'),
    ({'batch_size': 0}, 'batch_size must be >= 1, got 0'),
    ({'seed': -1}, r'seed must be in \[0, 2\*\*32\), got -1'),
    ({'max_shift': 8}, 'max_shift is 8, which moves .* 8x8x1 .*at most 7'),
    ({'label_smoothing': 1.0}, r'label_smoothing must be in \[0, 1\)'),
  ],
)
def test_bad_configs_are_refused_before_training(change, message, tmp_path):
  with pytest.raises(UserError, match=message):
    train(small_config(**change), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.fixture
def relabel(make_images, monkeypatch):
  """Return (split, labels) -> None: train on images of these labels."""
  splits = {
    name: make_images(16, (8, 8, 1))._replace(label=np.arange(16) % 4)
    for name in ('train', 'validation', 'test')
  }

  def change(split, labels):
    splits[split] = splits[split]._replace(label=np.resize(labels, 16))
    dataset = as_dataset(ImageSet('relabeled', splits))
    monkeypatch.setattr(train_classifier, 'build_dataset', lambda *_: dataset)

  return change


@pytest.mark.parametrize(
  ('split', 'labels', 'message'),
  [
    ('train', [-1], 'no labels to learn'),
    ('train', [0, -1], 'no labels to learn'),
    ('validation', [-1], 'no labels to learn'),
    ('train', [0], 'one class alone'),
    ('train', [0, 10**6], 'labels up to 1000000 for 16 training images'),
    ('test', [4], 'label 4 in its test split; .* trained are 0 to 3'),
    ('validation', [0, 9], 'label 9 in its validation split'),
  ],
)
def test_labels_outside_the_classes_are_refused(
  split, labels, message, relabel, tmp_path
):
  relabel(split, labels)
  with pytest.raises(UserError, match=message):
    train(small_config(), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_training_on_other_data_is_refused(whole, whole_folder, relabel):
  del whole  # It has checkpoints.
  relabel('test', [0])
  with pytest.raises(UserError, match='trained on other data: .*of relabeled'):
    train(small_config(), whole_folder)


def test_a_split_without_labels_is_left_out(relabel, tmp_path, caplog):
  relabel('test', [-1])
  evaluation, *_ = train(small_config(), tmp_path)
  assert evaluation.keys() == {'train', 'validation'}
  assert 'test split has no labels' in caplog.text
  with open(tmp_path / 'evaluation.json') as file:
    assert json.load(file) == evaluation


def test_a_composed_data_set_is_refused(tmp_path):
  """Only the stored images of its base would be seen."""
  config = small_config()
  config.dataset = group('mnist_rotate', base='digits')
  with pytest.raises(UserError, match='mnist_rotate .* is composed anew'):
    train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
