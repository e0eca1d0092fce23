"""Floating-point operations of a function, from the shapes in its trace."""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax.extend import core


def count(function: Callable, *args: Any) -> int:
  """Return the operations of a function's matrix products and convolutions.

  Nothing is compiled or run. A multiplication and an addition are two
  operations, as hardware's peaks are stated; taps that meet padding count, and
  everything else (activations, noise, the optimizer) does not. Of branches the
  most expensive counts.

  Args:
    function: can be traced by JAX.
    *args: arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    ValueError: if a loop without a fixed number of rounds holds products.
  """
  return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr_flops(jaxpr):
  return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation):
  params = equation.params
  inner = [_jaxpr_flops(jaxpr) for jaxpr in _inner_jaxprs(params)]
  match equation.primitive.name:
    case 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      terms = math.prod(shape[axis] for axis in contracted)
      return 2 * terms * equation.outvars[0].aval.size
    case 'conv_general_dilated':
      kernel = equation.invars[1].aval
      out_axis = params['dimension_numbers'].rhs_spec[0]
      terms = kernel.size // kernel.shape[out_axis]
      return 2 * terms * equation.outvars[0].aval.size
    case 'scan':
      return params['length'] * sum(inner)
    case 'cond':
      return max(inner)
    case 'while' if sum(inner):
      raise ValueError('a while loop with products cannot be counted')
    case _:
      return sum(inner)


def _inner_jaxprs(params):
  """Yield the programs that an equation calls."""
  for value in params.values():
    for leaf in value if isinstance(value, (list, tuple)) else [value]:
      if isinstance(leaf, core.ClosedJaxpr):
        yield leaf.jaxpr
      elif isinstance(leaf, core.Jaxpr):
        yield leaf
