r"""A convolutional classifier of MNIST, for the CLA constraint.

  python -m geco_jax.train_classifier \
      --config=configs/classifiers/mnist_cnn.py

takes two minutes on a CPU core and should read 99.3% of the test images right;
the mean probability of the right label is 0.93.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config() -> ConfigDict:
  """Return the config."""
  return base_config.get_classifier_config(
    dataset=base_config.group('mnist'),
    model=base_config.group('cnn', channels=(16, 32, 32), hidden_size=128),
    num_steps=3_000,
    fade=True,
    max_shift=2,
  )
