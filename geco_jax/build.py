"""From a config to the parts of a run, which it names."""

import copy
import difflib
import functools
import json
import math
import numbers
from typing import Any

import jax.numpy as jnp
import jmp
from ml_collections.config_dict import ConfigDict
import optax

from geco_jax import parallel
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import Classifier
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.config_tree import flatten
from geco_jax.constraints import CONSTRAINTS
from geco_jax.constraints import Entry
from geco_jax.constraints import natural_multiplier
from geco_jax.datasets import compositions
from geco_jax.datasets import sources
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.experiment import Experiment
from geco_jax.experiment import RunInputs
from geco_jax.models.conv_draw import conv_draw
from geco_jax.models.vae import conv_vae
from geco_jax.models.vae import mlp_vae
from geco_jax.models.vae import vae_nvp
from geco_jax.rules import MULTIPLIERS


def _sgdw(learning_rate, *, weight_decay: float = 5e-4, **kwargs):
  # Decayed before momentum, as for residual networks since He et al. 2016.
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, **kwargs)
  )


MODELS = {
  'mlp_vae': mlp_vae,
  'conv_vae': conv_vae,
  'vae_nvp': vae_nvp,
  'conv_draw': conv_draw,
}
COMPOSITIONS = {
  'color_mnist': compositions.color_mnist,
  'micro_mnist': compositions.micro_mnist,
  'mnist_rotate': compositions.mnist_rotate,
  'mnist_sum': compositions.mnist_sum,
  'mnist_sum_hard': compositions.mnist_sum_hard,
  'mnist_triplets': compositions.mnist_triplets,
}
OPTIMIZERS = {
  'adam': optax.adam,
  'adamw': optax.adamw,
  'rmsprop': optax.rmsprop,
  'sgd': optax.sgd,
  'sgdw': _sgdw,
}
SCHEDULES = {
  'constant': optax.constant_schedule,
  'cosine': optax.cosine_decay_schedule,
  'exponential': optax.exponential_decay,
  'linear': optax.linear_schedule,
  'warmup_cosine': optax.warmup_cosine_decay_schedule,
}
# Which argument scales the schedule. warmup_cosine's takes no traced one.
_RATE_ARGUMENTS = {
  'constant': 'value',
  'cosine': 'init_value',
  'exponential': 'init_value',
  'linear': 'init_value',
}
# Keys that no compiled program depends on: the loop reads them, or the first
# state.
_HOST_KEYS = (
  'seed',
  'num_steps',
  'checkpoint_every',
  'tolerance',
  'multipliers.kwargs.beta',
  'multipliers.kwargs.initial',
)


def build(config: ConfigDict, dataset: Dataset) -> Experiment:
  """Build what is compiled of the run that the config describes.

  Args:
    config: see `base_config`, which names every key.
    dataset: from `build_dataset`, which is slow where this is quick.

  Raises:
    UserError: if a name is unknown or a value out of its range, also one of
      those that `run_inputs` returns.
  """
  _check_counts(config)
  _check_tolerance(config)
  kappas, step_sizes = _kappas(config), _step_sizes(config)
  constraints = _constraints(config, dataset)
  config = copy.deepcopy(config)  # What is built reads it when it is called.

  def multipliers_at(step_sizes, kappas):
    return _multipliers(config, step_sizes, kappas, constraints, dataset)

  build_optimizer(config)  # So that bad values are refused here.
  model = _construct(
    'model',
    MODELS,
    config.model.name,
    dataset.image_shape,
    _policy(config.policy),
    **config.model.kwargs,
  )
  if model.conditional and dataset.context_shape is None:
    raise UserError(
      'config.model is conditional, but config.dataset has no contexts: '
      f'{dataset.name}'
    )
  rule = multipliers_at(step_sizes, kappas)
  return Experiment(
    key=experiment_key(config),
    dataset=dataset,
    model=model,
    constraints=constraints,
    optimizer=functools.partial(_optimizer, config),
    move_multipliers=lambda *inputs: multipliers_at(*inputs).transformation,
    relative=rule.relative,
    highest_log_multiplier=rule.highest_log_multiplier,
    batch_size=config.batch_size,
    steps_per_dispatch=config.steps_per_dispatch,
  )


