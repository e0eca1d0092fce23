"""The paper's data sets that are composed of single digits (Section 4.1).

Each is a function of a base, any set of grey images with the labels 0 to 9. A
batch is composed on the device: example i has the base's image i in it, so that
all come once per epoch; what else it has is drawn from the example's own key,
from the same split. To add one, write a function `base -> Dataset` and enter it
in `build.COMPOSITIONS`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import decode
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet

_NUM_LABELS = 10
_DEGREES_PER_LABEL = 30.0
_ROUNDING = 1e-4  # In pixels, of a place turned by 90 degrees and the like.
_MICRO_SIZE = 7
_MICRO_SEED = 0


def color_mnist(base: ImageSet) -> Dataset:
  """Returns Color-MNIST: three independent digits in the colour channels.

  This is the reading of Metz et al. 2017 ("Unrolled Generative Adversarial
  Networks"), whom the paper cites, with its 1,000 modes; also known as stacked
  MNIST. Others call a single digit in one colour by the same name.

  Batches have images [batch, height, width, 3], labels [batch, 3].

  Raises:
    ValueError: if the base is not of grey images labelled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def assemble(images, indices, keys):
    chosen = [indices]
    for number in (0, 1):
      chosen.append(_any(_keys(keys, number), images))
    image, label = _stack(images, chosen)
    return Batch(image, label)

  return Dataset(f'color_mnist of {base.name}', splits, (*shape, 3), assemble)


def mnist_triplets(base: ImageSet) -> Dataset:
  """Returns MNIST-triplets: I0, I1, I2 with l2 = (l0 + l1) mod 10.

  Batches have images [batch, height, width, 3], a digit in each channel, and
  labels [batch, 3].

  Raises:
    ValueError: if the base is not of grey images labelled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def assemble(images, indices, keys):
    image, label = _stack(images, _triplet(images, indices, keys))
    return Batch(image, label)

  return Dataset(
    f'mnist_triplets of {base.name}',
    splits,
    (*shape, 3),
    assemble,
    channels_are_images=True,
  )


def mnist_sum(base: ImageSet) -> Dataset:
  """Returns MNIST-sum: I2 given I0 and I1, l2 = (l0 + l1) mod 10.

  Batches have images [batch, height, width, 1], labels [batch], contexts
  [batch, height, width, 2] and their labels [batch, 2].

  Raises:
    ValueError: if the base is not of grey images labelled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def assemble(images, indices, keys):
    first, second, result = _triplet(images, indices, keys)
    image, label = _stack(images, [result])
    return Batch(image, label[:, 0], *_stack(images, [first, second]))

  return Dataset(
    f'mnist_sum of {base.name}',
    splits,
    (*shape, 1),
    assemble,
    context_shape=(*shape, 2),
    channels_are_images=True,
  )


def mnist_sum_hard(base: ImageSet) -> Dataset:
  """Returns MNIST-sum-hard: I0 and I1 given I2, l2 = (l0 + l1) mod 10.

  Batches have images [batch, height, width, 2], labels [batch, 2], contexts
  [batch, height, width, 1] and their labels [batch, 1].

  Raises:
    ValueError: if the base is not of grey images labelled 0 to 9.
  """
  splits, shape = _sorted_by_label(base)

  def assemble(images, indices, keys):
    first, second, result = _triplet(images, indices, keys)
    image, label = _stack(images, [first, second])
    return Batch(image, label, *_stack(images, [result]))

  return Dataset(
    f'mnist_sum_hard of {base.name}',
    splits,
    (*shape, 2),
    assemble,
    context_shape=(*shape, 1),
    channels_are_images=True,
  )


def mnist_rotate(base: ImageSet) -> Dataset:
  """Returns MNIST-rotate: I2 given I0 and I1, turned by l1 * 30 degrees.

  I2 is another digit of label l0, turned about its centre: anticlockwise, where
  the paper does not say, with bilinear interpolation and black from outside.

  Batches have images [batch, height, width, 1], labels l0 [batch], contexts
  [batch, height, width, 2] and their labels [batch, 2].

  Raises:
    ValueError: if the base is not of grey images labelled 0 to 9, two of each.
  """
  splits, shape = _sorted_by_label(base, least=2)

  def assemble(images, indices, keys):
    second = _any(_keys(keys, 0), images)
    result = _another_like(_keys(keys, 1), images, indices)
    contexts, labels = _stack(images, [indices, second])
    image, label = _stack(images, [result])
    turned = jax.vmap(rotate)(
      image[..., 0], labels[:, 1] * jnp.float32(_DEGREES_PER_LABEL)
    )
    return Batch(turned[..., jnp.newaxis], label[:, 0], contexts, labels)

  return Dataset(
    f'mnist_rotate of {base.name}',
    splits,
    (*shape, 1),
    assemble,
    context_shape=(*shape, 2),
    channels_are_images=True,
  )


def micro_mnist(base: ImageSet) -> Dataset:
  """Returns Micro-MNIST: seven random digits of each split, always the same.

  Batches have images [batch, height, width, 1], labels [batch].

  Raises:
    ValueError: if the base is not of grey images labelled 0 to 9.
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
  base: ImageSet, least: int = 1
) -> tuple[Mapping[str, Images], tuple[int, int]]:
  """Returns the splits, labels ascending, and the images' height and width."""
  *shape, channels = base.splits['train'].image.shape[1:]
  if channels != 1:
    raise ValueError(
      f'{base.name} has images of {channels} channels; digits are composed of '
      'images of one'
    )
  splits = {}
  for name, images in base.splits.items():
    labels, counts = np.unique(images.label, return_counts=True)
    if labels.tolist() != [*range(_NUM_LABELS)] or counts.min() < least:
      raise ValueError(
        f'the {name} split of {base.name} needs the labels 0 to 9, at least '
        f'{least} images of each; it has the labels {labels.tolist()}, at '
        f'least {counts.min()} of each'
      )
    order = np.argsort(images.label, kind='stable')
    splits[name] = Images(*(array[order] for array in images))
  return splits, (shape[0], shape[1])


def _triplet(images, indices, keys):
  """Returns the indices [batch] of I0, I1, I2 with l2 = (l0 + l1) mod 10."""
  label = jnp.asarray(images.label)
  second = _any(_keys(keys, 0), images)
  wanted = (label[indices] + label[second]) % _NUM_LABELS
  start, count = _range_of(images, wanted)
  return indices, second, start + _uniform(_keys(keys, 1), count)


def _any(keys, images):
  """Returns indices uniform over the split [batch]."""
  return _uniform(keys, jnp.full(keys.shape, len(images.label)))


def _another_like(keys, images, indices):
  """Returns indices of other images with the same labels [batch]."""
  start, count = _range_of(images, jnp.asarray(images.label)[indices])
  steps = 1 + _uniform(keys, count - 1)
  return start + (indices - start + steps) % count


def _range_of(images, labels):
  """Returns where labels start, and how many there are of each [batch]."""
  bounds = jnp.searchsorted(
    jnp.asarray(images.label), jnp.arange(_NUM_LABELS + 1)
  )
  return bounds[labels], bounds[labels + 1] - bounds[labels]


def _uniform(keys, count):
  """Returns integers uniform in [0, count) [batch]."""
  return jax.vmap(lambda key, n: jax.random.randint(key, [], 0, n))(keys, count)


def _keys(keys, number):
  """Returns the keys [batch] of an example's random part of that number."""
  return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _stack(images, chosen):
  """Returns the chosen images in channels and their labels [batch, .]."""
  indices = jnp.stack(chosen, axis=-1)
  image = jnp.asarray(images.image)[..., 0][indices]
  return (
    decode(jnp.moveaxis(image, 1, -1)),
    jnp.asarray(images.label)[indices],
  )


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
  """Returns [height, width] turned about its centre, anticlockwise."""
  centre = (jnp.array(image.shape) - 1) / 2
  angle = jnp.deg2rad(degrees)
  rows, columns = jnp.meshgrid(
    *(jnp.arange(n) - c for n, c in zip(image.shape, centre, strict=True)),
    indexing='ij',
  )
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  # Where each pixel comes from: turned back.
  source = [
    cosine * rows + sine * columns + centre[0],
    cosine * columns - sine * rows + centre[1],
  ]
  turned = jax.scipy.ndimage.map_coordinates(image, source, order=1)
  # As scipy.ndimage.rotate, whose images end at the centres of their edges.
  inside = [
    (x > -_ROUNDING) & (x < n - 1 + _ROUNDING)
    for x, n in zip(source, image.shape, strict=True)
  ]
  return jnp.where(inside[0] & inside[1], turned, 0.0)
