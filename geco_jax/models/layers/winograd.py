"""Convolutions by Winograd's minimal filtering, for XLA:CPU.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016. The
output is cut into squares of m x m pixels. In one dimension, m outputs y of a
filter w with r taps and n = m + r - 1 inputs d are

    y = A^T [(G w) * (B^T d)],

n products in place of m r, the matrices being those of polynomial interpolation
at n - 1 points and at infinity (Toom and Cook). In two dimensions the
transforms apply to rows and columns, and the products over channels are n^2
products of matrices. Here m = 4: of a 3x3 kernel that is 4 times less work than
the convolution itself, of a 5x5 kernel 6 times less.

Results differ from the direct ones by rounding alone, about 3e-6 of their size
in float32, where the direct ones themselves are off by 4e-7. The points are the
most accurate of those tried; Barabasz et al., "Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks", 2020, say why they
matter.
"""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Points of interpolation by the kernel's size, r; infinity is one more.
_POINTS = {
  3: (0.0, 1.0, -1.0, 0.5, -2.0),
  5: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0),
}
KERNEL_SIZES = tuple(_POINTS)
_OUTPUTS = 4  # m.
# Below these, measured on cores with AVX-512, transforms and the padding of
# tiles cost more than the products save.
_MIN_CHANNELS = {3: 20, 5: 12}  # Input and output each, by kernel size.
_MIN_TILES = 128
_MIN_PIXEL_SHARE = 0.75  # Pixels of the image over those of all tiles.


class _Transforms(NamedTuple):
  """The matrices of F(m, r), in float64."""

  output: np.ndarray  # A^T [m, n].
  kernel: np.ndarray  # G [n, r].
  input: np.ndarray  # B^T [n, n].


def is_faster(
  x_shape: Sequence[int], w_shape: Sequence[int], dtype: jnp.dtype
) -> bool:
  """Return whether `conv2d` is faster than the direct convolution on a CPU.

  Args:
    x_shape: (batch, height, width, in). A size that is not known yet, as in a
      program that is exported for any, gets the direct convolution.
    w_shape: (kernel height, kernel width, in, out).
    dtype: of both; products of less precision than float32 would lose too much.
  """
  size, width, *channels = w_shape
  if dtype != jnp.float32 or size != width or size not in KERNEL_SIZES:
    return False
  if not all(isinstance(n, int) for n in x_shape):
    return False
  num_tiles = x_shape[0] * math.prod(_num_tiles(x_shape))
  pixels = math.prod(x_shape[:3])
  return (
    min(channels) >= _MIN_CHANNELS[size]
    and num_tiles >= _MIN_TILES
    and pixels >= _MIN_PIXEL_SHARE * num_tiles * _OUTPUTS**2
  )


def conv2d(x: jax.Array, w: jax.Array) -> jax.Array:
  """Return the convolution of stride 1 with SAME padding.

  Args:
    x: [batch, height, width, in].
    w: [k, k, in, out], k of `KERNEL_SIZES`.

  Returns:
    [batch, height, width, out].
  """
  transforms = _transforms(w.shape[0])
  products = lax.dot_general(
    _transform_input(x, transforms),
    _transform_kernel(w, transforms),
    (((2,), (1,)), ((0,), (0,))),
  )
  return _transform_output(products, transforms, x.shape)


