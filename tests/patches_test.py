"""Statistics of patches equal those of patches that were cut out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import patches

EPSILON = 1e-4
CASES = [((9, 11, 3), 4, 2), ((8, 8, 1), 8, 1), ((6, 5, 2), 3, 1)]


def images(shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=(2, *shape)).astype(np.float32)


def cut(x, size, stride):
  """Return patches [batch, rows, columns, size, size, channels]."""
  windows = np.lib.stride_tricks.sliding_window_view(
    np.asarray(x, np.float64), (size, size), axis=(1, 2)
  )
  return np.moveaxis(windows[:, ::stride, ::stride], 3, -1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def correlation(x, y, size, stride):
  return patches.normalized_cross_correlation(x, y, size, stride, EPSILON)


@pytest.mark.parametrize(('shape', 'size', 'stride'), CASES)
def test_count_sums_means_and_deviations(shape, size, stride):
  x = images(shape)
  expected = cut(x, size, stride)
  sums = patches.sums(x, size, stride)
  np.testing.assert_allclose(sums, expected.sum(axis=(3, 4)), rtol=1e-5)
  assert patches.count(shape, size, stride) == sums[0, :, :, 0].size
  mean, stddev = jax.jit(patches.mean_and_stddev, static_argnums=(1, 2, 3))(
    x, size, stride, EPSILON
  )
  np.testing.assert_allclose(mean, expected.mean(axis=(3, 4)), rtol=1e-5)
  variance = expected.var(axis=(3, 4))
  np.testing.assert_allclose(stddev, np.sqrt(variance + EPSILON), rtol=1e-4)


@pytest.mark.parametrize(('shape', 'size', 'stride'), CASES)
def test_correlation_is_that_of_whitened_patches(shape, size, stride):
  def psi(x):
    values = cut(x, size, stride).reshape(2, *rows_and_columns, -1)
    values = values - values.mean(axis=-1, keepdims=True)
    constant = np.full((*values.shape[:-1], 1), EPSILON * values.shape[-1])
    values = np.concatenate([values, np.sqrt(constant)], axis=-1)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)

  x, y = images(shape), images(shape, seed=1)
  y = 0.5 * (x + y)
  rows_and_columns = patches.sums(x, size, stride).shape[1:3]
  np.testing.assert_allclose(
    correlation(x, y, size, stride),
    (psi(x) * psi(y)).sum(axis=-1),
    atol=1e-5,
  )


def test_correlation_of_flat_patches():
  flat, other = jnp.full((1, 8, 8, 3), 0.3), jnp.full((1, 8, 8, 3), 0.9)
  np.testing.assert_allclose(correlation(flat, other, 4, 1), 1, atol=1e-5)
  textured = images((8, 8, 3))[:1]
  assert np.all(np.abs(correlation(flat, textured, 4, 1)) < 0.1)
  gradient = jax.grad(lambda y: correlation(flat, y, 4, 1).sum())(other)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
  ('size', 'stride', 'message'),
  [
    (0, 1, r'patch_size must be in \[1, 6\] for images of 6x9, got 0'),
    (7, 1, r'patch_size must be in \[1, 6\] for images of 6x9, got 7'),
    (3, 0, 'stride must be >= 1, got 0'),
  ],
)
def test_patches_must_fit(size, stride, message):
  with pytest.raises(ValueError, match=message):
    patches.count((6, 9, 3), size, stride)


def test_deviations_keep_their_digits_far_from_black():
  """Squares of 1,000 would round variances of 1/12 off by a half."""
  x = images((8, 8, 1))
  (_, expected), (mean, stddev) = (
    patches.mean_and_stddev(jnp.asarray(y), 4, 4, EPSILON)
    for y in (x, x + 1_000)
  )
  np.testing.assert_allclose(stddev, expected, rtol=2e-3)
  np.testing.assert_allclose(
    mean, cut(x + 1_000, 4, 4).mean(axis=(3, 4)), rtol=1e-6
  )


@pytest.mark.parametrize('level', [1.0, 1e3])
def test_flat_patches_of_any_level_have_finite_statistics(level):
  """Also where rounding makes variances negative, by more than epsilon."""
  squares = level * images((8, 8, 1))
  x = jnp.asarray(squares.repeat(3, axis=1).repeat(3, axis=2))

  @jax.jit
  @jax.value_and_grad
  def total(x):
    _, stddev = patches.mean_and_stddev(x, 3, 3, EPSILON)
    return stddev.sum() + correlation(x, x[:, ::-1], 3, 3).sum()

  value, gradient = total(x)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
