"""What `multipliers` and `lagrangian` refuse, each in one sentence.

Types and shapes are checked while a function is traced as well, and add
nothing to its program; values only where they are not traced. This module
imports nothing else of the package.
"""

from collections.abc import Iterable
import functools
import math
import operator
import reprlib
from typing import Any

import jax
from jax import core
import jax.numpy as jnp
import numpy as np

_SIGNS = {'ge': '>=', 'gt': '>', 'lt': '<', 'le': '<='}


def checked_number(name: str, value: Any, **bounds: float) -> Any:
  """Return a number; raise ValueError unless it is one, finite, in bounds.

  Args:
    name: what the number is called in the sentence.
    value: a Python number or an array [].
    **bounds: the largest or smallest by 'le', 'lt', 'ge' or 'gt'. The value of
      a traced array is not checked.

  Returns:
    The value; as a float if it is an integer that JAX could not hold.
  """
  if type(value) is int and not is_real(value):
    value = _as_float(value)
  if not is_real(value) or _array(value).shape:
    raise ValueError(f'{name} must be a number, got {described(value)}')
  check_values(name, value, **bounds)
  return value


def check_values(name: str, value: Any, **bounds: float) -> None:
  """Raise ValueError unless real numbers are finite and in their bounds."""
  if is_traced(value):
    return
  values = np.asarray(value, np.float64)
  inside = np.isfinite(values)
  for sign, bound in bounds.items():
    inside &= getattr(operator, sign)(values, bound)
  if not inside.all():
    given = [f'{_SIGNS[sign]} {bound:g}' for sign, bound in bounds.items()]
    shown = values[~inside].flat[0] if values.ndim else value
    raise ValueError(
      f'{name} must be {" and ".join(["finite", *given])}, got {shown}'
    )


def checked_range(name: str, ends: Any) -> tuple[Any, Any]:
  """Return both ends; raise ValueError unless they are finite, in order."""
  try:
    lowest, highest = (checked_number(name, end) for end in ends)
    if lowest <= highest:
      return lowest, highest
  except (TypeError, ValueError):
    pass  # They are not two, not numbers or traced.
  raise ValueError(
    f'{name} must be two finite numbers, the lower first, got {described(ends)}'
  )


def check_reals(name: str, tree: Any, kind: str = 'real numbers') -> None:
  """Raise ValueError unless all leaves are real; bools and keys are not.

  Args:
    name: what the tree is called in the sentence.
    tree: pytree of numbers and arrays.
    kind: 'real numbers', or 'floats' where integers are refused too.
  """
  try:
    leaves = jax.tree.leaves(tree)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{name} must be a tree whose keys can be sorted, got {described(tree)}'
    ) from error
  if all(is_real(leaf, kind) for leaf in leaves):
    return
  for path, leaf in jax.tree.leaves_with_path(tree):
    if not is_real(leaf, kind):
      raise ValueError(
        f'{name} must be {kind}, got {described(leaf)}{at(path)}'
      )


def check_naturals(naturals: Any, violation_clip: Any) -> None:
  """Raise ValueError unless they are > 0 or None, and have a clip to lower."""
  check_reals('natural_multiplier', naturals)
  for leaf in jax.tree.leaves(naturals):
    check_values('natural_multiplier', leaf, gt=0.0)
  if naturals is not None and violation_clip is None:
    raise ValueError(
      'natural_multiplier lowers violation_clip, which must be a number then, '
      'got None'
    )


def check_pairs(name: str, constraints: Any, log_multipliers: Any) -> None:
  """Refuse trees unless each constraint is of its log-multiplier's shape.

  Args:
    name: what needs them.
    constraints: pytree of arrays or numbers.
    log_multipliers: likewise.

  Raises:
    ValueError: if they differ in structure or in a leaf's shape.
  """
  structures = [*map(jax.tree.structure, (constraints, log_multipliers))]
  if structures[0] != structures[1]:
    raise ValueError(
      f'{name} needs a constraint for each log-multiplier, got constraints '
      f'{structures[0]} and log-multipliers {structures[1]}'
    )
  leaves = jax.tree.leaves_with_path(constraints)
  pairs = zip(leaves, jax.tree.leaves(log_multipliers), strict=True)
  for (path, constraint), log_multiplier in pairs:
    shapes = jnp.shape(constraint), jnp.shape(log_multiplier)
    if shapes[0] != shapes[1]:
      raise ValueError(
        f'{name} needs constraints of the shape of their log-multipliers, got '
        f"{shapes[0]} for {shapes[1]}{at(path)}; take the batch's mean first"
      )


