"""The batch of a step, as a pure function of (seed, step)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from geco_jax.datasets.images import Images


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


def max_epochs_spanned(num_positions: int, num_examples: int) -> int:
  """Returns how many epochs a run of consecutive positions can touch."""
  return (num_positions + num_examples - 2) // num_examples + 1


def epoch_orders(
  key: jax.Array, first_epoch: jax.Array, num_epochs: int, num_examples: int
) -> jax.Array:
  """Returns the order of examples in consecutive epochs.

  Args:
    key: of the run's data.
    first_epoch: int32 [].
    num_epochs: how many.
    num_examples: n.

  Returns:
    int32 [num_epochs, n], each row a permutation that depends on the key and
    the epoch alone.
  """

  def order(epoch):
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)

  return jax.lax.map(order, first_epoch + jnp.arange(num_epochs))


def indices_at(
  orders: jax.Array, first_epoch: jax.Array, positions: jax.Array
) -> jax.Array:
  """Returns which examples stand at `positions` of the run's data stream.

  The stream is the concatenation of the epochs' orders, so that no example is
  missed or repeated within an epoch even where a batch straddles two.

  Args:
    orders: int32 [num_epochs, n] from `epoch_orders`.
    first_epoch: int32 [], the epoch of its first row.
    positions: int32 [batch], the step's batch size times the step onwards.

  Returns:
    int32 [batch].
  """
  num_examples = orders.shape[1]
  epochs, offsets = positions // num_examples, positions % num_examples
  return orders[epochs - first_epoch, offsets]