def run_inputs(config: ConfigDict, experiment: Experiment) -> RunInputs:
  """Return what the config's run adds to what is compiled.

  Args:
    config: of the run.
    experiment: of this config, or of another with its `experiment_key`.

  Raises:
    UserError: if a value is out of its range.
    ValueError: if the experiment is that of another config.
  """
  if experiment.key != experiment_key(config):
    raise ValueError('this is the experiment of another config')
  _check_counts(config)
  _check_tolerance(config)
  kappas, step_sizes = _kappas(config), _step_sizes(config)
  rule = _multipliers(
    config, step_sizes, kappas, experiment.constraints, experiment.dataset
  )
  return RunInputs(
    seed=config.seed,
    kappas=kappas,
    step_sizes=step_sizes,
    initial_log_multipliers=rule.initial_log_multipliers,
    tolerance=config.tolerance,
  )


def experiment_key(config: ConfigDict) -> str:
  """Return what a run's compiled programs depend on, as JSON by dotted name.

  Runs that agree in it can share an `Experiment`, whatever else they differ in:
  the rest enters as arrays, or is read by the loop alone.
  """
  inputs = {
    'sweep',
    *_HOST_KEYS,
    *(f'constraints.{name}.kappa' for name in config.constraints),
    *(
      f'{kind}.kwargs.{argument}'
      for kind, argument in _step_size_arguments(config).items()
    ),
  }
  leaves = {k: v for k, v in flatten(config).items() if k not in inputs}
  # A constraint that has no argument but kappa would leave no trace.
  leaves = {'constraints': sorted(config.constraints), **leaves}
  return json.dumps(leaves, sort_keys=True)


def build_dataset(config: ConfigDict, data_dir: str | None = None) -> Dataset:
  """Return the data set of `config.dataset`, read into this host's memory.

  Args:
    config: the whole config.
    data_dir: of TFDS; None is TFDS's own default or TFDS_DATA_DIR.

  Raises:
    UserError: if it is unknown, not prepared or its options are wrong.
  """
  name, kwargs = config.dataset.name, config.dataset.kwargs
  if name in COMPOSITIONS:
    constructors = {
      name: functools.partial(_composed, function, data_dir)
      for name, function in COMPOSITIONS.items()
    }
    return _construct('dataset', constructors, name, **kwargs)
  return as_dataset(_image_set(name, data_dir, **kwargs))


def _composed(composition, data_dir, base='mnist'):
  return composition(_image_set(base, data_dir))


def _image_set(name, data_dir, **kwargs):
  constructors = {
    # A name that none of the others has is TFDS's to know or to refuse.
    name: functools.partial(sources.tfds_images, name, data_dir=data_dir),
    'celeb_a': functools.partial(sources.celeb_a, data_dir=data_dir),
    'digits': sources.digits,
  }
  return _construct('dataset', constructors, name, **kwargs)


def _kappas(config):
  """Return the kappas by constraint, names and ranges checked."""
  if not config.constraints:
    raise UserError('config.constraints is empty; name at least one')
  checks = {name: entry.check_kappa for name, entry in CONSTRAINTS.items()}
  for name, group in config.constraints.items():
    if 'kappa' not in group:
      raise UserError(f'config.constraints.{name}.kappa is missing')
    _construct(f'constraints.{name}', checks, name, group.kappa)
  return {name: group.kappa for name, group in config.constraints.items()}


def _constraints(config, dataset):
  """Return the config's constraints by name."""
  constructors = {
    name: functools.partial(_constraint, entry, dataset)
    for name, entry in CONSTRAINTS.items()
  }
  return {
    name: _construct(f'constraints.{name}', constructors, name, **group)
    for name, group in config.constraints.items()
  }


def _constraint(entry: Entry, dataset: Dataset, *, kappa: Any, **options):
  """Return an entry's constraint, the same for every kappa."""
  del kappa
  if entry.needs_labels and dataset.splits['train'].label.min() < 0:
    raise ValueError(f'{dataset.name} has no labels')
  if 'network' in options:
    options['network'] = pretrained.load(options['network'])
  return entry.make(dataset.image_shape, **options)


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Return `config.optimizer` at `config.learning_rate`.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  return _optimizer(config, {})


