"""What the groups of a config can name, and the checks of the groups.

To add an optimizer, a schedule or a data set, enter it here: its signature says
what the config's group may hold. Optimizers and schedules of optax can also be
named as in optax.
"""

from collections.abc import Callable, Mapping
import functools
import inspect
import re
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jmp
import optax

from geco_jax import config_schema
from geco_jax.constraints import CONSTRAINTS
from geco_jax.datasets import arrays
from geco_jax.datasets import batches
from geco_jax.datasets import compositions
from geco_jax.datasets import image_folder
from geco_jax.datasets import sources
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import OWN_PARTS
from geco_jax.errors import UserError
from geco_jax.own_parts import Registry

_T = TypeVar('_T')
PLACEMENT = 'dataset.placement'


@config_schema.passes_to(optax.sgd)
def _sgdw(learning_rate, *, weight_decay: float = 5e-4, **kwargs):
  # Decayed before momentum, as for residual networks since He et al. 2016.
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, **kwargs)
  )


# Optimizers of optax that take no schedule of the rate, or more than gradients
# and a seed.
_UNFIT = ('lbfgs', 'noisy_sgd', 'optimistic_adam', 'rprop', 'sm3')


def _optax_functions(is_wanted: Callable[[str, inspect.Signature], bool]):
  """Return the wanted functions of optax, by optax's own names."""
  functions = {}
  for name, function in vars(optax).items():
    if inspect.isfunction(function) and not name.startswith('_'):
      try:
        signature = inspect.signature(function, eval_str=True)
      except NameError:  # An annotation whose types only optax imports.
        continue
      if is_wanted(name, signature):
        functions[name] = function
  return functions


def _is_optimizer(name, signature):
  returned = signature.return_annotation
  return (
    next(iter(signature.parameters), None) == 'learning_rate'
    and not name.startswith('scale_by')
    and name not in _UNFIT
    and isinstance(returned, type)
    and issubclass(returned, optax.GradientTransformation)
  )


def _is_schedule(name, signature):
  # Schedules of other schedules cannot stand in a config.
  return signature.return_annotation == optax.Schedule and not name.startswith(
    ('inject_', 'join_')
  )


def _checked_step(text: str) -> int:
  """Return a step; refuse 010, which could hide 10 or be hidden by it."""
  if not re.fullmatch('0|[1-9][0-9]{0,8}', text):
    raise ValueError(
      f'keys of boundaries_and_scales must be steps, like 1000, got {text!r}'
    )
  return int(text)


def _checked_scale(step: str, scale: Any) -> float:
  is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
  if not is_number or not 0 <= scale <= 1000:
    raise ValueError(
      f'boundaries_and_scales[{step}] must be in [0, 1000], got {scale!r}'
    )
  return scale


def _with_integer_steps(function: Callable) -> Callable:
  """Make a schedule take steps as text, as the keys of a config are."""
  if 'boundaries_and_scales' not in inspect.signature(function).parameters:
    return function

  @functools.wraps(function)
  def schedule(*args, boundaries_and_scales=None, **kwargs):
    scales = {
      _checked_step(step): _checked_scale(step, scale)
      for step, scale in (boundaries_and_scales or {}).items()
    }
    return function(*args, boundaries_and_scales=scales, **kwargs)

  return schedule


_OPTAX_OPTIMIZERS = _optax_functions(_is_optimizer)
_OPTAX_SCHEDULES = {
  name: _with_integer_steps(schedule)
  for name, schedule in _optax_functions(_is_schedule).items()
}
COMPOSITIONS = Registry(
  'composed data set',
  {
    'color_mnist': compositions.color_mnist,
    'micro_mnist': compositions.micro_mnist,
    'mnist_rotate': compositions.mnist_rotate,
    'mnist_sum': compositions.mnist_sum,
    'mnist_sum_hard': compositions.mnist_sum_hard,
    'mnist_triplets': compositions.mnist_triplets,
  },
)
# (**options) -> ImageSet. TFDS's sets come after them.
IMAGE_SETS = Registry(
  'data set',
  {
    'celeb_a': sources.celeb_a,
    'digits': sources.digits,
    'image_folder': image_folder.image_folder,
    'npz': arrays.npz,
  },
)
IMAGE_SETS.share_names_with(COMPOSITIONS)
OPTIMIZERS = Registry('optimizer', {**_OPTAX_OPTIMIZERS, 'sgdw': _sgdw})
SCHEDULES = Registry(
  'schedule',
  {
    **_OPTAX_SCHEDULES,
    'constant': optax.constant_schedule,
    'cosine': optax.cosine_decay_schedule,
    'exponential': optax.exponential_decay,
    'linear': optax.linear_schedule,
    'warmup_cosine': optax.warmup_cosine_decay_schedule,
  },
)


# Functions by the names of a group, and how many of their first arguments do
# not come from the config.
Choices = tuple[Mapping[str, Callable], int]


def check_groups(config: Any, models: Choices) -> None:
  """Check the groups that configs share against what their names stand for.

  Args:
    config: has these groups; `dataset` need not be there.
    models: what `config.model` can name.

  Raises:
    UserError: as `config_schema.check_choice`.
  """
  if 'dataset' in config:
    check_dataset_group(config)
  config_schema.check_choice('model', config.model, *models)
  config_schema.check_choice('optimizer', config.optimizer, OPTIMIZERS, 1)
  config_schema.check_choice(
    'learning_rate', config.learning_rate, SCHEDULES, 0
  )


