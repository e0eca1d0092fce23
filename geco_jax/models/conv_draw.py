"""ConvDRAW: a recurrent VAE that refines its canvas in steps.

Gregor et al. 2016, "Towards Conceptual Compression", which Section 4 of Rezende
& Viola 2018 builds on; conditional as the generative query network of Eslami et
al. 2018.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

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
from geco_jax.models.convolution import Conv2D

# The canvas before the first step, at first: mid-grey.
_GREY = 0.5


class LSTMState(NamedTuple):
  """Of one ConvLSTM, each [batch, height, width, hidden_channels]."""

  hidden: jax.Array
  cell: jax.Array


class State(NamedTuple):
  """What one step hands to the next; LSTMs are None where all is zero."""

  encoder: LSTMState | None
  decoder: LSTMState | None
  canvas: jax.Array  # [batch, height, width, reduction^2 * image channels].


class Constants(NamedTuple):
  """What is the same in all steps; 0.0 where there is none."""

  encoder_gates: jax.Array | float  # Of the image and the context.
  decoder_gates: jax.Array | float  # Of the context.
  prior: jax.Array | float  # Of the context.
  patches: jax.Array | float  # The image, as the canvas is laid out.


def conv_draw(
  image_shape: ImageShape,
  policy: jmp.Policy,
  *,
  num_steps: int = 8,
  hidden_channels: int = 64,
  latent_channels: int = 8,
  kernel_size: int = 5,
  reduction: int = 2,
  hidden_to_hidden: bool = True,
  conditional: bool = False,
  context_channels: int = 32,
  context_size: int = 256,
  remat: bool = False,
  likelihood_stddev: float = 0.1,
  learn_likelihood_stddev: bool = False,
) -> Model:
  """Returns ConvDRAW, conditional or not.

  In step t the encoder, a ConvLSTM, sees the image x, its error x - canvas, its
  own and the decoder's hidden state; q(z_t|x, z_<t) and p(z_t|z_<t) are
  diagonal Gaussians, convolutions of the encoder's and the decoder's hidden
  state; the decoder, another ConvLSTM, sees z_t, its own hidden state and the
  canvas, and adds a convolution of its hidden state to the canvas. The last
  canvas is the reconstruction.

  Everything is laid out on a grid of patches of `reduction` x `reduction`
  pixels, the pixels of a patch being channels: a convolution on it is a strided
  one, or a transposed one, of the image. What does not depend on the step (the
  image's and the context's share of the gates) is computed once before all
  steps, and what no step waits for (the prior of the training pass) once after
  them. The first step, which has no hidden states to convolve, stands by
  itself; the others are one `hk.scan`.

  A context passes a convolutional and a fully connected network; the features
  are shares of the encoder's and the decoder's gates and of the prior.

  Args:
    image_shape: (height, width, channels); `reduction` divides height and
      width.
    policy: precision; states, canvas, distributions and KL are float32 always.
    num_steps: T.
    hidden_channels: of either ConvLSTM.
    latent_channels: of each z_t [height / reduction, width / reduction, .].
    kernel_size: of all convolutions on the grid.
    reduction: side of a patch in pixels.
    hidden_to_hidden: whether a ConvLSTM's gates see its own hidden state; if
      not, its cell is all that it remembers of itself.
    conditional: whether prior and posterior depend on a context.
    context_channels: of the context network's convolutions.
    context_size: width of its fully connected layers.
    remat: whether to recompute a step's activations in the backward pass, which
      costs a third more time and keeps only the states in memory.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter. Only a constraint on
      the negative log-likelihood (the ELBO) trains it.

  Raises:
    ValueError: if a size or sigma is not > 0, or the image is not divisible.
  """
  check_sizes('num_steps', [num_steps])
  check_sizes('hidden_channels', [hidden_channels])
  check_sizes('latent_channels', [latent_channels])
  check_sizes('kernel_size', [kernel_size])
  check_sizes('reduction', [reduction])
  check_sizes('context_channels', [context_channels])
  check_sizes('context_size', [context_size])
  check_stddev(likelihood_stddev)
  height, width, channels = image_shape
  if height % reduction or width % reduction:
    raise ValueError(
      f'reduction={reduction} must divide height and width, got '
      f'{height}x{width}'
    )
  grid = (height // reduction, width // reduction)
  noise_shape = (num_steps, *grid, latent_channels)
  patch_channels = channels * reduction**2

  def functions():
    def convolution(output_channels, name, **kwargs):
      return with_policy(
        Conv2D(output_channels, kernel_size, name=name, **kwargs), policy
      )

    # Hidden states come last in what the gates see: at first there are none.
    image_gates = convolution(4 * hidden_channels, 'image_gates')
    encoder_gates = convolution(
      4 * hidden_channels,
      'encoder_gates',
      input_channels=patch_channels + (1 + hidden_to_hidden) * hidden_channels,
      with_bias=False,
    )
    decoder_gates = convolution(
      4 * hidden_channels,
      'decoder_gates',
      input_channels=latent_channels
      + patch_channels
      + hidden_to_hidden * hidden_channels,
    )
    posterior = convolution(2 * latent_channels, 'posterior')
    prior = convolution(2 * latent_channels, 'prior')
    write = convolution(patch_channels, 'write')
    shares = [4 * hidden_channels, 4 * hidden_channels, 2 * latent_channels]
    context_network = _context_network(
      grid, reduction, context_channels, context_size, kernel_size, policy
    )
    context_shares = convolution(sum(shares), 'context_shares', with_bias=False)

    def constants_of(context, image=None):
      if conditional and context is None:
        raise ValueError('a conditional ConvDRAW needs a context, got None')
      encoder = decoder = prior = patches = 0.0
      if conditional:
        encoder, decoder, prior = jnp.split(
          context_shares(context_network(context)),
          [shares[0], sum(shares[:2])],
          axis=-1,
        )
      if image is not None:
        patches = space_to_depth(image, reduction)
        encoder += image_gates(patches)
      return Constants(encoder, decoder, prior, patches)

    def initial_state(batch_size):
      canvas = hk.get_parameter(
        'initial_canvas', [channels], init=hk.initializers.Constant(_GREY)
      ).astype(jnp.float32)
      canvas = jnp.tile(canvas, reduction**2)
      return State(
        encoder=None,
        decoder=None,
        canvas=jnp.broadcast_to(canvas, (batch_size, *grid, patch_channels)),
      )

    def hidden_of(lstm):
      """Returns an LSTM's hidden state for the prior, zeros at first."""
      if lstm is None:
        return jnp.zeros((1, *grid, hidden_channels))
      return lstm.hidden

    def infer(constants, state):
      """Returns the encoder's next state and q(z_t|x, z_<t)."""
      seen = [constants.patches - state.canvas]
      if state.decoder is not None:
        seen.append(state.decoder.hidden)
        if hidden_to_hidden:
          seen.append(state.encoder.hidden)
      gates = encoder_gates(jnp.concatenate(seen, axis=-1))
      encoder = _lstm(gates + constants.encoder_gates, state.encoder)
      return encoder, _gaussian(posterior(encoder.hidden))

    def generate(constants, state, latents):
      """Returns the state after the decoder has seen z_t."""
      seen = [latents, state.canvas]
      if hidden_to_hidden and state.decoder is not None:
        seen.append(state.decoder.hidden)
      gates = decoder_gates(jnp.concatenate(seen, axis=-1))
      decoder = _lstm(gates + constants.decoder_gates, state.decoder)
      canvas = state.canvas + write(decoder.hidden)
      return state._replace(decoder=decoder, canvas=canvas)

    def run(step, batch_size, per_step):
      """Returns the last state and what each step gave [num_steps, ...]."""
      if remat:
        step = hk.remat(step)
      first = jax.tree.map(lambda x: x[0], per_step)
      rest = jax.tree.map(lambda x: x[1:], per_step)
      state, given = step(initial_state(batch_size), first)
      given = jax.tree.map(lambda x: x[jnp.newaxis], given)
      if num_steps > 1:
        state, more = hk.scan(step, state, rest)
        given = jax.tree.map(lambda *x: jnp.concatenate(x), given, more)
      return state, given

    def image_of(state):
      return depth_to_space(state.canvas, reduction)

    def forward(keys, image, context=None):
      constants = constants_of(context, image)

      def step(state, noise):
        encoder, q = infer(constants, state)
        latents = q.mean + jnp.exp(q.log_stddev) * noise
        following = generate(
          constants, state._replace(encoder=encoder), latents
        )
        return following, (q, latents, following.decoder.hidden)

      batch_size = len(image)
      state, (q, latents, hidden) = run(
        step, batch_size, _noise(keys, noise_shape)
      )
      # The prior of z_t is of the hidden state before it.
      hidden = jnp.concatenate([jnp.zeros_like(hidden[:1]), hidden[:-1]])
      p = prior(_merge_steps(hidden))
      p = p.reshape(num_steps, batch_size, *p.shape[1:])
      p += jnp.broadcast_to(constants.prior, p.shape)
      kl = DiagonalGaussian(*map(_merge_steps, q)).kl_to(
        DiagonalGaussian(*map(_merge_steps, _gaussian(p)))
      )
      kl_by_step = kl.reshape(num_steps, batch_size).T
      return ModelOutput(
        reconstruction=image_of(state),
        kl=kl_by_step.sum(axis=-1),
        kl_by_step=kl_by_step,
        latents=jnp.moveaxis(latents, 0, 1),
        likelihood_stddev=stddev_parameter(
          likelihood_stddev, learn_likelihood_stddev
        ),
      )

    def draw_from_prior(constants, state, noise):
      p = _gaussian(prior(hidden_of(state.decoder)) + constants.prior)
      return p.mean + jnp.exp(p.log_stddev) * noise

    def sample(keys, context=None):
      constants = constants_of(context)

      def step(state, noise):
        latents = draw_from_prior(constants, state, noise)
        return generate(constants, state, latents), None

      return image_of(run(step, len(keys), _noise(keys, noise_shape))[0])

    def reconstruct(keys, image, context, num_informed):
      constants = constants_of(context, image)

      def step(state, per_step):
        t, noise = per_step
        encoder, q = infer(constants, state)
        latents = jnp.where(
          t < num_informed,
          q.mean + jnp.exp(q.log_stddev) * noise,
          draw_from_prior(constants, state, noise),
        )
        return generate(
          constants, state._replace(encoder=encoder), latents
        ), None

      per_step = jnp.arange(num_steps), _noise(keys, noise_shape)
      return image_of(run(step, len(image), per_step)[0])

    def latents_of(keys, image):
      return forward(keys, image).latents

    def log_prior(latents):
      constants = constants_of(None)

      def step(state, z):
        p = _gaussian(prior(hidden_of(state.decoder)))
        p = DiagonalGaussian(*(jnp.broadcast_to(x, z.shape) for x in p))
        return generate(constants, state, z), p.log_prob(z)

      by_step = jnp.moveaxis(latents, 1, 0)
      return run(step, len(latents), by_step)[1].sum(axis=0)

    def log_prob(latents, image):
      num_latents, num_images = len(latents), len(image)
      # q(z|x) is a chain: the encoder meets every z_<t with every x.
      constants = constants_of(None, jnp.tile(image, (num_latents, 1, 1, 1)))
      pairs = jnp.repeat(latents, num_images, axis=0)

      def step(state, z):
        encoder, q = infer(constants, state)
        following = generate(constants, state._replace(encoder=encoder), z)
        return following, q.log_prob(z)

      _, by_step = run(step, len(pairs), jnp.moveaxis(pairs, 1, 0))
      return by_step.sum(axis=0).reshape(num_latents, num_images)

    posterior_of_chain = Posterior(
      condition=lambda image: image,
      sample=latents_of,
      log_prob=log_prob,
      log_prior=log_prior,
    )
    return Functions(
      apply=forward,
      sample=sample,
      reconstruct=reconstruct,
      # Where the prior depends on a context, there is no one marginal.
      posterior=None if conditional else posterior_of_chain,
    )

  return as_model(
    functions, policy, num_steps=num_steps, conditional=conditional
  )


