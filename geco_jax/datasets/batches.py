"""The batch of a step, as a pure function of (seed, step)."""

from collections.abc import Callable, Mapping
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys

# Rounds of the Feistel network. With six, pairs within an epoch of ten examples
# were measurably not uniform; with ten and more they were.
_ROUNDS = 16
MAX_EXAMPLES = 2**31  # A run draws fewer: their positions are int32.
# Placements of the images.
DEVICE, HOST = 'device', 'host'
# Seed of the examples' random choices outside training.
_FIXED_SEED = 1


class Batch(NamedTuple):
  """Decoded examples.

  Attributes:
    image: float32 [batch, height, width, channels] in [0, 1].
    label: int32 [batch], -1 where there are no labels; [batch, channels] where
      every channel is an image with a label of its own.
    context: what a conditional model knows about the image, an array like
      `image`; None where there is no context.
    context_label: int32 [batch, channels] of the context; None without one.
  """

  image: jax.Array
  label: jax.Array
  context: jax.Array | None = None
  context_label: jax.Array | None = None


class Dataset(NamedTuple):
  """Images and how a batch is made of them.

  Attributes:
    name: display name.
    splits: 'train', 'validation' and 'test', on the host.
    image_shape: shape of one image of a batch.
    choose: (labels of a split [n], indices [batch], keys [batch]) -> which
      images make the examples, int32 [batch] or [batch, images]; its random
      choices come from an example's own key.
    compose: (these images, uint8, their labels) -> the batch.
    context_shape: shape of one context of a batch; None where there is none.
    channels_are_images: whether people want to see the channels side by side.
    placement: 'device' or 'host', where the images are while they are used.
  """

  name: str
  splits: Mapping[str, Images]
  image_shape: tuple[int, int, int]
  choose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
  compose: Callable[[jax.Array, jax.Array], Batch]
  context_shape: tuple[int, int, int] | None = None
  channels_are_images: bool = False
  placement: str = DEVICE

  @property
  def num_dims(self) -> int:
    """Numbers in an image, D."""
    return math.prod(self.image_shape)

  @property
  def is_composed(self) -> bool:
    """Whether examples are composed of images, so that there are many more."""
    return self.choose is not _themselves

  @property
  def is_on_host(self) -> bool:
    """Whether the host holds the images: no device holds a whole split."""
    return self.placement == HOST

  def assemble(
    self, images: Images, indices: jax.Array, keys: jax.Array
  ) -> Batch:
    """Return the batch of examples, of a split that the device holds.

    Args:
      images: of the split.
      indices: int32 [batch], in [0, n).
      keys: of the examples [batch].
    """
    label = jnp.asarray(images.label)
    chosen = self.choose(label, indices, keys)
    return self.compose(jnp.asarray(images.image)[chosen], label[chosen])


def as_dataset(image_set: ImageSet) -> Dataset:
  """Return the data set whose examples are the images themselves."""
  return Dataset(
    name=image_set.name,
    splits=image_set.splits,
    image_shape=image_set.splits['train'].image.shape[1:],
    choose=_themselves,
    compose=_decoded,
  )


def fixed_batch(dataset: Dataset, images: Images, indices: jax.Array) -> Batch:
  """Return the batch of examples that depend on their indices alone.

  Args:
    dataset: makes the batch.
    images: of a split.
    indices: int32 [batch], >= 0; beyond the split's end its images come again,
      composed with other images where the data set is composed.
  """
  keys = per_example_keys(key_of(_FIXED_SEED), indices)
  return dataset.assemble(images, indices % images.image.shape[0], keys)


def fixed_choice(
  dataset: Dataset, label: jax.Array, indices: jax.Array
) -> jax.Array:
  """Return the images that `fixed_batch` chooses, of labels [n]."""
  keys = per_example_keys(key_of(_FIXED_SEED), indices)
  return dataset.choose(label, indices % label.shape[0], keys)


def evenly_spaced(num_wanted: int, num_examples: int) -> np.ndarray:
  """Return indices of examples from one end of a split to the other.

  The i-th of k is floor(i n / k), so that the whole split is covered also where
  k does not divide n.

  >>> evenly_spaced(4, 7).tolist()
  [0, 1, 3, 5]

  Args:
    num_wanted: examples, >= 1.
    num_examples: n, of the split.

  Returns:
    int64 [min(num_wanted, n)], ascending, in [0, n).
  """
  count = min(num_wanted, num_examples)
  return np.arange(count) * num_examples // count


def decode(image: jax.Array) -> jax.Array:
  """Return uint8 images as float32 in [0, 1].

  Raises:
    UserError: if they are not uint8, like images that are already decoded.
  """
  if image.dtype != jnp.uint8:
    raise UserError(f'images to decode must be uint8, got {image.dtype}')
  return image.astype(jnp.float32) / 255.0


def _themselves(
  label: jax.Array, indices: jax.Array, keys: jax.Array
) -> jax.Array:
  del label, keys
  return indices


def _decoded(image: jax.Array, label: jax.Array) -> Batch:
  return Batch(decode(image), label)


def indices_at(
  key: jax.Array, positions: jax.Array, num_examples: int
) -> jax.Array:
  """Return which examples stand at `positions` of the run's data stream.

  The stream is a new order of the examples for every epoch, one epoch after
  another: no example is missed or repeated within an epoch, even where a batch
  straddles two. Any position can be looked up by itself, in microseconds; a
  sorted permutation of the whole epoch would take milliseconds per call.

  An epoch's order is a pseudo-random permutation: a Feistel network over the
  smallest domain of 4^b >= n numbers, walked until it lands below n (Black and
  Rogaway 2002, "Ciphers with arbitrary finite domains").

  Args:
    key: of the run's data.
    positions: int32 [batch]; step i starts at i times the batch size.
    num_examples: n.

  Returns:
    int32 [batch], in [0, n).
  """
  epochs, offsets = positions // num_examples, positions % num_examples
  # The smallest domain whose bits make two equal halves. It has at most 4 n
  # numbers, so that a walk takes at most four steps on average.
  half_bits = max(1, ((num_examples - 1).bit_length() + 1) // 2)
  round_keys = jax.vmap(
    lambda epoch: jax.random.bits(
      jax.random.fold_in(key, epoch), [_ROUNDS], jnp.uint32
    )
  )(epochs)

  def permute(x):
    # A round is a bijection whatever `_mix` returns: its output contains
    # `right`, so that a second exclusive or would give `left` back.
    left, right = x >> half_bits, x & ((1 << half_bits) - 1)
    for i in range(_ROUNDS):
      mixed = _mix(right + round_keys[:, i]) & ((1 << half_bits) - 1)
      left, right = right, left ^ mixed
    return (left << half_bits) | right

  # A cycle of the permutation through a number below n comes back to one, and
  # no two starts have the same first such number: walking is a bijection too.
  def walk(x):
    return jnp.where(x >= num_examples, permute(x), x)

  indices = jax.lax.while_loop(
    lambda x: jnp.any(x >= num_examples),
    walk,
    permute(offsets.astype(jnp.uint32)),
  )
  return indices.astype(jnp.int32)


def _mix(x: jax.Array) -> jax.Array:
  """Return 32 well mixed bits of each x, by the finalizer of MurmurHash3."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
