"""What the constraints see of a classifier."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Network(NamedTuple):
  """A trained classifier as functions of images in [0, 1].

  Attributes:
    name: for messages.
    image_shape: (height, width, channels) that it was trained on.
    num_classes: how many.
    logits: image [batch, height, width, channels] -> [batch, num_classes].
    features: (image, layer) -> [batch, ..., channels].
    feature_stddevs: layer -> [channels], over the training images and the
      positions in them.
  """

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int
  logits: Callable[[jax.Array], jax.Array]
  features: Callable[[jax.Array, str], jax.Array]
  feature_stddevs: Mapping[str, np.ndarray]


def check_layer(network: Network, layer: str) -> None:
  """Refuse a layer that a network does not have.

  Raises:
    ValueError: names its layers.
  """
  if layer not in network.feature_stddevs:
    raise ValueError(
      f'network {network.name} has no layer {layer!r}; choose from '
      f'{", ".join(network.feature_stddevs)}'
    )


def feature_shape(
  network: Network,
  layer: str,
  features: Callable[[jax.Array], jax.Array],
  image_shape: tuple[int, ...],
) -> tuple[int, ...]:
  """Return the shape of one image's features (1, ...).

  Args:
    network: whose layer it is; a dense one takes images of one size.
    layer: of the network.
    features: image [batch, *image_shape] -> [batch, ...], of the layer.
    image_shape: (height, width, channels).

  Raises:
    ValueError: if the network takes images of another size.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  try:
    return jax.eval_shape(features, image).shape
  except (ValueError, TypeError) as error:
    height, width, _ = network.image_shape
    if (height, width) == tuple(image_shape[:2]):  # It fails by something else.
      raise
    raise ValueError(
      f'layer {layer} of network {network.name} takes images of '
      f'{height}x{width}, got {image_shape[0]}x{image_shape[1]}'
    ) from error
