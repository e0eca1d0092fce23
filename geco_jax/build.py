"""From a config to the parts of a run that it names."""

from collections.abc import Callable
import copy
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import optax

from geco_jax import base_config
from geco_jax import choices
from geco_jax import config_schema
from geco_jax import parallel
from geco_jax import rules
from geco_jax.choices import COMPOSITIONS
from geco_jax.choices import OPTIMIZERS
from geco_jax.choices import SCHEDULES
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import Classifier
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.config_tree import flatten
from geco_jax.config_tree import SWEEP
from geco_jax.constraints import Constraint
from geco_jax.constraints import CONSTRAINTS
from geco_jax.constraints import Entry
from geco_jax.constraints import natural_multiplier
from geco_jax.datasets import batches
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.checks import check_dataset
from geco_jax.datasets.checks import check_images
from geco_jax.datasets.checks import check_labels
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.experiment import Experiment
from geco_jax.experiment import PLACEHOLDER
from geco_jax.experiment import RunInputs
from geco_jax.io.paths import local_path
from geco_jax.models.base import Model
from geco_jax.models.conv_draw import conv_draw
from geco_jax.models.vae import conv_vae
from geco_jax.models.vae import mlp_vae
from geco_jax.models.vae import vae_nvp
from geco_jax.own_parts import import_all
from geco_jax.own_parts import Registry
from geco_jax.rules import MULTIPLIERS

MODELS = Registry(
  'model',
  {
    'mlp_vae': mlp_vae,
    'conv_vae': conv_vae,
    'vae_nvp': vae_nvp,
    'conv_draw': conv_draw,
  },
)
# Valid configs: every config has these keys, with values of these types.
_TEMPLATE = base_config.get_base_config('geco', kappa=0.1, num_steps=1)
_TEMPLATE.dataset = base_config.group('digits')
_TEMPLATE.model = base_config.group('mlp_vae')
_CLASSIFIER_TEMPLATE = base_config.get_classifier_config(
  _TEMPLATE.dataset, base_config.group('cnn'), num_steps=1, max_shift=0
)
_HIGHEST_RATE = 1000
_IMPORTS = 'imports'  # Configs of earlier versions do not have it.
# Which argument scales the schedule. warmup_cosine's takes no traced one.
_RATE_ARGUMENTS = {
  'constant': 'value',
  'cosine': 'init_value',
  'exponential': 'init_value',
  'linear': 'init_value',
}
# Keys that no compiled program depends on: only the loop reads them.
_HOST_KEYS = ('seed', 'num_steps', 'checkpoint_every', 'tolerance')
# Which argument of a rule only the first state depends on. A rule of one's own
# may compile anything.
_START_ARGUMENTS = {
  'geco': 'initial',
  'algorithm_1': 'initial',
  'fixed': 'beta',
}


def check_config(config: Any) -> None:
  """Check the whole config of a run before anything is built from it.

  No device is asked for anything: a sweep splits the CPU afterwards.

  Args:
    config: see `base_config`, which names every key.

  Raises:
    UserError: if a key is missing or unknown, a value has the wrong type or is
      out of its range; names the key.
  """
  # Whoever builds on a data set of their own need not name one.
  config_schema.check_keys(
    config, _TEMPLATE, optional=(SWEEP, 'dataset', _IMPORTS)
  )
  import_all(config.get(_IMPORTS, ()))
  _check_counts(config)
  choices.check_groups(config, (MODELS, 2))
  config_schema.check_choice('multipliers', config.multipliers, MULTIPLIERS, 1)
  choices.check_constraints(config.constraints)
  # A relative violation of 1 is a bound of twice its size.
  config_schema.check_range('config.tolerance', config.tolerance, '[0, 1)')
  choices.policy(config.policy)


def check_classifier_config(config: Any) -> None:
  """Check the config of a classifier's training, as `check_config`."""
  config_schema.check_keys(config, _CLASSIFIER_TEMPLATE, optional=(_IMPORTS,))
  import_all(config.get(_IMPORTS, ()))
  _check_counts(config)
  choices.check_groups(config, (CLASSIFIERS, 1))
  for name, interval in (
    ('max_shift', '[0, inf)'),
    ('label_smoothing', '[0, 1)'),
  ):
    config_schema.check_range(f'config.{name}', config[name], interval)


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
  if config.num_steps * config.batch_size >= batches.MAX_EXAMPLES:
    raise UserError(
      'config.num_steps * config.batch_size must stay below 2**31 examples, '
      f'got {config.num_steps} * {config.batch_size}'
    )
  if not 0 <= config.seed < 2**32:
    raise UserError(f'config.seed must be in [0, 2**32), got {config.seed}')
  clip = config.max_gradient_norm
  if clip is not None and not clip > 0:
    raise UserError(f'config.max_gradient_norm must be > 0, got {clip}')


