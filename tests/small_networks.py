"""Networks that are made in no time."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax.base_config import group
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import CLASSIFIERS


def two_steps_of_conv_draw():
  """Return the config group of a ConvDRAW with two steps."""
  return group(
    'conv_draw',
    num_steps=2,
    hidden_channels=2,
    latent_channels=1,
    kernel_size=1,
  )


def save_classifier(folder, side, channels, seed):
  """Save a classifier of gray images, with 3 features; return its path.

  Args:
    folder: where it is saved; made if need be.
    side: of the images, in pixels.
    channels: of its convolution.
    seed: of its parameters.
  """
  os.makedirs(folder, exist_ok=True)
  model = {'name': 'cnn', 'kwargs': {'channels': [channels], 'hidden_size': 3}}
  classifier = CLASSIFIERS['cnn'](10, **model['kwargs'])
  image = jnp.zeros((1, side, side, 1))
  params, state = classifier.init(jax.random.key(seed), image)
  (_, features), _ = classifier.apply(params, state, image, is_training=False)
  pretrained.save(
    str(folder),
    model=model,
    image_shape=(side, side, 1),
    num_classes=10,
    params=params,
    state=state,
    feature_stddevs={k: np.ones(v.shape[-1]) for k, v in features.items()},
  )
  return str(folder)
