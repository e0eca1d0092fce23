"""Constraints on a model's output (Rezende & Viola 2018, Table 1).

A constraint is a statistic of the output and a bound: it holds where the
statistic's expectation over data and posterior is at most the bound. To add
one, write a function `(image_shape, ...) -> Constraint` and enter it in
`CONSTRAINTS`: docs/constraints.md shows how.
"""

from collections.abc import Callable, Mapping
import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import patches
from geco_jax.classifiers.base import check_layer
from geco_jax.classifiers.base import feature_shape
from geco_jax.classifiers.base import Network
from geco_jax.datasets.batches import Batch
from geco_jax.distributions import gaussian_nll
from geco_jax.models.base import ModelOutput
from geco_jax.own_parts import Registry

# Added to the variance per value of a patch, images in [0, 1]: the 8-bit
# rounding of pixels has a fourteenth of it, visible texture a hundred times as
# much.
_EPSILON = 1e-4

# The range of kappas: float32 can hold their squares, and one minus them.
_SMALLEST, _LARGEST = 1e-6, 1e6

# A number, or a traced array [] within a compiled program.
Scalar = float | jax.Array


class Constraint(NamedTuple):
  """One inequality E[statistic(x, g)] <= bound(kappa).

  C = statistic - bound, so that C <= 0 holds. A quantity that must be large
  enters as its negative: the sign is part of the constraint, and neither the
  Lagrangian nor the evaluation needs to know about it.

  Attributes:
    statistic: (batch, output) -> what must be small, per example [batch].
    bound: kappa -> the largest mean of the statistic that is allowed [].
    scale: kappa -> a positive number [], in the statistic's unit; C / scale has
      no dimension; runs show it, and `config.tolerance` is its bound.
    measure: mean statistic [] -> the measured quantity in kappa's unit [], for
      people. The inverse of `bound`.
    unit: name of the measured quantity and its unit.
    budget: kappa -> the slack -C of a perfect reconstruction [], > 0. `geco` is
      fed C / budget, so that one step size serves every data set, constraint
      and kappa. None is `scale`, as for constraints on a squared error.
  """

  statistic: Callable[[Batch, ModelOutput], jax.Array]
  bound: Callable[[Scalar], Scalar]
  scale: Callable[[Scalar], Scalar]
  measure: Callable[[Scalar], Scalar]
  unit: str
  budget: Callable[[Scalar], Scalar] | None = None

  def slack(self, kappa: Scalar) -> Scalar:
    """Return the budget [], or the scale if there is none."""
    return (self.budget or self.scale)(kappa)

  def relative(self, mean: Scalar, kappa: Scalar) -> Scalar:
    """Return C / scale [] where the statistic has a mean []."""
    return (mean - self.bound(kappa)) / self.scale(kappa)

  def mean(self, relative: Scalar, kappa: Scalar) -> Scalar:
    """Return the statistic's mean [] at C / scale []: `relative`'s inverse."""
    return relative * self.scale(kappa) + self.bound(kappa)

  def violation(
    self, batch: Batch, output: ModelOutput, kappa: Scalar
  ) -> jax.Array:
    """Return C per example [batch]."""
    return self.statistic(batch, output) - self.bound(kappa)


class Entry(NamedTuple):
  """A constraint as configs, figures and tables name it.

  Attributes:
    make: (image_shape, **options) -> the constraint; raises ValueError if an
      option is out of range. An option called `network` is a trained classifier
      (`Network`), which configs give by name or path.
    title: display name.
    defaults: kappa and options where a config gives nothing but the name.
    digits: changes to these where the images are the 8x8 digits.
    kappa_range: (low, high), the open interval of allowed kappas.
    needs_labels: whether it reads `batch.label`.
  """

  make: Callable[..., Constraint]
  title: str
  defaults: Mapping[str, Any]
  digits: Mapping[str, Any] = {}
  kappa_range: tuple[float, float] = (0.0, math.inf)
  needs_labels: bool = False

  def check_kappa(self, kappa: Any) -> None:
    """Raise ValueError if kappa is not a number within `kappa_range`.

    It must be neither so near an end that float32 cannot tell them apart, nor
    so large that it overflows.
    """
    low, high = self.kappa_range
    if isinstance(kappa, numbers.Real) and low < float(kappa) < high:
      value = float(kappa)
      gap = min(value - low, high - value)
      if gap < _SMALLEST or abs(value) > _LARGEST:
        raise ValueError(
          f'kappa must be within {_LARGEST:g} and at least {_SMALLEST:g} from '
          f'the ends of ({low:g}, {high:g}), got {kappa}'
        )
      return
    if high < math.inf:
      allowed = f'in ({low:g}, {high:g})'
    else:
      allowed = 'finite' if low == -math.inf else f'> {low:g} and finite'
    raise ValueError(f'kappa must be {allowed}, got {kappa}')