def build(
  config: ConfigDict, dataset: Dataset, *, inference_only: bool = False
) -> Experiment:
  """Build the compiled part of the run that the config describes.

  Args:
    config: see `base_config`, which names every key.
    dataset: from `build_dataset`, which is slow while this is quick.
    inference_only: whether only the model will be used, neither trained nor
      evaluated. Then the constraints' networks need not exist, nor devices that
      can share a batch.

  Raises:
    UserError: if a name is unknown or a value out of its range, including
      those that `run_inputs` returns.
  """
  check_config(config)
  if not inference_only:
    parallel.check_batch_size(config.batch_size)
  check_dataset(dataset)
  # A config for a data set of one's own may name none.
  if 'dataset' in config and choices.placement(config) == batches.HOST:
    dataset = dataset._replace(placement=batches.HOST)
  kappas, step_sizes = _kappas(config), _step_sizes(config)
  if inference_only:
    constraints = dict.fromkeys(config.constraints, PLACEHOLDER)
  else:
    constraints = _constraints(config, dataset)
  config = copy.deepcopy(config)  # The parts read it when they are called.

  def multipliers_at(step_sizes, kappas):
    return _multipliers(config, step_sizes, kappas, constraints, dataset)

  build_optimizer(config)  # Refuses bad values here.
  model = choices.construct(
    'model',
    MODELS,
    config.model.name,
    dataset.image_shape,
    choices.policy(config.policy),
    **config.model.kwargs,
  )
  config_schema.check_is('model', model, Model)
  if model.conditional and dataset.context_shape is None:
    raise UserError(
      'config.model is conditional, but config.dataset has no contexts: '
      f'{dataset.name}'
    )
  rule = multipliers_at(step_sizes, kappas)
  return Experiment(
    key='inference only' if inference_only else experiment_key(config),
    dataset=dataset,
    model=model,
    constraints=constraints,
    optimizer=functools.partial(_optimizer, config),
    learning_rate=functools.partial(_learning_rate, config),
    multiplier_update=lambda *inputs: multipliers_at(*inputs).transformation,
    relative=rule.relative,
    highest_log_multiplier=rule.highest_log_multiplier,
    moved_by_constraints=rule.moved_by_constraints,
    batch_size=config.batch_size,
    steps_per_dispatch=config.steps_per_dispatch,
  )


def run_inputs(config: ConfigDict, experiment: Experiment) -> RunInputs:
  """Return the inputs that the config's run adds to its experiment.

  Args:
    config: the run's config.
    experiment: of this config, or of another with its `experiment_key`.

  Raises:
    UserError: if a value is out of its range.
    ValueError: if the experiment is that of another config.
  """
  check_config(config)
  if not isinstance(experiment, Experiment):
    raise UserError(
      'an experiment must be what build returns, got '
      f'{type(experiment).__name__}'
    )
  parallel.check_batch_size(config.batch_size)
  if experiment.key != experiment_key(config):
    raise ValueError('this is the experiment of another config')
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
    SWEEP,
    *_HOST_KEYS,
    f'multipliers.kwargs.{_START_ARGUMENTS.get(config.multipliers.name)}',
    *(f'constraints.{name}.kappa' for name in config.constraints),
    *(
      f'{kind}.kwargs.{argument}'
      for kind, argument in _step_size_arguments(config).items()
    ),
  }
  leaves = {k: v for k, v in flatten(config).items() if k not in inputs}
  if leaves.get(choices.PLACEMENT) == batches.DEVICE:  # As in former configs.
    del leaves[choices.PLACEMENT]
  # A constraint that has no argument but kappa would leave no trace.
  leaves = {'constraints': sorted(config.constraints), **leaves}
  return json.dumps(leaves, sort_keys=True)


