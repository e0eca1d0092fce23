"""A VAE on MNIST.

  python -m geco_jax.datasets.prepare --dataset=mnist
  python -m geco_jax.train --config=configs/mnist_vae.py --workdir=runs/mnist

takes two to three minutes on two CPU cores and should end, on the training
images, at RMSE 0.099 with a KL of 23.8 nats and lambda 4.2; 3,000 steps end at
38.1 nats.

Variants, after a colon: geco (the default), geco_literal, elbo, beta_vae,
annealed_beta; with `,conv` after it the convolutional model takes the place of
the fully connected one, e.g. configs/mnist_vae.py:geco,conv.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'geco') -> ConfigDict:
  """Return the config; `variant` is the objective, `,conv` after it or not."""
  objective, _, architecture = variant.partition(',')
  config = base_config.get_base_config(
    objective,
    kappa=0.1,
    num_steps=20_000,
    constraints={'fre': dict(network='mnist_cnn', layer='conv_2')},
  )
  config.dataset = base_config.group('mnist')
  shared = dict(
    latent_size=32,
    **base_config.likelihood_of(objective),
  )
  match architecture:
    case '':
      config.model = base_config.group(
        'mlp_vae', hidden_sizes=(512, 512), **shared
      )
    case 'conv':
      config.model = base_config.group(
        'conv_vae', channels=(32, 64), kernel_size=4, hidden_size=256, **shared
      )
    case _:
      raise ValueError(
        f'unknown variant {variant!r}; a comma can be followed by conv only'
      )
  return config
