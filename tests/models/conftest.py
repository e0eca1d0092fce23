"""What the tests of models share."""

import functools

import jax
import pytest


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(function, arguments, cotangent):
  value, vjp = jax.vjp(function, *arguments)
  return value, vjp(cotangent)


@pytest.fixture
def value_and_gradients():
  """Return (function, arguments, cotangent) -> its value, its products."""
  return _value_and_gradients
