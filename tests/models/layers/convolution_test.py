"""Convolutions equal Haiku's, gradients included, and stay on the fast path."""

import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.models.layers import convolution

GRID = [
  *((k, s, (7, 10)) for k in (1, 2, 3, 4, 5) for s in (1, 2, 3)),
  (3, 2, (8, 8)),
  (4, 2, (8, 8)),
  (4, 2, (9, 5)),
  (2, 4, (9, 5)),
  (4, 4, (6, 6)),
]
OURS_AND_HAIKUS = {
  'conv2d': (convolution.Conv2D, hk.Conv2D),
  'conv2d_transpose': (convolution.Conv2DTranspose, hk.Conv2DTranspose),
}


@pytest.fixture(params=OURS_AND_HAIKUS)
def kind(request):
  return request.param


def _functions(kind, kernel, stride):
  """Return ours and Haiku's module as functions of (w, b, x)."""
  ours, haikus = (
    hk.without_apply_rng(
      hk.transform(lambda x, module=module: module(6, kernel, stride)(x))
    )
    for module in OURS_AND_HAIKUS[kind]
  )
  name = {'conv2d': 'conv2_d', 'conv2d_transpose': 'conv2_d_transpose'}[kind]

  def ours_fn(w, b, x):
    return ours.apply({name: {'w': w, 'b': b}}, x)

  def haikus_fn(w, b, x):
    if kind == 'conv2d_transpose':
      w = w.swapaxes(2, 3)
    return haikus.apply({name: {'w': w, 'b': b}}, x)

  return ours_fn, haikus_fn


def _normal(rng, shape):
  return jnp.asarray(rng.standard_normal(shape, np.float32))


def _arguments(kernel, size):
  shapes = (kernel, kernel, 3, 6), (6,), (2, *size, 3)
  rng = np.random.default_rng(0)
  return tuple(_normal(rng, shape) for shape in shapes)


@pytest.mark.parametrize(('kernel', 'stride', 'size'), GRID)
def test_value_and_gradients_equal_haikus(
  kind, kernel, stride, size, value_and_gradients
):
  ours, haikus = _functions(kind, kernel, stride)
  arguments = _arguments(kernel, size)
  shape = jax.eval_shape(haikus, *arguments).shape
  cotangent = _normal(np.random.default_rng(1), shape)
  want, want_gradients = value_and_gradients(haikus, arguments, cotangent)
  got, got_gradients = value_and_gradients(ours, arguments, cotangent)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  for a, b in zip(got_gradients, want_gradients, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-5)


def test_parameters_are_shaped_and_scaled_like_haikus(kind):
  x = jnp.zeros((1, 8, 8, 16))
  ours, haikus = (
    jax.tree.leaves(
      hk.transform(lambda x, module=module: module(32, 5)(x)).init(
        jax.random.key(0), x
      )
    )
    for module in OURS_AND_HAIKUS[kind]
  )
  for a, b in zip(ours, haikus, strict=True):
    assert a.size == b.size
    np.testing.assert_allclose(a.std(), b.std(), rtol=0.05)


def test_bfloat16_stays_bfloat16_and_close_to_float32(
  kind, value_and_gradients
):
  ours, _ = _functions(kind, 4, 2)
  arguments = _arguments(4, (7, 10))
  low = tuple(a.astype(jnp.bfloat16) for a in arguments)
  ones = jnp.ones(jax.eval_shape(ours, *arguments).shape)
  want, want_gradients = value_and_gradients(ours, arguments, ones)
  got, got_gradients = value_and_gradients(ours, low, ones.astype(low[0].dtype))
  for a, b in zip((got, *got_gradients), (want, *want_gradients), strict=True):
    assert a.dtype == jnp.bfloat16
    error = jnp.linalg.norm((a.astype(jnp.float32) - b).ravel())
    assert error < 0.02 * jnp.linalg.norm(b.ravel())


def test_vmap_over_inputs_equals_a_loop(kind):
  ours, _ = _functions(kind, 3, 2)
  w, b, x = _arguments(3, (7, 10))
  xs = jnp.stack([x, 2 * x, -x])
  gradient = jax.jit(jax.grad(lambda x: jnp.sin(ours(w, b, x)).sum()))
  np.testing.assert_allclose(
    jax.vmap(gradient)(xs),
    jnp.stack([gradient(x) for x in xs]),
    rtol=1e-5,
    atol=1e-5,
  )


def _labels_of_a_training_loop(kind, kernel, stride, compiled):
  """Return the labels of the convolutions in a scan of gradient steps."""
  ours, _ = _functions(kind, kernel, stride)

  def step(arguments, _):
    gradients = jax.grad(
      lambda a: jnp.sin(ours(*a)).sum(),
    )(arguments)
    return jax.tree.map(lambda a, g: a - 0.1 * g, arguments, gradients), None

  lowered = jax.jit(lambda a: jax.lax.scan(step, a, length=3)[0]).lower(
    _arguments(kernel, (8, 8))
  )
  program = lowered.compile() if compiled else lowered
  text = program.as_text() if compiled else program.as_text(dialect='hlo')
  assert ' while(' in text
  return re.findall(r' convolution\(.*dim_labels=([^,\s]+)', text)


@pytest.mark.parametrize(
  ('kernel', 'stride'), [(3, 1), (3, 2), (4, 2), (5, 1), (5, 2), (2, 3)]
)
@pytest.mark.parametrize('compiled', [False, True])
def test_every_convolution_in_a_loop_has_the_fast_labels(
  kind, kernel, stride, compiled
):
  if compiled and jax.default_backend() != 'cpu':
    pytest.skip('only XLA:CPU keeps the labels in its compiled programs')
  labels = _labels_of_a_training_loop(kind, kernel, stride, compiled)
  assert labels
  assert set(labels) == {'b01f_01io->b01f'}


@pytest.mark.parametrize('input_channels', [3, 5])
def test_channels_filled_up_with_zeros_change_nothing(
  input_channels, value_and_gradients
):
  def convolve(channel_multiple):
    def network(x):
      return convolution.Conv2D(
        6, 3, input_channels=input_channels, channel_multiple=channel_multiple
      )(x)

    apply = hk.without_apply_rng(hk.transform(network)).apply
    return lambda w, b, x: apply({'conv2_d': {'w': w, 'b': b}}, x)

  rng = np.random.default_rng(0)
  shapes = (3, 3, input_channels, 6), (6,), (2, 7, 10, 3)
  arguments = tuple(_normal(rng, shape) for shape in shapes)
  cotangent = _normal(rng, (2, 7, 10, 6))
  want = value_and_gradients(convolve(1), arguments, cotangent)
  got = value_and_gradients(convolve(8), arguments, cotangent)
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_one_by_one_convolution_is_a_matmul(kind):
  assert not _labels_of_a_training_loop(kind, 1, 1, compiled=True)


@pytest.mark.parametrize('position', range(3))
@pytest.mark.parametrize('value', [0, -1])
def test_sizes_must_be_positive(kind, position, value):
  name = ('output_channels', 'kernel_size', 'stride')[position]
  sizes = [4, 3, 1]
  sizes[position] = value
  module, _ = OURS_AND_HAIKUS[kind]
  with pytest.raises(ValueError, match=f'{name} must be positive, got {value}'):
    hk.testing.transform_and_run(lambda: module(*sizes))()


def test_images_without_a_batch_axis_are_refused(kind):
  module, _ = OURS_AND_HAIKUS[kind]
  with pytest.raises(ValueError, match=r'got shape \(8, 8, 3\)'):
    hk.testing.transform_and_run(lambda: module(4, 3)(jnp.zeros((8, 8, 3))))()
