r"""VAE+NVP on Color-MNIST, digits in the color channels (Table 2).

  python -m geco_jax.train --config=configs/color_mnist_nvp.py:quick \
      --workdir=runs/color_mnist_nvp

Cost of quick: 2 minutes on a CPU core. It ends at RMSE 0.0996 (kappa 0.1) and a
KL of 45.9 nats, at Table 2's kappa of 0.175 at 0.1745 and 11.8. 60,000 steps at
0.175 end at 0.1744 and 10.2 nats, the ELBO's (quick,elbo) at 0.051 and 100.
medium, gpu and paper have not been run.

Variants, after a colon: quick (the default, of the 8x8 digits), medium, gpu and
paper (of MNIST), and after a comma the objective if it is not to be geco, like
quick,elbo.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config; `variant` is the size and the objective."""
  config = base_config.get_nvp_config(
    variant,
    base_config.group('color_mnist', base=base_config.size_of(variant).mnist),
  )
  # MNIST's 28 pixels can be halved twice.
  config.model.kwargs.channels = config.model.kwargs.channels[:2]
  return config
