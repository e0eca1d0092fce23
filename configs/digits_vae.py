"""A small VAE on the 8x8 handwritten digits that come with scikit-learn.

The default config: it needs no download.

  python -m geco_jax.train --config=configs/digits_vae.py --workdir=runs/digits

takes 7 seconds on two CPU cores after compilation and should end, on the
training images, at RMSE 0.100 with a KL of 11.2 nats and lambda 16.

Variants, after a colon: geco (the default), geco_literal (Algorithm 1 of the
paper to the letter), elbo, beta_vae, annealed_beta.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'geco') -> ConfigDict:
  """Return the config; `variant` is the objective."""
  dataset = base_config.group('digits')
  config = base_config.get_base_config(
    variant,
    kappa=0.1,
    num_steps=4_000,
    constraints=base_config.constraints_of(dataset),
  )
  config.dataset = dataset
  config.model = base_config.group(
    'mlp_vae',
    latent_size=16,
    hidden_sizes=(256, 256),
    **base_config.likelihood_of(variant),
  )
  return config
