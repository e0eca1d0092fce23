"""A scan with stacked gradients of its weights is `hk.scan`."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.models.layers import stacked_gradients
from geco_jax.models.layers.convolution import Conv2D

NUM_STEPS = 3


def loss_function(scan):
  """Return the parameters and the loss of a small recurrent network."""

  def network(x, noise):
    gates = Conv2D(5, 3, input_channels=9, channel_multiple=8, name='gates')
    write = Conv2D(2, 3, name='write')
    scale = hk.get_parameter('scale', [], init=jnp.ones)

    def step(state, entry):
      canvas, hidden = state
      hidden = jnp.tanh(scale * gates(jnp.concatenate([canvas, hidden], -1)))
      canvas = canvas + write(hidden) * entry
      return (canvas, hidden), (canvas**2).mean()

    state = x, jnp.zeros((*x.shape[:3], 5))
    (canvas, _), outputs = scan(step, state, noise)
    return (canvas**3).sum() + outputs.sum()

  return hk.without_apply_rng(hk.transform(network))


@pytest.mark.parametrize('unroll', [1, 2, 3])
def test_value_and_gradients_equal_those_of_a_scan(unroll):
  rng = np.random.default_rng(0)
  x, noise = (
    jnp.asarray(rng.standard_normal(shape, np.float32))
    for shape in ((2, 4, 4, 2), (NUM_STEPS, 2, 4, 4, 2))
  )

  def value_and_gradients(scan):
    transformed = loss_function(scan)
    params = transformed.init(jax.random.key(0), x, noise)
    # A compiled function is differentiated after Haiku's transform has ended.
    loss = jax.jit(transformed.apply)
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return gradient(params, x, noise), gradient.lower(params, x, noise)

  want, _ = value_and_gradients(hk.scan)
  got, lowered = value_and_gradients(
    lambda *args: stacked_gradients.scan(*args, unroll=unroll)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    *(got, want),
  )
  # The gradient of a kernel is a convolution whose channels are the batch.
  assert lowered.as_text().count(f'x{2 * NUM_STEPS}xf32>, tensor<4x4x6x') == 2
