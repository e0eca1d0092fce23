"""From a config to the parts of a run, which it names."""

from collections.abc import Callable, Mapping
import copy
import difflib
import functools
import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jmp
from ml_collections.config_dict import ConfigDict
import optax

from geco_jax import multipliers
from geco_jax import parallel
from geco_jax.constraints import Constraint
from geco_jax.constraints import CONSTRAINTS
from geco_jax.constraints import Entry
from geco_jax.constraints import natural_multiplier
from geco_jax.datasets import compositions
from geco_jax.datasets import sources
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.models import pretrained
from geco_jax.models.base import Model
from geco_jax.models.conv_draw import conv_draw
from geco_jax.models.vae import conv_vae
from geco_jax.models.vae import mlp_vae
from geco_jax.models.vae import vae_nvp
from geco_jax.workdir import flatten


class Multipliers(NamedTuple):
  """How the multipliers start and move."""

  transformation: optax.GradientTransformation
  initial_log_multipliers: dict[str, Any]  # By constraint, floats or arrays [].
  relative: bool = True  # Whether it is fed C / scale or C.
  highest_log_multiplier: float = math.inf  # Where it clips them.


class Experiment(NamedTuple):
  """The parts of a run, made from a config once.

  What is a function of kappas or step sizes takes Python numbers and arrays
  alike: these enter a compiled program as its inputs.
  """

  dataset: Dataset
  model: Model
  constraints: dict[str, Constraint]
  kappas: dict[str, float]
  optimizer: Callable[[Mapping[str, Any]], optax.GradientTransformation]
  multipliers: Multipliers
  # (step sizes, kappas) -> the update.
  move_multipliers: Callable[
    [Mapping[str, Any], Mapping[str, Any]], optax.GradientTransformation
  ]
  # 'learning_rate' and 'multipliers', those of the two that have one.
  step_sizes: dict[str, float]
  seed: int
  batch_size: int
  tolerance: float


def _geco(
  naturals: Mapping[str, Any],
  *,
  initial: float | None = None,
  relative: bool = True,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
  **kwargs,
):
  return Multipliers(
    transformation=multipliers.geco(
      natural_multiplier=dict(naturals),
      log_multiplier_range=log_multiplier_range,
      **kwargs,
    ),
    initial_log_multipliers={
      name: _initial_log_multiplier(initial, natural, log_multiplier_range)
      for name, natural in naturals.items()
    },
    relative=relative,
    highest_log_multiplier=log_multiplier_range[1],
  )


def _initial_log_multiplier(initial, natural, log_multiplier_range):
  """Returns log(initial), or the log of a share of the natural multiplier."""
  if initial is None and natural is not None:
    return jnp.clip(
      jnp.log(INITIAL_SHARE * jnp.asarray(natural)), *log_multiplier_range
    )
  if initial is None or not initial > 0:
    raise ValueError(f'initial must be > 0, got {initial}')
  lowest, highest = log_multiplier_range
  if not lowest <= math.log(initial) <= highest:
    raise ValueError(
      f'initial must be in exp({lowest:g}) to exp({highest:g}), the '
      f'log_multiplier_range, got {initial:g}'
    )
  return math.log(initial)


def _algorithm_1(
  naturals: Mapping[str, Any],
  *,
  initial: float = 1.0,
  relative: bool = True,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
  **kwargs,
):
  start = _initial_log_multiplier(initial, None, log_multiplier_range)
  return Multipliers(
    transformation=multipliers.algorithm_1(
      log_multiplier_range=log_multiplier_range, **kwargs
    ),
    initial_log_multipliers=dict.fromkeys(naturals, start),
    relative=relative,
    highest_log_multiplier=log_multiplier_range[1],
  )


def _fixed(naturals: Mapping[str, Any], *, beta: float = 1.0):
  if not beta > 0:
    raise ValueError(f'beta must be > 0, got {beta}')
  return Multipliers(
    multipliers.fixed(), dict.fromkeys(naturals, -math.log(beta))
  )


def _annealed_beta(naturals: Mapping[str, Any], **kwargs):
  schedule = multipliers.annealed_beta(**kwargs)
  with jax.ensure_compile_time_eval():  # A number, also while a step is traced.
    initial = math.log(schedule(jnp.int32(0)))
  return Multipliers(
    multipliers.scheduled(schedule), dict.fromkeys(naturals, initial)
  )


def _sgdw(learning_rate, *, weight_decay: float = 5e-4, **kwargs):
  # Decayed before momentum, as for residual networks since He et al. 2016.
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, **kwargs)
  )


