"""Winograd's convolutions equal the direct ones, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from geco_jax.models.layers import convolution
from geco_jax.models.layers import winograd

# Heights and widths that tiles do and do not divide.
SIZES = [(8, 8), (7, 10), (16, 12), (6, 9)]


def direct(x, w):
  return jax.lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def arguments(kernel, size, channels=(21, 23), dtype=jnp.float32, batch=3):
  x_key, w_key, g_key = jax.random.split(jax.random.key(0), 3)
  return (
    jax.random.normal(x_key, (batch, *size, channels[0]), dtype),
    jax.random.normal(w_key, (kernel, kernel, *channels), dtype),
    jax.random.normal(g_key, (batch, *size, channels[1]), dtype),
  )


def assert_close(actual, expected, tolerance=2e-5):
  error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
  assert error <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize('kernel', winograd.KERNEL_SIZES)
def test_transforms_make_the_correlation_exactly(kernel):
  transforms = winograd._transforms(kernel)
  rng = np.random.default_rng(0)
  w, d = rng.normal(size=kernel), rng.normal(size=kernel + 3)
  y = transforms.output @ ((transforms.kernel @ w) * (transforms.input @ d))
  np.testing.assert_allclose(y, signal.correlate(d, w, 'valid'), atol=1e-13)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kernel', winograd.KERNEL_SIZES)
def test_value_and_gradients_equal_the_direct_ones(
  kernel, size, value_and_gradients
):
  x, w, g = arguments(kernel, size)
  expected, gradients = value_and_gradients(direct, (x, w), g)
  assert_close(jax.jit(winograd.conv2d)(x, w), expected)
  actual = jax.jit(winograd.gradients)(x, w, g)
  for gradient, expected in zip(actual, gradients, strict=True):
    assert_close(gradient, expected)


@pytest.mark.parametrize('kernel', winograd.KERNEL_SIZES)
def test_gradients_are_those_of_the_function(kernel, value_and_gradients):
  x, w, g = arguments(kernel, (7, 10))
  _, gradients = value_and_gradients(winograd.conv2d, (x, w), g)
  actual = jax.jit(winograd.gradients)(x, w, g)
  for gradient, expected in zip(actual, gradients, strict=True):
    assert_close(gradient, expected)


def test_maps_over_weights_and_inputs_as_a_loop_does():
  x, w, g = arguments(5, (8, 8))
  xs, ws = jnp.stack([x, -x]), jnp.stack([w, 2 * w])
  function = jax.jit(winograd.gradients)
  gradients = [function(*pair, g) for pair in zip(xs, ws, strict=True)]
  stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *gradients)
  mapped = jax.jit(jax.vmap(winograd.gradients, (0, 0, None)))(xs, ws, g)
  for gradient, expected in zip(mapped, stacked, strict=True):
    assert_close(gradient, expected)


@pytest.mark.parametrize('kernel', winograd.KERNEL_SIZES)
def test_a_large_convolution_is_taken_by_it_with_its_gradients(
  kernel, value_and_gradients
):
  x, w, g = arguments(kernel, (8, 8), batch=32)
  y, gradients = value_and_gradients(convolution.conv2d, (x, w), g)
  direct_y, direct_gradients = value_and_gradients(direct, (x, w), g)
  assert_close(y, direct_y)
  for gradient, expected in zip(gradients, direct_gradients, strict=True):
    assert_close(gradient, expected)
  # Rounding differs, so that the convolution was not the direct one.
  assert not np.array_equal(y, direct_y)


def _has_convolutions(
  platform='cpu',
  kernel=3,
  channels=(32, 32),
  size=(8, 8),
  batch=32,
  dtype=jnp.float32,
):
  """Return whether a gradient's program for a platform convolves."""
  x, w, _ = arguments(kernel, size, channels, dtype, batch)
  gradient = jax.grad(lambda x, w: convolution.conv2d(x, w).sum(), (0, 1))
  traced = jax.jit(gradient).trace(x, w)
  program = traced.lower(lowering_platforms=(platform,)).as_text()
  return 'stablehlo.convolution' in program


def test_only_a_cpu_uses_it():
  assert not _has_convolutions('cpu')
  assert _has_convolutions('cuda')
  assert _has_convolutions('tpu')


@pytest.mark.parametrize(
  'kwargs',
  [
    dict(channels=(8, 64)),  # Transforms would cost more.
    dict(channels=(64, 8)),
    dict(batch=8),
    dict(size=(5, 5), batch=64),  # Most of the tiles would be padding.
    dict(kernel=4),  # No such transforms.
    dict(dtype=jnp.bfloat16),  # Too little precision.
  ],
)
def test_other_convolutions_stay_direct(kwargs):
  assert _has_convolutions(**kwargs)
