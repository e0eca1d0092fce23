r"""VAE+NVP on CIFAR-10 (Table 2).

  python -m geco_jax.datasets.prepare --dataset=cifar10
  python -m geco_jax.train --config=configs/cifar10_nvp.py:quick \
      --workdir=runs/cifar10_nvp

Cost of quick: 18 minutes on a CPU core. It ends at RMSE 0.0987 (kappa 0.1) and
a KL of 65.7 nats, at Table 2's kappa of 0.175 at 0.1746 and 4.6, the ELBO
(quick,elbo) at 0.086 and 156; kappa 0.08 is out of its reach. medium, gpu and
paper have not been run.

Variants, after a colon: quick (the default), medium, gpu, paper, and after a
comma the objective if it is not to be geco, like quick,elbo.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config; `variant` is the size and the objective."""
  return base_config.get_nvp_config(variant, base_config.group('cifar10'))
