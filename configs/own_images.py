r"""A convolutional VAE on images of your own: a folder of pictures, or an npz.

  geco-jax train --config=own_images --config.dataset.kwargs.path=my/pictures \
      --workdir=runs/mine

or, in a checkout, python -m geco_jax.train --config=configs/own_images.py. PNG
and JPEG pictures are cut to their largest centered square and resized to
32x32, `--config.dataset.kwargs.image_size=64` or any other size; the number of
convolutions follows it. docs/data.md says what pictures and arrays may be.

Cost: a step takes 0.13 seconds of a CPU core at 32x32 in color, 0.8 at 64x64,
so that two cores train for about 4 or 20 minutes. What to expect depends on the
pictures; `geco-jax choose_kappa` with this config says what a kappa costs.

Variants: folder (the default), npz, whose images keep their size unless
`image_size` says another; after a comma the objective, if it is not geco:
npz,elbo or folder,geco+pncc.
"""

from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import placeholder

from geco_jax import base_config


def get_config(variant: str = 'folder') -> ConfigDict:
  """Return the config of a variant."""
  kind, objective = base_config.split_variant(variant, ('folder', 'npz'))
  config = base_config.get_base_config(objective, kappa=0.1, num_steps=3_000)
  config.batch_size = 64
  config.dataset = (
    base_config.own_pictures()
    if kind == 'folder'
    else base_config.group(
      'npz', path='', image_size=placeholder(int), white=255
    )
  )
  config.model = base_config.group(
    'conv_vae',
    latent_size=64,
    channels=placeholder(tuple),  # They follow the image's size.
    kernel_size=4,
    hidden_size=256,
    **base_config.likelihood_of(objective),
  )
  return config