def check_dataset_group(config: Any) -> None:
  """Check `config.dataset` alone, as `check_config` does.

  Whether TensorFlow Datasets knows a name turns out when it is opened.
  """
  if 'dataset' not in config:
    raise UserError('config.dataset is missing')
  config_schema.check_leaves('config.dataset', config.dataset)
  config_schema.check_group('dataset', config.dataset, ('placement',))
  placement(config)
  name, known = config.dataset.name, {*IMAGE_SETS, *COMPOSITIONS}
  choices = {**image_sets(name, None), **composed_sets(None)}
  taken = config_schema.parameters(choices[name], 0)
  if name not in known and (unfit := {*config.dataset.kwargs} - {*taken}):
    raise UserError(
      f'config.dataset: unknown name {name!r}'
      f'{config_schema.hint(name, known)}; a set of TFDS takes no '
      f'{min(unfit)!r}; choose from {", ".join(sorted(known))}, {OWN_PARTS}'
    )
  config_schema.check_choice(
    'dataset', config.dataset, choices, 0, ('placement',)
  )


def placement(config: Any) -> str:
  """Return `config.dataset.placement`, 'device' where it is missing.

  Configs of earlier versions do not have it.

  Raises:
    UserError: if it is no placement.
  """
  value = config.dataset.get('placement', batches.DEVICE)
  known = batches.DEVICE, batches.HOST
  if value not in known:
    raise UserError(
      f'config.{PLACEMENT} must be {" or ".join(known)}, got {value!r}'
    )
  return value


def image_sets(
  name: str, data_dir: str | None
) -> Mapping[str, Callable[..., ImageSet]]:
  """Return the functions that read image sets, by name, `name` included.

  Args:
    name: left to TFDS, to know or refuse, if no other set has it.
    data_dir: TFDS data directory, for those that have such an argument.
  """
  functions = {
    name: functools.partial(sources.tfds_images, name),
    **IMAGE_SETS,
  }
  return {k: _in_data_dir(data_dir, f) for k, f in functions.items()}


def _in_data_dir(data_dir, function):
  """Give a function TFDS's directory, unless it has a default of its own."""
  parameter = inspect.signature(function).parameters.get('data_dir')
  if parameter is None:
    return function
  has_own = parameter.default not in (None, inspect.Parameter.empty)
  if data_dir is None and has_own:
    return function
  return functools.partial(function, data_dir=data_dir)


def composed_sets(data_dir: str | None) -> Mapping[str, Callable[..., Dataset]]:
  """Return the functions that compose data sets of a base's images, by name."""
  return {
    name: functools.partial(_composed, function, data_dir)
    for name, function in COMPOSITIONS.items()
  }


def _composed(composition, data_dir, base: str = 'mnist'):
  return composition(construct('dataset', image_sets(base, data_dir), base))


def policy(text: str) -> jmp.Policy:
  """Return the precision that `config.policy` names.

  Raises:
    UserError: if there is none, it names a part twice, or it would need loss
      scaling or 64-bit types, which JAX has switched off.
  """
  try:
    named = jmp.get_policy(text)
  except (ValueError, KeyError) as error:
    raise UserError(
      f'config.policy must be one of jmp, like '
      f'"params=float32,compute=bfloat16,output=float32", got "{text}"'
    ) from error
  # Parts may be named by their first letters.
  parts = [part.strip()[:1] for part in text.split(',')]
  if len({*parts}) < len(parts):
    raise UserError(f'config.policy names a part twice, got "{text}"')
  dtypes = [named.param_dtype, named.compute_dtype, named.output_dtype]
  if jnp.float16 in dtypes:
    raise UserError(
      f'config.policy: float16 would need loss scaling; use bfloat16, got '
      f'"{text}"'
    )
  if jnp.float64 in dtypes and (
    jax.dtypes.canonicalize_dtype(jnp.float64) != jnp.float64
  ):
    raise UserError(
      'config.policy: float64 would be float32 without JAX_ENABLE_X64=1; set '
      f'that, or use float32, got "{text}"'
    )
  return named


def check_constraints(groups: Mapping[str, Any]) -> None:
  """Check the options of constraints, by name, and their kappas.

  Raises:
    UserError: if there is none, or one is unknown or has wrong options.
  """
  if not groups:
    raise UserError('config.constraints is empty; name at least one')
  for name, group in groups.items():
    where = f'constraints.{name}'
    if name not in CONSTRAINTS:
      raise UserError(
        f'config.{where}: unknown name {name!r}'
        f'{config_schema.hint(name, CONSTRAINTS)}; choose from '
        f'{", ".join(sorted(CONSTRAINTS))}, {OWN_PARTS}'
      )
    entry = CONSTRAINTS[name]
    known = config_schema.parameters(_kappa_of, 0)
    known |= config_schema.parameters(entry.make, 1)
    given = config_schema.filled_in(entry.make, 1)
    if 'network' in known:  # By name or path.
      known['network'] = known['network'].replace(annotation=str)
    config_schema.check_arguments(where, group, known, name, given)
    construct(where, {name: entry.check_kappa}, name, group.kappa)


def _kappa_of(kappa: float) -> float:
  """Take the parameter that every constraint has in a config."""
  return kappa


def construct(
  where: str,
  constructors: Mapping[str, Callable[..., _T]],
  name: str,
  *args: Any,
  **kwargs: Any,
) -> _T:
  """Call a constructor by name.

  Raises:
    UserError: if it rejects its arguments; names the config's group.
  """
  try:
    return constructors[name](*args, **kwargs)
  except (TypeError, ValueError, ArithmeticError) as error:
    raise UserError(f'config.{where}: {error}') from error
