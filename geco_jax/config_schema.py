"""The form of a config, checked before anything is built of it.

Keys and types of the top level are those of a template, a valid config. What a
group's `kwargs` may hold is read off the signature of the function that its
`name` stands for: the names, which of them must be there, and their types. Only
the ranges that no constructor checks are written here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import difflib
import inspect
import math
from typing import Any, TypeVar

from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import FrozenConfigDict

from geco_jax.config_types import is_group
from geco_jax.config_types import kind_of
from geco_jax.config_types import shown
from geco_jax.errors import OWN_PARTS
from geco_jax.errors import UserError

_F = TypeVar('_F', bound=Callable[..., Any])
Parameters = dict[str, inspect.Parameter]

# The range of float32, and of integers: seeds are the largest.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38
_MAX_INTEGER = 2**32
_MAX_DEPTH = 20  # Most levels of nested groups and lists.
_MOMENTS = None, 'float32', 'bfloat16'

# Intervals of arguments that no constructor checks, by group. Adam without its
# eps divides by zero, a rate below 0 trains uphill, exp(80) is about the
# largest number that float32 holds; rates above 1000 are typing errors.
_RANGES: Mapping[str, Mapping[str, str]] = {
  'optimizer': {
    'b1': '[0, 1)',
    'b2': '[0, 1)',
    'eps': '(0, 1000]',
    'eps_root': '[0, 1000]',
    'weight_decay': '[0, 1000]',
    'decay': '[0, 1)',
    'initial_scale': '[0, 1000]',
    'momentum': '[0, 1)',
    'b3': '[0, 1)',
    'beta': '[0, 1)',
    'rho': '[0, 1)',
    'weight_decay_rate': '[0, 1000]',
    'initial_accumulator_value': '[0, 1000]',
    'alpha': '[0, 1000]',
    'clipping_threshold': '(0, inf)',
    'decay_rate': '[0, 1)',
    'min_norm': '[0, 1000]',
    'threshold': '(0, inf)',
    'trust_coefficient': '(0, 1000]',
    'decay_offset': '[0, inf)',
    'min_dim_size_to_factor': '[1, inf)',
  },
  'learning_rate': {
    'value': '[0, 1000]',
    'init_value': '[0, 1000]',
    'peak_value': '[0, 1000]',
    'end_value': '[0, 1000]',
    'alpha': '[0, 1000]',
    'exponent': '(0, 1000]',
    'decay_rate': '(0, 1000]',
    'decay_steps': '[1, inf)',
    'transition_steps': '[1, inf)',
    'transition_begin': '[0, inf)',
    'warmup_steps': '[0, inf)',
    'power': '(0, 1000]',
    'pct_start': '[0, 1]',
    'pct_final': '[0, 1]',
    'div_factor': '[0.001, inf)',
    'final_div_factor': '[0.001, inf)',
  },
  'multipliers': {
    'step_size': '[0, 1000]',
    'damping': '[0, 1e6]',
    'log_multiplier_range': '[-80, 80]',
    'beta': '[1e-9, 1e9]',
    'initial_beta': '[1e-9, 1e9]',
    'final_beta': '[1e-9, 1e9]',
  },
  'model': {'likelihood_stddev': '[1e-9, 1e9]', 'log_scale_bound': '(0, 80]'},
}


def passes_to(
  target: Callable, filled_in: Sequence[str] = ()
) -> Callable[[_F], _F]:
  """Declare that a function's `**kwargs` are arguments of another one.

  Args:
    target: the other one.
    filled_in: arguments of it that the function gives itself.
  """

  def decorate(function):
    own = inspect.signature(function).parameters.values()
    named = [p for p in own if p.kind is not p.VAR_KEYWORD]
    names = {*(p.name for p in named), *filled_in}
    passed = [
      p.replace(kind=p.KEYWORD_ONLY)
      for p in inspect.signature(target, eval_str=True).parameters.values()
      if p.name not in names
    ]
    function.__signature__ = inspect.Signature([*named, *passed])
    function.filled_in = filled_in
    return function

  return decorate


def hint(name: str, choices: Iterable[str]) -> str:
  """Return ' (did you mean ...?)' where a choice is close, else ''."""
  choices = [*choices]
  last = name.rpartition('.')[2]
  close = [c for c in choices if c.rpartition('.')[2] == last]
  lower = {choice.lower(): choice for choice in choices}
  matches = difflib.get_close_matches(name.lower(), lower, n=1)
  close = close or [lower[match] for match in matches]
  return f' (did you mean {" or ".join(close)}?)' if close else ''


def check_keys(config: Any, template: ConfigDict, optional: Iterable[str] = ()):
  """Check a config's top level against that of a valid one, then all leaves.

  Args:
    config: what a config file returned.
    template: has the same keys, and values of the same types; a placeholder
      may be None.
    optional: keys that need not be there.

  Raises:
    UserError: if a key is missing or unknown or a value has the wrong type.
  """
  check_is_config(config)
  for name in config:
    if name not in template:
      raise UserError(
        f'config.{name}: no such key{hint(str(name), template)}; a config has '
        f'{", ".join(template)}'
      )
  for name in template:
    if name not in config and name not in optional:
      raise UserError(f'config.{name} is missing')
  kinds = {name: template.get_type(name) for name in template if name in config}
  groups = [n for n, kind in kinds.items() if issubclass(kind, ConfigDict)]
  for name in groups:
    _check_is_group(f'config.{name}', config[name])
  for name in [n for n in kinds if n not in groups]:
    # Before other leaves, which are computed from these.
    value = _value_at('config', config, name)
    may_be_none = template[name] is None
    kind = kinds[name] | None if may_be_none else kinds[name]
    _check_type(f'config.{name}', value, kind)
    check_leaves(f'config.{name}', value)
  check_leaves('config', config)


def check_is_config(config: Any) -> None:
  """Check that a value is a config at all.

  Raises:
    UserError: if it is not.
  """
  _check_is_group('config', config)
  if not isinstance(config, (ConfigDict, FrozenConfigDict)):
    raise UserError(
      f'config must be an ml_collections.ConfigDict, got {shown(config)}'
    )


def check_leaves(where: str, value: Any, depth: int = 0) -> None:
  """Check that a config holds nothing but groups, lists and plain values.

  Raises:
    UserError: if JSON or float32 cannot hold a value, or groups and lists are
      nested without end.
  """
  if depth > _MAX_DEPTH:
    start = where.split('[')[0][:60]
    raise UserError(f'{start} holds itself, or groups and lists too deep')
  if is_group(value):
    for name in value:
      inner = _value_at(where, value, name)
      check_leaves(f'{where}.{name}', inner, depth + 1)
  elif isinstance(value, (list, tuple)):
    for index, inner in enumerate(value):
      check_leaves(f'{where}[{index}]', inner, depth + 1)
  elif not isinstance(value, (bool, int, float, str, type(None))):
    raise UserError(
      f'{where} must be a number, a string, true or false, None or a list of '
      f'these, got {shown(value)}'
    )
  elif isinstance(value, float) and value and not _in_float32(value):
    raise UserError(
      f'{where} must be a finite number that float32 holds, got {value}'
    )
  elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
    raise UserError(
      f'{where} must be within 2**32, got one of {value.bit_length()} bits'
    )


def _value_at(where, group, name):
  if not isinstance(name, str):
    raise UserError(f'{where}: keys must be strings, got {shown(name)}')
  try:
    return group[name]
  except Exception as error:  # A value computed from others, or a missing one.
    raise UserError(
      f'{where}.{name} cannot be computed: {type(error).__name__}: {error}'
    ) from error


def check_choice(
  where: str,
  group: Any,
  constructors: Mapping[str, Callable],
  num_given: int,
  more: Sequence[str] = (),
) -> None:
  """Check a group `{name, kwargs}` against what its name stands for.

  Args:
    where: the group's key.
    group: of the config.
    constructors: by name.
    num_given: how many of a constructor's first arguments are not the
      config's.
    more: keys that may be beside `name` and `kwargs`.

  Raises:
    UserError: if the group has another form, the name is unknown, or an
      argument is missing, unknown, of the wrong type or out of its range.
  """
  check_group(where, group, more)
  name = group['name']
  if name not in constructors:
    # A function of two names is shown under the shorter.
    shown = {
      id(constructors[n]): n for n in sorted(constructors, key=len)[::-1]
    }
    raise UserError(
      f'config.{where}: unknown name {name!r}{hint(name, constructors)}; '
      f'choose from {", ".join(sorted(shown.values()))}, {OWN_PARTS}'
    )
  kwargs, constructor = group['kwargs'], constructors[name]
  given = filled_in(constructor, num_given)
  known = parameters(constructor, num_given)
  check_arguments(f'{where}.kwargs', kwargs, known, name, given)
  _check_ranges(f'config.{where}.kwargs', kwargs, _RANGES.get(where, {}))
  if where == 'optimizer':
    _check_dtypes_and_masks(kwargs)


def _check_ranges(where, kwargs, ranges):
  """Check arguments, those of groups in lists too, as `sgdr_schedule` has."""
  for argument, interval in ranges.items():
    if kwargs.get(argument) is not None:
      check_range(f'{where}.{argument}', kwargs[argument], interval)
  for argument in kwargs:
    if isinstance(kwargs[argument], (list, tuple)):
      for index, inner in enumerate(kwargs[argument]):
        if is_group(inner):
          _check_ranges(f'{where}.{argument}[{index}]', inner, ranges)


def _check_dtypes_and_masks(kwargs):
  """Refuse moments that are not floats, and masks of single parameters."""
  for argument in kwargs:
    value, where = kwargs[argument], f'config.optimizer.kwargs.{argument}'
    if 'dtype' in argument and value not in _MOMENTS:
      raise UserError(f'{where} must be in {_MOMENTS}, got {shown(value)}')
    if argument.endswith('mask') and not isinstance(value, bool | None):
      raise UserError(f'{where} must be true or false, got {shown(value)}')


def parameters(function: Callable, num_given: int) -> Parameters:
  """Return the parameters that a config gives a function, by name."""
  try:
    named = inspect.signature(function, eval_str=True).parameters
  except Exception:  # Own parts may have wrong annotations.
    named = inspect.signature(function).parameters
  given = filled_in(function, num_given)
  return {name: p for name, p in named.items() if name not in given}


def filled_in(function: Callable, num_given: int) -> set[str]:
  """Return the names of the arguments that a builder gives, not a config.

  Args:
    function: called with the config's arguments.
    num_given: how many of its first parameters are not the config's.
  """
  first = [*inspect.signature(function).parameters][:num_given]
  bound = getattr(function, 'keywords', {})  # Arguments of a functools.partial.
  return {*first, *bound, *getattr(function, 'filled_in', ())}


def check_group(where: str, group: Any, more: Sequence[str] = ()) -> None:
  """Check that a value is a group `{name, kwargs}`.

  Args:
    where: the group's key.
    group: of the config.
    more: keys that may be beside these.

  Raises:
    UserError: if it is not.
  """
  _check_is_group(f'config.{where}', group)
  for key in ('name', 'kwargs'):
    if key not in group:
      raise UserError(f'config.{where}.{key} is missing')
  for key in group:
    if key not in ('name', 'kwargs', *more):
      raise UserError(
        f'config.{where}.{key}: no such key; arguments stand in '
        f'config.{where}.kwargs'
      )
  _check_type(f'config.{where}.name', group['name'], str)
  _check_is_group(f'config.{where}.kwargs', group['kwargs'])


def check_arguments(
  where: str,
  kwargs: Any,
  known: Parameters,
  owner: str,
  given: Iterable[str] = (),
) -> None:
  """Check arguments against a function's parameters.

  Args:
    where: the dotted name of the arguments' group.
    kwargs: the group.
    known: the function's parameters that the config gives.
    owner: what people call the function.
    given: parameters that are not the config's.

  Raises:
    UserError: if one is missing, unknown or of the wrong type.
  """
  _check_is_group(f'config.{where}', kwargs)
  for name in kwargs:
    if name in given:
      raise UserError(
        f'config.{where}.{name} is set by the builder of {owner}; leave it out'
      )
  known = {n: p for n, p in known.items() if p.kind is not p.VAR_POSITIONAL}
  named = {n: p for n, p in known.items() if p.kind is not p.VAR_KEYWORD}
  if named == known:
    _refuse_unknown(where, [n for n in kwargs if n not in named], named, owner)
  for name, value in kwargs.items():
    if name in named:
      _check_type(f'config.{where}.{name}', value, named[name].annotation)
  for name, parameter in named.items():
    if parameter.default is parameter.empty and name not in kwargs:
      raise UserError(f'config.{where}.{name} is missing')


def _refuse_unknown(where, unknown, named, owner):
  """Refuse arguments that a function does not take."""
  if not unknown:
    return
  close = hint(unknown[0], named) if len(unknown) == 1 else ''
  allowed = ', '.join(named) or 'no arguments'
  group, _, last = where.rpartition('.')
  anew = (
    '; where the name was changed, those of the former one are to go: write '
    f'config.{group} = base_config.group({owner!r}, ...) in a config file'
  )
  raise UserError(
    f'config.{where}: unexpected {", ".join(map(repr, unknown))}{close}; '
    f'{owner} takes {allowed}{"" if close or last != "kwargs" else anew}'
  )


def check_range(where: str, value: Any, interval: str) -> None:
  """Check that a number, or each of several, lies in an interval.

  Args:
    where: the dotted name of the value.
    value: a number or a sequence of numbers.
    interval: like '[0, 1)'.

  Raises:
    UserError: if it does not.
  """
  low, high = map(float, interval[1:-1].split(','))
  for number in value if isinstance(value, (list, tuple)) else [value]:
    _check_type(where, number, float)
    above = number >= low if interval[0] == '[' else number > low
    below = number <= high if interval[-1] == ']' else number < high
    if not (above and below):
      raise UserError(f'{where} must be in {interval}, got {shown(value)}')


def _check_is_group(where, value):
  if not is_group(value):
    raise UserError(f'{where} must be a group of values, got {shown(value)}')


def _check_type(where, value, annotation):
  accepts, words = kind_of(annotation)
  if not accepts(value):
    raise UserError(f'{where} must be {words}, got {shown(value)}')


def _in_float32(value):
  return math.isfinite(value) and _SMALLEST <= abs(value) <= _LARGEST


def check_is(where: str, part: Any, kind: Any) -> None:
  """Refuse the return value of an own part unless it is of a kind.

  Raises:
    UserError: if it is of another type; names the config's group.
  """
  if not isinstance(part, kind):
    raise UserError(
      f'config.{where}: its function must return a {kind.__module__}.'
      f'{kind.__name__}, got {type(part).__name__}'
    )
