"""Variational auto-encoders whose posterior is a Gaussian or a RealNVP.

Section 3 of Rezende & Viola 2018: unit Gaussian prior, Gaussian likelihood with
one global standard deviation.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

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
from geco_jax.models.base import Posterior
from geco_jax.models.base import stddev_parameter
from geco_jax.models.base import with_policy
from geco_jax.models.layers.convolution import Conv2D
from geco_jax.models.layers.convolution import Conv2DTranspose
from geco_jax.models.nvp import check_couplings
from geco_jax.models.nvp import ConditionalRealNVP
from geco_jax.models.nvp import standard_normal_log_prob

_SMALLEST_SIDE = 8  # Side to which chosen convolutions reduce an image.
# Convolutional VAEs have units that cannot die. Rectified ones do where KL is
# all that is minimized, as while a multiplier is still too small to pay for
# nats, and q(z|x) never depends on x again.
_ACTIVATION = jax.nn.elu


def mlp_vae(
  image_shape: ImageShape,
  policy: jmp.Policy,
  *,
  latent_size: int = 32,
  hidden_sizes: Sequence[int] = (512, 512),
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Return a VAE of fully connected layers; the decoder mirrors the encoder.

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

  return gaussian_vae(
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
  channels: Sequence[int] | None = (32, 64),
  kernel_size: int = 4,
  hidden_size: int = 256,
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Return a VAE of strided convolutions; the decoder mirrors the encoder.

  Args:
    image_shape: (height, width, channels); height and width are divisible by
      2 ** len(channels) if these are given.
    policy: precision; posterior, KL and reconstruction are float32 always.
    latent_size: dimensions of z.
    channels: of the encoder's convolutions, each halving height and width. None
      fits an image of any size: at least one halving, until a side has 8 pixels
      or fewer, of 32, 64, 128 and then 256 channels. Pixels that the decoder
      adds beyond the image are cut off.
    kernel_size: of every convolution.
    hidden_size: width of the fully connected layer next to the latents.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter. Only a constraint on
      the negative log-likelihood (the ELBO) trains it.

  Raises:
    ValueError: if a size or sigma is not > 0, or the image is not divisible.
  """
  check_sizes('latent_size', [latent_size])
  check_sizes('hidden_size', [hidden_size])
  if channels is None:
    channels = _channels_for(image_shape)
  else:
    _check_divisible(image_shape, channels)

  def encoder():
    layers = _conv_encoder(channels, kernel_size, hidden_size)
    return hk.Sequential([*layers, hk.Linear(2 * latent_size)], name='encoder')

  return gaussian_vae(
    encoder,
    lambda: _conv_decoder(image_shape, channels, kernel_size, hidden_size),
    policy,
    image_shape=image_shape,
    latent_size=latent_size,
    likelihood_stddev=likelihood_stddev,
    learn_likelihood_stddev=learn_likelihood_stddev,
  )


