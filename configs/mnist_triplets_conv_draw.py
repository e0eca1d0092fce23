r"""ConvDRAW on MNIST-triplets (Figure 4); quick: of 8x8 digits.

  python -m geco_jax.train --config=configs/mnist_triplets_conv_draw.py:quick \
      --workdir=runs/mnist_triplets

Cost of quick: 2 minutes on two CPU cores. Expect RMSE 0.099 (kappa 0.1) at a KL
of 118.9 nats; test RMSE 0.101. gpu and paper have not been run.

Variants: quick, medium, gpu, paper; after a comma the objective, if it is not
geco: quick,elbo. `base_config.get_conv_draw_config` says what they are.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config of a variant."""
  return base_config.get_conv_draw_config(
    variant,
    base_config.group(
      'mnist_triplets', base=base_config.size_of(variant).mnist
    ),
    quick=dict(reduction=2, latent_channels=2),
    quick_steps=4_000,
  )
