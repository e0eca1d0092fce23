"""What the tests of models share."""

import jax
import pytest


@pytest.fixture(autouse=True, scope='package')
def _compile_fast():
  """These tests compile much and compute little."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
