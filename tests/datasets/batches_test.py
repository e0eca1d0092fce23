"""Which examples a step sees."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from geco_jax.datasets import batches
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet


def stream(num_examples, batch_size, num_steps, seed=0, first_step=0):
  """Return the example indices of consecutive steps, [steps, batch]."""
  steps = first_step + jnp.arange(num_steps)[:, None]
  positions = steps * batch_size + jnp.arange(batch_size)[None]
  look_up = jax.jit(batches.indices_at, static_argnums=2)
  key = jax.random.key(seed)
  return np.stack([look_up(key, row, num_examples) for row in positions])


@pytest.mark.parametrize(
  ('n', 'batch'),
  [(12, 4), (10, 4), (7, 16), (5, 1), (1, 3), (2, 2), (64, 30), (65, 30)],
)
def test_every_epoch_has_every_example_once(n, batch):
  flat = stream(n, batch, num_steps=30).ravel()
  for epoch in flat[: len(flat) // n * n].reshape(-1, n):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_epochs_and_seeds_differ():
  epochs = stream(50, 50, num_steps=3)
  other_seed = stream(50, 50, num_steps=1, seed=1)
  assert len({tuple(e) for e in [*epochs, *other_seed]}) == 4


@pytest.mark.parametrize('first_step', [1, 5, 9])
def test_batch_depends_on_the_step_alone(first_step):
  from_start = stream(10, 4, num_steps=12)
  resumed = stream(10, 4, num_steps=3, first_step=first_step)
  np.testing.assert_array_equal(
    from_start[first_step : first_step + 3], resumed
  )


def test_a_large_epoch_is_a_permutation_without_trend():
  n = 55_000
  order = stream(n, n, num_steps=1)[0]
  np.testing.assert_array_equal(np.sort(order), np.arange(n))
  # Correlations of a random permutation are normal with stddev 1 / sqrt(n).
  for lag in (1, 2, 128):
    assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 / np.sqrt(n)
  assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / np.sqrt(n)


def uniform(counts):
  """Return whether counts pass a chi-squared test at 0.1%."""
  return scipy.stats.chisquare(counts).pvalue > 1e-3


def test_every_order_of_few_examples_is_as_likely():
  epochs = stream(4, 4 * 6_000, num_steps=1).reshape(-1, 4)
  counts = collections.Counter(map(tuple, epochs.tolist()))
  assert len(counts) == 24
  assert uniform([*counts.values()])


@pytest.mark.parametrize('place', [0, 3, 7])
def test_every_place_of_an_epoch_is_uniform_over_examples(place):
  epochs = stream(8, 8 * 4_000, num_steps=1).reshape(-1, 8)
  assert uniform(np.bincount(epochs[:, place], minlength=8))


@pytest.mark.parametrize('n', [7, 10, 17])
def test_pairs_within_a_batch_are_uniform(n):
  epochs = stream(n, n * 9_000, num_steps=1).reshape(-1, n)
  pairs = np.bincount(epochs[:, 2] * n + epochs[:, 3], minlength=n * n)
  distinct = pairs.reshape(n, n)[~np.eye(n, dtype=bool)]
  assert pairs.reshape(n, n).trace() == 0
  assert uniform(distinct)


def test_plain_batches_are_the_images_scaled_to_the_unit_interval():
  pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
  images = Images(image=pixels, label=np.array([4, 5, 6], np.int32))
  image_set = ImageSet('three', dict.fromkeys(['train', 'test'], images))
  dataset = batches.as_dataset(image_set)
  batch = batches.fixed_batch(dataset, images, jnp.array([2, 0, 1]))
  np.testing.assert_allclose(batch.image.ravel(), [1.0, 0.0, 0.2])
  np.testing.assert_array_equal(batch.label, [6, 4, 5])


@pytest.mark.parametrize(
  ('num_wanted', 'n', 'expected'),
  [
    (3, 12, [0, 4, 8]),
    (4, 7, [0, 1, 3, 5]),
    (3, 5, [0, 1, 3]),
    (5, 3, [0, 1, 2]),
    (1, 4, [0]),
  ],
)
def test_evenly_spaced_examples_leave_no_end_out(num_wanted, n, expected):
  assert batches.evenly_spaced(num_wanted, n).tolist() == expected


@pytest.mark.parametrize('n', [10_000, 19_999, 45_000, 55_000])
def test_gaps_of_evenly_spaced_examples_differ_by_one_at_most(n):
  indices = batches.evenly_spaced(10_000, n)
  gaps = np.diff([*indices, n])
  assert len(indices) == 10_000 and indices[0] == 0
  assert {*gaps.tolist()} <= {n // 10_000, -(-n // 10_000)}
