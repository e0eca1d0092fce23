r"""ConvDRAW on CelebA, 64x64 in gpu and paper, else 32x32 (Figures 4 and 6).

  python -m geco_jax.train --config=configs/celeb_a_conv_draw.py:quick \
      --workdir=runs/celeb_a

Cost of quick: 12 minutes on two CPU cores. Expect, trained on 5,000 images,
RMSE 0.100 (kappa 0.1) at a KL of 45.1 nats; test RMSE 0.100. gpu and paper have
not been run.

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
      'celeb_a', image_size=base_config.size_of(variant).celeb_a
    ),
  )