def checked_state(rule: str, state: Any, expected: Any) -> Any:
  """Return a state as arrays; raise ValueError unless it is as expected.

  Args:
    rule: name of the update.
    state: what was passed as its state.
    expected: shapes and dtypes of the state of its `init`.
  """
  needs = f'{rule}.update needs the state of {rule}.init(log_multipliers), '
  treedef = jax.tree.structure(expected)
  try:
    leaves, structure = jax.tree.flatten(state)
  except (TypeError, ValueError):  # Its keys cannot be sorted.
    raise ValueError(
      f'{needs}{_tree(_type, expected)}, got {described(state)}'
    ) from None
  if structure != treedef:
    raise ValueError(
      f'{needs}{_tree(_type, expected)}, got {_tree(described, state)}'
    )
  for leaf, (path, wanted) in zip(
    leaves, jax.tree.leaves_with_path(expected), strict=True
  ):
    if not _is_like(leaf, wanted):
      raise ValueError(
        f'{needs}{_type(wanted)}{at(path)}, got {described(leaf)}'
      )
  return treedef.unflatten(
    leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, wanted.dtype)
    for leaf, wanted in zip(leaves, jax.tree.leaves(expected), strict=True)
  )


def at(path: Iterable[Any]) -> str:
  """Return the end of a sentence that says where in a tree a leaf is.

  Args:
    path: path of the leaf, as JAX gives it; empty if the leaf is the whole
      tree.

  Returns:
    For instance " at ['re']"; '' for an empty path.
  """
  path = tuple(path)
  return f' at {jax.tree_util.keystr(path)}' if path else ''


def is_traced(value: Any) -> bool:
  """Return whether a value is known only once its program runs."""
  return isinstance(value, core.Tracer)


def described(value: Any) -> str:
  """Return a value in a few words, an array by its type."""
  if type(value) is int:
    dtype, bits = jnp.result_type(int), value.bit_length()
    if is_real(value):
      return f'{dtype} {value}'
    return f'an integer of {bits} bits, beyond {dtype}'
  if isinstance(value, np.ma.MaskedArray):
    return f'masked {_type(value)}'
  if isinstance(value, (jax.Array, np.ndarray, np.generic)):
    if jnp.issubdtype(value.dtype, jnp.integer) and not is_real(value):
      beyond = jax.dtypes.canonicalize_dtype(value.dtype)
      return f'{_type(value)} beyond {beyond}'
    if not isinstance(value, np.str_):
      return _type(value)
  try:
    return ' '.join(reprlib.repr(value).split())
  except ValueError:  # Python does not write integers of so many digits.
    return f'a {type(value).__name__}'


def is_real(leaf: Any, kind: str = 'real numbers') -> bool:
  """Return whether JAX can hold a leaf, and its values, as real numbers."""
  array = _array(leaf)
  if not _is_real_dtype(array.dtype, kind):
    return False
  if isinstance(array, jax.Array) or array.dtype.kind not in 'iu':
    return True
  # JAX would raise at a large integer of Python and wrap one of NumPy.
  held = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
  return not array.size or (held.min <= array.min() and array.max() <= held.max)


def _is_like(leaf, wanted):
  """Return whether a leaf of a state can stand for the one of `init`."""
  array = _array(leaf)
  if not is_real(leaf) or array.shape != wanted.shape:
    return False
  if type(leaf) is float:  # It takes any float's dtype.
    return jnp.issubdtype(wanted.dtype, jnp.floating)
  dtype = array.dtype
  if not isinstance(array, jax.Array):
    dtype = jax.dtypes.canonicalize_dtype(dtype)
  if jnp.issubdtype(wanted.dtype, jnp.integer):
    return (
      jnp.issubdtype(dtype, jnp.integer)
      and jnp.iinfo(dtype).max >= jnp.iinfo(wanted.dtype).max
    )
  return dtype == wanted.dtype


class _Words(str):
  """A text that is printed without quotes, in a tree too."""

  __repr__ = str.__str__


def _tree(describe, tree):
  return str(jax.tree.map(lambda leaf: _Words(describe(leaf)), tree))


def _type(array):
  return f'{array.dtype}[{",".join(map(str, array.shape))}]'


def _array(leaf):
  """Return a leaf as an array of JAX or NumPy, of objects if it is not one."""
  if isinstance(leaf, jax.Array):
    return leaf
  if isinstance(leaf, np.ma.MaskedArray):  # JAX takes none.
    return np.empty([], object)
  try:
    if hasattr(leaf, '__jax_array__'):
      return leaf.__jax_array__()
    return np.asarray(leaf)
  except (TypeError, ValueError, RuntimeError):
    return np.empty([], object)


@functools.cache
def _is_real_dtype(dtype, kind):
  if jnp.issubdtype(dtype, jnp.floating):
    # Floats of 8 bits have no sums with others, floats of 128 have no arrays.
    return 16 <= jnp.finfo(dtype).bits <= 64
  return kind != 'floats' and jnp.issubdtype(dtype, jnp.integer)


def _as_float(integer):
  try:
    return float(integer)
  except OverflowError:
    return math.inf if integer > 0 else -math.inf
