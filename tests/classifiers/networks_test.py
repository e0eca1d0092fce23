"""Classifiers learn, are kept whole and are found again."""

import functools
import json
import os

import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import numpy as np
import pytest

from geco_jax import train_classifier
from geco_jax.base_config import get_classifier_config
from geco_jax.base_config import group
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.errors import UserError

SMALL = {
  'cnn': dict(channels=(4, 6), hidden_size=8),
  'resnet': dict(channels=(4, 6), blocks_per_stage=2),
}


def small_config(name='cnn', num_steps=120) -> ConfigDict:
  config = get_classifier_config(
    group('digits'), group(name, **SMALL[name]), num_steps, max_shift=0
  )
  config.steps_per_dispatch = 20
  config.batch_size = 32
  config.learning_rate.kwargs.peak_value = 2e-2
  config.checkpoint_every = 40
  return config


@functools.cache
def make(name):
  """Return a small classifier, its start and five images."""
  classifier = CLASSIFIERS[name](10, **SMALL[name])
  image = jax.random.uniform(jax.random.key(0), (5, 8, 8, 3))
  start = jax.jit(classifier.init)(jax.random.key(1), image)
  return classifier, start, image


def test_small_sizes_are_given_for_every_classifier():
  assert set(SMALL) == set(CLASSIFIERS)


@pytest.mark.parametrize('name', CLASSIFIERS)
class TestContract:
  """What every classifier promises."""

  def test_logits_are_the_last_layer(self, name):
    classifier, (params, state), image = make(name)
    (logits, features), _ = classifier.apply(params, state, image, False)
    assert logits.shape == (5, 10)
    assert [*features][-1] == 'logits'
    for layer in features.values():
      assert layer.shape[0] == 5

  def test_is_a_function_of_each_image_alone_unless_training(self, name):
    classifier, (params, state), image = make(name)
    (whole, _), after = classifier.apply(params, state, image, False)
    (part, _), _ = classifier.apply(params, state, image[3:], False)
    np.testing.assert_allclose(whole[3:], part, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state, after)

  def test_trains_to_read_digits_and_is_found_again(self, name, tmp_path):
    folder = str(tmp_path / 'run')
    evaluation = train_classifier.train(
      small_config(name, num_steps=200), folder, show_progress=False
    )
    assert evaluation['validation']['accuracy'] > 0.7
    with open(os.path.join(folder, 'evaluation.json')) as file:
      assert json.load(file) == evaluation
    network = pretrained.load(folder)
    assert network.image_shape == (8, 8, 1)
    from geco_jax.datasets import sources

    images = sources.digits().splits['validation']
    logits = network.logits(images.image / np.float32(255))
    accuracy = np.mean(np.argmax(logits, axis=-1) == images.label)
    assert accuracy == pytest.approx(evaluation['validation']['accuracy'])
    train = sources.digits().splits['train'].image / np.float32(255)
    for layer, stddev in network.feature_stddevs.items():
      features = np.asarray(network.features(train, layer), np.float64)
      expected = features.reshape(-1, features.shape[-1]).std(axis=0)
      np.testing.assert_allclose(stddev, expected, rtol=1e-3, atol=1e-5)


def test_convolutional_layers_of_the_resnet_take_images_of_any_size():
  classifier, (params, state), _ = make('resnet')
  (_, features), _ = classifier.apply(
    params, state, jnp.zeros((2, 12, 16, 3)), False
  )
  assert features['stage_2'].shape == (2, 6, 8, 6)


def test_missing_network_names_the_command_that_trains_it(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path))
  command = 'train_classifier --config=configs/classifiers/mnist_cnn.py'
  with pytest.raises(UserError, match=f'no trained classifier at .*{command}'):
    pretrained.load('mnist_cnn')
  with pytest.raises(UserError, match=f'--workdir={tmp_path}/a'):
    pretrained.load(f'{tmp_path}/a')


def test_damaged_network_is_refused(tmp_path):
  (tmp_path / 'network.npz').write_bytes(b'PK broken')
  with pytest.raises(UserError, match='damaged .* train again'):
    pretrained.load(str(tmp_path))
