"""A classifier's file, edited or torn, is refused in a sentence."""

import json

import numpy as np
import pytest

from geco_jax.classifiers import pretrained
from geco_jax.errors import UserError
from geco_jax.io import files
from tests.small_networks import save_classifier


@pytest.fixture(scope='module')
def arrays(tmp_path_factory):
  """Return what the file of a small classifier holds."""
  folder = tmp_path_factory.mktemp('run')
  save_classifier(folder, side=8, channels=2, seed=0)
  with np.load(folder / 'network.npz') as file:
    return dict(file)


def without(prefix):
  return lambda arrays: {
    key: value for key, value in arrays.items() if not key.startswith(prefix)
  }


def about(**changes):
  def change(arrays):
    metadata = {**json.loads(arrays['about'].item()), **changes}
    return {**arrays, 'about': json.dumps(metadata)}

  return change


CHANGES = {
  'nothing': lambda arrays: {},
  'no description': without('about'),
  'a description of another form': lambda a: {**a, 'about': '[]'},
  'a description that is no text': lambda a: {**a, 'about': np.ones(3)},
  'no parameters': without('params:'),
  'no deviations': without('stddev:'),
  'an unknown kind': lambda a: {**a, 'other:x:y': np.ones(3)},
  'a key without a kind': lambda a: {**a, 'x': np.ones(3)},
  'other shapes': lambda a: {
    k: v[..., :1] if k.endswith(':w') else v for k, v in a.items()
  },
  'an unknown model': about(model={'name': 'vgg', 'kwargs': {}}),
  'a model without arguments': about(model={'name': 'cnn'}),
  'a shape of another form': about(image_shape=3),
  'another number of classes': about(num_classes=7),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_file_of_another_content_is_damaged(tmp_path, arrays, name):
  files.write_npz(tmp_path / 'network.npz', arrays)
  assert pretrained.load(str(tmp_path)).num_classes == 10
  files.write_npz(tmp_path / 'network.npz', CHANGES[name](arrays))
  with pytest.raises(UserError, match=r'network.npz is damaged .*train again'):
    pretrained.load(str(tmp_path))


@pytest.mark.parametrize('content', [b'', b'PK broken', b'\x00' * 100])
def test_a_file_that_is_no_archive_is_damaged(tmp_path, content):
  (tmp_path / 'network.npz').write_bytes(content)
  with pytest.raises(UserError, match=r'network.npz is damaged .*train again'):
    pretrained.load(str(tmp_path))


def test_a_file_that_cannot_be_read_is_not_called_damaged(
  tmp_path, monkeypatch, arrays
):
  files.write_npz(tmp_path / 'network.npz', arrays)

  def fail(path):
    raise OSError(5, 'Input/output error')

  monkeypatch.setattr(np, 'load', fail)
  with pytest.raises(UserError, match='cannot be read: Input/output error'):
    pretrained.load(str(tmp_path))


@pytest.mark.parametrize('name', ['', ' ', '.', '..'])
def test_what_is_no_name_is_not_a_command_to_train(name):
  with pytest.raises(UserError, match='must be the name of a trained classif'):
    pretrained.load(name)


def test_a_name_that_is_not_trained_yet_gets_a_command_that_works(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path))
  known = 'trains it: .* --config=configs/classifiers/digits_cnn.py$'
  with pytest.raises(UserError, match=known):
    pretrained.load('digits_cnn')
  close = r'did you mean digits_cnn\?.* --config=\.\.\. --workdir=.*digit_cnn$'
  with pytest.raises(UserError, match=close):
    pretrained.load('digit_cnn')