def vae_nvp(
  image_shape: ImageShape,
  policy: jmp.Policy,
  *,
  latent_size: int = 64,
  channels: Sequence[int] = (32, 64),
  kernel_size: int = 4,
  hidden_size: int = 256,
  num_couplings: int = 8,
  coupling_sizes: Sequence[int] = (256,),
  log_scale_bound: float = 2.0,
  permute: bool = False,
  num_kl_samples: int = 1,
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Return VAE+NVP: a convolutional VAE whose posterior is a RealNVP.

  Section 4 of Rezende & Viola 2018: a convolutional decoder as in Rosca et al.
  2018, a fully connected conditional RealNVP (Dinh et al. 2016) for q(z|x). It
  starts as the prior, for every x. Its KL is an estimate, the mean of
  log q(z|x) - log p(z) over samples, and may be negative.

  Args:
    image_shape: (height, width, channels); height and width are divisible by
      2 ** len(channels).
    policy: precision; z, log q(z|x) and reconstruction are float32 always.
    latent_size: dimensions of z, > 1.
    channels: of the encoder's convolutions, each halving height and width.
    kernel_size: of every convolution.
    hidden_size: features of x that the couplings see, and width of the
      decoder's fully connected layer.
    num_couplings: affine couplings of the flow.
    coupling_sizes: hidden layers of each coupling's network.
    log_scale_bound: bound of each coupling's log scales, > 0.
    permute: whether the dimensions are shuffled between couplings, which
      otherwise change the halves in turn.
    num_kl_samples: z per example that estimate the KL; the first of them is
      also decoded.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter. Only a constraint on
      the negative log-likelihood (the ELBO) trains it.

  Raises:
    ValueError: if a size, bound or sigma is not > 0, or the image is not
      divisible.
  """
  check_sizes('hidden_size', [hidden_size])
  check_sizes('num_kl_samples', [num_kl_samples])
  _check_divisible(image_shape, channels)
  check_couplings(
    latent_size,
    num_couplings,
    coupling_sizes,
    log_scale_bound,
  )

  def posterior():
    layers = _conv_encoder(channels, kernel_size, hidden_size)
    flow = ConditionalRealNVP(
      latent_size,
      policy,
      num_couplings=num_couplings,
      hidden_sizes=coupling_sizes,
      log_scale_bound=log_scale_bound,
      permute=permute,
    )
    encoder = hk.Sequential(layers, name='encoder')
    return _flow(encoder, flow, latent_size, num_kl_samples, policy)

  return _vae(
    posterior,
    lambda: _conv_decoder(image_shape, channels, kernel_size, hidden_size),
    policy,
    image_shape=image_shape,
    latent_size=latent_size,
    likelihood_stddev=likelihood_stddev,
    learn_likelihood_stddev=learn_likelihood_stddev,
  )


def gaussian_vae(
  encoder: Callable[[], Callable],
  decoder: Callable[[], Callable],
  policy: jmp.Policy,
  *,
  image_shape: ImageShape,
  latent_size: int,
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Return the VAE of an encoder and a decoder, q(z|x) a diagonal Gaussian.

  Args:
    encoder: () -> (images [n, *image_shape] -> means and log standard
      deviations side by side [n, 2 latent_size]); called while Haiku traces.
    decoder: () -> (latents [n, latent_size] -> logits of pixels [n, ...], as
      many as an image has); called while Haiku traces.
    policy: precision in which both compute.
    image_shape: (height, width, channels).
    latent_size: dimensions of z.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter.

  Raises:
    ValueError: if sigma is not > 0.
  """
  return _vae(
    lambda: _gaussian(encoder(), policy),
    decoder,
    policy,
    image_shape=image_shape,
    latent_size=latent_size,
    likelihood_stddev=likelihood_stddev,
    learn_likelihood_stddev=learn_likelihood_stddev,
  )


class _Posterior(NamedTuple):
  """q(z|x) while Haiku traces."""

  condition: Callable[[jax.Array], Any]  # See `Posterior`.
  draw: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]  # z and its KL.
  center: Callable[[Any], jax.Array]  # z of the noise's mean.
  kl_by_latent: Callable[[Any], jax.Array | None]  # See `ModelOutput`.
  log_prob: Callable[[jax.Array, Any], jax.Array]  # See `Posterior`.


def _gaussian(encoder: Callable, policy: jmp.Policy) -> _Posterior:
  """Return a diagonal Gaussian; the encoder gives mean and log stddev."""
  encode = with_policy(encoder, policy)

  def condition(image):
    return DiagonalGaussian(*jnp.split(encode(image), 2, axis=-1))

  def draw(keys, conditions):
    return conditions.sample(keys), conditions.kl_to_standard_normal()

  def log_prob(z, conditions):
    mean, log_stddev = (x[jnp.newaxis] for x in conditions)
    standardized = (z[:, jnp.newaxis] - mean) * jnp.exp(-log_stddev)
    return (standard_normal_log_prob(standardized)) - log_stddev.sum(axis=-1)

  def center(conditions):
    return conditions.mean

  def kl_by_latent(conditions):
    return conditions.kl_to_standard_normal_by_value()

  return _Posterior(condition, draw, center, kl_by_latent, log_prob)


def _flow(
  encoder: Callable,
  flow: ConditionalRealNVP,
  latent_size: int,
  num_kl_samples: int,
  policy: jmp.Policy,
) -> _Posterior:
  """Return a flow that the encoder's features steer; KL by sampling."""
  encode = with_policy(encoder, policy)

  def draw(keys, conditions):
    noise = per_example_normal(keys, (num_kl_samples, latent_size))
    z, log_q = flow.sample_and_log_prob(noise, conditions[:, jnp.newaxis])
    kl = log_q - standard_normal_log_prob(z)
    return z[:, 0], kl.mean(axis=1)

  def center(conditions):
    noise = jnp.zeros((conditions.shape[0], latent_size))
    return flow.forward(noise, conditions)[0]

  return _Posterior(
    condition=lambda image: flow.condition(encode(image)),
    draw=draw,
    center=center,
    kl_by_latent=lambda conditions: None,
    log_prob=lambda z, conditions: flow.log_prob(
      z[:, jnp.newaxis], conditions[jnp.newaxis]
    ),
  )


