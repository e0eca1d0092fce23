"""KL[q(z); p(z)] of the aggregate posterior, the paper's marginal KL.

q(z) = 1/n sum_i q(z|x_i) over all n data points (Rezende & Viola 2018, Section
4.1.1). z is sampled from q(z); log q(z) is then exact, a log-mean-exp over all
n: the estimate has no bias, only a standard error.
"""

from collections.abc import Callable, Iterator
import contextlib
import itertools
import math
import os
from typing import Any, NamedTuple

from absl import logging
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import feed
from geco_jax import parallel
from geco_jax.console import Progress
from geco_jax.datasets.ahead import gather
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.batches import fixed_choice
from geco_jax.datasets.images import Images
from geco_jax.errors import UserError
from geco_jax.evaluation.restored import open_run
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.io import files
from geco_jax.io.system_errors import reason
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.models.base import Posterior

PARTIAL = 'marginal_kl_partial.npz'


class Tiles(NamedTuple):
  """Sizes of the tiles into which the pairs of z and x are divided.

  One tile of samples, one of data, and their pairs are in memory at once.
  """

  samples: int
  data: int
  data_per_call: int = 4  # Tiles of data per device and compiled call.


DATA_TILE = 256  # On all devices.


def choose_tiles(samples: int | None = None, data: int = DATA_TILE) -> Tiles:
  """Return tiles; None is the number of samples that suits the devices."""
  if samples is None:
    # The pairs of 16 fit into a CPU's caches. On an H200 16 are half as fast as
    # `vmap` of `vmap` over 256 (docs/benchmarks.md).
    samples = 256 if parallel.on_accelerator() else 16
  return Tiles(samples, data)


class Estimate(NamedTuple):
  """The estimate in nats, with standard errors of the mean."""

  marginal_kl: float  # KL[q(z); p(z)].
  marginal_kl_error: float
  average_kl: float  # E KL[q(z|x); p(z)], over the same samples.
  average_kl_error: float
  num_samples: int
  num_data: int  # n; the difference of the two KLs is at most ln n.


def marginal_kl(
  posterior: Posterior,
  params: hk.Params,
  dataset: Dataset,
  images: Images,
  num_samples: int,
  *,
  num_data: int | None = None,
  seed: int = 0,
  tiles: Tiles | None = None,
  resume_from: str | None = None,
  resume_key: str = '',
  show_progress: bool = True,
) -> Estimate:
  """Return the marginal KL, from samples z ~ q(z) and all data points.

  It runs on all devices, each with its share of the data. Memory grows with the
  tiles, the samples and (as uint8) the images, not with their product; the
  posterior's conditions of a data point are computed once.

  Args:
    posterior: q(z|x) and p(z).
    params: the model's parameters, not replicated.
    dataset: makes the fixed batches of the images.
    images: the split's images.
    num_samples: M > 1.
    num_data: n; None is the number of images. A composed data set has more
      examples than images, so that n may be larger.
    seed: of the samples.
    tiles: any; they change the time and the memory, not the answer. None is
      `choose_tiles`.
    resume_from: file in which the sums so far are kept, and from which an
      interrupted estimate goes on; None is neither.
    resume_key: names the estimate; sums under another key are not used.
    show_progress: whether to draw a progress bar on stderr.

  Raises:
    ValueError: if a number is out of its range.
  """
  if num_samples < 2:
    raise ValueError(f'num_samples must be > 1, got {num_samples}')
  tiles = choose_tiles() if tiles is None else tiles
  if min(tiles) < 1:
    raise ValueError(f'tiles must be >= 1, got {tuple(tiles)}')
  num_images = len(images.image)
  num_data = num_images if num_data is None else num_data
  if num_data > num_images and not dataset.is_composed:
    raise ValueError(
      f'num_data must be at most {num_images}, the images of {dataset.name}, '
      f'got {num_data}'
    )
  # More would be padding alone.
  tiles = tiles._replace(samples=min(tiles.samples, num_samples))
  # The last tile is padded; `_mean_and_error` leaves the excess out.
  num_tiles = math.ceil(num_samples / tiles.samples)
  z, log_conditional, log_prior = _draw_all(
    posterior, params, dataset, images, num_data, seed, num_tiles, tiles
  )
  log_sums, start = _restore(
    resume_from, resume_key, (num_tiles, tiles.samples)
  )
  accumulate = accumulator(posterior, dataset, num_data, tiles)
  replicated = parallel.replicate((params, z))
  sums = parallel.replicate(log_sums)
  stride = tiles.data * parallel.num_devices()
  progress = Progress(num_data, start, show_progress, unit='data points')
  for data in _data(dataset, images, stride, tiles, start, num_data):
    sums = accumulate(
      replicated[0],
      data,
      replicated[1],
      sums,
      parallel.replicate(np.int32(start)),
    )
    start += stride * tiles.data_per_call
    log_sums = parallel.unreplicate(sums)
    if resume_from and parallel.is_main_process():
      content = {'log_sums': log_sums, 'start': start, 'key': resume_key}
      files.write_npz(resume_from, content)
    progress.update(min(start, num_data), f'{num_samples} samples')
  progress.close()
  log_marginal = log_sums - math.log(num_data)
  marginal, marginal_error = _mean_and_error(
    log_marginal - log_prior, num_samples
  )
  average, average_error = _mean_and_error(
    log_conditional - log_prior, num_samples
  )
  return Estimate(
    marginal_kl=marginal,
    marginal_kl_error=marginal_error,
    average_kl=average,
    average_kl_error=average_error,
    num_samples=num_samples,
    num_data=num_data,
  )


