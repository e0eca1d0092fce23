"""The Frechet distance of two sets of images, in a classifier's features.

Heusel et al. 2017, Section 3: each set is a Gaussian of its features' moments,
`d^2 = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))`. Their network is Inception,
trained on ImageNet; here it is trained on images like these, so that distances
are comparable only under the same network and number of examples.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax.classifiers.base import check_layer
from geco_jax.classifiers.base import feature_shape
from geco_jax.classifiers.base import Network

_LOGITS = 'logits'


class Moments(NamedTuple):
  """A Gaussian of features, float64."""

  mean: np.ndarray  # [features].
  covariance: np.ndarray  # [features, features].


def moments(features: np.ndarray) -> Moments:
  """Return the moments of features [n, features], n > 1.

  Raises:
    ValueError: if there are fewer than two, or some are not finite.
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or len(features) < 2:
    raise ValueError(
      f'features must be [n, features], n > 1, got {features.shape}'
    )
  if not np.isfinite(features).all():
    raise ValueError('features must be finite, got NaN or infinity')
  mean = features.mean(axis=0)
  deviations = features - mean
  return Moments(mean, deviations.T @ deviations / (len(features) - 1))


def distance(first: Moments, second: Moments) -> float:
  """Return the squared Frechet distance of two Gaussians, >= 0.

  The trace of the product's square root is the sum of the singular values of
  `S^(1/2) S'^(1/2)`: real where rounding makes that of S S' complex.
  """
  roots = _root(first.covariance) @ _root(second.covariance)
  traces = np.trace(first.covariance) + np.trace(second.covariance)
  between = ((first.mean - second.mean) ** 2).sum()
  squared = between + traces - 2 * np.linalg.norm(roots, 'nuc')
  return max(float(squared), 0.0)


def _root(covariance):
  """Return the symmetric square root of a covariance."""
  eigenvalues, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T


def extractor(
  network: Network, layer: str | None, image_shape: tuple[int, ...]
) -> tuple[str, Callable[[jax.Array], jax.Array], int]:
  """Return a layer's name, its features as vectors, and their number.

  By default it is the layer in which the logits are linear, like Inception's
  last pooled one: a vector, without positions in the image. A layer with
  positions is averaged over them.

  Args:
    network: the classifier.
    layer: of the network; None is its only vector before the logits.
    image_shape: (height, width, channels). A gray image is shown to a network
      of colored ones in all its channels; the channels of an image are shown
      one by one to a network of gray ones, and their features joined.

  Returns:
    layer; image [batch, *image_shape] -> [batch, features]; features.

  Raises:
    ValueError: if there is no such layer or the network takes other images.
  """
  channels = network.image_shape[-1]
  one_by_one = channels == 1 and image_shape[-1] > 1
  if not one_by_one and image_shape[-1] not in (1, channels):
    raise ValueError(
      f'network {network.name} takes images of {channels} channels, got '
      f'{image_shape[-1]}'
    )
  layer = _default_layer(network) if layer is None else layer
  check_layer(network, layer)

  def vectors(image):
    features = network.features(image, layer)
    axes = tuple(range(1, features.ndim - 1))
    return features.mean(axis=axes) if axes else features

  def features(image):
    if one_by_one:
      single = jnp.moveaxis(image, -1, 1).reshape(-1, *image_shape[:2], 1)
      return vectors(single).reshape(len(image), -1)
    return vectors(jnp.repeat(image, channels // image_shape[-1], axis=-1))

  shape = feature_shape(network, layer, features, image_shape)
  return layer, features, math.prod(shape)


def _default_layer(network):
  """Return the only layer that is a vector, except the logits."""
  image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)

  def num_axes(layer):
    return jax.eval_shape(lambda x: network.features(x, layer), image).ndim

  layers = network.feature_stddevs
  flat = [k for k in layers if k != _LOGITS and num_axes(k) == 2]
  if len(flat) != 1:
    raise ValueError(
      f'network {network.name} has {len(flat)} layers of vectors before the '
      f'logits, so that one must be named: {", ".join(layers)}'
    )
  return flat[0]
