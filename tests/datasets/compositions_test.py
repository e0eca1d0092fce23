"""Tests of the composed data sets."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from geco_jax.choices import COMPOSITIONS
from geco_jax.datasets import compositions
from geco_jax.datasets import sources
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.keys import per_example_keys

SPLITS = {'train': 80, 'validation': 40, 'test': 40}
BYTE = 255


def coded_base(sizes=SPLITS, num_labels=10, channels=1):
  """Return a base whose pixels say which image of which split they are.

  Pixel 0 is the image's number, pixel 1 its split, pixel 2 its label.
  """
  splits = {}
  for code, (name, size) in enumerate(sizes.items()):
    label = np.arange(size) % num_labels
    image = np.zeros((size, 2, 2, channels), np.uint8)
    image[:, 0, 0] = np.arange(size)[:, None]
    image[:, 0, 1] = 10 + code
    image[:, 1, 0] = label[:, None]
    splits[name] = Images(image, label.astype(np.int32))
  return ImageSet('codes', splits)


def code_of(image):
  """Return the bytes [.., 3] that each channel's pixels spell."""
  pixels = np.round(np.asarray(image) * BYTE).astype(int)
  pixels = np.moveaxis(pixels, -1, 1)
  return np.stack(
    [pixels[..., 0, 0], pixels[..., 0, 1], pixels[..., 1, 0]], axis=-1
  )


@functools.cache
def composed(name):
  """Return the data set of the coded base, and its assembly compiled."""
  dataset = COMPOSITIONS[name](coded_base())
  return dataset, jax.jit(dataset.assemble)


@functools.cache
def batch_of(name, num_examples=400, split='train', seed=0):
  """Return a batch of the coded base: codes and labels of all its digits."""
  dataset, assemble = composed(name)
  images = dataset.splits[split]
  numbers = jnp.arange(num_examples)
  keys = per_example_keys(jax.random.key(seed), numbers)
  batch = assemble(images, numbers % len(images.label), keys)
  parts = [(batch.image, batch.label.reshape(num_examples, -1))]
  if batch.context is not None:
    parts.insert(0, (batch.context, batch.context_label))
  codes = np.concatenate([code_of(image) for image, _ in parts], axis=1)
  labels = np.concatenate([label for _, label in parts], axis=1)
  return codes, labels


UPRIGHT = ['color_mnist', 'mnist_triplets', 'mnist_sum', 'mnist_sum_hard']


@pytest.mark.parametrize('name', UPRIGHT)
def test_labels_are_those_of_the_digits_shown(name):
  codes, labels = batch_of(name)
  np.testing.assert_array_equal(codes[..., 2], labels)


@pytest.mark.parametrize('name', [*UPRIGHT, 'mnist_rotate'])
@pytest.mark.parametrize('split', SPLITS)
def test_splits_never_leak(name, split):
  codes, _ = batch_of(name, split=split)
  upright = codes[:, :2] if name == 'mnist_rotate' else codes
  assert set(upright[..., 1].ravel()) == {10 + [*SPLITS].index(split)}


@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize(
  ('name', 'order'),
  [
    ('mnist_triplets', (0, 1, 2)),
    ('mnist_sum', (0, 1, 2)),
    ('mnist_sum_hard', (1, 2, 0)),  # The context stands first.
  ],
)
def test_every_triplet_adds_up(name, order, split):
  _, labels = batch_of(name, split=split)
  first, second, result = (labels[:, i] for i in order)
  np.testing.assert_array_equal(result, (first + second) % 10)


@pytest.mark.parametrize('name', [*UPRIGHT, 'mnist_rotate'])
def test_over_an_epoch_every_digit_comes_once(name):
  codes, _ = batch_of(name)
  own = 1 if name == 'mnist_sum_hard' else 0
  for epoch in codes[:, own, 0].reshape(-1, 80):
    assert sorted(epoch) == [*range(80)]


def uniform(counts):
  return scipy.stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_pairs_are_uniform():
  codes, labels = batch_of('mnist_sum', num_examples=64_000)
  pairs = np.zeros((80, 80), int)
  np.add.at(pairs, (codes[:, 0, 0], codes[:, 1, 0]), 1)
  assert uniform(pairs)
  label_pairs = np.zeros((10, 10), int)
  np.add.at(label_pairs, (labels[:, 0], labels[:, 1]), 1)
  assert uniform(label_pairs)


def test_results_are_uniform_within_their_label():
  codes, _ = batch_of('mnist_triplets', num_examples=64_000)
  assert uniform(np.bincount(codes[:, 2, 0], minlength=80))


def test_rotation_takes_every_other_digit_of_the_label_as_often():
  codes, labels = batch_of('mnist_rotate', num_examples=64_000)
  upright = labels[:, 1] == 0  # Turned, a code cannot be read.
  first, result = codes[upright, 0, 0], codes[upright, 2, 0]
  pairs = np.zeros((80, 80), int)
  np.add.at(pairs, (first, result), 1)
  # The base's labels are its images' numbers mod 10.
  numbers = np.arange(80)
  same_label = numbers[:, None] % 10 == numbers[None] % 10
  allowed = same_label & ~np.eye(80, dtype=bool)
  assert not pairs[~allowed].any()
  assert uniform(pairs[allowed])


def test_colors_are_independent():
  codes, _ = batch_of('color_mnist', num_examples=64_000)
  for a, b in ((0, 1), (0, 2), (1, 2)):
    pairs = np.zeros((80, 80), int)
    np.add.at(pairs, (codes[:, a, 0], codes[:, b, 0]), 1)
    assert uniform(pairs)


def test_all_thousand_modes_come():
  _, labels = batch_of('color_mnist', num_examples=64_000)
  assert len(np.unique(labels, axis=0)) == 1_000


