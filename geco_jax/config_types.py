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
  if origin is tuple and Ellipsis not in args:
    accepts, words = kind_of(args[0])
    return (
      lambda v: _is_list(v) and len(v) == len(args) and all(map(accepts, v)),
      f'{len(args)} values, each {words}',
    )
  if origin is dict:
    return is_group, 'a group of values'
  if _is_list_type(annotation):
    accepts, words = kind_of(args[0])
    return (
      lambda v: _is_list(v) and all(map(accepts, v)),
      f'a list of values, each {words}',
    )
  return _KINDS.get(annotation, (lambda v: True, 'anything'))


def _any_kind(annotations):
  """Return the kind of a union."""
  if Any in annotations:
    return kind_of(Any)
  known = [a for a in annotations if a in _KINDS or _is_container_type(a)]
  if float in known:  # The union of an array has bool and int too.
    known = [a for a in known if a in (float, types.NoneType)]
  kinds = [kind_of(a) for a in known]
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


def shown(value: Any) -> str:
  """Return a value and its type on one short line."""
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
