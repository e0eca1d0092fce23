"""Variational auto-encoders with a diagonal Gaussian posterior.

Section 3 of Rezende & Viola 2018: unit Gaussian prior, Gaussian likelihood with
one global standard deviation.
"""

from collections.abc import Callable, Sequence
import math

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from geco_jax.distributions import DiagonalGaussian
from geco_jax.distributions import per_example_normal
from geco_jax.models.base import as_model
from geco_jax.models.base import check_sizes
from geco_jax.models.base import check_stddev
from geco_jax.models.base import Functions
from geco_jax.models.base import ImageShape
from geco_jax.models.base import Model
from geco_jax.models.base import ModelOutput
from geco_jax.models.base import stddev_parameter
from geco_jax.models.base import with_policy
from geco_jax.models.convolution import Conv2D
from geco_jax.models.convolution import Conv2DTranspose


def mlp_vae(
  image_shape: ImageShape,
  policy: jmp.Policy,
  *,
  latent_size: int = 32,
  hidden_sizes: Sequence[int] = (512, 512),
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Returns a VAE of fully connected layers; the decoder mirrors the encoder.

  Args:
    image_shape: (height, width, channels).
    policy: precision; posterior, KL and reconstruction are float32 always.
    latent_size: dimensions of z.
    hidden_sizes: widths of the encoder's hidden layers, in order.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter. Only a constraint on
      the negative log-likelihood (the ELBO) trains it.

  Raises:
    ValueError: if a size or sigma is not > 0.
  """
  check_sizes('latent_size', [latent_size])
  check_sizes('hidden_sizes', hidden_sizes)

  def encoder():
    mlp = hk.nets.MLP([*hidden_sizes, 2 * latent_size], name='encoder')
    return lambda image: mlp(hk.Flatten()(image))

  def decoder():
    mlp = hk.nets.MLP(
      [*reversed(hidden_sizes), math.prod(image_shape)], name='decoder'
    )
    return lambda latent: mlp(latent).reshape(-1, *image_shape)

  return _vae(
    encoder,
    decoder,
    policy,
    image_shape=image_shape,
    latent_size=latent_size,
    likelihood_stddev=likelihood_stddev,
    learn_likelihood_stddev=learn_likelihood_stddev,
  )


def conv_vae(
  image_shape: ImageShape,
  policy: jmp.Policy,
  *,
  latent_size: int = 32,
  channels: Sequence[int] = (32, 64),
  kernel_size: int = 4,
  hidden_size: int = 256,
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Returns a VAE of strided convolutions; the decoder mirrors the encoder.

  Args:
    image_shape: (height, width, channels); height and width are divisible by
      2 ** len(channels).
    policy: precision; posterior, KL and reconstruction are float32 always.
    latent_size: dimensions of z.
    channels: of the encoder's convolutions, each halving height and width.
    kernel_size: of every convolution.
    hidden_size: width of the fully connected layer next to the latents.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter. Only a constraint on
      the negative log-likelihood (the ELBO) trains it.

  Raises:
    ValueError: if a size or sigma is not > 0, or the image is not divisible.
  """
  check_sizes('latent_size', [latent_size])
  check_sizes('channels', channels)
  check_sizes('hidden_size', [hidden_size])
  height, width, image_channels = image_shape
  reduction = 2 ** len(channels)
  if height % reduction or width % reduction:
    raise ValueError(
      f'{len(channels)} halvings need height and width divisible by '
      f'{reduction}, got {height}x{width}'
    )
  grid = (height // reduction, width // reduction, channels[-1])

  def encoder():
    layers = []
    for size in channels:
      layers += [Conv2D(size, kernel_size, stride=2), jax.nn.relu]
    layers += [hk.Flatten(), hk.Linear(hidden_size), jax.nn.relu]
    return hk.Sequential([*layers, hk.Linear(2 * latent_size)], name='encoder')

  def decoder():
    layers = [hk.Linear(hidden_size), jax.nn.relu]
    layers += [hk.Linear(math.prod(grid)), jax.nn.relu, hk.Reshape(grid)]
    for size in reversed(channels[:-1]):
      layers += [Conv2DTranspose(size, kernel_size, stride=2), jax.nn.relu]
    layers += [Conv2DTranspose(image_channels, kernel_size, stride=2)]
    return hk.Sequential(layers, name='decoder')

  return _vae(
    encoder,
    decoder,
    policy,
    image_shape=image_shape,
    latent_size=latent_size,
    likelihood_stddev=likelihood_stddev,
    learn_likelihood_stddev=learn_likelihood_stddev,
  )


def _vae(
  encoder: Callable[[], Callable],
  decoder: Callable[[], Callable],
  policy: jmp.Policy,
  *,
  image_shape: ImageShape,
  latent_size: int,
  likelihood_stddev: float,
  learn_likelihood_stddev: bool,
) -> Model:
  """Returns the VAE of an encoder and a decoder, made when Haiku traces.

  The encoder maps images to [batch, 2 * latent_size], mean and log stddev; the
  decoder maps latents to the logits of reconstructions.
  """
  check_stddev(likelihood_stddev)

  def functions():
    encode = with_policy(encoder(), policy)
    decode_logits = with_policy(decoder(), policy)

    def decode(latents):
      return jax.nn.sigmoid(decode_logits(latents)).reshape(-1, *image_shape)

    def infer(image):
      mean, log_stddev = jnp.split(encode(image), 2, axis=-1)
      return DiagonalGaussian(mean, log_stddev)

    def forward(keys, image, context=None):
      del context
      posterior = infer(image)
      latents = posterior.sample(keys)
      kl = posterior.kl_to_standard_normal()
      return ModelOutput(
        reconstruction=decode(latents),
        kl=kl,
        kl_by_step=kl[:, jnp.newaxis],
        latents=latents,
        likelihood_stddev=stddev_parameter(
          likelihood_stddev, learn_likelihood_stddev
        ),
      )

    def sample(keys, context=None):
      del context
      return decode(per_example_normal(keys, (latent_size,)))

    def reconstruct(keys, image, context, num_informed):
      del context
      posterior = infer(image)
      drawn = posterior.sample(keys), per_example_normal(keys, (latent_size,))
      return decode(jnp.where(num_informed > 0, *drawn))

    return Functions(forward, sample, reconstruct)

  return as_model(functions, policy)
