"""Images that stay on the host: read ahead of time, in threads.

Steps take batches in order. While the devices compute, threads choose and read
the images of the next ones; the content of a batch depends on its number alone,
never on the threads.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import math

import numpy as np

from geco_jax.datasets.images import Images
from geco_jax.errors import UserError
from geco_jax.io.system_errors import reason

# Reading a file that is not in memory is waiting: more threads than cores help.
_THREADS = 4
_EXAMPLES_PER_TASK = 1_024

# Numbers of examples, int [m] -> the images that make them, [m] or [m, k].
Choose = Callable[[np.ndarray], np.ndarray]
# (images, choose, places, batch size, first batch, max batches) -> Batches.
Open = Callable[..., 'Batches']


def gather(images: Images, chosen: np.ndarray) -> Images:
  """Return the images and labels of indices of any shape [...]."""
  image = np.take(images.image, chosen.ravel(), axis=0)
  return Images(
    image.reshape(*chosen.shape, *image.shape[1:]), images.label[chosen]
  )


@contextlib.contextmanager
def reading(name: str) -> Iterator[Open]:
  """Yield a function that opens `Batches`; its threads end with the context.

  Args:
    name: the data set's display name.
  """
  threads = futures.ThreadPoolExecutor(_THREADS, 'geco_jax-images')
  try:
    yield lambda *args: Batches(name, threads, *args)
  finally:
    threads.shutdown(cancel_futures=True)


class Batches:
  """The batches of a split, reading ahead as many as are taken at once."""

  def __init__(
    self,
    name: str,
    threads: futures.Executor,
    images: Images,
    choose: Choose,
    places: np.ndarray,
    batch_size: int,
    first: int,
    max_batches: int,
  ):
    """Start reading.

    Args:
      name: the data set's display name.
      threads: the pool that reads.
      images: of the split.
      choose: of the examples' numbers; batch i starts at i times batch size.
      places: which of a batch's examples are wanted.
      batch_size: size of the global batch.
      first: number of the first batch.
      max_batches: batches that are taken at once.
    """
    self._name, self._threads = name, threads
    self._images, self._choose = images, choose
    self._places, self._batch_size = places, batch_size
    self._next, self._max_batches = first, max_batches
    self._per_task = min(
      max_batches, math.ceil(_EXAMPLES_PER_TASK / len(places))
    )
    self._submitted = first
    self._tasks = collections.deque()  # (number of their first batch, future).
    self._submit()

  def take(self, count: int) -> Images:
    """Return the next batches, [max_batches, places, ...], some of them filled.

    Batch i stands at i modulo `max_batches`.

    Args:
      count: how many, at most `max_batches`.

    Raises:
      UserError: if the images cannot be read.
    """
    window: Images | None = None
    end = self._next + count
    while self._next < end:
      start, task = self._tasks[0]
      read = self._result(task)
      if window is None:
        window = Images(
          *(np.empty((self._max_batches, *x.shape[1:]), x.dtype) for x in read)
        )
      batches = np.arange(self._next, min(end, start + self._per_task))
      for target, source in zip(window, read, strict=True):
        target[batches % self._max_batches] = source[batches - start]
      self._next += len(batches)
      if self._next == start + self._per_task:
        self._tasks.popleft()
    self._submit()
    assert window is not None
    return window

  def _submit(self):
    """Make the threads read the batches that may be taken next."""
    while self._submitted < self._next + self._max_batches:
      task = self._threads.submit(self._read, self._submitted)
      self._tasks.append((self._submitted, task))
      self._submitted += self._per_task

  def _read(self, start: int) -> Images:
    numbers = np.arange(start, start + self._per_task) * self._batch_size
    # int32 as on the devices: a run that has ended goes on beside others.
    examples = np.add.outer(numbers, self._places).astype(np.int32)
    chosen = self._choose(examples.ravel())
    return gather(
      self._images, chosen.reshape(*examples.shape, *chosen.shape[1:])
    )

  def _result(self, task: futures.Future) -> Images:
    try:
      return task.result()
    except Exception as error:  # Disks, servers and memory fail in many ways.
      raise UserError(
        f'the images of {self._name} cannot be read: {reason(error)}'
      ) from error
