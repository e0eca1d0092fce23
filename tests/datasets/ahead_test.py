"""Batches come in order, whole, and what fails is said."""

import threading
import time

import numpy as np
import pytest

from geco_jax.datasets import ahead
from geco_jax.datasets.images import Images
from geco_jax.errors import UserError

IMAGES = Images(
  np.arange(1_000, dtype=np.uint16).reshape(1_000, 1, 1, 1),
  np.arange(1_000, dtype=np.int32),
)


def threads():
  return [t for t in threading.enumerate() if 'geco_jax' in t.name]


def choose(numbers):
  return 7 * numbers % 1_000


@pytest.mark.parametrize('examples_per_task', [1, 9, 1_024])
def test_batch_i_stands_at_i_modulo_the_most(monkeypatch, examples_per_task):
  monkeypatch.setattr(ahead, '_EXAMPLES_PER_TASK', examples_per_task)
  places = np.array([0, 2])
  with ahead.reading('some') as opened:
    batches, number = opened(IMAGES, choose, places, 3, 4, 5), 4
    for count in (1, 5, 2, 5):
      window = batches.take(count)
      assert window.image.shape == (5, 2, 1, 1, 1)
      for i in range(number, number + count):
        expected = choose(3 * i + places)
        np.testing.assert_array_equal(window.label[i % 5], expected)
        np.testing.assert_array_equal(window.image[i % 5].ravel(), expected)
      number += count


def test_several_images_make_an_example():
  with ahead.reading('some') as opened:
    batches = opened(
      IMAGES,
      lambda numbers: np.stack([numbers, 2 * numbers], axis=-1),
      np.arange(4),
      4,
      0,
      2,
    )
    window = batches.take(2)
  np.testing.assert_array_equal(window.label[1, 3], [7, 14])
  np.testing.assert_array_equal(window.image[1, 3].ravel(), [7, 14])


def test_no_more_is_read_than_can_be_taken_next(monkeypatch):
  monkeypatch.setattr(ahead, '_EXAMPLES_PER_TASK', 1)
  read = []

  def count(numbers):
    read.extend(numbers)
    return numbers

  with ahead.reading('some') as opened:
    batches = opened(IMAGES, count, np.arange(1), 1, 0, 3)
    for _ in range(5):
      batches.take(1)
    time.sleep(0.05)
    assert len(read) <= 5 + 3
  assert sorted(read) == [*range(len(read))]


@pytest.mark.parametrize(
  ('error', 'reason'),
  [(OSError(5, 'EIO'), 'Input/output error'), (MemoryError(), 'MemoryError')],
)
def test_what_fails_in_a_thread_is_one_sentence_and_the_threads_end(
  error, reason
):
  def fail(numbers):
    if numbers.max() > 2_000:
      raise error
    return numbers % 1_000

  with (
    pytest.raises(UserError) as raised,
    ahead.reading('faces') as opened,
  ):
    batches = opened(IMAGES, fail, np.arange(8), 8, 0, 4)
    assert threads()
    while True:
      batches.take(4)
  assert str(raised.value) == f'the images of faces cannot be read: {reason}'
  assert not threads()
