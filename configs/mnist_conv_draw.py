r"""ConvDRAW on MNIST (Figure 4).

  python -m geco_jax.train --config=configs/mnist_conv_draw.py:quick \
      --workdir=runs/mnist

Cost of quick: 7 minutes on two CPU cores. Expect RMSE 0.100 (kappa 0.1) at a KL
of 40.9 nats; test RMSE 0.099; the ELBO (quick,elbo) ends at RMSE 0.036 and 238
nats. gpu and paper have not been run.

Variants: quick, medium, gpu, paper; after a comma the objective, if it is not
geco: quick,elbo. `base_config.get_conv_draw_config` says what they are.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config of a variant."""
  return base_config.get_conv_draw_config(variant, base_config.group('mnist'))
