r"""VAE+NVP on CIFAR-10 (Table 2).

  python -m geco_jax.datasets.prepare --dataset=cifar10
  python -m geco_jax.train --config=configs/cifar10_nvp.py:quick \
      --workdir=runs/cifar10_nvp

Cost of quick: about 20 minutes on two CPU cores, by its first 300 steps. On an
H200 it ended at RMSE 0.0967 (kappa 0.1) and a KL of 149 nats; the others have
not been run.

Variants, after a colon: quick (the default), medium, gpu, paper, and after a
comma the objective if it is not to be geco, like quick,elbo.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config; `variant` is the size and the objective."""
  return base_config.get_nvp_config(variant, base_config.group('cifar10'))
