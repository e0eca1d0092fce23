"""The paper's data sets that are composed of single digits (Section 4.1).

Each is a function of a base, any set of gray images with the labels 0 to 9. A
batch is composed on the device; its images are chosen where they are stored, by
labels alone. Example i contains the base's image i, so that every image comes
once per epoch; the other images are drawn from the same split by the example's
own key. To add one, write a function `base -> Dataset` and
enter it in `choices.COMPOSITIONS`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax.datasets import scratch
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import decode
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.io import files

_NUM_LABELS = 10
_DEGREES_PER_LABEL = 30.0
# In pixels: rounding may put a point rotated by 90 degrees just outside.
_ROUNDING = 1e-4
_MICRO_SIZE = 7
_MICRO_SEED = 0


def color_mnist(base: ImageSet) -> Dataset:
  """Return Color-MNIST: three independent digits in the color channels.

  This is the reading of Metz et al. 2017 ("Unrolled Generative Adversarial
  Networks"), whom the paper cites, with its 1,000 modes; also known as stacked
  MNIST. Others call a single digit in one color by the same name.

  Batches have images [batch, height, width, 3], labels [batch, 3].

  Raises:
    ValueError: if the base is not of gray images labeled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def choose(label, indices, keys):
    chosen = [indices]
    for number in (0, 1):
      chosen.append(_uniform_indices(_keys(keys, number), label))
    return jnp.stack(chosen, axis=-1)

  return Dataset(
    f'color_mnist of {base.name}', splits, (*shape, 3), choose, _in_channels
  )


def mnist_triplets(base: ImageSet) -> Dataset:
  """Return MNIST-triplets: I0, I1, I2 with l2 = (l0 + l1) mod 10.

  Batches have images [batch, height, width, 3], a digit in each channel, and
  labels [batch, 3].

  Raises:
    ValueError: if the base is not of gray images labeled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  return Dataset(
    f'mnist_triplets of {base.name}',
    splits,
    (*shape, 3),
    _triplet,
    _in_channels,
    channels_are_images=True,
  )


def mnist_sum(base: ImageSet) -> Dataset:
  """Return MNIST-sum: I2 given I0 and I1, l2 = (l0 + l1) mod 10.

  Batches have images [batch, height, width, 1], labels [batch], contexts
  [batch, height, width, 2] and their labels [batch, 2].

  Raises:
    ValueError: if the base is not of gray images labeled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def compose(image, label):
    image, label, *_ = _in_channels(image, label)
    return Batch(image[..., 2:], label[:, 2], image[..., :2], label[:, :2])

  return Dataset(
    f'mnist_sum of {base.name}',
    splits,
    (*shape, 1),
    _triplet,
    compose,
    context_shape=(*shape, 2),
    channels_are_images=True,
  )


def mnist_sum_hard(base: ImageSet) -> Dataset:
  """Return MNIST-sum-hard: I0 and I1 given I2, l2 = (l0 + l1) mod 10.

  Batches have images [batch, height, width, 2], labels [batch, 2], contexts
  [batch, height, width, 1] and their labels [batch, 1].

  Raises:
    ValueError: if the base is not of gray images labeled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def compose(image, label):
    image, label, *_ = _in_channels(image, label)
    return Batch(image[..., :2], label[:, :2], image[..., 2:], label[:, 2:])

  return Dataset(
    f'mnist_sum_hard of {base.name}',
    splits,
    (*shape, 2),
    _triplet,
    compose,
    context_shape=(*shape, 1),
    channels_are_images=True,
  )


def mnist_rotate(base: ImageSet) -> Dataset:
  """Return MNIST-rotate: I2 given I0 and I1, rotated by l1 * 30 degrees.

  I2 is another digit of label l0, rotated about its center. The paper does not
  say how: here counterclockwise, with bilinear interpolation, black outside.

  Batches have images [batch, height, width, 1], labels l0 [batch], contexts
  [batch, height, width, 2] and their labels [batch, 2].

  Raises:
    ValueError: if the base is not of gray images labeled 0 to 9, two of each.
  """
  splits, shape = _sorted_by_label(base, min_count=2)

  def choose(label, indices, keys):
    second = _uniform_indices(_keys(keys, 0), label)
    result = _same_label_indices(_keys(keys, 1), label, indices)
    return jnp.stack([indices, second, result], axis=-1)

  def compose(image, label):
    image, label, *_ = _in_channels(image, label)
    rotated = jax.vmap(rotate)(
      image[..., 2], label[:, 1] * jnp.float32(_DEGREES_PER_LABEL)
    )[..., jnp.newaxis]
    return Batch(rotated, label[:, 2], image[..., :2], label[:, :2])

  return Dataset(
    f'mnist_rotate of {base.name}',
    splits,
    (*shape, 1),
    choose,
    compose,
    context_shape=(*shape, 2),
    channels_are_images=True,
  )


def micro_mnist(base: ImageSet) -> Dataset:
  """Return Micro-MNIST: seven random digits of each split, always the same.

  Batches have images [batch, height, width, 1], labels [batch].

  Raises:
    ValueError: if the base is not of gray images labeled 0 to 9.
  """
  sorted_splits, shape = _sorted_by_label(base)
  splits = {}
  for name, images in sorted_splits.items():
    chosen = np.random.default_rng(_MICRO_SEED).choice(
      len(images.label), _MICRO_SIZE, replace=False
    )
    splits[name] = Images(*(array[chosen] for array in images))

  return as_dataset(ImageSet(f'micro_mnist of {base.name}', splits))


def _sorted_by_label(
  base: ImageSet, min_count: int = 1
) -> tuple[Mapping[str, Images], tuple[int, int]]:
  """Return the splits, labels ascending, and the images' height and width."""
  *shape, channels = base.splits['train'].image.shape[1:]
  if channels != 1:
    raise ValueError(
      f'{base.name} has images of {channels} channels; digits are composed of '
      'images of one'
    )
  splits = {}
  for name, images in base.splits.items():
    labels, counts = np.unique(images.label, return_counts=True)
    least = min(counts.tolist(), default=0)
    if labels.tolist() != [*range(_NUM_LABELS)] or least < min_count:
      raise ValueError(
        f'the {name} split of {base.name} needs the labels 0 to 9, at least '
        f'{min_count} images of each; it has the labels {labels.tolist()}, at '
        f'least {least} of each'
      )
    order = np.argsort(images.label, kind='stable')
    with scratch.in_folder(files.cache_folder):
      splits[name] = Images(*(scratch.take(array, order) for array in images))
  return splits, (shape[0], shape[1])


def _triplet(label, indices, keys):
  """Choose I0, I1, I2 with l2 = (l0 + l1) mod 10 [batch, 3]."""
  second = _uniform_indices(_keys(keys, 0), label)
  total = (label[indices] + label[second]) % _NUM_LABELS
  start, count = _label_range(label, total)
  third = start + _uniform(_keys(keys, 1), count)
  return jnp.stack([indices, second, third], axis=-1)


def _uniform_indices(keys, label):
  """Return indices uniform over the split [batch]."""
  return _uniform(keys, jnp.full(keys.shape, len(label)))


def _same_label_indices(keys, label, indices):
  """Return indices of other images with the same labels [batch]."""
  start, count = _label_range(label, label[indices])
  # A step from 1 to count - 1 around the label's images never returns.
  steps = 1 + _uniform(keys, count - 1)
  return start + (indices - start + steps) % count


def _label_range(label, labels):
  """Return where labels start, and how many there are of each [batch]."""
  bounds = jnp.searchsorted(label, jnp.arange(_NUM_LABELS + 1))
  return bounds[labels], bounds[labels + 1] - bounds[labels]


def _uniform(keys, count):
  """Return integers uniform in [0, count) [batch]."""
  return jax.vmap(lambda key, n: jax.random.randint(key, [], 0, n, jnp.int32))(
    keys, count
  )


def _keys(keys, number):
  """Return the keys [batch] of the examples' random choice of that number."""
  return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _in_channels(image, label):
  """Return gray images [batch, images, ...] as the channels of one."""
  return Batch(decode(jnp.moveaxis(image[..., 0], 1, -1)), label)


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
  """Return [height, width] rotated counterclockwise about its center."""
  center = (jnp.array(image.shape) - 1) / 2
  angle = jnp.deg2rad(degrees)
  rows, columns = jnp.meshgrid(
    *(jnp.arange(n) - c for n, c in zip(image.shape, center, strict=True)),
    indexing='ij',
  )
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  # The place that each pixel comes from: its own, rotated back.
  source = [
    cosine * rows + sine * columns + center[0],
    cosine * columns - sine * rows + center[1],
  ]
  rotated = jax.scipy.ndimage.map_coordinates(image, source, order=1)
  # scipy.ndimage.rotate likewise ends images at the centers of edge pixels.
  inside = [
    (x > -_ROUNDING) & (x < n - 1 + _ROUNDING)
    for x, n in zip(source, image.shape, strict=True)
  ]
  return jnp.where(inside[0] & inside[1], rotated, 0.0)