def build_classifier(config: ConfigDict, num_classes: int) -> Classifier:
  """Return the classifier of `config.model`, to be trained by this config.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  _check_counts(config)
  return _construct(
    'model', CLASSIFIERS, config.model.name, num_classes, **config.model.kwargs
  )


def _step_size_arguments(config):
  """Return the argument that is the step size, by group of the config."""
  arguments = {
    'learning_rate': _RATE_ARGUMENTS.get(config.learning_rate.name),
    'multipliers': 'step_size',
  }
  return {
    kind: argument
    for kind, argument in arguments.items()
    if argument in config[kind].kwargs
  }


def _step_sizes(config):
  """Return the config's step sizes, by group."""
  arguments = _step_size_arguments(config)
  return {kind: config[kind].kwargs[name] for kind, name in arguments.items()}


def _kwargs_at(config, kind, step_sizes):
  """Return a group's arguments, its step size that of `step_sizes`."""
  kwargs = dict(config[kind].kwargs)
  if kind in step_sizes:
    kwargs[_step_size_arguments(config)[kind]] = step_sizes[kind]
  return kwargs


def _multipliers(config, step_sizes, kappas, constraints, dataset):
  """Return how the multipliers of a run start and move."""
  num_dims = math.prod(dataset.image_shape)
  naturals = {
    name: natural_multiplier(constraint, kappas[name], num_dims)
    for name, constraint in constraints.items()
  }
  return _construct(
    'multipliers',
    MULTIPLIERS,
    config.multipliers.name,
    naturals,
    **_kwargs_at(config, 'multipliers', step_sizes),
  )


def _optimizer(config, step_sizes):
  rate = _construct(
    'learning_rate',
    SCHEDULES,
    config.learning_rate.name,
    **_kwargs_at(config, 'learning_rate', step_sizes),
  )
  optimizer = _construct(
    'optimizer',
    OPTIMIZERS,
    config.optimizer.name,
    rate,
    **config.optimizer.kwargs,
  )
  if config.max_gradient_norm is None:
    return optimizer
  if not config.max_gradient_norm > 0:
    raise UserError(
      f'config.max_gradient_norm must be > 0, got {config.max_gradient_norm}'
    )
  return optax.chain(
    optax.clip_by_global_norm(config.max_gradient_norm), optimizer
  )


def _policy(text):
  try:
    policy = jmp.get_policy(text)
  except (ValueError, KeyError) as error:
    raise UserError(
      f'config.policy must be one of jmp, like '
      f'"params=float32,compute=bfloat16,output=float32", got "{text}"'
    ) from error
  if jnp.dtype(policy.compute_dtype) == jnp.float16:
    raise UserError(
      f'config.policy: float16 would need loss scaling; use bfloat16, got '
      f'"{text}"'
    )
  return policy


def _construct(where, constructors, name, *args, **kwargs):
  """Call a constructor by name; its complaints name the config's group."""
  if name not in constructors:
    close = difflib.get_close_matches(name, constructors, n=1)
    hint = f' (did you mean {close[0]}?)' if close else ''
    raise UserError(
      f'config.{where}: unknown name {name!r}{hint}; '
      f'choose from {", ".join(sorted(constructors))}'
    )
  try:
    return constructors[name](*args, **kwargs)
  except (TypeError, ValueError) as error:
    raise UserError(f'config.{where}: {error}') from error


def _check_counts(config):
  """Check the numbers that more than one part depends on."""
  for name in ('num_steps', 'batch_size', 'steps_per_dispatch'):
    if config[name] < 1:
      raise UserError(f'config.{name} must be >= 1, got {config[name]}')
  for name in ('num_steps', 'checkpoint_every'):
    if config[name] % config.steps_per_dispatch or config[name] < 1:
      raise UserError(
        f'config.{name} must be a multiple of config.steps_per_dispatch='
        f'{config.steps_per_dispatch}, got {config[name]}'
      )
  parallel.check_batch_size(config.batch_size)
  if config.num_steps * config.batch_size >= 2**31:
    raise UserError(
      'config.num_steps * config.batch_size must stay below 2**31 examples, '
      f'got {config.num_steps} * {config.batch_size}'
    )
  if not 0 <= config.seed < 2**32:
    raise UserError(f'config.seed must be in [0, 2**32), got {config.seed}')


def _check_tolerance(config):
  if not isinstance(config.tolerance, numbers.Real) or config.tolerance < 0:
    raise UserError(f'config.tolerance must be >= 0, got {config.tolerance}')
