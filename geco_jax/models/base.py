"""What all models share: signature, output, precision, sigma."""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

ImageShape = tuple[int, int, int]  # (height, width, channels).


class ModelOutput(NamedTuple):
  """A model's output for a batch, float32 whatever type it computes in."""

  reconstruction: jax.Array  # g(z) [batch, height, width, channels].
  kl: jax.Array  # KL[q(z|x); p(z)] in nats, per example [batch].
  kl_by_step: jax.Array  # The KL's terms by model step [batch, num_steps].
  latents: Any  # z ~ q(z|x), a pytree of [batch, ...].
  likelihood_stddev: jax.Array  # sigma of p(x|z), one for all pixels [].
  # The KL's terms by latent [batch, num_latents], where q(z|x) and p(z), of a
  # step given those before, factorize.
  kl_by_latent: jax.Array | None = None


class Posterior(NamedTuple):
  """q(z|x) and p(z) as functions of pairs of z and x.

  What q(z|x) needs to know about x, its conditions, is computed once per x and
  then serves any number of z: `marginal_kl` pairs all z with all x.

  Attributes:
    condition: (params, image [n, ...]) -> conditions, a pytree of [n, ...].
    sample: (params, keys [n], conditions [n, ...]) -> z ~ q(z|x), [n, ...].
    log_prob: (params, z [m, ...], conditions [n, ...]) -> log q(z|x) [m, n].
    log_prior: (params, z [m, ...]) -> log p(z) [m].
  """

  condition: Callable[..., Any]
  sample: Callable[..., jax.Array]
  log_prob: Callable[..., jax.Array]
  log_prior: Callable[..., jax.Array]


class Model(NamedTuple):
  """A latent-variable model as pure functions.

  Noise comes from one PRNG key per example, so that an example's noise does not
  depend on how the batch is split over devices.

  A conditional model takes a context [batch, height, width, channels] that goes
  with the images; the others ignore it and take None too.

  Attributes:
    init: (key, keys [batch], image [batch, ...], context) -> params.
    apply: (params, keys [batch], image [batch, ...], context) -> ModelOutput.
    sample: (params, keys [batch], context) -> means of p(x|z), z ~ p(z)
      [batch, ...].
    reconstruct: (params, keys [batch], image [batch, ...], context,
      num_informed []) -> means of p(x|z) [batch, ...], the latents of the first
      `num_informed` steps from q(z|x), those of later ones from the prior.
    encode: (params, image [batch, ...], context) -> latents as in `ModelOutput`
      at the center of q(z|x): its mean, step by step, where it is Gaussian, and
      what a flow makes of the mean of its noise.
    decode: (params, latents, context) -> means of p(x|z) [batch, ...].
    posterior: q(z|x) and p(z) by themselves; None if they depend on a context.
    num_steps: number of steps in which the latents are drawn.
    conditional: whether it needs a context.
  """

  init: Callable[..., hk.Params]
  apply: Callable[..., ModelOutput]
  sample: Callable[..., jax.Array]
  reconstruct: Callable[..., jax.Array]
  encode: Callable[..., Any]
  decode: Callable[..., jax.Array]
  posterior: Posterior | None = None
  num_steps: int = 1
  conditional: bool = False


class Functions(NamedTuple):
  """A model's functions while Haiku traces: those of `Model` without params."""

  apply: Callable[..., ModelOutput]
  sample: Callable[..., jax.Array]
  reconstruct: Callable[..., jax.Array]
  encode: Callable[..., Any]
  decode: Callable[..., jax.Array]
  posterior: Posterior | None = None


def as_model(
  functions: Callable[[], Functions],
  policy: jmp.Policy,
  *,
  num_steps: int = 1,
  conditional: bool = False,
) -> Model:
  """Return the model of functions that call Haiku modules.

  Args:
    functions: makes the modules and returns functions that call them.
    policy: has the type of the parameters.
    num_steps: see `Model`.
    conditional: see `Model`.
  """

  def traced_functions():
    # Haiku initializes the modules that the first of the two calls.
    traced = functions()
    return traced.apply, traced

  transformed = hk.multi_transform(traced_functions)

  def init(key, keys, image, context=None):
    return policy.cast_to_param(transformed.init(key, keys, image, context))

  def without_key(function):
    # Keys are arguments of these functions: Haiku's own is never asked for.
    return lambda params, *args: function(params, None, *args)

  pure = jax.tree.map(without_key, transformed.apply)
  return Model(
    init=init, **pure._asdict(), num_steps=num_steps, conditional=conditional
  )


def with_policy(network: Callable, policy: jmp.Policy) -> Callable:
  """Return the network computing in the policy's type, float32 at its ends.

  Its parameters are created in their own type: random numbers of a narrow one
  have few values, whose mean is not 0.
  """

  def create_parameter(next_creator, shape, dtype, init, context):
    del dtype, context
    return next_creator(shape, policy.param_dtype, init)

  def cast_parameter(next_getter, value, context):
    del context
    return policy.cast_to_compute(next_getter(value))

  def apply(inputs):
    with (
      hk.custom_creator(create_parameter),
      hk.custom_getter(cast_parameter),
    ):
      outputs = network(policy.cast_to_compute(inputs))
    return outputs.astype(jnp.float32)

  return apply


def stddev_parameter(initial: float, learn: bool) -> jax.Array:
  """Return sigma of p(x|z), a parameter if it is to be learned."""
  log_stddev = jnp.float32(math.log(initial))
  if learn:
    log_stddev = hk.get_parameter(
      'log_likelihood_stddev', [], init=hk.initializers.Constant(log_stddev)
    )
  return jnp.exp(log_stddev.astype(jnp.float32))


def check_stddev(likelihood_stddev: float) -> None:
  """Raise ValueError unless sigma is > 0 and finite."""
  if not 0 < likelihood_stddev < math.inf:
    raise ValueError(
      f'likelihood_stddev must be > 0 and finite, got {likelihood_stddev}'
    )


def check_sizes(name: str, sizes: Sequence[int]) -> None:
  """Raise ValueError unless there are sizes and all are > 0."""
  if not sizes or any(size < 1 for size in sizes):
    raise ValueError(f'{name} must be one or more sizes > 0, got {sizes}')