def space_to_depth(image: jax.Array, block: int) -> jax.Array:
  """Returns the image as a grid of patches.

  Args:
    image: [batch, height, width, channels].
    block: side of a patch, divides height and width.

  Returns:
    [batch, height / block, width / block, block^2 * channels].
  """
  batch, height, width, channels = image.shape
  grid = (height // block, width // block)
  blocks = image.reshape(batch, grid[0], block, grid[1], block, channels)
  return blocks.swapaxes(2, 3).reshape(batch, *grid, block**2 * channels)


def depth_to_space(patches: jax.Array, block: int) -> jax.Array:
  """Returns the image of a grid of patches, the inverse of `space_to_depth`."""
  batch, rows, columns, depth = patches.shape
  blocks = patches.reshape(
    batch, rows, columns, block, block, depth // block**2
  )
  return blocks.swapaxes(2, 3).reshape(
    batch, rows * block, columns * block, depth // block**2
  )


def _context_network(
  grid, reduction, channels, size, kernel_size, policy
) -> Callable[[jax.Array], jax.Array]:
  """Returns a network to features [batch, *grid, 2 * channels].

  Half of them are local, of patches of the context; the others are the same
  everywhere, of the whole context.
  """
  local = Conv2D(channels, kernel_size, name='context_local')
  around = hk.Sequential(
    [
      Conv2D(2 * channels, kernel_size, stride=2, name='context_around'),
      jax.nn.relu,
      hk.Flatten(),
      hk.Linear(size, name='context_hidden'),
      jax.nn.relu,
      hk.Linear(size, name='context_hidden'),
      jax.nn.relu,
      hk.Linear(channels, name='context_global'),
    ]
  )

  def network(context):
    x = jax.nn.relu(local(space_to_depth(context, reduction)))
    everywhere = jnp.broadcast_to(
      around(x)[:, jnp.newaxis, jnp.newaxis], (len(x), *grid, channels)
    )
    return jnp.concatenate([x, everywhere], axis=-1)

  return with_policy(network, policy)


def _lstm(gates: jax.Array, state: LSTMState | None) -> LSTMState:
  """Returns a ConvLSTM's next state from its four gates (Shi et al. 2015)."""
  write, forget, candidate, read = jnp.split(gates, 4, axis=-1)
  # Biased towards remembering (Jozefowicz et al. 2015).
  cell = jax.nn.sigmoid(write) * jnp.tanh(candidate)
  if state is not None:
    cell += jax.nn.sigmoid(forget + 1.0) * state.cell
  return LSTMState(jax.nn.sigmoid(read) * jnp.tanh(cell), cell)


def _gaussian(parameters: jax.Array) -> DiagonalGaussian:
  return DiagonalGaussian(*jnp.split(parameters, 2, axis=-1))


def _noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns noise [num_steps, batch, ...] from each example's own key."""
  return jnp.moveaxis(per_example_normal(keys, shape), 1, 0)


def _merge_steps(x: jax.Array) -> jax.Array:
  """Returns [num_steps, batch, ...] as [num_steps * batch, ...]."""
  return x.reshape(math.prod(x.shape[:2]), *x.shape[2:])