def build_dataset(config: ConfigDict, data_dir: str | None = None) -> Dataset:
  """Return the data set of `config.dataset`, on this host.

  Args:
    config: the whole config.
    data_dir: TFDS data directory; None is TFDS's own default or TFDS_DATA_DIR.

  Raises:
    UserError: if it is unknown or not prepared, its options are wrong, or it
      is no data set of images.
  """
  config_schema.check_is_config(config)
  if data_dir is not None:
    data_dir = local_path(data_dir)
  import_all(config.get(_IMPORTS, ()))
  choices.check_dataset_group(config)
  name, kwargs = config.dataset.name, config.dataset.kwargs
  if name in COMPOSITIONS:
    dataset = choices.construct(
      'dataset', choices.composed_sets(data_dir), name, **kwargs
    )
  else:
    constructors = choices.image_sets(name, data_dir)
    images = choices.construct('dataset', constructors, name, **kwargs)
    config_schema.check_is('dataset', images, ImageSet)
    check_images(images.name, images.splits)
    dataset = as_dataset(images)
  config_schema.check_is('dataset', dataset, Dataset)
  check_images(dataset.name, dataset.splits)
  return dataset._replace(placement=choices.placement(config))


def _kappas(config):
  """Return the kappas by constraint."""
  return {name: group.kappa for name, group in config.constraints.items()}


def _constraints(config, dataset):
  """Return the config's constraints by name."""
  constructors = {
    name: functools.partial(_constraint, name, entry, dataset)
    for name, entry in CONSTRAINTS.items()
  }
  return {
    name: choices.construct(f'constraints.{name}', constructors, name, **group)
    for name, group in config.constraints.items()
  }


def _constraint(
  name: str, entry: Entry, dataset: Dataset, *, kappa: Any, **options
):
  """Return an entry's constraint, the same for every kappa."""
  del kappa
  if 'network' in options:
    options['network'] = pretrained.load(options['network'])
  constraint = entry.make(dataset.image_shape, **options)
  config_schema.check_is(f'constraints.{name}', constraint, Constraint)
  if entry.needs_labels:
    check_labels(
      f'config.constraints.{name}: {dataset.name}',
      dataset.splits,
      options['network'].num_classes if 'network' in options else None,
    )
  return constraint


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Return `config.optimizer` at `config.learning_rate`.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  schedule = _learning_rate(config, {})
  for step in sorted({0, config.num_steps // 2, config.num_steps - 1}):
    try:
      rate = float(schedule(step))
    except Exception as error:  # Some arguments are only checked here.
      raise UserError(f'config.learning_rate: {error}') from error
    if not 0 <= rate <= _HIGHEST_RATE:  # The arguments' joint effect.
      raise UserError(
        f'config.learning_rate must be in [0, {_HIGHEST_RATE}], is {rate:g} at '
        f'step {step}'
      )
  optimizer = _optimizer(config, {})
  try:  # Some arguments are only checked in its first step.
    jax.eval_shape(
      lambda params: optimizer.update(params, optimizer.init(params), params),
      jnp.zeros([1]),
    )
  except Exception as error:
    raise UserError(f'config.optimizer: {error}') from error
  return optimizer


def build_classifier(config: ConfigDict, num_classes: int) -> Classifier:
  """Return the classifier of `config.model`, to be trained by this config.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  parallel.check_batch_size(config.batch_size)
  return choices.construct(
    'model', CLASSIFIERS, config.model.name, num_classes, **config.model.kwargs
  )


def _step_size_arguments(config):
  """Return the name of the argument that is the step size, by config group."""
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
  """Return a group's arguments, with its step size from `step_sizes`."""
  kwargs = dict(config[kind].kwargs)
  if kind in step_sizes:
    kwargs[_step_size_arguments(config)[kind]] = step_sizes[kind]
  return kwargs


def _multipliers(config, step_sizes, kappas, constraints, dataset):
  """Return the start and the update of a run's multipliers."""
  num_dims = dataset.num_dims
  natural = {name: natural_multiplier for name in constraints}
  naturals = {
    name: choices.construct(
      f'constraints.{name}', natural, name, constraint, kappas[name], num_dims
    )
    for name, constraint in constraints.items()
  }
  rule = choices.construct(
    'multipliers',
    MULTIPLIERS,
    config.multipliers.name,
    naturals,
    **_kwargs_at(config, 'multipliers', step_sizes),
  )
  rules.check(rule, constraints)
  return rule


def _learning_rate(config, step_sizes):
  schedule = choices.construct(
    'learning_rate',
    SCHEDULES,
    config.learning_rate.name,
    **_kwargs_at(config, 'learning_rate', step_sizes),
  )
  config_schema.check_is('learning_rate', schedule, Callable)
  return schedule


def _optimizer(config, step_sizes):
  optimizer = choices.construct(
    'optimizer',
    OPTIMIZERS,
    config.optimizer.name,
    _learning_rate(config, step_sizes),
    **config.optimizer.kwargs,
  )
  if config.max_gradient_norm is None:
    return optimizer
  return optax.chain(
    optax.clip_by_global_norm(config.max_gradient_norm), optimizer
  )
