"""ConvDRAW: a recurrent VAE that refines its canvas in steps.

Gregor et al. 2016, "Towards Conceptual Compression", which Section 4 of Rezende
& Viola 2018 builds on; conditional as the generative query network of Eslami et
al. 2018.
"""

import dataclasses
import functools
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from geco_jax import parallel
from geco_jax.distributions import DiagonalGaussian
from geco_jax.distributions import per_example_normal
from geco_jax.models import base
from geco_jax.models.layers import stacked_gradients
from geco_jax.models.layers.convolution import Conv2D
from geco_jax.models.layers.space_to_depth import depth_to_space
from geco_jax.models.layers.space_to_depth import space_to_depth

# For accelerators alone, which copy what a loop carries, pad 84 channels and
# add up each step's gradients of a weight: results/gpu_variants.json has costs.
_UNROLLED_STEPS = 16  # Most in an iteration: the program grows with them.
_CHANNEL_MULTIPLE = 8  # To which convolutions on the grid are padded.
_STACKED_WEIGHT_GRADIENTS = True  # Not under `remat`, which keeps no inputs.


class LSTMState(NamedTuple):
  """The state of one ConvLSTM, [batch, *grid, hidden_channels] each."""

  hidden: jax.Array
  cell: jax.Array


class State(NamedTuple):
  """What one step hands to the next; LSTMs are None where all is zero."""

  encoder: LSTMState | None
  decoder: LSTMState | None
  canvas: jax.Array  # [batch, *grid, reduction^2 * image channels].


class Constants(NamedTuple):
  """Values that are the same in all steps; 0.0 where there are none."""

  encoder_gates: jax.Array | float  # The share of the image and the context.
  decoder_gates: jax.Array | float  # The share of the context.
  prior: jax.Array | float  # The share of the context in its parameters.
  patches: jax.Array | float  # The image, laid out as the canvas is.


def conv_draw(
  image_shape: base.ImageShape,
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
) -> base.Model:
  """Return ConvDRAW, conditional or not.

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
  itself; the others are one scan. On accelerators it is unrolled and takes the
  weights' gradients once for all steps (`stacked_gradients`). An H200 then does
  111 training steps of size `gpu` a second, not 86; in bfloat16 220, not 126.

  A context passes a convolutional and a fully connected network; the features
  are shares of the encoder's and the decoder's gates and of the prior.

  Args:
    image_shape: (height, width, channels); `reduction` divides height and
      width.
    policy: precision; states, canvas, distributions and KL are float32 always.
    num_steps: T.
    hidden_channels: channels of either ConvLSTM.
    latent_channels: of z_t [height / reduction, width / reduction, channels].
    kernel_size: of all convolutions on the grid.
    reduction: side of a patch in pixels.
    hidden_to_hidden: whether a ConvLSTM's gates see its own hidden state; if
      not, its cell is all that it remembers.
    conditional: whether prior and posterior depend on a context.
    context_channels: channels of the context network's convolutions.
    context_size: width of its fully connected layers.
    remat: whether to recompute a step's activations in the backward pass, which
      costs a third more time and keeps only the states in memory.
    likelihood_stddev: sigma of p(x|z), > 0; at first, if it is learned.
    learn_likelihood_stddev: whether sigma is a parameter. Only a constraint on
      the negative log-likelihood (the ELBO) trains it.

  Raises:
    ValueError: if a size or sigma is not > 0, or the image is not divisible.
  """
  arguments = dict(locals())  # By name, as they are the fields of `ConvDraw`.
  for name in (
    *('num_steps', 'hidden_channels', 'latent_channels', 'kernel_size'),
    *('reduction', 'context_channels', 'context_size'),
  ):
    base.check_sizes(name, [arguments[name]])
  base.check_stddev(likelihood_stddev)
  height, width, _ = image_shape
  if height % reduction or width % reduction:
    raise ValueError(
      f'reduction={reduction} must divide height and width, got '
      f'{height}x{width}'
    )
  return base.as_model(
    lambda: ConvDraw(**arguments).functions(),
    policy,
    num_steps=num_steps,
    conditional=conditional,
  )


