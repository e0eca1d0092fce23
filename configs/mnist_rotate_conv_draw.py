r"""Conditional ConvDRAW on MNIST-rotate (Figures 3 and 4).

  python -m geco_jax.train --config=configs/mnist_rotate_conv_draw.py:quick \
      --workdir=runs/mnist_rotate

Cost of quick: 2 minutes on two CPU cores. Expect RMSE 0.101 (kappa 0.1) at a KL
of 15.1 nats; test RMSE 0.101. gpu and paper have not been run.

Variants: quick, medium, gpu, paper; after a comma the objective, if it is not
geco: quick,elbo. `base_config.get_conv_draw_config` says what they are.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config of a variant."""
  return base_config.get_conv_draw_config(
    variant,
    base_config.group('mnist_rotate', base=base_config.size_of(variant).mnist),
    conditional=True,
    quick=dict(reduction=2, latent_channels=2),
    quick_steps=4_000,
  )
