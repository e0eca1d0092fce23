"""The sizes of the paper's models, and what they are trained on: the variants.

The paper names no sizes. These are of the order of those in the work that it
cites (Gregor et al. 2016, Eslami et al. 2018).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class ModelSize(NamedTuple):
  """A model in a size.

  Attributes:
    kwargs: the model's arguments.
    num_steps: training steps, where a config names no others.
    learning_rate: if it is constant; None is 1e-3 with a cosine's decay.
  """

  kwargs: Mapping[str, Any]
  num_steps: int
  learning_rate: float | None = None


class Size(NamedTuple):
  """A size of everything.

  Attributes:
    conv_draw: ConvDRAW.
    nvp: VAE+NVP.
    mnist: the data set whose digits are composed, 'mnist' (28x28) or 'digits'
      (8x8).
    celeb_a: height and width of CelebA's images.
    checkpoint_every: steps between checkpoints.
    is_large: whether it can use tensor cores: ConvDRAW then computes in
      bfloat16.
  """

  conv_draw: ModelSize
  nvp: ModelSize
  mnist: str = 'mnist'
  celeb_a: int = 32
  checkpoint_every: int = 1_000
  is_large: bool = False


_SMALL_CONV_DRAW = dict(
  num_steps=4,
  hidden_channels=32,
  latent_channels=4,
  kernel_size=3,
  reduction=4,
)
_SMALL_NVP = dict(
  latent_size=64,
  channels=(32, 64),
  hidden_size=256,
  num_couplings=8,
  coupling_sizes=(128,),
)
SIZES = {
  'quick': Size(
    ModelSize(_SMALL_CONV_DRAW, 5_000),
    ModelSize(_SMALL_NVP, 10_000),
    mnist='digits',
  ),
  # The networks of 'quick' on MNIST and CIFAR-10, and more steps.
  'medium': Size(
    ModelSize(_SMALL_CONV_DRAW, 8_000),
    ModelSize(_SMALL_NVP, 20_000),
    checkpoint_every=2_000,
  ),
  'gpu': Size(
    ModelSize(
      dict(
        num_steps=8,
        hidden_channels=64,
        latent_channels=8,
        kernel_size=5,
        reduction=2,
      ),
      50_000,
    ),
    ModelSize(
      dict(
        latent_size=64,
        channels=(64, 128, 256),
        hidden_size=512,
        num_couplings=8,
        coupling_sizes=(256,),
      ),
      200_000,
    ),
    celeb_a=64,
    is_large=True,
  ),
  'paper': Size(
    ModelSize(
      dict(
        num_steps=12,
        hidden_channels=128,
        latent_channels=8,
        kernel_size=5,
        reduction=2,
      ),
      2_000_000,
      learning_rate=1e-5,
    ),
    ModelSize(
      dict(
        latent_size=128,
        channels=(128, 256, 512),
        hidden_size=1024,
        num_couplings=16,
        coupling_sizes=(512, 512),
      ),
      2_000_000,
      learning_rate=1e-6,
    ),
    celeb_a=64,
    checkpoint_every=10_000,
    is_large=True,
  ),
}