@dataclasses.dataclass
class ConvDraw:
  """The networks and functions of a ConvDRAW with the options of `conv_draw`.

  It is no `hk.Module`, which would put its name before those of all parameters.
  Images and contexts are [batch, height, width, channels]; latents, noise and
  hidden states [batch, *grid, channels], with num_steps in front where stacked.
  """

  image_shape: base.ImageShape
  policy: jmp.Policy
  num_steps: int
  hidden_channels: int
  latent_channels: int
  kernel_size: int
  reduction: int
  hidden_to_hidden: bool
  conditional: bool
  context_channels: int
  context_size: int
  remat: bool
  likelihood_stddev: float
  learn_likelihood_stddev: bool

  def __post_init__(self):
    """Create the networks, while Haiku traces."""
    height, width, channels = self.image_shape
    self.grid = (height // self.reduction, width // self.reduction)
    hidden, latent = self.hidden_channels, self.latent_channels
    own, patch = self.hidden_to_hidden * hidden, channels * self.reduction**2
    # A convolution is linear in its inputs, and the image is one that stays the
    # same: its share of the encoder's gates is computed once for all steps.
    self.image_gates = self._convolution(4 * hidden, 'image_gates')
    # Hidden states come last in what gates read: the first step has none yet,
    # and `Conv2D` counts the last channels as zeros where an input has fewer.
    seen = patch + hidden + own
    self.encoder_gates = self._convolution(
      4 * hidden, 'encoder_gates', input_channels=seen, with_bias=False
    )
    self.decoder_gates = self._convolution(
      4 * hidden, 'decoder_gates', input_channels=latent + patch + own
    )
    self.posterior_parameters = self._convolution(2 * latent, 'posterior')
    self.prior_parameters = self._convolution(2 * latent, 'prior')
    self.write = self._convolution(patch, 'write')
    self.context_network = self._context_network()
    self.context_shares = self._convolution(
      2 * (4 * hidden + latent), 'context_shares', with_bias=False
    )

  def functions(self) -> base.Functions:
    """Return the functions of a `Model`, which explains their arguments."""
    posterior = base.Posterior(
      condition=lambda image: image,
      sample=lambda keys, image: self.apply(keys, image).latents,
      log_prob=self.log_prob,
      log_prior=self.log_prior,
    )
    return base.Functions(
      apply=self.apply,
      sample=self.sample,
      reconstruct=self.reconstruct,
      encode=self.encode,
      decode=self.decode,
      # Where the prior depends on a context, there is no one marginal.
      posterior=None if self.conditional else posterior,
    )

  def apply(self, keys, image, context=None) -> base.ModelOutput:
    """Reconstruct images from all their latents, as in training."""
    constants = self._constants(context, image)
    canvas, (q, latents, hidden) = self._unroll(
      self._training_step, constants, keys.shape[0], self._noise(keys)
    )
    kl_by_step, kl_by_latent = self._kl(constants, q, hidden)
    return base.ModelOutput(
      reconstruction=canvas,
      kl=kl_by_step.sum(axis=-1),
      kl_by_step=kl_by_step,
      kl_by_latent=kl_by_latent,
      latents=jnp.moveaxis(latents, 0, 1),
      likelihood_stddev=base.stddev_parameter(
        self.likelihood_stddev, self.learn_likelihood_stddev
      ),
    )

  def sample(self, keys, context=None) -> jax.Array:
    """Draw images from the prior."""
    constants, noise = self._constants(context), self._noise(keys)
    return self._unroll(self._prior_step, constants, keys.shape[0], noise)[0]

  def reconstruct(self, keys, image, context, num_informed) -> jax.Array:
    """Reconstruct images from their first latents: conceptual compression."""
    # Gregor et al. 2016: the prior makes up what the first latents leave open.
    step, constants = self._compression_step, self._constants(context, image)
    per_step = jnp.arange(self.num_steps) < num_informed, self._noise(keys)
    return self._unroll(step, constants, len(image), per_step)[0]

  def encode(self, image, context=None) -> jax.Array:
    """Take each step's latents to be the mean of their posterior."""
    shape = (self.num_steps, 1, *self.grid, self.latent_channels)
    step, constants = self._training_step, self._constants(context, image)
    outputs = self._unroll(step, constants, image.shape[0], jnp.zeros(shape))[1]
    return jnp.moveaxis(outputs[1], 0, 1)

  def decode(self, latents, context=None) -> jax.Array:
    """Return the images of given latents."""
    return self._given(latents, context)[0]

  def log_prob(self, latents, image) -> jax.Array:
    """Return log q(z|x) [m, n] of all pairs of m latents and n images."""
    # q(z|x) is a chain: the encoder meets every z_<t with every x.
    constants = self._constants(None, jnp.tile(image, (len(latents), 1, 1, 1)))
    pairs = jnp.repeat(latents, len(image), axis=0)
    step, by_step = self._posterior_density_step, jnp.moveaxis(pairs, 1, 0)
    _, log_probs = self._unroll(step, constants, len(pairs), by_step)
    return log_probs.sum(axis=0).reshape(len(latents), len(image))

  def log_prior(self, latents) -> jax.Array:
    """Return log p(z) [batch]."""
    return self._given(latents, None)[1].sum(axis=0)

  def _given(self, latents, context):
    """Return the images of latents, and log p(z_t|z_<t) [num_steps, batch]."""
    step, by_step = self._prior_density_step, jnp.moveaxis(latents, 1, 0)
    constants = self._constants(context)
    return self._unroll(step, constants, latents.shape[0], by_step)

  def _unroll(self, step, constants, batch_size, per_step):
    """Return the last canvas as images, and all outputs [num_steps, ...].

    Every `step` takes its own entry of `per_step` [num_steps, ...].
    """
    step = functools.partial(step, constants)
    if self.remat:
      step = hk.remat(step)
    # The first step's state lacks the structure that a loop keeps. The others
    # are a loop: the program does not grow with their number.
    first = jax.tree.map(lambda x: x[0], per_step)
    rest = jax.tree.map(lambda x: x[1:], per_step)
    state, output = step(self._initial_state(batch_size), first)
    outputs = jax.tree.map(lambda x: x[jnp.newaxis], output)
    if length := self.num_steps - 1:
      stacked = _STACKED_WEIGHT_GRADIENTS and parallel.on_accelerator()
      scan = stacked_gradients.scan if stacked and not self.remat else hk.scan
      state, more = scan(step, state, rest, unroll=num_unrolled(length))
      outputs = jax.tree.map(lambda *x: jnp.concatenate(x), outputs, more)
    return depth_to_space(state.canvas, self.reduction), outputs

  def _training_step(self, constants, state, noise):
    """Draw z_t from the posterior; also return what the KL is computed from."""
    state, q = self._encode(constants, state)
    latents = q.at(noise)
    state = self._decode(constants, state, latents)
    return state, (q, latents, state.decoder.hidden)

  def _prior_step(self, constants, state, noise):
    """Draw z_t from the prior."""
    latents = self._predict(constants, state).at(noise)
    return self._decode(constants, state, latents), None

  def _compression_step(self, constants, state, per_step):
    """Draw z_t from the posterior where informed, elsewhere from the prior."""
    informed, noise = per_step
    state, q = self._encode(constants, state)
    p = self._predict(constants, state)
    latents = jnp.where(informed, q.at(noise), p.at(noise))
    return self._decode(constants, state, latents), None

  def _posterior_density_step(self, constants, state, latents):
    """Take the given z_t; also return log q(z_t|x, z_<t) [batch]."""
    state, q = self._encode(constants, state)
    return self._decode(constants, state, latents), q.log_prob(latents)

  def _prior_density_step(self, constants, state, latents):
    """Take the given z_t; also return log p(z_t|z_<t) [batch]."""
    p = self._predict(constants, state)
    p = DiagonalGaussian(*(jnp.broadcast_to(x, latents.shape) for x in p))
    return self._decode(constants, state, latents), p.log_prob(latents)

  def _encode(self, constants, state):
    """Let the encoder read; return the next state and q(z_t|x, z_<t)."""
    # Gregor et al. 2016: it reads x, whose share is a constant, and its error.
    read = [constants.patches - state.canvas]
    if state.decoder is not None:
      read.append(state.decoder.hidden)
      if self.hidden_to_hidden:
        read.append(state.encoder.hidden)
    gates = self.encoder_gates(jnp.concatenate(read, axis=-1))
    encoder = _lstm(gates + constants.encoder_gates, state.encoder)
    q = _gaussian(self.posterior_parameters(encoder.hidden))
    return state._replace(encoder=encoder), q

  def _predict(self, constants, state):
    """Return p(z_t|z_<t), with a batch of 1 where all examples share it."""
    if state.decoder is None:
      hidden = jnp.zeros((1, *self.grid, self.hidden_channels))
    else:
      hidden = state.decoder.hidden
    return _gaussian(self.prior_parameters(hidden) + constants.prior)

  def _decode(self, constants, state, latents):
    """Let the decoder read z_t and write; return the next state."""
    read = [latents, state.canvas]
    if self.hidden_to_hidden and state.decoder is not None:
      read.append(state.decoder.hidden)
    gates = self.decoder_gates(jnp.concatenate(read, axis=-1))
    decoder = _lstm(gates + constants.decoder_gates, state.decoder)
    canvas = state.canvas + self.write(decoder.hidden)
    return state._replace(decoder=decoder, canvas=canvas)

  def _kl(self, constants, q, hidden):
    """Return KL[q(z_t|x, z_<t); p(z_t|z_<t)] by step and latent [batch, -1]."""
    # No step of the training pass waits for its prior: after the loop, a single
    # convolution of all steps as one batch replaces num_steps small ones.
    # The prior of z_t sees the decoder's hidden state before step t.
    hidden = jnp.concatenate([jnp.zeros_like(hidden[:1]), hidden[:-1]])
    p = self.prior_parameters(jax.lax.collapse(hidden, 0, 2))
    p = p.reshape(*hidden.shape[:2], *p.shape[1:])
    p += jnp.broadcast_to(constants.prior, p.shape)
    q, p = jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), (q, _gaussian(p)))
    terms = q.kl_to_by_value(p).reshape(*hidden.shape[:2], -1)
    by_latent = jax.lax.collapse(jnp.moveaxis(terms, 0, 1), 1)
    return q.kl_to(p).reshape(hidden.shape[:2]).T, by_latent

  def _constants(self, context, image=None):
    """Compute what is the same in all steps; inference alone has an image."""
    if self.conditional and context is None:
      raise ValueError('a conditional ConvDRAW needs a context, got None')
    encoder = decoder = prior = patches = 0.0
    if self.conditional:
      shares = self.context_shares(self.context_network(context))
      ends = [4 * self.hidden_channels, 8 * self.hidden_channels]
      encoder, decoder, prior = jnp.split(shares, ends, axis=-1)
    if image is not None:
      patches = space_to_depth(image, self.reduction)
      encoder += self.image_gates(patches)
    return Constants(encoder, decoder, prior, patches)

  def _initial_state(self, batch_size):
    """Return a canvas of one color, which is learned, and no LSTM states."""
    gray = hk.initializers.Constant(0.5)
    color = hk.get_parameter('initial_canvas', self.image_shape[2:], init=gray)
    patch = jnp.tile(color.astype(jnp.float32), self.reduction**2)
    canvas = jnp.broadcast_to(patch, (batch_size, *self.grid, len(patch)))
    return State(encoder=None, decoder=None, canvas=canvas)

  def _noise(self, keys):
    """Draw noise [num_steps, batch, ...] from each example's own key."""
    shape = (self.num_steps, *self.grid, self.latent_channels)
    return jnp.moveaxis(per_example_normal(keys, shape), 1, 0)

  def _convolution(self, output_channels, name, **kwargs):
    """Create a convolution on the grid, computing in the policy's type."""
    convolution = self._conv2d(output_channels, name=name, **kwargs)
    return base.with_policy(convolution, self.policy)

  def _conv2d(self, output_channels, **kwargs):
    multiple = _CHANNEL_MULTIPLE if parallel.on_accelerator() else 1
    kwargs |= dict(channel_multiple=multiple)
    return Conv2D(output_channels, self.kernel_size, **kwargs)

  def _context_network(self):
    """Create a network to features [batch, *grid, 2 * context_channels]."""
    local = self._conv2d(self.context_channels, name='context_local')
    layers = [
      self._conv2d(2 * self.context_channels, stride=2, name='context_around'),
      jax.nn.relu,
      hk.Flatten(),
      hk.Linear(self.context_size, name='context_hidden'),
      jax.nn.relu,
      hk.Linear(self.context_size, name='context_hidden'),
      jax.nn.relu,
      hk.Linear(self.context_channels, name='context_global'),
    ]
    whole = hk.Sequential(layers)

    def network(context):
      # A convolution does not see far, so that half of the features are global.
      x = jax.nn.relu(local(space_to_depth(context, self.reduction)))
      everywhere = jnp.broadcast_to(whole(x)[:, None, None], x.shape)
      return jnp.concatenate([x, everywhere], axis=-1)

    return base.with_policy(network, self.policy)


def num_unrolled(length: int) -> int:
  """Return how many of a loop's steps an iteration of its program takes."""
  if not parallel.on_accelerator():
    return 1
  # In equal shares, since the remainder is unrolled too. A loop of one step is
  # unrolled by two, so that no loop is left.
  num_iterations = -(-length // _UNROLLED_STEPS)
  return length // num_iterations if length > 1 else 2


def _lstm(gates: jax.Array, state: LSTMState | None) -> LSTMState:
  """Return a ConvLSTM's next state from its four gates (Shi et al. 2015)."""
  write, forget, candidate, read = jnp.split(gates, 4, axis=-1)
  cell = jax.nn.sigmoid(write) * jnp.tanh(candidate)
  if state is not None:
    # The bias of 1.0 is toward remembering (Jozefowicz et al. 2015).
    cell += jax.nn.sigmoid(forget + 1.0) * state.cell
  return LSTMState(jax.nn.sigmoid(read) * jnp.tanh(cell), cell)


def _gaussian(parameters: jax.Array) -> DiagonalGaussian:
  """Split parameters [..., 2 * channels] into means and log deviations."""
  return DiagonalGaussian(*jnp.split(parameters, 2, axis=-1))
