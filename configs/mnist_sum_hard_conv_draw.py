r"""Conditional ConvDRAW on MNIST-sum-hard (Figure 4): I0, I1 given I2.

  python -m geco_jax.train --config=configs/mnist_sum_hard_conv_draw.py:quick \
      --workdir=runs/mnist_sum_hard

Cost of quick: 2 minutes on two CPU cores. Expect RMSE 0.099 (kappa 0.1) at a KL
of 55.4 nats; test RMSE 0.102. gpu and paper have not been run.

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
      'mnist_sum_hard', base=base_config.size_of(variant).mnist
    ),
    conditional=True,
    quick=dict(reduction=2, latent_channels=2),
    quick_steps=4_000,
  )
