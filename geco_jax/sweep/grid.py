"""The grid of a sweep: which configs `config.sweep` stands for.

`config.sweep` is a sequence of groups, each a mapping of dotted names of the
config to lists of values::

    config.sweep = (
      {'constraints.re.kappa': [0.06, 0.1]},
      {'model.kwargs.latent_size': [8, 16], 'num_steps': [2_000, 4_000]},
    )

The names of a group change together (its lists are zipped), the groups are
multiplied: these are four runs. On the command line it is the same literal::

    --config.sweep="[{'constraints.re.kappa': [0.06, 0.1]}, {'seed': [0, 1]}]"
"""

from collections.abc import Mapping, Sequence
import copy
import difflib
import hashlib
import itertools
import json
import re
from typing import Any, NamedTuple

from ml_collections.config_dict import ConfigDict

from geco_jax.config_tree import flatten
from geco_jax.config_tree import SWEEP
from geco_jax.config_tree import without_sweep
from geco_jax.errors import UserError

_FORM = "config.sweep must be like [{'seed': [0, 1]}]"
_HASH_LENGTH = 8  # Hexadecimal digits in a folder's name.


class Point(NamedTuple):
  """One run of a grid."""

  # The folder's name: swept values, each after its short name; then their
  # hash, where different values would give the same name.
  name: str
  values: dict[str, Any]  # Swept values by dotted name.
  config: ConfigDict  # Config of the run, without `sweep`.


def points(config: ConfigDict) -> list[Point]:
  """Return the runs of `config.sweep`, the last group's values fastest.

  Raises:
    UserError: if a name is unknown, a value has the wrong type, zipped lists
      differ in length or two runs would be the same.
  """
  groups = [_rows(group) for group in config.get(SWEEP, ())]
  if not groups:
    raise UserError(f'config.sweep is empty: nothing to sweep; {_FORM}')
  names = [name for rows in groups for name in rows[0]]
  _check_names(names, config)
  base = without_sweep(config)
  short = _short_names(names)
  grid = []
  for rows in itertools.product(*groups):
    swept = {name: value for row in rows for name, value in row.items()}
    single = _with_values(base, swept)
    leaves = flatten(single)
    values = {name: leaves[name] for name in names}
    folder = '_'.join(
      f'{short[name]}_{_text(value)}' for name, value in values.items()
    )
    grid.append(Point(folder, values, single))
  return _with_distinct_names(grid)


def short_names(grid: Sequence[Point]) -> dict[str, str]:
  """Return the ends of the swept names that tell them apart, by name."""
  return _short_names([*grid[0].values])


def _rows(group: Any) -> list[dict[str, Any]]:
  """Return the values of a group, a mapping per run."""
  if not isinstance(group, Mapping) or not group:
    raise UserError(f'{_FORM}, a list of mappings, got {group!r} in it')
  for name, values in group.items():
    if not isinstance(values, (list, tuple)) or not values:
      raise UserError(
        f'config.sweep: {name} needs a list of values, got {values!r}'
      )
  lengths = {name: len(values) for name, values in group.items()}
  if len(set(lengths.values())) > 1:
    counts = ', '.join(f'{name} has {n}' for name, n in lengths.items())
    raise UserError(
      f'config.sweep: the lists of a group are zipped and must be equally '
      f'long, but {counts}'
    )
  columns = zip(*group.values(), strict=True)
  return [dict(zip(group, row, strict=True)) for row in columns]


def _check_names(names: Sequence[str], config: ConfigDict) -> None:
  leaves = [name for name in flatten(config) if name != SWEEP]
  for name in names:
    if name not in leaves:
      close = difflib.get_close_matches(str(name), leaves, n=1)
      hint = f' (did you mean {close[0]}?)' if close else ''
      raise UserError(f'config.sweep: the config has no value {name!r}{hint}')
    if names.count(name) > 1:
      raise UserError(f'config.sweep names {name} in more than one group')


def _with_values(base: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  config = copy.deepcopy(base)
  for name, value in values.items():
    try:
      config.update_from_flattened_dict({name: value})
    except (TypeError, ValueError) as error:
      raise UserError(
        f'config.sweep: {name} must be of type {_kind(base, name)}, '
        f'got {value!r}'
      ) from error
  return config


def _kind(config: ConfigDict, name: str) -> str:
  """Return the type of a config's value in words, by its dotted name."""
  *groups, key = name.split('.')
  group = config
  for part in groups:
    group = group[part]
  kind = group.get_type(key).__name__
  return f'{kind} or None' if group[key] is None else kind


def _with_distinct_names(points: Sequence[Point]) -> list[Point]:
  """Return points of which no two share a folder.

  Values that differ only in characters that `_text` replaces get a hash.

  Raises:
    UserError: if two runs would be the same.
  """
  texts = [json.dumps(point.values) for point in points]
  texts_by_name: dict[str, set[str]] = {}
  for point, text in zip(points, texts, strict=True):
    texts_by_name.setdefault(point.name, set()).add(text)
  grid = []
  for point, text in zip(points, texts, strict=True):
    if len(texts_by_name[point.name]) > 1:
      digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
      point = point._replace(name=f'{point.name}_{digest}')
    grid.append(point)
  _check_distinct(grid)
  return grid


def _check_distinct(grid: Sequence[Point]) -> None:
  points_by_name: dict[str, Point] = {}
  for point in grid:
    if point.name in points_by_name:
      raise UserError(
        f'config.sweep: two runs would both be {point.name}; '
        'every value may stand once'
      )
    points_by_name[point.name] = point


def _short_names(names: Sequence[str]) -> dict[str, str]:
  def end(name, length):
    return '.'.join(name.split('.')[-length:])

  short = {}
  for name in names:
    ends = (end(name, length) for length in range(1, name.count('.') + 1))
    unique = (
      e
      for e in ends
      if sum(f'.{other}'.endswith(f'.{e}') for other in names) == 1
    )
    short[name] = next(unique, name)
  return short


def _text(value: Any) -> str:
  """Return a value as a part of a folder's name."""
  if isinstance(value, (list, tuple)):
    return 'x'.join(_text(part) for part in value)
  return re.sub(r'[^A-Za-z0-9.+-]+', '-', str(value))