def natural_multiplier(
  constraint: Constraint, kappa: Scalar, num_dims: int
) -> Scalar:
  """Return `D / (2 budget)`, the multiplier that a constraint needs at most.

  For RE it is 1 / (2 kappa^2), that of a Gaussian likelihood with sigma =
  kappa, and a bound: whatever the data, a distortion can be brought from D1
  down to D2 by describing the residual, which costs D / 2 log(D1 / D2) nats at
  most, so that no rate-distortion function of D dimensions falls faster than
  D / (2 D1). A model that needs a larger multiplier is short of training or of
  capacity, not of nats. For the other constraints it is the same measure, D / 2
  nats for a relative change of the budget, without that proof.

  Args:
    constraint: any.
    kappa: its tolerance.
    num_dims: D, the number of values of an image.
  """
  slack = constraint.slack(kappa)
  if isinstance(slack, numbers.Real) and not slack > 0:
    raise ValueError(f'its budget must be > 0, got {slack} at kappa {kappa}')
  return num_dims / (2 * slack)


def squared_error(batch: Batch, output: ModelOutput) -> jax.Array:
  """Return ||x - g(z)||^2 per example [batch], summed over pixels."""
  difference = batch.image - output.reconstruction
  return (difference**2).reshape(difference.shape[0], -1).sum(axis=-1)


def reconstruction_error(image_shape: tuple[int, ...]) -> Constraint:
  """Return RE, `||x - g(z)||^2 - D kappa^2` (Table 1).

  kappa > 0 is a root-mean-square error per pixel and channel, images in [0, 1];
  the multiplier is 1 / (2 sigma^2) of a Gaussian likelihood.

  Departs from the paper: the D, without which the paper's kappas of 0.06 to
  0.175 would not be errors per pixel.

  Args:
    image_shape: (height, width, channels), D is its product.
  """
  return _root_mean_square(
    squared_error, math.prod(image_shape), 'RMSE per pixel'
  )


def negative_log_likelihood(image_shape: tuple[int, ...]) -> Constraint:
  """Return NLL, `-log p(x|z) - D kappa`, with the model's own sigma.

  With a fixed multiplier of 1 the Lagrangian is the negative ELBO (Eq. 1) up to
  the constant D kappa, with 1/beta it is a beta-VAE's (Section 3.2).

  kappa is in nats per dimension; densities may exceed 1, so that any finite
  number is allowed.

  Args:
    image_shape: (height, width, channels), D is its product.
  """
  num_dims = math.prod(image_shape)

  def statistic(batch, output):
    return gaussian_nll(
      batch.image, output.reconstruction, output.likelihood_stddev
    )

  return Constraint(
    statistic=statistic,
    bound=lambda kappa: num_dims * kappa,
    scale=lambda kappa: float(num_dims),
    measure=lambda mean: mean / num_dims,
    unit='nats per dimension',
  )


