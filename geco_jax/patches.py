"""Statistics of an image's patches, without ever cutting the patches out.

The sum over a patch is a separable box filter. Each of its two 1-D filters is a
product with a banded matrix of zeros and ones: for image sizes this is faster
than a convolution, forward and backward, for any patch size and stride.
"""

import jax
import jax.numpy as jnp
import numpy as np


def count(image_shape: tuple[int, ...], size: int, stride: int) -> int:
  """Return how many patches of size x size lie wholly within an image.

  Args:
    image_shape: (height, width, channels).
    size: height and width of a patch.
    stride: from patch to patch, both ways.

  Raises:
    ValueError: if a patch does not fit or a number is not > 0.
  """
  height, width = image_shape[:2]
  if not 1 <= size <= min(height, width):
    raise ValueError(
      f'patch_size must be in [1, {min(height, width)}] for images of {height}x'
      f'{width}, got {size}'
    )
  if stride < 1:
    raise ValueError(f'stride must be >= 1, got {stride}')
  return ((height - size) // stride + 1) * ((width - size) // stride + 1)


def sums(x: jax.Array, size: int, stride: int) -> jax.Array:
  """Return the sums over patches.

  Args:
    x: [batch, height, width, channels].
    size: height and width of a patch.
    stride: from patch to patch, both ways.

  Returns:
    [batch, rows of patches, columns of patches, channels].
  """
  rows, columns = (_box(n, size, stride, x.dtype) for n in x.shape[1:3])
  # Differences of these sums are taken: a coarse product would show.
  exact = jax.lax.Precision.HIGHEST
  x = jnp.einsum('pi,bijc->bpjc', rows, x, precision=exact)
  return jnp.einsum('qj,bpjc->bpqc', columns, x, precision=exact)


def mean_and_stddev(
  x: jax.Array, size: int, stride: int, epsilon: float
) -> tuple[jax.Array, jax.Array]:
  """Return each patch's mean and standard deviation, channel by channel.

  Args:
    x: [batch, height, width, channels].
    size: height and width of a patch.
    stride: from patch to patch, both ways.
    epsilon: > 0, added to the variance: a flat patch has a gradient too.

  Returns:
    Two [batch, rows of patches, columns of patches, channels].
  """
  center = jax.lax.stop_gradient(x.mean(axis=(1, 2, 3), keepdims=True))
  centered = x - center
  mean = sums(centered, size, stride) / size**2
  square = sums(centered**2, size, stride) / size**2
  variance = jnp.maximum(square - mean**2, 0)
  return mean + center, jnp.sqrt(variance + epsilon)


def normalized_cross_correlation(
  x: jax.Array, y: jax.Array, size: int, stride: int, epsilon: float
) -> jax.Array:
  """Return psi(x, i)^T psi(y, i) for every patch i, in [-1, 1].

  psi takes a patch of all channels, removes its mean, appends
  sqrt(epsilon * n), n its number of values, and divides by the norm. Without
  the appended value flat patches would have no direction; with it, two flat
  patches agree and a flat one disagrees with a textured one.

  Args:
    x: [batch, height, width, channels].
    y: likewise.
    size: height and width of a patch.
    stride: from patch to patch, both ways.
    epsilon: > 0, a variance per value.

  Returns:
    [batch, rows of patches, columns of patches].
  """
  x, y = (a - a.mean(axis=(1, 2, 3), keepdims=True) for a in (x, y))
  maps = jnp.stack([x, y, x * x, y * y, x * y]).sum(axis=-1)
  totals = sums(jnp.moveaxis(maps, 0, -1), size, stride)
  sum_x, sum_y, *products = jnp.moveaxis(totals, -1, 0)
  n = size**2 * x.shape[-1]
  floor = epsilon * n
  xx, yy, xy = (
    product - a * b / n
    for product, a, b in zip(
      products,
      (sum_x, sum_y, sum_x),
      (sum_x, sum_y, sum_y),
      strict=True,
    )
  )
  xx, yy = (jnp.maximum(a, 0) + floor for a in (xx, yy))
  return (xy + floor) * jax.lax.rsqrt(xx) * jax.lax.rsqrt(yy)


def _box(length, size, stride, dtype):
  """Return [patches, length]: ones where the pixel is in the patch."""
  starts = np.arange(0, length - size + 1, stride)[:, np.newaxis]
  pixels = np.arange(length)
  return jnp.asarray((starts <= pixels) & (pixels < starts + size), dtype)