def _vae(
  make_posterior: Callable[[], _Posterior],
  decoder: Callable[[], Callable],
  policy: jmp.Policy,
  *,
  image_shape: ImageShape,
  latent_size: int,
  likelihood_stddev: float,
  learn_likelihood_stddev: bool,
) -> Model:
  """Return the VAE of a posterior and a decoder, made when Haiku traces.

  The decoder maps latents to the logits of reconstructions.
  """
  check_stddev(likelihood_stddev)

  def functions():
    posterior = make_posterior()
    decode_logits = with_policy(decoder(), policy)

    def decode(latents):
      return jax.nn.sigmoid(decode_logits(latents)).reshape(-1, *image_shape)

    def forward(keys, image, context=None):
      del context
      conditions = posterior.condition(image)
      latents, kl = posterior.draw(keys, conditions)
      return ModelOutput(
        reconstruction=decode(latents),
        kl=kl,
        kl_by_step=kl[:, jnp.newaxis],
        latents=latents,
        likelihood_stddev=stddev_parameter(
          likelihood_stddev, learn_likelihood_stddev
        ),
        kl_by_latent=posterior.kl_by_latent(conditions),
      )

    def sample(keys, context=None):
      del context
      return decode(per_example_normal(keys, (latent_size,)))

    def reconstruct(keys, image, context, num_informed):
      del context
      informed, _ = posterior.draw(keys, posterior.condition(image))
      uninformed = per_example_normal(keys, (latent_size,))
      return decode(jnp.where(num_informed > 0, informed, uninformed))

    def encode(image, context=None):
      del context
      return posterior.center(posterior.condition(image))

    return Functions(
      apply=forward,
      sample=sample,
      reconstruct=reconstruct,
      encode=encode,
      decode=lambda latents, context=None: decode(latents),
      posterior=Posterior(
        condition=posterior.condition,
        sample=lambda keys, conditions: posterior.draw(keys, conditions)[0],
        log_prob=posterior.log_prob,
        log_prior=standard_normal_log_prob,
      ),
    )

  return as_model(functions, policy)


def _channels_for(image_shape: ImageShape) -> Sequence[int]:
  """Return the channels of as many halvings as leave a side of 8 pixels."""
  pixels = min(image_shape[:2])
  num_halvings = max(1, math.ceil(math.log2(pixels / _SMALLEST_SIDE)))
  return [min(32 * 2**i, 256) for i in range(num_halvings)]


def _check_divisible(image_shape: ImageShape, channels: Sequence[int]) -> None:
  """Refuse images that convolutions cannot halve without a remainder."""
  check_sizes('channels', channels)
  height, width, _ = image_shape
  reduction = 2 ** len(channels)
  if height % reduction or width % reduction:
    raise ValueError(
      f'{len(channels)} halvings need height and width divisible by '
      f'{reduction}, got {height}x{width}'
    )


def _conv_encoder(
  channels: Sequence[int], kernel_size: int, hidden_size: int
) -> list[Callable]:
  """Return the layers from images to [batch, hidden_size]."""
  layers = []
  for size in channels:
    layers += [Conv2D(size, kernel_size, stride=2), _ACTIVATION]
  return [*layers, hk.Flatten(), hk.Linear(hidden_size), _ACTIVATION]


def _conv_decoder(
  image_shape: ImageShape,
  channels: Sequence[int],
  kernel_size: int,
  hidden_size: int,
) -> hk.Sequential:
  """Return the network from latents to logits, `_conv_encoder`'s mirror."""
  height, width, _ = image_shape
  reduction = 2 ** len(channels)
  grid = (-(-height // reduction), -(-width // reduction), channels[-1])
  layers = [hk.Linear(hidden_size), _ACTIVATION]
  layers += [hk.Linear(math.prod(grid)), _ACTIVATION, hk.Reshape(grid)]
  for size in reversed(channels[:-1]):
    layers += [Conv2DTranspose(size, kernel_size, stride=2), _ACTIVATION]
  layers += [Conv2DTranspose(image_shape[-1], kernel_size, stride=2)]
  if height % reduction or width % reduction:
    layers += [lambda logits: logits[:, :height, :width]]
  return hk.Sequential(layers, name='decoder')
