"""Constraints on a model's output (Rezende & Viola 2018, Table 1).

A constraint C holds where its expectation over data and posterior is <= 0. To
add one, write a function `(image_shape, kappa, ...) -> Constraint` and enter it
in `build.CONSTRAINTS`: docs/constraints.md shows how.
"""

from collections.abc import Callable
import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from geco_jax import patches
from geco_jax.datasets.batches import Batch
from geco_jax.distributions import gaussian_nll
from geco_jax.models.base import ModelOutput
from geco_jax.models.pretrained import Network

# Of a variance per value of a patch, images in [0, 1]: the 8-bit rounding of
# pixels has a fourteenth of it, visible texture a hundred times as much.
_EPSILON = 1e-4


class Constraint(NamedTuple):
  """One inequality E[C(x, g)] <= 0.

  Attributes:
    violation: (batch, output) -> C per example [batch]; C <= 0 holds.
    scale: positive; C / scale has no dimension. `geco` is fed C / scale, so
      that one step size serves every data set, constraint and kappa.
    kappa: the tolerance, in the unit of `measure`.
    measure: mean C [] -> the measured quantity in kappa's unit [], for people.
    unit: name of the measured quantity and its unit.
    budget: -C of a perfect reconstruction, > 0: what there is to be lost. None
      is `scale`, as for constraints on a squared error.
  """

  violation: Callable[[Batch, ModelOutput], jax.Array]
  scale: float | jax.Array
  kappa: float | jax.Array
  measure: Callable[[jax.Array], jax.Array]
  unit: str
  budget: float | jax.Array | None = None


def natural_multiplier(
  constraint: Constraint, num_dims: int
) -> float | jax.Array:
  """Returns `D / (2 budget)`, the multiplier that a constraint needs at most.

  For RE it is 1 / (2 kappa^2), that of a Gaussian likelihood with sigma =
  kappa, and a bound: whatever the data, a distortion can be brought from D1
  down to D2 by describing the residual, which costs D / 2 log(D1 / D2) nats at
  most, so that no rate-distortion function of D dimensions falls faster than
  D / (2 D1). A model that needs a larger multiplier is short of training or of
  capacity, not of nats. For the other constraints it is the same measure, D / 2
  nats for a relative change of what there is to be lost, without that proof.

  Args:
    constraint: any.
    num_dims: D, the number of values of an image.
  """
  budget = constraint.budget
  return num_dims / (2 * (constraint.scale if budget is None else budget))


def squared_error(batch: Batch, output: ModelOutput) -> jax.Array:
  """Returns ||x - g(z)||^2 per example [batch], summed over pixels."""
  difference = batch.image - output.reconstruction
  return (difference**2).reshape(difference.shape[0], -1).sum(axis=-1)


def reconstruction_error(
  image_shape: tuple[int, ...], kappa: float | jax.Array
) -> Constraint:
  """Returns RE, `||x - g(z)||^2 - D kappa^2` (Table 1).

  kappa is a root-mean-square error per pixel and channel, images in [0, 1]; the
  multiplier is 1 / (2 sigma^2) of a Gaussian likelihood.

  Departs from the paper: the D, without which the paper's kappas of 0.06 to
  0.175 would not be errors per pixel.

  Args:
    image_shape: (height, width, channels), D is its product.
    kappa: tolerance, > 0.

  Raises:
    ValueError: if kappa is a Python number and not > 0 and finite.
  """
  return _root_mean_square(
    squared_error, math.prod(image_shape), kappa, 'RMSE per pixel'
  )


def negative_log_likelihood(
  image_shape: tuple[int, ...], kappa: float | jax.Array
) -> Constraint:
  """Returns NLL, `-log p(x|z) - D kappa`, with the model's own sigma.

  With a fixed multiplier of 1 the Lagrangian is the negative ELBO (Eq. 1) up to
  the constant D kappa, with 1/beta it is a beta-VAE's (Section 3.2).

  Args:
    image_shape: (height, width, channels), D is its product.
    kappa: tolerance in nats per dimension; densities may exceed 1, so that any
      finite number is allowed.

  Raises:
    ValueError: if kappa is a Python number and not finite.
  """
  if isinstance(kappa, numbers.Real) and not math.isfinite(kappa):
    raise ValueError(f'kappa must be finite, got {kappa}')
  num_dims = math.prod(image_shape)

  def violation(batch, output):
    nll = gaussian_nll(
      batch.image, output.reconstruction, output.likelihood_stddev
    )
    return nll - num_dims * kappa

  return Constraint(
    violation=violation,
    scale=float(num_dims),
    kappa=kappa,
    measure=lambda c: c / num_dims + kappa,
    unit='nats per dimension',
  )


