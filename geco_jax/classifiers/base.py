"""What the constraints see of a classifier."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
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
