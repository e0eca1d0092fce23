"""2-D convolutions that stay fast inside `lax.scan` on XLA:CPU.

The same functions as `hk.Conv2D` and `hk.Conv2DTranspose` with SAME padding.
XLA:CPU has a fast kernel for convolutions whose dimension labels are
`b01f_01io->b01f`. The gradients that autodiff derives have other labels, which
are rewritten at the top level of a program but not in the body of a loop: there
they run at least ten times slower. So both gradients of both convolutions are
written here as convolutions with those labels, and on a CPU `winograd` takes
over those that gain by it.
"""

from collections.abc import Sequence
import functools

import haiku as hk
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from geco_jax.models.layers import winograd

_LABELS = ('NHWC', 'HWIO', 'NHWC')


class Conv2D(hk.Module):
  """A convolution with SAME padding."""

  def __init__(
    self,
    output_channels: int,
    kernel_size: int,
    stride: int = 1,
    input_channels: int | None = None,
    with_bias: bool = True,
    channel_multiple: int = 1,
    name: str | None = None,
  ):
    """Check the sizes.

    Args:
      output_channels: >= 1.
      kernel_size: height and width of the kernel, >= 1.
      stride: >= 1; the output is [ceil(height / stride), ceil(width / stride)].
      input_channels: channels of the kernel; where the input has fewer, the
        last ones count as zeros, at no cost. None is as many as the input has.
      with_bias: whether a bias is added.
      channel_multiple: >= 1; what is computed has zeros as further channels in
        and out, up to multiples of it. Parameters and results have none.
      name: name of the module.

    Raises:
      ValueError: if a size is not positive.
    """
    super().__init__(name=name)
    _check_sizes(output_channels, kernel_size, stride)
    self.output_channels = output_channels
    self.kernel_size = kernel_size
    self.stride = stride
    self.input_channels = input_channels
    self.with_bias = with_bias
    self.channel_multiple = channel_multiple

  def __call__(self, x: jax.Array) -> jax.Array:
    """Map [batch, height, width, channels] to [batch, h, w, output]."""
    w = _weights(x, self.kernel_size, self.output_channels, self.input_channels)
    y = self.convolve(x, w)
    return _add_bias(y) if self.with_bias else y

  def convolve(self, x: jax.Array, w: jax.Array) -> jax.Array:
    """Return the convolution without its bias."""
    return convolve_with(self, x, w)


def convolve_with(module: Conv2D, x: jax.Array, w: jax.Array) -> jax.Array:
  """Return the convolution of a module, outside of a transform as well."""
  w = w[:, :, : x.shape[3]]
  # Padded outside of `conv2d`, so that its gradients have all channels.
  more_in, more_out = (-n % module.channel_multiple for n in w.shape[2:])
  x = _append_zeros(x, (0, 0, 0, more_in))
  w = _append_zeros(w, (0, 0, more_in, more_out))
  return conv2d(x, w, module.stride)[..., : module.output_channels]


class Conv2DTranspose(hk.Module):
  """A transposed convolution with SAME padding and a bias.

  Its weights are [height, width, in, out], where `hk.Conv2DTranspose` has
  [height, width, out, in].
  """

  def __init__(
    self,
    output_channels: int,
    kernel_size: int,
    stride: int = 1,
    name: str | None = None,
  ):
    """Check the sizes.

    Args:
      output_channels: >= 1.
      kernel_size: height and width of the kernel, >= 1.
      stride: >= 1; the output is [height * stride, width * stride].
      name: name of the module.

    Raises:
      ValueError: if a size is not positive.
    """
    super().__init__(name=name)
    _check_sizes(output_channels, kernel_size, stride)
    self.output_channels = output_channels
    self.kernel_size = kernel_size
    self.stride = stride

  def __call__(self, x: jax.Array) -> jax.Array:
    """Map [batch, height, width, channels] to [batch, h, w, output]."""
    w = _weights(x, self.kernel_size, self.output_channels)
    return _add_bias(conv2d_transpose(x, w, self.stride))


