r"""ConvDRAW on a folder of pictures of your own.

  geco-jax train --config=own_images_conv_draw:quick \
      --config.dataset.kwargs.path=my/pictures --workdir=runs/mine

or, in a checkout, python -m geco_jax.train
--config=configs/own_images_conv_draw.py. The pictures are those of own_images;
the patches of the model's grid follow `config.dataset.kwargs.image_size`.

Cost of quick: at 32x32 that of celeb_a_conv_draw, 12 minutes on two CPU cores;
time grows with the number of pixels.

Variants: quick, medium, gpu, paper; after a comma the objective, if it is not
geco: quick,elbo. `base_config.get_conv_draw_config` says what they are.
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config of a variant."""
  config = base_config.get_conv_draw_config(variant, base_config.own_pictures())
  side = config.dataset.kwargs.get_oneway_ref('image_size')
  # The side of a patch, which divides the image's: 2 or 1, or 4 if not large.
  reduction = 2 - side % 2
  if not base_config.size_of(variant).is_large:
    reduction *= 2 - (side % 4 + 2) // 3
  config.model.kwargs.reduction = reduction
  return config