# Where GECO's multipliers start, in natural ones, if the config does not say.
# Measured: from 1/100 to 1/10 the digits' VAE ends within 4% of one KL, from
# 1/3 9% above it; VAE+NVP (Color-MNIST, kappa 0.1, 5,000 steps) ends 20% off
# its constraint from 1/50, 2% from 1/10.
INITIAL_SHARE = 1 / 10

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
MULTIPLIERS = {
  'geco': _geco,
  'algorithm_1': _algorithm_1,
  'fixed': _fixed,
  'annealed_beta': _annealed_beta,
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
# What no compiled program depends on: the loop reads these, or the first state.
_OF_THE_HOST = (
  'seed',
  'num_steps',
  'checkpoint_every',
  'tolerance',
  'multipliers.kwargs.beta',
  'multipliers.kwargs.initial',
)


def build(config: ConfigDict, dataset: Dataset) -> Experiment:
  """Returns the parts of the run that the config describes.

  Args:
    config: see `base_config`, which names every key.
    dataset: from `build_dataset`, which is slow where this is quick.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  _check_counts(config)
  config = copy.deepcopy(config)  # What is built reads it when it is called.
  constraints, kappas = _constraints(config, dataset)
  num_dims = math.prod(dataset.image_shape)

  def at_inputs(step_sizes, kappas):
    naturals = {
      name: natural_multiplier(constraint, kappas[name], num_dims)
      for name, constraint in constraints.items()
    }
    return _multipliers(config, step_sizes, naturals)

  step_sizes = {
    kind: config[kind].kwargs[argument]
    for kind, argument in _step_size_arguments(config).items()
  }
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
  return Experiment(
    dataset=dataset,
    model=model,
    constraints=constraints,
    kappas=kappas,
    optimizer=functools.partial(_optimizer, config),
    multipliers=at_inputs(step_sizes, kappas),
    move_multipliers=lambda *inputs: at_inputs(*inputs).transformation,
    step_sizes=step_sizes,
    seed=config.seed,
    batch_size=config.batch_size,
    tolerance=config.tolerance,
  )


def build_like(config: ConfigDict, experiment: Experiment) -> Experiment:
  """Returns the config's parts, its functions those of another experiment.

  What was compiled of the other's then serves this one.

  Args:
    config: its `compiled_leaves` are those of the other's config.
    experiment: the other.

  Raises:
    UserError: if a value is out of its range.
  """
  return build(config, experiment.dataset)._replace(
    model=experiment.model,
    constraints=experiment.constraints,
    optimizer=experiment.optimizer,
    move_multipliers=experiment.move_multipliers,
  )


def compiled_leaves(config: ConfigDict) -> dict[str, Any]:
  """Returns what a run's compiled programs depend on, by dotted name.

  Runs that agree in these share their programs, whatever else they differ in:
  the rest enters as arrays, or is the loop's.
  """
  inputs = {
    'sweep',
    *_OF_THE_HOST,
    *(f'constraints.{name}.kappa' for name in config.constraints),
    *(
      f'{kind}.kwargs.{argument}'
      for kind, argument in _step_size_arguments(config).items()
    ),
  }
  leaves = {k: v for k, v in flatten(config).items() if k not in inputs}
  # A constraint that has no argument but kappa would leave no trace.
  return {'constraints': sorted(config.constraints), **leaves}


def build_dataset(config: ConfigDict, data_dir: str | None = None) -> Dataset:
  """Returns the data set of `config.dataset`, read into this host's memory.

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


def _constraints(config, dataset):
  """Returns the config's constraints and their kappas, by name."""
  if not config.constraints:
    raise UserError('config.constraints is empty; name at least one')
  constructors = {
    name: functools.partial(_constraint, entry, dataset)
    for name, entry in CONSTRAINTS.items()
  }
  constraints, kappas = {}, {}
  for name, group in config.constraints.items():
    if 'kappa' not in group:
      raise UserError(f'config.constraints.{name}.kappa is missing')
    constraints[name] = _construct(
      f'constraints.{name}', constructors, name, **group
    )
    kappas[name] = group['kappa']
  return constraints, kappas


def _constraint(entry: Entry, dataset: Dataset, *, kappa: Any, **options):
  """Returns an entry's constraint, if the data set and kappa suit it."""
  entry.check_kappa(kappa)
  if entry.needs_labels and dataset.splits['train'].label.min() < 0:
    raise ValueError(f'{dataset.name} has no labels')
  if 'network' in options:
    options['network'] = pretrained.load(options['network'])
  return entry.make(dataset.image_shape, **options)


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Returns `config.optimizer` at `config.learning_rate`.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  return _optimizer(config, {})


def _step_size_arguments(config):
  """Returns the argument that is the step size, by group of the config."""
  arguments = {
    'learning_rate': _RATE_ARGUMENTS.get(config.learning_rate.name),
    'multipliers': 'step_size',
  }
  return {
    kind: argument
    for kind, argument in arguments.items()
    if argument in config[kind].kwargs
  }


def _kwargs_at(config, kind, step_sizes):
  """Returns a group's arguments, its step size that of `step_sizes`."""
  kwargs = dict(config[kind].kwargs)
  if kind in step_sizes:
    kwargs[_step_size_arguments(config)[kind]] = step_sizes[kind]
  return kwargs


def _multipliers(config, step_sizes, naturals):
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
  """Calls a constructor by name; its complaints name the config's group."""
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
  """Checks the numbers that more than one part depends on."""
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
  if not isinstance(config.tolerance, numbers.Real) or config.tolerance < 0:
    raise UserError(f'config.tolerance must be >= 0, got {config.tolerance}')
  if not 0 <= config.seed < 2**32:
    raise UserError(f'config.seed must be in [0, 2**32), got {config.seed}')