def feature_error(
  image_shape: tuple[int, ...], *, network: Network, layer: str
) -> Constraint:
  """Return FRE, `||f(x) - f(g(z))||^2 - D_f kappa^2` (Table 1), f a network's.

  f is a layer's features, each channel divided by its standard deviation over
  the network's training images, those that never vary left out. So kappa > 0 is
  a root-mean-square error per feature in standard deviations: a model of
  constant, mean features has 1. The network is a constant: gradients pass
  through it, never into it.

  Departs from the paper: it gives neither the normalization nor D_f, the number
  of features.

  Args:
    image_shape: (height, width, channels); a gray image is shown to a network
      of colored ones in all its channels.
    network: whose features are compared.
    layer: of the network.

  Raises:
    ValueError: if there is no such layer, it is constant over the training
      images, or the network takes other images.
  """
  check_layer(network, layer)
  channels = network.image_shape[-1]
  if image_shape[-1] not in (1, channels):
    raise ValueError(
      f'network {network.name} takes images of {channels} channels, got '
      f'{image_shape[-1]}'
    )
  stddev = network.feature_stddevs[layer]
  (varying,) = np.nonzero(stddev)
  if not varying.size:
    raise ValueError(
      f'layer {layer} of network {network.name} is constant over the images '
      'that it was trained on'
    )
  weights = jnp.asarray(1 / np.maximum(stddev[varying], 1e-6))

  def features(image):
    image = jnp.repeat(image, channels // image.shape[-1], axis=-1)
    f = network.features(image, layer)
    if varying.size < stddev.size:
      f = f[..., varying]
    return f * weights.reshape((1,) * (f.ndim - 1) + (-1,))

  shape = feature_shape(network, layer, features, image_shape)
  return _feature_distance(
    features, math.prod(shape), f'RMSE of {layer}, in standard deviations'
  )


def patch_statistics_error(
  image_shape: tuple[int, ...], *, patch_size: int = 4
) -> Constraint:
  """Return FRE, `||f(x) - f(g(z))||^2 - D_f kappa^2`, f image statistics.

  f is the mean and the standard deviation of every patch, channel by channel,
  the patches side by side: how pixels are arranged within a patch is free.
  kappa > 0 is a root-mean-square error of these, in units of pixel values.

  Args:
    image_shape: (height, width, channels).
    patch_size: height and width of a patch; must divide the image's.

  Raises:
    ValueError: if the patches do not tile the image.
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

  num_features = 2 * math.prod(image_shape) // patch_size**2
  return _feature_distance(
    features, num_features, "RMSE of patches' mean and deviation"
  )


def classification_accuracy(
  image_shape: tuple[int, ...], *, network: Network
) -> Constraint:
  """Return CLA, `kappa - l(x)^T c(g(z))` (Table 1).

  c is a classifier's probabilities, l the one-hot label: C <= 0 if the right
  label's probability is on average at least kappa, in (0, 1). Where the
  channels of an image are digits of their own, each with a label, each is
  classified and the mean over them counts.

  Departs from the paper, whose Table 1 has the opposite sign; its Appendix E.1
  (a smaller kappa is weaker) agrees with this one.

  Args:
    image_shape: (height, width, channels).
    network: the classifier.

  Raises:
    ValueError: if the classifier takes other images.
  """
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

  def statistic(batch, output):
    image, label = output.reconstruction, batch.label
    if one_by_one:
      batch_size, channels = label.shape
      image = jnp.moveaxis(image, -1, 1).reshape(-1, *network.image_shape)
      right = probability(image, label.reshape(-1))
      return -right.reshape(batch_size, channels).mean(axis=-1)
    return -probability(image, label)

  return Constraint(
    statistic=statistic,
    bound=lambda kappa: -kappa,
    scale=lambda kappa: kappa,
    measure=lambda mean: -mean,
    unit='probability of the right label',
    budget=lambda kappa: 1 - kappa,
  )


def patch_cross_correlation(
  image_shape: tuple[int, ...], *, patch_size: int = 8, stride: int = 1
) -> Constraint:
  """Return pNCC, `sum_i [kappa - psi(x, i)^T psi(g(z), i)]` (Table 1).

  psi(x, i) is x's whitened patch i: mean removed, unit norm, all channels
  together. kappa, in (0, 1), is the least mean correlation of the patches. See
  `patches.normalized_cross_correlation` on flat patches; the brightness of a
  patch is free, and so is its contrast while its variance is above 1e-4.

  Args:
    image_shape: (height, width, channels).
    patch_size: height and width of a patch.
    stride: from patch to patch, both ways.

  Raises:
    ValueError: if a patch does not fit.
  """
  num_patches = patches.count(image_shape, patch_size, stride)

  def statistic(batch, output):
    correlation = patches.normalized_cross_correlation(
      batch.image, output.reconstruction, patch_size, stride, _EPSILON
    )
    return -correlation.sum(axis=(1, 2))

  return Constraint(
    statistic=statistic,
    bound=lambda kappa: -num_patches * kappa,
    scale=lambda kappa: float(num_patches),
    measure=lambda mean: -mean / num_patches,
    unit='correlation of patches',
    budget=lambda kappa: num_patches * (1 - kappa),
  )


_ENTRIES = {
  're': Entry(reconstruction_error, title='RE', defaults=dict(kappa=0.1)),
  'fre': Entry(
    feature_error,
    title='FRE',
    defaults=dict(kappa=0.5, network='cifar10_resnet', layer='stage_2'),
    digits=dict(network='digits_cnn', layer='conv_2'),
  ),
  'fre_stats': Entry(
    patch_statistics_error,
    title='FRE of statistics',
    defaults=dict(kappa=0.05, patch_size=4),
    digits=dict(patch_size=2),
  ),
  'cla': Entry(
    classification_accuracy,
    title='CLA',
    defaults=dict(kappa=0.9, network='mnist_cnn'),
    digits=dict(network='digits_cnn'),
    kappa_range=(0.0, 1.0),
    needs_labels=True,
  ),
  'pncc': Entry(
    patch_cross_correlation,
    title='pNCC',
    defaults=dict(kappa=0.8, patch_size=8, stride=1),
    digits=dict(patch_size=4),
    kappa_range=(0.0, 1.0),
  ),
  'nll': Entry(
    negative_log_likelihood,
    title='NLL',
    defaults=dict(kappa=0.0),
    kappa_range=(-math.inf, math.inf),
  ),
}
CONSTRAINTS = Registry('constraint', _ENTRIES, Entry)


def _feature_distance(
  features: Callable[[jax.Array], jax.Array],
  num_features: int,
  unit: str,
) -> Constraint:
  """Return the constraint on the RMSE of features [batch, ...]."""

  def squared_distance(batch, output):
    difference = features(batch.image) - features(output.reconstruction)
    return (difference**2).reshape(difference.shape[0], -1).sum(axis=-1)

  return _root_mean_square(squared_distance, num_features, unit)


def _root_mean_square(
  squared_distance: Callable[[Batch, ModelOutput], jax.Array],
  num_dims: int,
  unit: str,
) -> Constraint:
  """Return `squared_distance - D kappa^2` as a constraint on the RMSE."""

  def bound(kappa):
    return num_dims * kappa**2

  return Constraint(
    statistic=squared_distance,
    bound=bound,
    scale=bound,
    # Training recovers the mean from C: rounding may bring it below 0.
    measure=lambda mean: jnp.sqrt(jnp.maximum(mean, 0) / num_dims),
    unit=unit,
  )
