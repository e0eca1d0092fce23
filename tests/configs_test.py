"""Every config, in every variant, takes or traces one shrunk step."""

import glob
import importlib.util
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import base_config
from geco_jax import parallel
from geco_jax import step as steps
from geco_jax.base_config import OBJECTIVES
from geco_jax.base_config import PAPER_KAPPAS
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import build_optimizer
from geco_jax.build import run_inputs
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.sizes import SIZES

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = sorted(
  os.path.basename(path)[: -len('.py')]
  for path in glob.glob(os.path.join(ROOT, 'configs', '*.py'))
)
SHAPES = {
  'celeb_a': (32, 32, 3),
  'cifar10': (32, 32, 3),
  'digits': (8, 8, 1),
  'image_folder': (32, 32, 3),
  'mnist': (28, 28, 1),
  'npz': (13, 10, 1),
}
CONV_DRAW = [name for name in NAMES if name.endswith('_conv_draw')]
NVP = ['cifar10_nvp', 'color_mnist_nvp']
VARIANTS = {
  'digits_vae': OBJECTIVES,
  'mnist_vae': [*OBJECTIVES, 'geco,conv', 'elbo,conv'],
  'own_images': ['folder', 'npz', 'npz,elbo'],
  'micro_mnist_nvp': ['digits', 'digits,elbo'],
  **dict.fromkeys(NVP, ['quick', 'quick,elbo']),
  **dict.fromkeys(CONV_DRAW, ['quick', 'quick,elbo']),
}


CLASSIFIER_CONFIGS = {
  'cifar10_resnet': (32, 32, 3),
  'digits_cnn': (8, 8, 1),
  'mnist_cnn': (28, 28, 1),
}


def load(name):
  """Return a config's module."""
  path = os.path.join(ROOT, 'configs', f'{name}.py')
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_config_is_listed():
  assert sorted(VARIANTS) == NAMES
  paths = glob.glob(os.path.join(ROOT, 'configs', 'classifiers', '*.py'))
  names = sorted(os.path.basename(path)[: -len('.py')] for path in paths)
  assert names == sorted(CLASSIFIER_CONFIGS)


@pytest.mark.parametrize(
  ('name', 'variant'),
  [
    pytest.param(
      name,
      variant,
      # Compiling them takes long; contract_test does so, in small, for every
      # model and data set.
      marks=[pytest.mark.slow] * (name != 'digits_vae'),
    )
    for name in VARIANTS
    for variant in VARIANTS[name]
    if name not in CONV_DRAW
  ],
)
def test_takes_a_step(name, variant, make_dataset):
  experiment, inputs, step = first_step(name, variant, make_dataset)
  state = steps.init_state(experiment, inputs)
  images = experiment.dataset.splits['train']
  _, metrics = step(
    parallel.replicate(state),
    parallel.replicate(inputs.step_inputs()),
    parallel.replicate(images),
  )
  for values in parallel.unreplicate(metrics).values():
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize(
  ('name', 'variant'), [(n, v) for n in VARIANTS for v in VARIANTS[n]]
)
def test_step_can_be_traced(name, variant, make_dataset):
  experiment, inputs, step = first_step(name, variant, make_dataset)
  state = steps.state_like(experiment)
  args = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype),
    (state, inputs.step_inputs(), experiment.dataset.splits['train']),
  )
  next_state, metrics = jax.eval_shape(step, *args)
  assert jax.tree.map(jnp.shape, next_state) == jax.tree.map(jnp.shape, args[0])
  assert metrics['loss'].shape == (1, 1)
  constraints = {f'{name}/violation' for name in experiment.constraints}
  assert constraints <= metrics.keys()


def first_step(name, variant, make_dataset):
  """Return a shrunk experiment, its inputs and the function of a step."""
  config = load(name).get_config(variant)
  config.batch_size = 2
  config.steps_per_dispatch = 1
  if config.dataset.name in SHAPES:
    dataset = make_dataset(SHAPES[config.dataset.name])
  else:
    dataset = build_dataset(config)
  experiment = build(config, dataset)
  inputs = run_inputs(config, experiment)
  return experiment, inputs, steps.train_steps(experiment, 1)


@pytest.mark.parametrize('name', NAMES)
def test_default_is_geco_and_its_docstring_has_the_command(name):
  module = load(name)
  assert module.get_config().multipliers.name == 'geco'
  assert f'--config=configs/{name}.py' in module.__doc__


@pytest.mark.parametrize('name', NAMES)
def test_unknown_variants_are_refused_with_the_choices(name):
  first = VARIANTS[name][0]
  with pytest.raises(ValueError, match=f"'elbow'.*choose from {first}"):
    load(name).get_config('elbow')


