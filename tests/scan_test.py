"""Steps in a row, all or the first of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax.scan import dispatcher
from geco_jax.scan import scan


@pytest.mark.parametrize('limit', [0, 1, 3, 5])
def test_a_limit_takes_the_first_steps_of_the_whole(limit):
  traced = []

  def step(state, factor):
    traced.append(state)
    state = jnp.sin(factor * state + 1)
    return state, {'square': state**2, 'sum': state.sum()}

  run = jax.jit(lambda *args: scan(step, 5, jnp.arange(3.0), (2.0,), *args))
  state, metrics = run(limit)
  assert len(traced) == 1
  _, expected = run()
  first, _ = jax.jit(lambda: scan(step, limit, jnp.arange(3.0), (2.0,)))()
  np.testing.assert_array_equal(state, first)
  for name, values in expected.items():
    assert metrics[name].shape == values.shape
    np.testing.assert_array_equal(metrics[name][:limit], values[:limit])


@pytest.mark.parametrize(
  ('accelerated', 'num_steps', 'limits'),
  [(True, 5, []), (True, 2, [2]), (False, 5, [5]), (False, 2, [2])],
)
def test_only_whole_dispatches_on_accelerators_have_no_limit(
  accelerated, num_steps, limits, monkeypatch
):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: accelerated)
  take_steps = dispatcher(lambda *args: args, 5)
  state, *rest = take_steps('state', num_steps=num_steps)
  assert state == 'state'
  assert [parallel.unreplicate(limit) for limit in rest] == limits
