"""The form of a config, checked before anything is built of it.

Keys and types of the top level are those of a template, a valid config. What a
group's `kwargs` may hold is read off the signature of what its `name` stands
for: the names, which of them must be there, and their types. Only the ranges
that no constructor checks stand here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import difflib
import inspect
import math
import numbers
import reprlib
import types
import typing
from typing import Any, TypeVar

from ml_collections.config_dict import ConfigDict

from geco_jax.errors import UserError

_F = TypeVar('_F', bound=Callable[..., Any])
Parameters = dict[str, inspect.Parameter]
OWN_PARTS = 'or name the module of your own one in config.imports'

# What float32 holds, and no further integer than a seed.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38
_MAX_INTEGER = 2**32
_MAX_DEPTH = 20  # Of groups and lists in each other.
_MOMENTS = None, 'float32', 'bfloat16'

# Intervals of arguments that no constructor checks, by group. Adam without its
# eps divides by zero, a rate below 0 trains uphill, exp(80) is about the
# largest number that float32 holds.
_RANGES: Mapping[str, Mapping[str, str]] = {
  'optimizer': {
    'b1': '[0, 1)',
    'b2': '[0, 1)',
    'eps': '(0, inf)',
    'eps_root': '[0, inf)',
    'weight_decay': '[0, inf)',
    'decay': '[0, 1)',
    'initial_scale': '[0, inf)',
    'momentum': '[0, 1)',
    'b3': '[0, 1)',
    'beta': '[0, 1)',
    'rho': '[0, 1)',
    'weight_decay_rate': '[0, inf)',
    'initial_accumulator_value': '[0, inf)',
    'alpha': '[0, inf)',
    'clipping_threshold': '(0, inf)',
    'decay_rate': '[0, 1)',
    'min_norm': '[0, inf)',
    'threshold': '(0, inf)',
    'trust_coefficient': '(0, inf)',
  },
  'learning_rate': {
    'value': '[0, inf)',
    'init_value': '[0, inf)',
    'peak_value': '[0, inf)',
    'end_value': '[0, inf)',
    'alpha': '[0, inf)',
    'exponent': '(0, inf)',
    'decay_rate': '(0, inf)',
    'decay_steps': '[1, inf)',
    'transition_steps': '[1, inf)',
    'transition_begin': '[0, inf)',
    'warmup_steps': '[0, inf)',
    'power': '(0, inf)',
    'pct_start': '[0, 1]',
    'pct_final': '[0, 1]',
    'div_factor': '(0, inf)',
    'final_div_factor': '(0, inf)',
  },
  'multipliers': {
    'log_multiplier_range': '[-80, 80]',
    'beta': '[1e-9, 1e9]',
    'initial_beta': '[1e-9, 1e9]',
    'final_beta': '[1e-9, 1e9]',
  },
  'model': {'likelihood_stddev': '[1e-9, 1e9]', 'log_scale_bound': '(0, 80]'},
}


def passes_to(target: Callable) -> Callable[[_F], _F]:
  """Make a function's `**kwargs` known to be arguments of another one."""

  def decorate(function):
    own = inspect.signature(function).parameters.values()
    named = [p for p in own if p.kind is not p.VAR_KEYWORD]
    names = {p.name for p in named}
    passed = [
      p.replace(kind=p.KEYWORD_ONLY)
      for p in inspect.signature(target, eval_str=True).parameters.values()
      if p.name not in names
    ]
    function.__signature__ = inspect.Signature([*named, *passed])
    return function

  return decorate


def hint(name: str, choices: Iterable[str]) -> str:
  """Return ' (did you mean ...?)' where a choice is close, else ''."""
  choices = [*choices]
  last = name.rpartition('.')[2]
  close = [c for c in choices if c.rpartition('.')[2] == last]
  close = close or difflib.get_close_matches(name, choices, n=1)
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
  _check_is_group('config', config)
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
    # First of all leaves, as others are computed from them.
    value = _value_at('config', config, name)
    may_be_none = template[name] is None
    kind = kinds[name] | None if may_be_none else kinds[name]
    _check_type(f'config.{name}', value, kind)
    check_leaves(f'config.{name}', value)
  check_leaves('config', config)


