"""Which examples a step sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.datasets import batches
from geco_jax.datasets.images import Images


def stream(num_examples, batch_size, num_steps, seed=0, first_step=0):
  """Returns the example indices of consecutive steps, [steps, batch]."""
  key = jax.random.key(seed)
  first_epoch = first_step * batch_size // num_examples
  num_epochs = batches.max_epochs_spanned(num_steps * batch_size, num_examples)
  orders = batches.epoch_orders(
    key, jnp.int32(first_epoch), num_epochs, num_examples
  )
  return np.stack(
    [
      batches.indices_at(
        orders, first_epoch, step * batch_size + jnp.arange(batch_size)
      )
      for step in range(first_step, first_step + num_steps)
    ]
  )


@pytest.mark.parametrize(('n', 'batch'), [(12, 4), (10, 4), (7, 16), (5, 1)])
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


@pytest.mark.parametrize('n', [1, 2, 5, 9])
@pytest.mark.parametrize('count', [1, 2, 4, 5, 6, 17])
def test_max_epochs_spanned_is_the_least_bound(n, count):
  spans = [(start + count - 1) // n - start // n + 1 for start in range(n)]
  assert batches.max_epochs_spanned(count, n) == max(spans)


def test_first_positions_are_uniform_over_examples():
  n, epochs = 8, 4000
  orders = batches.epoch_orders(jax.random.key(0), jnp.int32(0), epochs, n)
  counts = np.bincount(np.asarray(orders[:, 0]), minlength=n)
  chi_squared = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
  assert chi_squared < 24.3  # 0.999 quantile of chi-squared, 7 degrees.


def test_decode_scales_bytes_to_the_unit_interval():
  pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
  images = Images(image=pixels, label=np.array([4, 5, 6], np.int32))
  batch = batches.decode(images, jnp.array([2, 0, 1]))
  np.testing.assert_allclose(batch.image.ravel(), [1.0, 0.0, 0.2])
  np.testing.assert_array_equal(batch.label, [6, 4, 5])
