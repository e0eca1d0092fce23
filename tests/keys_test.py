"""What is drawn does not depend on JAX's global settings."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.datasets.batches import indices_at
from geco_jax.distributions import per_example_normal
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys


def draw():
  """Return a place's example, its noise and a number of another purpose."""
  key = jax.random.fold_in(key_of(7), 2)
  numbers = jnp.arange(20)
  noise = per_example_normal(per_example_keys(key, numbers), (3,))
  return indices_at(key, numbers, 9), noise


@contextlib.contextmanager
def another_generator():
  before = jax.config.jax_default_prng_impl
  jax.config.update('jax_default_prng_impl', 'rbg')
  yield
  jax.config.update('jax_default_prng_impl', before)


@pytest.mark.parametrize('setting', ['64 bits', 'generator'])
def test_draws_are_the_same_under_other_settings(setting):
  expected = draw()
  is_64_bits = setting == '64 bits'
  with jax.enable_x64(True) if is_64_bits else another_generator():
    drawn = draw()
  for array, other in zip(expected, drawn, strict=True):
    assert array.dtype == other.dtype
    np.testing.assert_array_equal(array, other)
