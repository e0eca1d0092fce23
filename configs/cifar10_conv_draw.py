r"""ConvDRAW on CIFAR-10 (Figures 4 and 5).

  python -m geco_jax.train --config=configs/cifar10_conv_draw.py:quick \
      --workdir=runs/cifar10

Cost of quick: 12 minutes on two CPU cores. Expect RMSE 0.100 (kappa 0.1) at a
KL of 73.5 nats; test RMSE 0.100; the ELBO (quick,elbo) ends at RMSE 0.032 and
1053 nats. gpu and paper have not been run.

Variants: quick, medium, gpu, paper; after a comma the objective, if it is not
geco: quick,elbo. `base_config.get_conv_draw_config` says what they are.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config of a variant."""
  return base_config.get_conv_draw_config(variant, base_config.group('cifar10'))