def gradients(
  x: jax.Array, w: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Return d<g, y>/dx and d<g, y>/dw for y = conv2d(x, w).

  Both are products with the transposed transform of g, which is made once.

  Args:
    x: [batch, height, width, in].
    w: [k, k, in, out].
    g: [batch, height, width, out].
  """
  transforms = _transforms(w.shape[0])
  dy = _transpose_of_output(g, transforms)
  dw = lax.dot_general(
    _transform_input(x, transforms), dy, (((1,), (1,)), ((0,), (0,)))
  )
  dx = lax.dot_general(
    dy, _transform_kernel(w, transforms), (((2,), (2,)), ((0,), (0,)))
  )
  return (
    _transpose_of_input(dx, transforms, x.shape),
    _transpose_of_kernel(dw, transforms),
  )


@functools.cache
def _transforms(kernel_size: int) -> _Transforms:
  """Return Toom and Cook's matrices for r = kernel_size.

  A filter is the transpose of a product of polynomials, which Toom and Cook
  compute from their values at n points: V^-1 [(V y) * (V w)], V the powers of
  the points. Transposed, the values of y become A^T, the powers transposed, and
  the interpolation V^-1 becomes B^T. Its rows are Lagrange's basis polynomials;
  their denominators stand in G, as there are fewer kernels than tiles.
  """
  points = np.array(_POINTS[kernel_size])
  other_points = [np.delete(points, i) for i in range(len(points))]
  scales = [
    np.prod(p - rest) for p, rest in zip(points, other_points, strict=True)
  ]

  def powers(count):
    # At infinity a polynomial's value is its leading coefficient.
    at_infinity = np.eye(count)[-1:]
    return np.concatenate([points[:, None] ** np.arange(count), at_infinity])

  return _Transforms(
    output=powers(_OUTPUTS).T,
    kernel=powers(kernel_size) / np.append(scales, 1)[:, None],
    # Each row: the coefficients of the polynomial that vanishes at all other
    # points.
    input=np.array(
      [np.append(np.poly(rest)[::-1], 0) for rest in other_points]
      + [np.poly(points)[::-1]]
    ),
  )


def _num_tiles(shape: Sequence[int]) -> tuple[int, int]:
  """Return the rows and columns of tiles of [batch, height, width, ...]."""
  return -(-shape[1] // _OUTPUTS), -(-shape[2] // _OUTPUTS)


def _apply(matrix: np.ndarray, parts: Sequence[jax.Array]) -> jax.Array:
  """Return the sums over i of matrix_ki parts_i, stacked [k, ...]."""
  return jnp.stack([_weighted_sum(row, parts) for row in matrix])


def _weighted_sum(weights, parts):
  """Return the sum of weights_i parts_i, without those that weigh nothing."""
  terms = [
    part if weight == 1 else np.float32(weight) * part
    for weight, part in zip(weights, parts, strict=True)
    if weight
  ]
  return functools.reduce(jnp.add, terms)


# Transformed tiles are [n, n, batch, rows, columns, channels], the first axis
# being that of the transform along columns.


def _transform_kernel(w, transforms):
  """Return G w G^T [n^2, in, out]."""
  kernel = transforms.kernel.astype(np.float32)
  transformed = jnp.einsum('ai,bj,ijcd->bacd', kernel, kernel, w)
  return transformed.reshape(-1, *w.shape[2:])


def _transpose_of_kernel(dw, transforms):
  """Return G^T dw G [r, r, in, out]."""
  kernel = transforms.kernel.astype(np.float32)
  dw = dw.reshape(len(kernel), len(kernel), *dw.shape[1:])
  return jnp.einsum('ai,bj,bacd->ijcd', kernel, kernel, dw)


def _pad_before(transforms):
  """Return how many pixels SAME padding puts before the first."""
  return (transforms.kernel.shape[1] - 1) // 2


def _transform_input(x, transforms):
  """Return B^T d B of all tiles [n^2, tiles, in]."""
  n, pad_before = len(transforms.input), _pad_before(transforms)
  rows, columns = _num_tiles(x.shape)
  pad = [
    (pad_before, (count - 1) * _OUTPUTS + n - pad_before - size)
    for count, size in ((rows, x.shape[1]), (columns, x.shape[2]))
  ]
  x = jnp.pad(x, ((0, 0), *pad, (0, 0)))

  def inputs(y, axis, count):
    reach = (count - 1) * _OUTPUTS + 1
    return [lax.slice_in_dim(y, k, k + reach, _OUTPUTS, axis) for k in range(n)]

  by_row = _apply(transforms.input, inputs(x, 1, rows))
  tiles = _apply(transforms.input, inputs(by_row, 3, columns))
  return tiles.reshape(n**2, -1, x.shape[3])


def _transpose_of_input(dx, transforms, shape):
  """Return the sum of B dx B^T where tiles overlap [batch, h, w, in]."""
  n = len(transforms.input)
  batch, height, width, channels = shape
  tiles = dx.reshape(n, n, batch, *_num_tiles(shape), channels)
  by_row = _add_up(_apply(transforms.input.T, [*tiles]), 3, width, transforms)
  parts = _apply(transforms.input.T, [*by_row])
  return _add_up(parts, 1, height, transforms)


def _add_up(parts, axis, size, transforms):
  """Return the sum of parts[k] of each tile t at m t + k, padding cut off.

  Args:
    parts: [n, ...].
    axis: of the tiles, in one of the parts.
    size: of the result along it.
    transforms: the matrices.
  """
  # Tiles overlap: pixel m + k of a tile is pixel k of the next. So parts whose
  # k is the same modulo m, a phase, are added shifted by whole tiles, and the
  # phases interleaved. This takes no scatter.
  pad_before = _pad_before(transforms)
  reach = -(-len(parts) // _OUTPUTS)  # The number of tiles that share an input.
  phases = []
  for phase in range(_OUTPUTS):
    shifted = []
    for tile, part in enumerate(parts[phase::_OUTPUTS]):
      pad = [(0, 0)] * part.ndim
      pad[axis] = (tile, reach - 1 - tile)
      shifted.append(jnp.pad(part, pad))
    phases.append(functools.reduce(jnp.add, shifted))
  y = jnp.stack(phases, axis=axis + 1)
  y = y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])
  return lax.slice_in_dim(y, pad_before, pad_before + size, axis=axis)


def _transform_output(products, transforms, shape):
  """Return A^T products A, put together [batch, height, width, out]."""
  n = len(transforms.input)
  batch, height, width, _ = shape
  rows, columns = _num_tiles(shape)
  tiles = products.reshape(n, n, batch, rows, columns, -1)
  by_row = _apply(transforms.output, [*tiles])
  pixels = _apply(transforms.output, [by_row[:, i] for i in range(n)])
  # The axes were [m, m, batch, rows, columns, out].
  y = pixels.transpose(2, 3, 0, 4, 1, 5)
  y = y.reshape(batch, rows * _OUTPUTS, columns * _OUTPUTS, -1)
  return y[:, :height, :width]


def _transpose_of_output(g, transforms):
  """Return A g A^T of all tiles [n^2, tiles, out]."""
  rows, columns = _num_tiles(g.shape)
  pad = (
    (0, rows * _OUTPUTS - g.shape[1]),
    (0, columns * _OUTPUTS - g.shape[2]),
  )
  g = jnp.pad(g, ((0, 0), *pad, (0, 0)))
  matrix = transforms.output.T
  by_row = _apply(matrix, [g[:, i::_OUTPUTS] for i in range(_OUTPUTS)])
  tiles = _apply(
    matrix, [by_row[:, :, :, j::_OUTPUTS] for j in range(_OUTPUTS)]
  )
  return tiles.reshape(len(matrix) ** 2, -1, g.shape[3])
