"""Every config, in every variant, takes one shrunk step."""

import glob
import importlib.util
import os

import numpy as np
import pytest

from geco_jax import parallel
from geco_jax import update
from geco_jax.base_config import OBJECTIVES
from geco_jax.build import build

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = sorted(
  os.path.basename(path)[: -len('.py')]
  for path in glob.glob(os.path.join(ROOT, 'configs', '*.py'))
)
SHAPES = {'digits': (8, 8, 1), 'mnist': (28, 28, 1)}
VARIANTS = {
  'digits_vae': OBJECTIVES,
  'mnist_vae': [*OBJECTIVES, 'geco,conv', 'elbo,conv'],
}


def load(name):
  """Returns a config's module."""
  path = os.path.join(ROOT, 'configs', f'{name}.py')
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_config_is_listed():
  assert sorted(VARIANTS) == NAMES


@pytest.mark.parametrize(
  ('name', 'variant'), [(n, v) for n in VARIANTS for v in VARIANTS[n]]
)
def test_takes_a_step(name, variant, make_dataset):
  config = load(name).get_config(variant)
  config.batch_size = 2
  config.steps_per_dispatch = 1
  dataset = make_dataset(SHAPES[config.dataset.name])
  experiment = build(config, dataset)
  inputs = update.run_inputs(experiment)
  state = parallel.replicate(update.init_state(experiment, inputs))
  _, metrics = update.train_steps(experiment, 1)(
    state,
    parallel.replicate(inputs),
    parallel.replicate(dataset.splits['train']),
  )
  for values in parallel.unreplicate(metrics).values():
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize('name', NAMES)
def test_default_is_geco_and_its_docstring_has_the_command(name):
  module = load(name)
  assert module.get_config().multipliers.name == 'geco'
  assert f'--config=configs/{name}.py' in module.__doc__


@pytest.mark.parametrize('name', NAMES)
def test_unknown_variants_are_refused_with_the_choices(name):
  with pytest.raises(ValueError, match="'elbow'.*choose from geco"):
    load(name).get_config('elbow')


def test_learning_rate_decays_over_the_steps_of_the_command_line():
  config = load('digits_vae').get_config()
  config.num_steps = 123
  assert config.learning_rate.kwargs.decay_steps == 123