def estimate(
  workdir: str,
  num_samples: int = 1_000,
  *,
  split: str = 'train',
  num_data: int | None = None,
  step: int | None = None,
  seed: int = 0,
  tiles: Tiles | None = None,
  data_dir: str | None = None,
  experiment: Experiment | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Estimate the marginal KL of a run's checkpoint; write marginal_kl.json.

  Args:
    workdir: the run's directory.
    num_samples: samples of q(z), > 1.
    split: whose images make q(z).
    num_data: n, number of its examples; None is the number of its images.
    step: checkpoint to load; None is the latest that is intact.
    seed: of the samples.
    tiles: see `Tiles`; None is `choose_tiles`.
    data_dir: TFDS data directory.
    experiment: the run's, for callers that have built it; None builds it.
    show_progress: whether to draw a progress bar on stderr.

  Returns:
    What marginal_kl.json holds.

  Raises:
    UserError: if there is no such run or checkpoint, it was trained on other
      data, the model's posterior depends on a context, or a number is out of
      its range.
  """
  config, experiment = open_run(workdir, data_dir, experiment)
  posterior = experiment.model.posterior
  if posterior is None:
    raise UserError(
      f'--workdir={workdir}: this {config.model.name} has a prior for every '
      'context, so it has no marginal KL'
    )
  state = restore_state(workdir, experiment, step)
  partial = os.path.join(workdir, PARTIAL)
  try:
    numbers = marginal_kl(
      posterior,
      state.params,
      experiment.dataset,
      experiment.dataset.splits[split],
      num_samples,
      num_data=num_data,
      seed=seed,
      tiles=tiles,
      resume_from=partial,
      resume_key=f'{split} {int(state.step)} {seed} {num_samples} {num_data}',
      show_progress=show_progress,
    )
  except ValueError as error:
    raise UserError(str(error)) from error
  result = {
    'split': split,
    'step': int(state.step),
    **{
      f'{k}_nats' if 'kl' in k else k: v for k, v in numbers._asdict().items()
    },
    'ln_n_nats': math.log(numbers.num_data),
  }
  if parallel.is_main_process():
    files.write_json(os.path.join(workdir, 'marginal_kl.json'), result)
    with contextlib.suppress(FileNotFoundError):
      os.remove(partial)
  return result


def _mean_and_error(values, num_samples):
  """Return mean and standard error of the first `num_samples` values."""
  values = np.asarray(values, np.float64).ravel()[:num_samples]
  error = values.std(ddof=1) / math.sqrt(num_samples)
  return float(values.mean()), float(error)


def _restore(path, key, shape):
  """Return the sums so far and the first data point that is not in them."""
  initial = np.full(shape, -np.inf, np.float32), 0
  if path is None or not os.path.exists(path):
    return initial
  try:
    with np.load(path) as file:
      sums, start = file['log_sums'], int(file['start'])
      has_key = file['key'].item() == key
  except Exception as error:  # noqa: BLE001 pylint: disable=broad-except
    # A damaged file makes its reader raise anything.
    logging.warning(
      '%s cannot be read (%s): the estimate begins anew', path, reason(error)
    )
    return initial
  is_sound = sums.shape == shape and sums.dtype == np.float32 and start >= 0
  if has_key and not is_sound:
    logging.warning('%s is of other tiles: the estimate begins anew', path)
  return (sums, start) if has_key and is_sound else initial


def _data(dataset, images, stride, tiles, start, num_data) -> Iterator[Any]:
  """Yield the images of each call of the `accumulator`."""
  if dataset.is_on_host:
    batches = feed.fixed_batches(dataset, stride, tiles.data_per_call)
    yield from batches(images, start, num_data, num_data)
  else:
    calls = range(start, num_data, stride * tiles.data_per_call)
    yield from itertools.repeat(parallel.replicate(images), len(calls))


def _draw_all(
  posterior, params, dataset, images, num_data, seed, num_tiles, tiles
):
  """Return z ~ q(z), log q(z|x) of its own x and log p(z), tile by tile."""
  draw = jax.jit(_draw(posterior, dataset, num_data))
  shape = num_tiles, tiles.samples
  numbers = np.arange(math.prod(shape))
  if dataset.is_on_host:

    def choose(label, numbers):
      index_keys, _ = _split_keys(per_example_keys(key_of(seed), numbers))
      indices = _drawn_indices(index_keys, num_data)
      return fixed_choice(dataset, label, indices)

    chosen = parallel.on_host(choose)(images.label, numbers)
    images = gather(images, chosen.reshape(*shape, *chosen.shape[1:]))
  keys = per_example_keys(key_of(seed), jnp.asarray(numbers))
  return draw(params, images, keys.reshape(shape))


def _split_keys(keys):
  """Return keys of indices and of samples [samples]."""
  return jax.vmap(jax.random.split, out_axes=1)(keys)


def _drawn_indices(keys, num_data):
  return jax.vmap(
    lambda key: jax.random.randint(key, [], 0, num_data, jnp.int32)
  )(keys)


def _draw(
  posterior: Posterior, dataset: Dataset, num_data: int
) -> Callable[..., tuple[Any, jax.Array, jax.Array]]:
  """Return the function that samples z ~ q(z), a tile at a time.

  Args:
    posterior: q(z|x) and p(z).
    dataset: makes batches of the images.
    num_data: n.

  Returns:
    (params, images, keys [tiles, samples per tile]) -> z, log q(z|x), log p(z);
    images that stay on the host are those of the samples alone.
  """

  def draw_tile(params, batch, sample_keys):
    conditions = posterior.condition(params, batch.image)
    z = posterior.sample(params, sample_keys, conditions)
    pairs = posterior.log_prob(params, z, conditions)
    return z, jnp.diagonal(pairs), posterior.log_prior(params, z)

  def draw_from_images(params, images, keys):
    def tile(keys):
      index_keys, sample_keys = _split_keys(keys)
      batch = fixed_batch(dataset, images, _drawn_indices(index_keys, num_data))
      return draw_tile(params, batch, sample_keys)

    return jax.lax.map(tile, keys)

  def draw_from_tiles(params, images, keys):
    def tile(own_and_keys):
      own, keys = own_and_keys
      _, sample_keys = _split_keys(keys)
      return draw_tile(params, dataset.compose(*own), sample_keys)

    return jax.lax.map(tile, (images, keys))

  return draw_from_tiles if dataset.is_on_host else draw_from_images


def accumulator(
  posterior: Posterior, dataset: Dataset, num_data: int, tiles: Tiles
) -> Callable[..., jax.Array]:
  """Return the compiled program that pairs all samples with some data.

  Args:
    posterior: q(z|x).
    dataset: makes batches of the images.
    num_data: n.
    tiles: a call takes `data_per_call` tiles of data on each device.

  Returns:
    (params, images, z [tiles, samples per tile, ...], log sums [tiles, samples
    per tile], first data point []), all replicated -> log sums with the terms
    log q(z|x_i) of these data points added; the log sums are donated. Images
    that stay on the host are what `feed.fixed_batches` yields.
  """
  stride = tiles.data * parallel.num_devices()

  def accumulate(params, images, z, log_sums, start):
    first = start + tiles.data * parallel.device_index()

    def add_data(own_sums, number):
      indices = first + number * stride + jnp.arange(tiles.data)
      if dataset.is_on_host:
        batch = dataset.compose(*jax.tree.map(lambda x: x[number], images))
      else:
        batch = fixed_batch(dataset, images, indices % num_data)
      conditions = posterior.condition(params, batch.image)
      counts = (indices < num_data)[jnp.newaxis]

      def over_data(z_tile):
        log_probs = posterior.log_prob(params, z_tile, conditions)
        return jax.nn.logsumexp(jnp.where(counts, log_probs, -jnp.inf), axis=1)

      return jnp.logaddexp(own_sums, jax.lax.map(over_data, z)), None

    own_sums, _ = jax.lax.scan(
      add_data,
      jnp.full(log_sums.shape, -jnp.inf),
      jnp.arange(tiles.data_per_call),
    )
    return jnp.logaddexp(log_sums, parallel.log_total(own_sums))

  return parallel.pmap(accumulate, donate_argnums=3)