@functools.cache
def digits():
  return sources.digits()


@pytest.mark.parametrize('name', COMPOSITIONS)
def test_an_example_is_what_its_index_and_key_say(name):
  dataset = COMPOSITIONS[name](digits())
  images = dataset.splits['test']
  numbers = jnp.arange(len(images.label))[:16]
  keys = per_example_keys(jax.random.key(3), numbers)
  whole = dataset.assemble(images, numbers, keys)
  part = jax.jit(dataset.assemble)(images, numbers[5:9], keys[5:9])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[5:9], b, atol=1e-6), whole, part
  )
  alone = jax.jit(jax.vmap(functools.partial(dataset.assemble, images)))(
    numbers[:, None], keys[:, None]
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b[:, 0], atol=1e-6), whole, alone
  )
  other = dataset.assemble(images, numbers, keys[::-1])
  assert np.array_equal(whole.image, other.image) == (name == 'micro_mnist')


def test_rotated_target_is_scipys_rotation_of_another_digit_of_its_label():
  dataset = compositions.mnist_rotate(digits())
  images = dataset.splits['test']
  batch = fixed_batch(dataset, images, jnp.arange(len(images.label)))
  assert set(np.asarray(batch.context_label[:, 1])) == set(range(10))
  np.testing.assert_array_equal(batch.label, batch.context_label[:, 0])
  for i, (label, turns) in enumerate(np.asarray(batch.context_label)):
    candidates = np.flatnonzero(images.label == label)
    assert i in candidates
    turned = [
      scipy.ndimage.rotate(
        images.image[c, ..., 0] / 255.0, 30.0 * turns, reshape=False, order=1
      )
      for c in candidates
    ]
    errors = np.abs(turned - np.asarray(batch.image)[i, ..., 0]).max((1, 2))
    assert errors.min() < 1e-3
    # I0 and I2 are never the same digit.
    assert errors[candidates == i] > 1e-3


@pytest.mark.parametrize('size', [7, 8])
def test_rotation_is_scipys_at_every_angle(size):
  image = np.random.default_rng(0).uniform(size=(size, size + 1))
  for turns in range(10):
    expected = scipy.ndimage.rotate(image, 30 * turns, reshape=False, order=1)
    got = compositions.rotate(jnp.asarray(image), jnp.float32(30 * turns))
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_micro_mnist_is_seven_digits_of_each_split_always_the_same():
  first, second = (compositions.micro_mnist(digits()) for _ in range(2))
  for name, images in first.splits.items():
    assert len(np.unique(images.image, axis=0)) == 7
    np.testing.assert_array_equal(images.image, second.splits[name].image)
    base_images = digits().splits[name].image
    for image in images.image:
      assert (base_images == image).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize('name', COMPOSITIONS)
def test_bases_that_cannot_be_composed_are_refused(name):
  with pytest.raises(ValueError, match='codes has images of 3 channels'):
    COMPOSITIONS[name](coded_base(channels=3))
  with pytest.raises(ValueError, match='the train split of codes needs the la'):
    COMPOSITIONS[name](coded_base(num_labels=9))


def test_rotation_refuses_a_base_with_a_lonely_digit():
  sizes = {'train': 20, 'validation': 10, 'test': 20}
  with pytest.raises(ValueError, match='the validation split .* at least 2'):
    compositions.mnist_rotate(coded_base(sizes))
  compositions.mnist_sum(coded_base(sizes))


@pytest.mark.slow  # Decodes all of MNIST.
@pytest.mark.skipif(
  'TFDS_DATA_DIR' not in os.environ,
  reason='TFDS_DATA_DIR, with a prepared mnist, is not set',
)
def test_triplets_of_real_mnist_add_up():
  base = sources.tfds_images('mnist')
  dataset = compositions.mnist_triplets(base)
  batch = fixed_batch(dataset, dataset.splits['test'], jnp.arange(256) * 39)
  labels = np.asarray(batch.label)
  np.testing.assert_array_equal(labels[:, 2], labels[:, :2].sum(axis=1) % 10)
  assert batch.image.shape == (256, 28, 28, 3)
  assert len(np.unique(labels[:, 0])) == 10


def test_a_triplets_second_and_third_digit_are_drawn_independently():
  """Which image of its label the third is says nothing of the second."""
  codes, _ = batch_of('mnist_triplets', num_examples=64_000)
  # The base's labels are its images' numbers mod 10: eight of each.
  pairs = np.zeros((80, 8), int)
  np.add.at(pairs, (codes[:, 1, 0], codes[:, 2, 0] // 10), 1)
  assert uniform(pairs)


def test_how_far_a_digit_is_turned_says_nothing_of_which_it_is():
  """Each of 110 digits has ten others: draws modulo both would agree."""
  sizes = {'train': 110, 'validation': 20, 'test': 20}
  dataset = compositions.mnist_rotate(coded_base(sizes))
  label = jnp.asarray(dataset.splits['train'].label)
  numbers = jnp.arange(64_000)
  keys = per_example_keys(jax.random.key(0), numbers)
  chosen = jax.jit(dataset.choose)(label, numbers % 110, keys)
  first, second, result = np.asarray(chosen).T
  pairs = np.zeros((110, 11), int)
  np.add.at(pairs, (second, (result - first) % 11), 1)
  assert not pairs[:, 0].any()
  assert uniform(pairs[:, 1:])


def test_micro_mnist_never_takes_a_digit_twice():
  """A base of ten images would show it."""
  base = coded_base({'train': 10, 'validation': 10, 'test': 10})
  for images in compositions.micro_mnist(base).splits.values():
    assert len(np.unique(images.label)) == 7