@pytest.mark.parametrize('name', [*CONV_DRAW, *NVP])
@pytest.mark.parametrize('size', ['medium', 'gpu', 'paper'])
def test_large_variants_can_be_built(name, size, make_dataset):
  config = load(name).get_config(size)
  shape = (64, 64, 3) if name == 'celeb_a_conv_draw' else (32, 32, 1)
  dataset = make_dataset(shape)
  if config.model.kwargs.get('conditional'):
    dataset = dataset._replace(context_shape=(32, 32, 2))
  experiment = build(config, dataset)
  params = jax.eval_shape(
    experiment.model.init,
    jax.random.key(0),
    jax.random.split(jax.random.key(1), 1),
    jax.ShapeDtypeStruct((1, *shape), 'float32'),
    dataset.context_shape
    and jax.ShapeDtypeStruct((1, *dataset.context_shape), 'float32'),
  )
  assert sum(x.size for x in jax.tree.leaves(params)) > 100_000


def test_paper_variants_have_the_papers_numbers():
  config = load('mnist_conv_draw').get_config('paper')
  assert config.learning_rate.to_dict() == {
    'name': 'constant',
    'kwargs': {'value': 1e-5},
  }
  assert config.optimizer.name == 'adam'
  assert config.constraints.re.kappa in PAPER_KAPPAS


def test_large_sizes_of_conv_draw_compute_in_bfloat16_as_was_measured():
  with open(os.path.join(ROOT, 'results', 'gpu_bfloat16.json')) as file:
    runs = json.load(file)['runs']
  assert len(runs) == 4
  for run in runs:
    is_nvp = 'nvp' in run['config']
    get_config = (
      base_config.get_nvp_config if is_nvp else base_config.get_conv_draw_config
    )
    for number in (f'{run["kl_nats"]:.1f}', f'{run["rmse"]:.4f}'):
      assert number in get_config.__doc__
  for name in (*CONV_DRAW, *NVP):
    for size in SIZES:
      low = name in CONV_DRAW and size in ('gpu', 'paper')
      compute = 'compute=bfloat16' if low else 'compute=float32'
      policy = load(name).get_config(size).policy
      assert policy == f'params=float32,{compute},output=float32'


def test_learning_rate_decays_over_the_steps_of_the_command_line():
  config = load('digits_vae').get_config()
  config.num_steps = 123
  assert config.learning_rate.kwargs.decay_steps == 123


@pytest.mark.parametrize('name', CLASSIFIER_CONFIGS)
def test_classifiers_can_be_built_and_state_their_command_and_accuracy(name):
  module = load(f'classifiers/{name}')
  assert f'--config=configs/classifiers/{name}.py' in module.__doc__
  assert '% of the test images' in module.__doc__
  config = module.get_config()
  build_optimizer(config)
  classifier = CLASSIFIERS[config.model.name](10, **config.model.kwargs)
  image = jax.ShapeDtypeStruct((1, *CLASSIFIER_CONFIGS[name]), 'float32')
  params, _ = jax.eval_shape(classifier.init, jax.random.key(0), image)
  assert params['logits']['b'].shape == (10,)


def test_variants_name_constraints():
  config = load('digits_vae').get_config('geco+re+pncc+cla')
  assert config.constraints.to_dict() == {
    're': {'kappa': 0.1},
    'pncc': {'kappa': 0.8, 'patch_size': 4, 'stride': 1},
    'cla': {'kappa': 0.9, 'network': 'digits_cnn'},
  }
  config = load('cifar10_conv_draw').get_config('quick,geco+fre')
  assert [*config.constraints] == ['fre']
  assert not config.model.kwargs.learn_likelihood_stddev


def test_every_config_has_the_same_multipliers_whatever_it_constrains():
  variants = {
    'digits_vae': ('geco', 'geco+cla', 'geco+re+pncc', 'geco+fre_stats'),
    'mnist_vae': ('geco', 'geco,conv', 'geco+cla'),
    'micro_mnist_nvp': ('digits', 'mnist', 'digits,geco+cla'),
    'color_mnist_nvp': ('quick', 'medium', 'gpu', 'paper', 'quick,geco+cla'),
    'cifar10_conv_draw': ('quick', 'medium', 'gpu', 'paper', 'quick,geco+fre'),
  }
  for name, choices in variants.items():
    for variant in choices:
      config = load(name).get_config(variant)
      assert config.multipliers.to_dict() == {
        'name': 'geco',
        'kwargs': {
          'initial': None,
          'decay': None,
          'damping': None,
          'violation_clip': 1.0,
          'relative': True,
          'log_multiplier_range': (-10.0, 14.0),
          'step_size': pytest.approx(40 / config.num_steps),
        },
      }, (name, variant)


def test_the_step_size_follows_the_number_of_steps_unless_it_is_given():
  config = load('digits_vae').get_config()
  config.num_steps = 1_000
  assert config.multipliers.kwargs.step_size == pytest.approx(0.04)
  config.multipliers.kwargs.step_size = 0.01
  config.num_steps = 2_000
  assert config.multipliers.kwargs.step_size == 0.01


@pytest.mark.parametrize(
  ('variant', 'message'),
  [
    ('geco+ree', "unknown constraint 'ree'.*choose from re, fre"),
    ('elbo+re', 'elbo takes no constraints, got re'),
  ],
)
def test_wrong_constraints_of_a_variant_are_refused(variant, message):
  with pytest.raises(ValueError, match=message):
    load('digits_vae').get_config(variant)
