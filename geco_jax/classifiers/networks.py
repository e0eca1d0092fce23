"""Classifiers that constraints look through.

Their probabilities make the CLA constraint, their features the FRE constraint
(Rezende & Viola 2018, Table 1). To add one, write a function `(num_classes,
...) -> Classifier` and enter it in `CLASSIFIERS`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax

from geco_jax.models.base import check_sizes
from geco_jax.models.layers.convolution import Conv2D
from geco_jax.own_parts import Registry

Features = dict[str, jax.Array]  # By layer, [batch, ..., channels].


class Classifier(NamedTuple):
  """A classifier as pure functions of images in [0, 1].

  Attributes:
    init: (key, image [batch, height, width, channels]) -> (params, state).
    apply: (params, state, image, is_training) -> ((logits [batch, classes],
      features by layer), state). The state has the moving moments of batch
      normalization, which change in training only.
  """

  init: Callable[..., tuple[hk.Params, hk.State]]
  apply: Callable[..., tuple[tuple[jax.Array, Features], hk.State]]


def cnn(
  num_classes: int,
  *,
  channels: Sequence[int] = (32, 64, 64),
  hidden_size: int = 128,
) -> Classifier:
  """Return a simple convolutional classifier.

  3x3 convolutions, all but the first halving the image, then a hidden layer.
  Layers: conv_1, conv_2, ..., hidden, logits.

  Args:
    num_classes: > 1.
    channels: of the convolutions.
    hidden_size: size of the hidden layer.

  Raises:
    ValueError: if a size is not > 0.
  """
  check_sizes('channels', channels)
  check_sizes('hidden_size', [hidden_size])

  def network(image, is_training):
    del is_training
    features, x = {}, image
    for number, size in enumerate(channels, start=1):
      stride = 1 if number == 1 else 2
      x = jax.nn.relu(Conv2D(size, 3, stride, name=f'conv_{number}')(x))
      features[f'conv_{number}'] = x
    x = jax.nn.relu(hk.Linear(hidden_size, name='hidden')(hk.Flatten()(x)))
    features['hidden'] = x
    return _with_logits(x, features, num_classes)

  return _classifier(network)


def resnet(
  num_classes: int,
  *,
  channels: Sequence[int] = (32, 64, 128),
  blocks_per_stage: int = 1,
) -> Classifier:
  """Return a residual network for small images (He et al. 2016, Section 4.2).

  A 3x3 convolution, stages of two-convolution blocks with batch normalization,
  the first block of each but the first stage halving the image, and the mean
  over positions. Layers: stem, stage_1, stage_2, ..., pooled, logits; all take
  images of any size.

  Args:
    num_classes: > 1.
    channels: of the stages.
    blocks_per_stage: residual blocks.

  Raises:
    ValueError: if a size is not > 0.
  """
  check_sizes('channels', channels)
  check_sizes('blocks_per_stage', [blocks_per_stage])

  def network(image, is_training):
    def convolve(x, size, kernel_size, stride, name):
      x = Conv2D(size, kernel_size, stride, with_bias=False, name=name)(x)
      normalize = hk.BatchNorm(True, True, 0.9, name=f'{name}_norm')
      return normalize(x, is_training)

    def block(x, size, stride, name):
      y = jax.nn.relu(convolve(x, size, 3, stride, f'{name}_first'))
      y = convolve(y, size, 3, 1, f'{name}_second')
      if x.shape != y.shape:
        x = convolve(x, size, 1, stride, f'{name}_shortcut')
      return jax.nn.relu(x + y)

    features = {}
    x = features['stem'] = jax.nn.relu(
      convolve(image, channels[0], 3, 1, 'stem')
    )
    for stage, size in enumerate(channels, start=1):
      for number in range(blocks_per_stage):
        stride = 2 if stage > 1 and number == 0 else 1
        x = block(x, size, stride, f'stage_{stage}_block_{number}')
      features[f'stage_{stage}'] = x
    x = features['pooled'] = x.mean(axis=(1, 2))
    return _with_logits(x, features, num_classes)

  return _classifier(network)


CLASSIFIERS = Registry('classifier', {'cnn': cnn, 'resnet': resnet})


def _with_logits(x, features, num_classes):
  logits = hk.Linear(num_classes, name='logits')(x)
  return logits, {**features, 'logits': logits}


def _classifier(network: Callable[..., Any]) -> Classifier:
  transformed = hk.transform_with_state(network)

  def apply(params, state, image, is_training):
    return transformed.apply(params, state, None, image, is_training)

  return Classifier(
    init=lambda key, image: transformed.init(key, image, True), apply=apply
  )
