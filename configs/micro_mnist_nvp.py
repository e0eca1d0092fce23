r"""VAE+NVP with two latents on Micro-MNIST, seven digits (Figure 8).

  python -m geco_jax.train --config=configs/micro_mnist_nvp.py \
      --workdir=runs/micro
  python -m geco_jax.marginal_kl --workdir=runs/micro

Cost: under a minute on a CPU core. Expect RMSE 0.049 (kappa 0.05) at an average
KL of 1.90 nats (ln 7 = 1.946) and a marginal KL of 0.06; the ELBO (digits,elbo)
ends at RMSE 0.009, 6.0 and 4.1 nats.

Variants, after a colon: digits (the default, 8x8) or mnist, and after a comma
the objective if it is not to be geco, like mnist,elbo or digits,geco+cla.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'digits') -> ConfigDict:
  """Return the config; `variant` is the digits and the objective."""
  base, objective = base_config.split_variant(variant, ('digits', 'mnist'))
  dataset = base_config.group('micro_mnist', base=base)
  config = base_config.get_base_config(
    objective,
    kappa=0.05,
    num_steps=12_000,
    constraints=base_config.constraints_of(dataset),
  )
  config.dataset = dataset
  config.model = base_config.group(
    'vae_nvp',
    latent_size=2,
    channels=(16, 32),
    hidden_size=128,
    num_couplings=12,
    coupling_sizes=(64,),
    **base_config.likelihood_of(objective),
  )
  config.batch_size = 70  # Ten draws of every digit.
  return config
