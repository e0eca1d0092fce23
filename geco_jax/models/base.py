"""The signature and the output that all models share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax


class ModelOutput(NamedTuple):
  """What a model says of a batch, float32 whatever it computes in."""

  reconstruction: jax.Array  # g(z) [batch, height, width, channels].
  kl: jax.Array  # KL[q(z|x); p(z)] in nats, per example [batch].
  latents: Any  # z ~ q(z|x), a pytree of [batch, ...].
  likelihood_stddev: jax.Array  # sigma of p(x|z), one for all pixels [].


class Model(NamedTuple):
  """A latent-variable model as pure functions.

  Noise comes from one PRNG key per example, so that an example's noise does not
  depend on how the batch is split over devices.

  Attributes:
    init: (key, keys [batch], image [batch, ...]) -> params.
    apply: (params, keys [batch], image [batch, ...]) -> ModelOutput.
    sample: (params, keys [batch]) -> means of p(x|z), z ~ p(z) [batch, ...].
  """

  init: Callable[[jax.Array, jax.Array, jax.Array], hk.Params]
  apply: Callable[[hk.Params, jax.Array, jax.Array], ModelOutput]
  sample: Callable[[hk.Params, jax.Array], jax.Array]
