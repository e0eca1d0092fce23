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
from geco_jax.models.base import Model
from geco_jax.models.base import ModelOutput
from geco_jax.models.convolution import Conv2D
from geco_jax.models.convolution import Conv2DTranspose

ImageShape = tuple[int, int, int]


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
  _check_sizes('latent_size', [latent_size])
  _check_sizes('hidden_sizes', hidden_sizes)

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
  _check_sizes('latent_size', [latent_size])
  _check_sizes('channels', channels)
  _check_sizes('hidden_size', [hidden_size])
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
  if not 0 < likelihood_stddev < math.inf:
    raise ValueError(
      f'likelihood_stddev must be > 0 and finite, got {likelihood_stddev}'
    )

  def functions():
    encode = _with_policy(encoder(), policy)
    decode_logits = _with_policy(decoder(), policy)

    def decode(latents):
      return jax.nn.sigmoid(decode_logits(latents)).reshape(-1, *image_shape)

    def forward(keys, image):
      mean, log_stddev = jnp.split(encode(image), 2, axis=-1)
      posterior = DiagonalGaussian(mean, log_stddev)
      latents = posterior.sample(keys)
      return ModelOutput(
        reconstruction=decode(latents),
        kl=posterior.kl_to_standard_normal(),
        latents=latents,
        likelihood_stddev=_likelihood_stddev(
          likelihood_stddev, learn_likelihood_stddev
        ),
      )

    def sample(keys):
      return decode(per_example_normal(keys, (latent_size,)))

    return forward, (forward, sample)

  transformed = hk.multi_transform(functions)
  forward, sample = transformed.apply
  return Model(
    init=lambda key, keys, image: policy.cast_to_param(
      transformed.init(key, keys, image)
    ),
    apply=lambda params, keys, image: forward(params, None, keys, image),
    sample=lambda params, keys: sample(params, None, keys),
  )


def _with_policy(network: Callable, policy: jmp.Policy) -> Callable:
  """Returns the network computing in the policy's type, float32 at its ends."""

  def cast_parameter(next_getter, value, context):
    del context
    return policy.cast_to_compute(next_getter(value))

  def apply(inputs):
    with hk.custom_getter(cast_parameter):
      outputs = network(policy.cast_to_compute(inputs))
    return outputs.astype(jnp.float32)

  return apply


def _likelihood_stddev(initial: float, learn: bool) -> jax.Array:
  """Returns sigma of p(x|z), a parameter if it is to be learned."""
  log_stddev = jnp.float32(math.log(initial))
  if learn:
    log_stddev = hk.get_parameter(
      'log_likelihood_stddev', [], init=hk.initializers.Constant(log_stddev)
    )
  return jnp.exp(log_stddev.astype(jnp.float32))


def _check_sizes(name, sizes):
  if not sizes or any(size < 1 for size in sizes):
    raise ValueError(f'{name} must be one or more sizes > 0, got {sizes}')
