r"""VAE+NVP on Color-MNIST, digits in the color channels (Table 2).

  python -m geco_jax.train --config=configs/color_mnist_nvp.py:quick \
      --workdir=runs/color_mnist_nvp

Cost of quick: 2 minutes on a CPU core. At Table 2's kappa of 0.175 expect RMSE
0.175 at an average KL of 13.8 and a marginal KL of 3.5 nats; the ELBO
(quick,elbo) ends at RMSE 0.159, 21.8 and 10.8 nats. Six times the steps
(--config.num_steps=60000) end at 10.2 and 1.0 nats, of the ELBO at RMSE 0.107,
35.5 and 24.5; all of these with rectified couplings and the former update of
the multiplier. At kappa 0.1, 5,000 steps end at RMSE 0.101 and 152 nats. gpu
and paper have not been run.

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
