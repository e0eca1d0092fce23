"""Types of a config's values: what an annotation allows, and its name."""

from collections.abc import Callable, Mapping, Sequence
import numbers
import reprlib
import types
import typing
from typing import Any

from ml_collections.config_dict import ConfigDict


def is_group(value: Any) -> bool:
  """Return whether a value is a group of others by name."""
  return isinstance(value, (ConfigDict, Mapping))


def kind_of(annotation: Any) -> tuple[Callable[[Any], bool], str]:
  """Return a test of an annotation's values, and what people call them.

  Arrays and functions, which some annotations allow, do not stand in configs.
  """
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    return _any_kind(args)
  if origin is typing.Literal:
    return lambda v: v in args, f'one of {", ".join(map(repr, args))}'
  if origin is tuple and args and Ellipsis not in args:
    return _tuple_kind([kind_of(element) for element in args])
  if origin is not None and not args:  # typing.List, typing.Tuple, ...
    return kind_of(origin)
  if _is_subclass(origin, Mapping):
    return kind_of(dict)
  if _is_subclass(origin, Sequence):
    accepts, words = kind_of(args[0])
    return (
      lambda v: _is_list(v) and all(map(accepts, v)),
      f'a list of values, each {words}',
    )
  return _KINDS.get(annotation, _ANYTHING)


def _any_kind(annotations):
  """Return the kind of a union."""
  parts = [a for a in annotations if not _is_array_or_function(a)]
  if float in parts:  # The union of an array has bool and int too.
    parts = [a for a in parts if a not in (bool, int)]
  kinds = [kind_of(part) for part in parts]
  if not kinds or _ANYTHING in kinds:
    return _ANYTHING
  return (
    lambda v: any(accepts(v) for accepts, _ in kinds),
    ' or '.join(words for _, words in kinds),
  )


def _tuple_kind(kinds):
  """Return the kind of a tuple of elements of kinds."""
  words = [words for _, words in kinds]
  each = f', each {words[0]}' if len({*words}) == 1 else f': {", ".join(words)}'
  return (
    lambda v: (
      _is_list(v)
      and len(v) == len(kinds)
      and all(
        accepts(element) for (accepts, _), element in zip(kinds, v, strict=True)
      )
    ),
    f'{len(kinds)} values{each}',
  )


def _is_array_or_function(annotation):
  """Return whether values are of a kind that does not stand in configs."""
  origin = typing.get_origin(annotation) or annotation
  if not isinstance(origin, type):
    return False
  return origin in (complex, Callable, type) or (
    origin.__module__.partition('.')[0] in ('jax', 'jaxlib', 'numpy')
  )


def _is_subclass(origin, parent):
  return isinstance(origin, type) and issubclass(origin, parent)


def _is_list(value):
  return isinstance(value, (list, tuple))


def _is_number(value):
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def shown(value: Any) -> str:
  """Return a value and its type on one short line."""
  kind = type(value).__name__
  try:
    return f'{" ".join(reprlib.repr(value).split())} ({kind})'
  except Exception:  # Integers of thousands of digits have no text.
    return f'a value of type {kind}'


_ANYTHING = (lambda v: True), 'anything'
_KINDS: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
  bool: (lambda v: isinstance(v, bool), 'true or false'),
  int: (
    lambda v: isinstance(v, int) and not isinstance(v, bool),
    'an integer',
  ),
  float: (_is_number, 'a number'),
  str: (lambda v: isinstance(v, str), 'a string'),
  tuple: (_is_list, 'a list'),
  list: (_is_list, 'a list'),
  Sequence: (_is_list, 'a list'),
  dict: (is_group, 'a group of values'),
  Mapping: (is_group, 'a group of values'),
  types.NoneType: (lambda v: v is None, 'None'),
  None: (lambda v: v is None, 'None'),
}
