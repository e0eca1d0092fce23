"""JSON files that can be made again or done without: damage stops nothing.

Since a person or a crash may have changed such a file, its form is checked.
"""

from collections.abc import Callable, Mapping
import hashlib
import json
from typing import Any, TypeVar

from absl import logging

from geco_jax.io.files import read_text
from geco_jax.io.files import write_json

_SEAL = 'content_sha256'  # Key of a file that has a digest of the others.
_T = TypeVar('_T')


def write_sealed(path: str, content: Mapping[str, Any]) -> None:
  """Write a file with a digest by which `read` notices any damage.

  Args:
    path: the file's path.
    content: values as `json` takes them.

  Raises:
    OSError: if it cannot be written.
  """
  plain = json.loads(json.dumps(content))  # Keys are strings then.
  write_json(path, {**plain, _SEAL: _digest(plain)})


def read(path: str, parse: Callable[[Any], _T]) -> _T | None:
  """Return what a file holds, None if there is none.

  A file that cannot be read, is of another form or differs from its digest is
  passed over with a warning that says why.

  Args:
    path: the file's path.
    parse: its content, without a digest -> the result; raises a ValueError, or
      whatever values of wrong types raise, if the form is another.
  """
  try:
    return parse(_unsealed(json.loads(read_text(path))))
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (
    OSError,
    ValueError,
    RecursionError,
    TypeError,
    LookupError,
    AttributeError,
  ) as error:
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
    logging.warning('%s is damaged and passed over: %s', path, reason)
    return None


def _unsealed(content):
  """Return a file's content; raise ValueError if it differs from its digest."""
  if not isinstance(content, dict) or _SEAL not in content:
    return content  # It has none, or is of an earlier version.
  others = {k: v for k, v in content.items() if k != _SEAL}
  if _digest(others) != content[_SEAL]:
    raise ValueError(f'its content does not match its {_SEAL}')
  return others


def _digest(content):
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def mapping(content: Any, kinds: type | tuple[type, ...]) -> dict[str, Any]:
  """Return a file's content if it is a mapping to values of given types.

  With `kinds` bound, this is a `parse` that `read` takes.

  Args:
    content: what the JSON file holds.
    kinds: the type or types that its values may have.

  Raises:
    ValueError: if it is anything else.
  """
  check(content, dict, 'the content')
  for name, value in content.items():
    check(value, kinds, name)
  return content


def check(value: Any, kinds: type | tuple[type, ...], name: str) -> None:
  """Refuse a value of other types; a bool is no number.

  Raises:
    ValueError: naming it.
  """
  listed = kinds if isinstance(kinds, tuple) else (kinds,)
  if isinstance(value, bool) and bool not in listed:
    listed = ()
  if not isinstance(value, listed):
    raise ValueError(f'{name} is {json.dumps(value)[:60]}')


def counts(content: Any) -> dict[str, int]:
  """Return a file's content if it is a mapping to integers, all 1 or more.

  This is a `parse` that `read` takes.

  Raises:
    ValueError: if it is anything else.
  """
  for name, value in mapping(content, int).items():
    if value < 1:
      raise ValueError(f'{name} is {value}')
  return content
