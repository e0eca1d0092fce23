"""The batch of a step, as a pure function of (seed, step)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from geco_jax.datasets.images import Images

# Of the Feistel network. With six, pairs within an epoch of ten examples were
# measurably not uniform, with ten and more they were.
_ROUNDS = 16


class Batch(NamedTuple):
  """Decoded examples."""

  image: jax.Array  # float32 [batch, height, width, channels] in [0, 1].
  label: jax.Array  # int32 [batch], -1 where there are no labels.


def decode(images: Images, indices: jax.Array) -> Batch:
  """Returns the examples at `indices` [batch] of device-resident images."""
  image = jnp.asarray(images.image)[indices]
  return Batch(
    image=image.astype(jnp.float32) / 255.0,
    label=jnp.asarray(images.label)[indices],
  )


def indices_at(
  key: jax.Array, positions: jax.Array, num_examples: int
) -> jax.Array:
  """Returns which examples stand at `positions` of the run's data stream.

  The stream is a new order of the examples for every epoch, one epoch after
  another: no example is missed or repeated within an epoch, even where a batch
  straddles two. Any position can be looked up by itself, in microseconds where
  a sorted permutation of the whole epoch takes milliseconds of every call.

  An epoch's order is a pseudo-random permutation: a Feistel network over the
  smallest domain of 4^b >= n numbers, walked until it lands below n (Black and
  Rogaway 2002, "Ciphers with arbitrary finite domains").

  Args:
    key: of the run's data.
    positions: int32 [batch], the step's batch size times the step onwards.
    num_examples: n.

  Returns:
    int32 [batch], in [0, n).
  """
  epochs, offsets = positions // num_examples, positions % num_examples
  half_bits = max(1, ((num_examples - 1).bit_length() + 1) // 2)
  round_keys = jax.vmap(
    lambda epoch: jax.random.bits(jax.random.fold_in(key, epoch), [_ROUNDS])
  )(epochs)

  def permute(x):
    left, right = x >> half_bits, x & ((1 << half_bits) - 1)
    for i in range(_ROUNDS):
      mixed = _mix(right + round_keys[:, i]) & ((1 << half_bits) - 1)
      left, right = right, left ^ mixed
    return (left << half_bits) | right

  def walk(x):
    return jnp.where(x >= num_examples, permute(x), x)

  indices = jax.lax.while_loop(
    lambda x: jnp.any(x >= num_examples),
    walk,
    permute(offsets.astype(jnp.uint32)),
  )
  return indices.astype(jnp.int32)


def _mix(x: jax.Array) -> jax.Array:
  """Returns 32 well mixed bits of each x, by the finalizer of MurmurHash3."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
