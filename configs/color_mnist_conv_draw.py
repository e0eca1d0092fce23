r"""ConvDRAW on Color-MNIST (Figures 4 and 6); quick: of 8x8 digits.

  python -m geco_jax.train --config=configs/color_mnist_conv_draw.py:quick \
      --workdir=runs/color_mnist

Cost of quick: 2 minutes on two CPU cores. Expect RMSE 0.100 (kappa 0.1) at a KL
of 92.9 nats; test RMSE 0.101. medium, of MNIST's digits, takes minutes on an
H200: RMSE 0.100 at 167.7 nats, after 30,000 steps at 131.6. gpu and paper have
not been run.

Variants: quick, medium, gpu, paper; after a comma the objective, if it is not
geco: quick,elbo. `base_config.get_conv_draw_config` says what they are.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config of a variant."""
  config = base_config.get_conv_draw_config(
    variant,
    base_config.group('color_mnist', base=base_config.size_of(variant).mnist),
    quick=dict(reduction=2, num_steps=2, latent_channels=8),
    quick_steps=4_000,
  )
  if variant.startswith('quick'):
    config.batch_size = 32
    config.learning_rate.kwargs.init_value = 2e-3
  return config