def conv2d(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
  """Return the convolution of `x` with SAME padding.

  Differentiable in reverse mode only (`jax.grad`, `jax.vjp`, `jax.jacrev`).

  Args:
    x: [batch, height, width, in].
    w: [kernel height, kernel width, in, out].
    stride: in both directions.

  Returns:
    [batch, ceil(height / stride), ceil(width / stride), out].
  """
  if w.shape[:2] == (1, 1) and stride == 1:
    return jnp.matmul(x, w[0, 0])
  return _conv2d(x, w, stride)


def conv2d_transpose(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
  """Return the transposed convolution of `x` with SAME padding.

  That is `conv2d` of `x` with `stride - 1` zeros between its pixels, padded to
  give `stride` times its size. Differentiable in reverse mode only.

  Args:
    x: [batch, height, width, in].
    w: [kernel height, kernel width, in, out].
    stride: in both directions.

  Returns:
    [batch, height * stride, width * stride, out].
  """
  if stride == 1 and w.shape[:2] == (1, 1):
    return jnp.matmul(x, w[0, 0])
  return _conv2d_transpose(x, w, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x, w, stride):
  direct = functools.partial(_forward, stride=stride)
  if not _is_for_winograd(x, w, stride):
    return direct(x, w)
  return lax.platform_dependent(x, w, cpu=winograd.conv2d, default=direct)


def _conv2d_fwd(x, w, stride):
  return _conv2d(x, w, stride), (x, w)


def _conv2d_bwd(stride, residuals, g):
  def direct(x, w, g):
    return (
      _input_gradient(g, w, stride, x.shape[1:3]),
      _weight_gradient(x, g, stride, w.shape[:2]),
    )

  x, w = residuals
  if not _is_for_winograd(x, w, stride):
    return direct(x, w, g)
  return lax.platform_dependent(
    *(x, w, g), cpu=winograd.gradients, default=direct
  )


def _is_for_winograd(x, w, stride):
  return (
    stride == 1
    and x.dtype == w.dtype
    and winograd.is_faster(x.shape, w.shape, x.dtype)
  )


_conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d_transpose(x, w, stride):
  size = [n * stride for n in x.shape[1:3]]
  return _input_gradient(x, _flip(w), stride, size)


def _conv2d_transpose_fwd(x, w, stride):
  return _conv2d_transpose(x, w, stride), (x, w)


def _conv2d_transpose_bwd(stride, residuals, g):
  x, w = residuals
  return (
    _forward(g, _flip(w), stride),
    _flip(_weight_gradient(g, x, stride, w.shape[:2])),
  )


_conv2d_transpose.defvjp(_conv2d_transpose_fwd, _conv2d_transpose_bwd)


def _forward(x, w, stride):
  """Return the SAME convolution y of x."""
  padding = [
    _same_padding(n, k, stride)
    for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)
  ]
  return _convolve(x, w, padding, stride)


def _input_gradient(g, w, stride, size):
  """Return d<g, y>/dx for an x of height and width `size`.

  Pixels of x with equal index modulo the stride meet the same taps of w: each
  such phase is a dense convolution of g, and the phases are interleaved. (One
  convolution of g with zeros between its pixels does `stride**2` times the
  work.)
  """
  rows, columns = (
    _phases(n, k, stride) for n, k in zip(size, w.shape[:2], strict=True)
  )
  phases = [
    [
      _convolve(g, _flip(w[first_i::stride, first_j::stride]), (pad_i, pad_j))
      for first_j, pad_j in columns
    ]
    for first_i, pad_i in rows
  ]
  if stride == 1:
    return phases[0][0]
  # [batch, height / stride, row phase, width / stride, column phase, channels]
  y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
  batch, height, _, width, _, channels = y.shape
  y = y.reshape(batch, height * stride, width * stride, channels)
  return y[:, : size[0], : size[1]]


def _weight_gradient(x, g, stride, kernel):
  """Return d<g, y>/dw: x is convolved by g, the batch playing the channels."""
  padding = []
  for n, m, k in zip(x.shape[1:3], g.shape[1:3], kernel, strict=True):
    low, _ = _same_padding(n, k, stride)
    padding.append((low, (m - 1) * stride + k - n - low))
  dw = _convolve(
    x.transpose(3, 1, 2, 0),
    g.transpose(1, 2, 0, 3),
    padding,
    kernel_dilation=stride,
  )
  return dw.transpose(1, 2, 0, 3)


def _convolve(x, w, padding, stride=1, kernel_dilation=1):
  """Return a convolution in XLA:CPU's fast layout, zeros if w has no taps."""
  if 0 in w.shape[:2]:
    size = [
      n + low + high - k + 1
      for n, k, (low, high) in zip(
        x.shape[1:3], w.shape[:2], padding, strict=True
      )
    ]
    return jnp.zeros((x.shape[0], *size, w.shape[3]), x.dtype)
  return lax.conv_general_dilated(
    x,
    w,
    (stride, stride),
    padding,
    rhs_dilation=(kernel_dilation, kernel_dilation),
    dimension_numbers=_LABELS,
  )


def _same_padding(n: int, k: int, stride: int) -> tuple[int, int]:
  """Return the zeros before and after n pixels for an output of ceil(n/s)."""
  total = max((-(-n // stride) - 1) * stride + k - n, 0)
  return total // 2, total - total // 2


def _phases(n: int, k: int, stride: int) -> Sequence[tuple[int, tuple]]:
  """Return, per phase of n pixels, its first tap of k and the padding of g."""
  low, _ = _same_padding(n, k, stride)
  phases = []
  for phase in range(stride):
    shift, first = divmod(phase + low, stride)
    taps = -(-(k - first) // stride)
    phases.append((first, (taps - 1 - shift, shift)))
  return phases


def _flip(w):
  """Return w with both spatial axes reversed, in and out exchanged."""
  return w[::-1, ::-1].swapaxes(2, 3)


def _append_zeros(x, counts):
  """Return x with a number of zeros appended to each axis."""
  return jnp.pad(x, [(0, n) for n in counts]) if any(counts) else x


def _weights(x, kernel_size, output_channels, input_channels=None):
  """Return the weights, initialized as Haiku's convolutions are."""
  if x.ndim != 4:
    raise ValueError(
      f'x must be [batch, height, width, channels], got shape {x.shape}'
    )
  input_channels = input_channels or x.shape[3]
  if x.shape[3] > input_channels:
    raise ValueError(
      f'x must have at most {input_channels} channels, got shape {x.shape}'
    )
  shape = (kernel_size, kernel_size, input_channels, output_channels)
  stddev = 1.0 / np.sqrt(np.prod(shape[:3]))
  return hk.get_parameter(
    'w', shape, x.dtype, init=hk.initializers.TruncatedNormal(stddev)
  )


def _add_bias(y):
  """Return y + b; through float32, in which the gradient of b is summed."""
  b = hk.get_parameter('b', y.shape[3:], y.dtype, init=jnp.zeros)
  b = jnp.broadcast_to(b.astype(jnp.float32), y.shape)
  return y + b.astype(y.dtype)


def _check_sizes(output_channels, kernel_size, stride):
  """Raise ValueError unless every size is positive."""
  for name, value in (
    ('output_channels', output_channels),
    ('kernel_size', kernel_size),
    ('stride', stride),
  ):
    if value < 1:
      raise ValueError(f'{name} must be positive, got {value}')