def feature_error(
  image_shape: tuple[int, ...],
  kappa: float | jax.Array,
  *,
  network: Network,
  layer: str,
) -> Constraint:
  """Returns FRE, `||f(x) - f(g(z))||^2 - D_f kappa^2` (Table 1), f a network's.

  f is a layer's features, each channel divided by its standard deviation over
  the network's training images. So kappa is a root-mean-square error per
  feature in standard deviations: always answering with the mean features has 1.
  The network is a constant: gradients pass through it, never into it.

  Departs from the paper: its normalisation is not told, nor D_f, the number of
  features.

  Args:
    image_shape: (height, width, channels); a grey image is shown to a network
      of coloured ones in all its channels.
    kappa: tolerance, > 0.
    network: whose features are compared.
    layer: of the network.

  Raises:
    ValueError: if kappa is not > 0, there is no such layer or the network takes
      other images.
  """
  if layer not in network.feature_stddevs:
    raise ValueError(
      f'network {network.name} has no layer {layer!r}; choose from '
      f'{", ".join(network.feature_stddevs)}'
    )
  channels = network.image_shape[-1]
  if image_shape[-1] not in (1, channels):
    raise ValueError(
      f'network {network.name} takes images of {channels} channels, got '
      f'{image_shape[-1]}'
    )
  # A channel that is constant over the training images says nothing.
  stddev = jnp.asarray(network.feature_stddevs[layer])
  weights = jnp.where(stddev > 0, 1 / jnp.maximum(stddev, 1e-6), 0)

  def features(image):
    image = jnp.repeat(image, channels // image.shape[-1], axis=-1)
    f = network.features(image, layer)
    return f * weights.reshape((1,) * (f.ndim - 1) + (-1,))

  return _feature_distance(
    features,
    image_shape,
    kappa,
    f'RMSE of {layer}, in standard deviations',
  )


def patch_statistics_error(
  image_shape: tuple[int, ...],
  kappa: float | jax.Array,
  *,
  patch_size: int = 4,
) -> Constraint:
  """Returns FRE, `||f(x) - f(g(z))||^2 - D_f kappa^2`, f image statistics.

  f is the mean and the standard deviation of every patch, channel by channel,
  the patches side by side: how pixels are arranged within a patch is free.
  kappa is a root-mean-square error of these, in units of pixel values.

  Args:
    image_shape: (height, width, channels).
    kappa: tolerance, > 0.
    patch_size: height and width of a patch; must divide the image's.

  Raises:
    ValueError: if kappa is not > 0 or the patches do not tile the image.
  """
  patches.count(image_shape, patch_size, patch_size)
  if any(n % patch_size for n in image_shape[:2]):
    raise ValueError(
      f'patch_size must divide the height and width of the images, '
      f'{image_shape[0]}x{image_shape[1]}, got {patch_size}'
    )

  def features(image):
    statistics = patches.mean_and_stddev(
      image, patch_size, patch_size, _EPSILON
    )
    return jnp.concatenate(statistics, axis=-1)

  return _feature_distance(
    features, image_shape, kappa, "RMSE of patches' mean and deviation"
  )


def classification_accuracy(
  image_shape: tuple[int, ...],
  kappa: float | jax.Array,
  *,
  network: Network,
) -> Constraint:
  """Returns CLA, `kappa - l(x)^T c(g(z))` (Table 1).

  c is a classifier's probabilities, l the one-hot label: C <= 0 where the right
  label's probability is at least kappa in the mean. Where the channels of an
  image are digits of their own, each with a label, they are classified each and
  the mean over them counts.

  Departs from the paper, whose Table 1 has the opposite sign; its Appendix E.1
  (a smaller kappa is weaker) agrees with this one.

  Args:
    image_shape: (height, width, channels).
    kappa: least mean probability, in (0, 1).
    network: the classifier.

  Raises:
    ValueError: if kappa is not in (0, 1) or the classifier takes other images.
  """
  _check_in_unit_interval(kappa)
  one_by_one = network.image_shape[-1] == 1 and image_shape[-1] > 1
  expected = (*image_shape[:2], 1) if one_by_one else tuple(image_shape)
  if network.image_shape != expected:
    raise ValueError(
      f'network {network.name} takes images of {network.image_shape}, got '
      f'{tuple(image_shape)}'
    )

  def probability(image, label):
    log_probs = jax.nn.log_softmax(network.logits(image))
    return jnp.exp(log_probs[jnp.arange(label.shape[0]), label])

  def violation(batch, output):
    image, label = output.reconstruction, batch.label
    if one_by_one:
      batch_size, channels = label.shape
      image = jnp.moveaxis(image, -1, 1).reshape(-1, *network.image_shape)
      right = probability(image, label.reshape(-1))
      return kappa - right.reshape(batch_size, channels).mean(axis=-1)
    return kappa - probability(image, label)

  return Constraint(
    violation=violation,
    scale=kappa,
    kappa=kappa,
    measure=lambda c: kappa - c,
    unit='probability of the right label',
    budget=1 - kappa,
  )


def patch_cross_correlation(
  image_shape: tuple[int, ...],
  kappa: float | jax.Array,
  *,
  patch_size: int = 8,
  stride: int = 1,
) -> Constraint:
  """Returns pNCC, `sum_i [kappa - psi(x, i)^T psi(g(z), i)]` (Table 1).

  psi(x, i) is x's whitened patch i: mean removed, unit norm, all channels
  together. See `patches.normalized_cross_correlation` for what becomes of flat
  patches; the brightness of a patch is free, and so is its contrast as far as
  its variance is above 1e-4.

  Args:
    image_shape: (height, width, channels).
    kappa: least mean correlation of the patches, in (0, 1).
    patch_size: height and width of a patch.
    stride: from patch to patch, both ways.

  Raises:
    ValueError: if kappa is not in (0, 1) or a patch does not fit.
  """
  _check_in_unit_interval(kappa)
  num_patches = patches.count(image_shape, patch_size, stride)

  def violation(batch, output):
    correlation = patches.normalized_cross_correlation(
      batch.image, output.reconstruction, patch_size, stride, _EPSILON
    )
    return num_patches * kappa - correlation.sum(axis=(1, 2))

  return Constraint(
    violation=violation,
    scale=float(num_patches),
    kappa=kappa,
    measure=lambda c: kappa - c / num_patches,
    unit='correlation of patches',
    budget=num_patches * (1 - kappa),
  )


def _feature_distance(
  features: Callable[[jax.Array], jax.Array],
  image_shape: tuple[int, ...],
  kappa: float | jax.Array,
  unit: str,
) -> Constraint:
  """Returns the constraint on the RMSE of features [batch, ...]."""
  shape = jax.eval_shape(
    features, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  ).shape

  def squared_distance(batch, output):
    difference = features(batch.image) - features(output.reconstruction)
    return (difference**2).reshape(difference.shape[0], -1).sum(axis=-1)

  return _root_mean_square(squared_distance, math.prod(shape), kappa, unit)


def _root_mean_square(
  squared_distance: Callable[[Batch, ModelOutput], jax.Array],
  num_dims: int,
  kappa: float | jax.Array,
  unit: str,
) -> Constraint:
  """Returns `squared_distance - D kappa^2` as a constraint on the RMSE."""
  if isinstance(kappa, numbers.Real) and not 0 < kappa < math.inf:
    raise ValueError(f'kappa must be > 0 and finite, got {kappa}')
  budget = num_dims * kappa**2
  return Constraint(
    violation=lambda batch, output: squared_distance(batch, output) - budget,
    scale=budget,
    kappa=kappa,
    measure=lambda c: jnp.sqrt(jnp.maximum(c + budget, 0) / num_dims),
    unit=unit,
  )


def _check_in_unit_interval(kappa: float | jax.Array) -> None:
  if isinstance(kappa, numbers.Real) and not 0 < kappa < 1:
    raise ValueError(f'kappa must be in (0, 1), got {kappa}')