def check_leaves(where: str, value: Any, depth: int = 0) -> None:
  """Check that a config holds nothing but groups, lists and plain values.

  Raises:
    UserError: if a value could not stand in JSON, or not in float32, or groups
      and lists stand in each other without an end.
  """
  if depth > _MAX_DEPTH:
    start = where.split('[')[0][:60]
    raise UserError(f'{start} holds itself, or groups and lists too deep')
  if _is_group(value):
    for name in value:
      inner = _value_at(where, value, name)
      check_leaves(f'{where}.{name}', inner, depth + 1)
  elif isinstance(value, (list, tuple)):
    for index, inner in enumerate(value):
      check_leaves(f'{where}[{index}]', inner, depth + 1)
  elif not isinstance(value, (bool, int, float, str, type(None))):
    raise UserError(
      f'{where} must be a number, a string, true or false, None or a list of '
      f'these, got {_shown(value)}'
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
    raise UserError(f'{where}: keys must be strings, got {_shown(name)}')
  try:
    return group[name]
  except Exception as error:  # It is computed from another one, or to be given.
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
    # What has two names is shown by the shorter.
    shown = {
      id(constructors[n]): n for n in sorted(constructors, key=len)[::-1]
    }
    raise UserError(
      f'config.{where}: unknown name {name!r}{hint(name, constructors)}; '
      f'choose from {", ".join(sorted(shown.values()))}, {OWN_PARTS}'
    )
  kwargs, known = group['kwargs'], parameters(constructors[name], num_given)
  check_arguments(f'{where}.kwargs', kwargs, known, name)
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
        if _is_group(inner):
          _check_ranges(f'{where}.{argument}[{index}]', inner, ranges)


def _check_dtypes_and_masks(kwargs):
  """Refuse moments that are no floats, and masks of single parameters."""
  for argument in kwargs:
    value, where = kwargs[argument], f'config.optimizer.kwargs.{argument}'
    if 'dtype' in argument and value not in _MOMENTS:
      raise UserError(f'{where} must be in {_MOMENTS}, got {_shown(value)}')
    if argument.endswith('mask') and not isinstance(value, bool | None):
      raise UserError(f'{where} must be true or false, got {_shown(value)}')


def parameters(function: Callable, num_given: int) -> Parameters:
  """Return a function's parameters by name, without the first so many."""
  try:
    named = inspect.signature(function, eval_str=True).parameters
  except Exception:  # Own parts may have annotations that no type checker ran.
    named = inspect.signature(function).parameters
  return dict([*named.items()][num_given:])


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
  where: str, kwargs: Any, known: Parameters, owner: str
) -> None:
  """Check arguments against a function's parameters.

  Args:
    where: the dotted name of the arguments' group.
    kwargs: the group.
    known: the function's parameters that the config gives.
    owner: what people call the function.

  Raises:
    UserError: if one is missing, unknown or of the wrong type.
  """
  _check_is_group(f'config.{where}', kwargs)
  known = {n: p for n, p in known.items() if p.kind is not p.VAR_POSITIONAL}
  named = {n: p for n, p in known.items() if p.kind is not p.VAR_KEYWORD}
  for name, value in kwargs.items():
    if name in named:
      _check_type(f'config.{where}.{name}', value, named[name].annotation)
    elif named == known:
      allowed = ', '.join(named) or 'no arguments'
      raise UserError(
        f'config.{where}: unexpected {name!r}{hint(name, named)}; {owner} '
        f'takes {allowed}'
      )
  for name, parameter in named.items():
    if parameter.default is parameter.empty and name not in kwargs:
      raise UserError(f'config.{where}.{name} is missing')


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
    above = number >= low if interval[0] == '[' else number > low
    below = number <= high if interval[-1] == ']' else number < high
    if not (above and below):
      raise UserError(f'{where} must be in {interval}, got {_shown(value)}')


def _is_group(value):
  return isinstance(value, (ConfigDict, Mapping))


def _check_is_group(where, value):
  if not _is_group(value):
    raise UserError(f'{where} must be a group of values, got {_shown(value)}')


def _check_type(where, value, annotation) -> None:
  accepts, words = _kind(annotation)
  if not accepts(value):
    raise UserError(f'{where} must be {words}, got {_shown(value)}')


def _kind(annotation) -> tuple[Callable[[Any], bool], str]:
  """Return a test of an annotation's values, and what people call them.

  Arrays and functions, which some annotations allow, do not stand in configs.
  """
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    return _any_kind(args)
  if origin is tuple and Ellipsis not in args:
    accepts, words = _kind(args[0])
    return (
      lambda v: _is_list(v) and len(v) == len(args) and all(map(accepts, v)),
      f'{len(args)} values, each {words}',
    )
  if origin is dict:
    return _is_group, 'a group of values'
  if _is_list_type(annotation):
    accepts, words = _kind(args[0])
    return (
      lambda v: _is_list(v) and all(map(accepts, v)),
      f'a list of values, each {words}',
    )
  return _KINDS.get(annotation, (lambda v: True, 'anything'))


def _any_kind(annotations):
  """Return the kind of a union."""
  if Any in annotations:
    return _kind(Any)
  known = [a for a in annotations if a in _KINDS or _is_container_type(a)]
  if float in known:  # An array's union has bool and int besides.
    known = [a for a in known if a in (float, types.NoneType)]
  kinds = [_kind(a) for a in known]
  return (
    lambda v: any(accepts(v) for accepts, _ in kinds),
    ' or '.join(words for _, words in kinds),
  )


def _is_container_type(annotation):
  return _is_list_type(annotation) or typing.get_origin(annotation) is dict


def _is_list_type(annotation):
  origin = typing.get_origin(annotation)
  return isinstance(origin, type) and issubclass(origin, Sequence)


def _is_list(value):
  return isinstance(value, (list, tuple))


def _is_number(value):
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _in_float32(value):
  return math.isfinite(value) and _SMALLEST <= abs(value) <= _LARGEST


def _shown(value) -> str:
  kind = type(value).__name__
  try:
    return f'{" ".join(reprlib.repr(value).split())} ({kind})'
  except Exception:  # Integers of thousands of digits have no text.
    return f'a value of type {kind}'


_KINDS: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
  bool: (lambda v: isinstance(v, bool), 'true or false'),
  int: (
    lambda v: isinstance(v, int) and not isinstance(v, bool),
    'an integer',
  ),
  float: (_is_number, 'a number'),
  str: (lambda v: isinstance(v, str), 'a string'),
  tuple: (_is_list, 'a list'),
  types.NoneType: (lambda v: v is None, 'None'),
  None: (lambda v: v is None, 'None'),
}
