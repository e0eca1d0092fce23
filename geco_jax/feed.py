"""What training steps read: all images, or the batches of the next steps."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
from typing import Any

import jax
import numpy as np

from geco_jax import parallel
from geco_jax.datasets import ahead
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import fixed_choice
from geco_jax.datasets.images import Images

# Number of steps -> the training images that `step.dispatch` takes.
Feed = Callable[[int], Any]


@contextlib.contextmanager
def step_images(
  dataset: Dataset,
  layout: parallel.Layout,
  batch_size: int,
  max_steps: int,
  runs: Sequence[tuple[ahead.Choose, int]],
) -> Iterator[Feed]:
  """Yield a function that hands out training images to runs that step together.

  Args:
    dataset: says where its images are kept.
    layout: how the runs lie on the devices.
    batch_size: examples per step, all devices together.
    max_steps: largest number of steps that are taken at once.
    runs: for each, (positions of its data [m]) -> which images, and the number
      of steps that it has taken.

  Yields:
    (number of steps) -> the images for so many; call it once for each dispatch.
  """
  images = dataset.splits['train']
  if not dataset.is_on_host:
    on_devices = parallel.replicate(images)
    yield lambda _: on_devices
    return
  places = layout.host_places(batch_size)
  with ahead.reading(dataset.name) as batches:
    opened = [
      batches(images, choose, places, batch_size, step, max_steps)
      for choose, step in runs
    ]
    yield lambda count: layout.place_batches([b.take(count) for b in opened])


def fixed_examples(
  dataset: Dataset,
) -> Callable[[Images, np.ndarray], Batch]:
  """Return (images on the host, indices [batch]) -> their `fixed_batch`.

  No device sees more of the images than the batch, wherever they are kept.
  """
  choose, compose = _fixed_choice(dataset), jax.jit(dataset.compose)

  def examples(images, indices):
    chosen = choose(images.label, np.asarray(indices, np.int32))
    return compose(*ahead.gather(images, chosen))

  return examples


def fixed_batches(
  dataset: Dataset, batch_size: int, per_call: int
) -> Callable[..., Iterator[Any]]:
  """Return the function that yields batches as `fixed_batch` makes them.

  Args:
    dataset: makes the batches.
    batch_size: examples per step, all devices together.
    per_call: batches that are yielded together.

  Returns:
    (images on the host, first example, last example + 1, period) -> yields what
    `Dataset.compose` takes, leaves [devices, per_call, local, ...], with its
    share on every device. Example i has index i modulo the period; the
    last batches are padded by further examples.
  """
  choose, places = _fixed_choice(dataset), parallel.host_places(batch_size)

  def yield_batches(images, start, stop, period):
    label = parallel.put_on_host(images.label)
    with ahead.reading(dataset.name) as batches:
      read = batches(
        images,
        lambda numbers: choose(label, (start + numbers) % period),
        places,
        batch_size,
        0,
        per_call,
      )
      for _ in range(start, stop, per_call * batch_size):
        yield parallel.share(read.take(per_call))

  return yield_batches


def _fixed_choice(dataset: Dataset):
  """Return the program (labels, indices) -> which images, on the host."""
  return parallel.on_host(functools.partial(fixed_choice, dataset))
