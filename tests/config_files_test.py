"""Configs are found by name, with or without a folder, suffix and variant."""

import importlib
import os

import pytest

from geco_jax import config_files
from geco_jax.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.parametrize('variant', ['', ':geco', ':geco+re+cla', ':a:b'])
@pytest.mark.parametrize('name', ['digits_vae', 'classifiers/digits_cnn'])
def test_every_spelling_of_a_name_is_one_file(
  name, variant, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  expected = os.path.join(ROOT, 'configs', f'{name}.py') + variant
  for spelled in (name, f'{name}.py', f'configs/{name}', f'configs/{name}.py'):
    assert config_files.find(spelled + variant) == expected


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  os.makedirs('digits_vae')  # A folder, like a run's, is no config.
  assert config_files.find('digits_vae').endswith('digits_vae.py')
  (tmp_path / 'digits_vae.py').write_text('')
  assert config_files.find('digits_vae.py:x') == 'digits_vae.py:x'
  assert config_files.find('digits_vae') != 'digits_vae.py'


@pytest.mark.parametrize(
  'name', ['', ':', 'digits', 'digits_vae.pyc', '../digits_vae', '.', 'configs']
)
def test_an_unknown_name_is_refused_with_the_known_ones(
  name, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='digits_vae, micro_mnist_nvp'):
    config_files.find(name)


def test_a_missing_file_is_answered_by_those_beside_it(tmp_path):
  for name in ('mine.py', 'other.py', 'notes.txt'):
    (tmp_path / name).write_text('')
  with pytest.raises(UserError) as caught:
    config_files.find(f'{tmp_path}/mime.py')
  assert str(caught.value).endswith(
    f'in {tmp_path} there are mine.py, other.py (did you mean mine.py?)'
  )


def test_a_config_is_that_of_its_module_and_variant():
  for name, variant in [('digits_vae', 'elbo'), ('mnist_vae', 'geco,conv')]:
    module = importlib.import_module(f'configs.{name}')
    expected = module.get_config(variant)
    assert config_files.load(f'{name}:{variant}') == expected
  assert config_files.load('digits_vae').num_steps == 4_000
  with pytest.raises(ValueError, match='unknown variant'):
    config_files.load('digits_vae:elbow')


def test_leaves_are_printed_by_dotted_name():
  lines = config_files.as_text(config_files.load('digits_vae')).splitlines()
  assert 'constraints.re.kappa = 0.1' in lines
  assert 'model.kwargs.hidden_sizes = [256, 256]' in lines
  assert 'max_gradient_norm = None' in lines
