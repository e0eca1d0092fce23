"""The measures of a trained model, on whole splits (Appendix D)."""

import collections
from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import console
from geco_jax import feed
from geco_jax import parallel
from geco_jax.constraints import squared_error
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.distributions import quantized_normal_log_prob
from geco_jax.evaluation.reports import constraint_report
from geco_jax.experiment import Experiment
from geco_jax.experiment import once_per_experiment
from geco_jax.experiment import RunInputs
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.step import TrainState

MIN_DRAWS = 2**15
# Pixels that MIN_DRAWS may draw: larger images have fewer draws, since all of
# them would take minutes (128x128x3: 5,461 draws).
_MAX_DRAWN = 2**28
# Most images, and bytes of images on the host, that one call sums over.
_EXAMPLES_PER_CALL, _BYTES_PER_CALL = 2_048, 2**24
_EXAMPLES_PER_CPU_CALL = 512  # Images per call where CPU devices hold them.
_NOISE_SEED = 0
_ACTIVE_NATS = 0.01  # Mean KL above which a latent is in use.

SplitMeans = Callable[..., dict[str, Any]]


@once_per_experiment
def split_means(experiment: Experiment, likelihood: bool) -> SplitMeans:
  """Return the function that averages over all examples of a split.

  It runs on all devices, in batches, the last of which is padded and masked; it
  returns the means of `kl_nats`, `kl_nats_by_step` (a list), `squared_error`
  (summed over pixels), each constraint's statistic under its name and, if
  `likelihood`, `nll_nats`, the quantized normal's negative log-likelihood
  (Appendix D), and `kl_nats_by_latent` (a list) where the model has it.

  z is drawn from q(z|x) as often per example as `num_draws` says, so that noise
  does not dominate on small sets. A draw depends on the example's index and the
  draw's number alone.

  Args:
    experiment: model, constraints and batch size.
    likelihood: whether to compute `nll_nats`, which costs as much as a model.

  Returns:
    (params, replicated; images, as `placed` returns them; stddev; note, called
    with the number of draws done so far) -> means.
  """
  on_split = _on_host if experiment.dataset.is_on_host else _on_devices
  calls = on_split(experiment, _batch_sums(experiment, likelihood))
  num_pixels = experiment.dataset.num_dims

  def means(params, images, stddev=1.0, note=None):
    num_examples, call_sums = calls(
      params, images, parallel.replicate(np.float32(stddev))
    )
    total_draws = num_draws(num_examples, num_pixels)
    totals: dict[str, Any] = collections.defaultdict(float)
    for number, sums in _one_behind(call_sums):
      for name, values in parallel.unreplicate(sums).items():
        # In float64, since float32 loses digits on large splits, and batch by
        # batch, so that their number in a call does not matter. The
        # padding of the last call has no weight: its sums are 0.
        totals[name] = functools.reduce(
          np.add, values.astype(np.float64), totals[name]
        )
      if note is not None:
        note(min(number, total_draws))
    return {
      name: (total / total_draws).tolist() for name, total in totals.items()
    }

  return means


def placed(experiment: Experiment, images: Images) -> Any:
  """Return a split's images for `split_means`: on the devices, or as they are.

  Args:
    experiment: its data set says where its images are kept.
    images: of the split, on the host.
  """
  is_on_host = experiment.dataset.is_on_host
  return images if is_on_host else parallel.replicate(images)


def _batch_sums(experiment: Experiment, likelihood: bool):
  """Return (params, batch, draws, number of draws, stddev) -> sums."""

  def batch_sums(params, batch, draws, total_draws, stddev):
    weights = (draws < total_draws).astype(jnp.float32)
    keys = per_example_keys(key_of(_NOISE_SEED), draws)
    output = experiment.model.apply(params, keys, batch.image, batch.context)
    per_example = {
      'kl_nats': output.kl,
      'kl_nats_by_step': output.kl_by_step,
      'squared_error': squared_error(batch, output),
      **{
        name: constraint.statistic(batch, output)
        for name, constraint in experiment.constraints.items()
      },
    }
    if likelihood:
      log_prob = quantized_normal_log_prob(
        batch.image, output.reconstruction, stddev
      )
      per_example['nll_nats'] = -log_prob.reshape(len(weights), -1).sum(axis=-1)
      if output.kl_by_latent is not None:
        per_example['kl_nats_by_latent'] = output.kl_by_latent
    return parallel.total({k: weights @ v for k, v in per_example.items()})

  return batch_sums


def _on_devices(experiment: Experiment, batch_sums):
  """Return the function that sums over a split that the devices hold.

  It takes some batches per call, so that a bar moves and signals get a turn.
  """
  batch_size = experiment.batch_size

  def some_batch_sums(params, images, starts, total_draws, stddev):
    num_examples = images.image.shape[0]

    def sums_from(start):
      draws = start + parallel.local_places(batch_size)
      batch = fixed_batch(experiment.dataset, images, draws % num_examples)
      return batch_sums(params, batch, draws, total_draws, stddev)

    return jax.lax.map(sums_from, starts)

  compiled = parallel.pmap(some_batch_sums)
  on_accelerator = parallel.on_accelerator()

  def calls(params, images, stddev):
    num_examples = images.image.shape[1]  # Behind the devices' axis.
    total_draws = num_draws(num_examples, experiment.dataset.num_dims)
    num_batches = math.ceil(total_draws / batch_size)
    at_once = _EXAMPLES_PER_CALL if on_accelerator else _EXAMPLES_PER_CPU_CALL
    # Two at least: XLA would round a loop of a single turn differently.
    max_calls = min(num_batches * batch_size // at_once, num_batches // 2)
    per_call = math.ceil(num_batches / max(max_calls, 1))
    placed_total = parallel.replicate(np.int32(total_draws))

    def sums():
      for first in range(0, num_batches, per_call):
        yield (
          (first + per_call) * batch_size,
          compiled(
            params,
            images,
            _starts(first, per_call, batch_size),
            placed_total,
            stddev,
          ),
        )

    return num_examples, sums()

  return calls


def _starts(first: int, per_call: int, batch_size: int):
  """Return the first draws of the batches of a call, replicated."""
  numbers = first + np.arange(per_call)
  return parallel.replicate((numbers * batch_size).astype(np.int32))


def _on_host(experiment: Experiment, batch_sums):
  """Return the function that sums over a split that the host holds."""
  dataset, batch_size = experiment.dataset, experiment.batch_size

  def some_batch_sums(params, images, starts, total_draws, stddev):
    def sums_from(start_and_batch):
      start, batch = start_and_batch
      draws = start + parallel.local_places(batch_size)
      return batch_sums(
        params, dataset.compose(*batch), draws, total_draws, stddev
      )

    return jax.lax.map(sums_from, (starts, images))

  compiled = parallel.pmap(some_batch_sums)
  shapes = dataset.image_shape, dataset.context_shape or (0,)
  num_bytes = sum(map(math.prod, shapes))
  at_once = min(_EXAMPLES_PER_CALL, _BYTES_PER_CALL // num_bytes)
  per_call = max(at_once // batch_size, 1)
  batches = feed.fixed_batches(dataset, batch_size, per_call)

  def calls(params, images, stddev):
    num_examples = len(images.label)
    total_draws = num_draws(num_examples, dataset.num_dims)
    placed_total = parallel.replicate(np.int32(total_draws))

    def sums():
      for number, some in enumerate(
        batches(images, 0, total_draws, num_examples)
      ):
        starts = _starts(number * per_call, per_call, batch_size)
        done = (number + 1) * per_call * batch_size
        yield done, compiled(params, some, starts, placed_total, stddev)

    return num_examples, sums()

  return calls


def _one_behind(calls: Iterator[Any]) -> Iterator[Any]:
  """Yield an iterator's items, each once the next is ready.

  While the host fetches one, the devices compute the next; no third waits.
  """
  latest = next(calls)
  for upcoming in calls:
    yield latest
    latest = upcoming
  yield latest


def num_draws(num_examples: int, num_pixels: int) -> int:
  """Return how many z are drawn for a split, a multiple of its examples.

  Args:
    num_examples: examples of the split; each has at least one draw.
    num_pixels: pixels of an image, channels included. Up to 8,192 of them there
      are `MIN_DRAWS` draws or more.
  """
  least = min(MIN_DRAWS, _MAX_DRAWN // num_pixels)
  return num_examples * max(math.ceil(least / num_examples), 1)


def active_units(kl_by_latent: Sequence[float] | None) -> int | None:
  """Return how many latents a model uses: those with a mean KL > 0.01 nats.

  Args:
    kl_by_latent: means over a split, in nats; None where the KL has no terms by
      latent (VAE+NVP); the answer is None then.
  """
  if kl_by_latent is None:
    return None
  return sum(kl > _ACTIVE_NATS for kl in kl_by_latent)


def evaluate_state(
  experiment: Experiment,
  inputs: RunInputs,
  state: TrainState,
  splits: Sequence[str],
  *,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Return the evaluation of a state, the first split at the top level.

  Args:
    experiment: the run's experiment.
    inputs: the run's inputs.
    state: NumPy arrays, not replicated.
    splits: names of splits, most wanted first.
    show_progress: whether to draw a progress bar on stderr.
  """
  params = parallel.replicate(state.params)
  all_splits = experiment.dataset.splits
  train = placed(experiment, all_splits['train'])
  num_dims = experiment.dataset.num_dims
  passes = ['train', *splits]
  total = sum(
    num_draws(len(all_splits[split].image), num_dims) for split in passes
  )
  shows = show_progress and parallel.is_main_process()
  progress = console.Progress(total, 0, shows, unit='draw')
  with contextlib.closing(progress):
    # Eq. 26, with the division by D that it leaves out.
    train_means = split_means(experiment, likelihood=False)(
      params, train, note=progress.part('sigma of train')
    )
    sigma_opt = math.sqrt(train_means['squared_error'] / num_dims)
    likelihood_means = split_means(experiment, likelihood=True)
    measured = {}
    for split in splits:
      images = all_splits[split]
      own = train if split == 'train' else placed(experiment, images)
      note = progress.part(split)
      measured[split] = likelihood_means(params, own, sigma_opt, note)

  def record(split):
    images, means = all_splits[split], measured[split]
    nll = means['nll_nats'] / num_dims
    num_examples = len(images.image)
    return {
      'split': split,
      'step': int(state.step),
      'num_examples': num_examples,
      'draws_per_example': num_draws(num_examples, num_dims) // num_examples,
      'kl_nats': means['kl_nats'],
      'kl_nats_by_step': means['kl_nats_by_step'],
      'active_units': active_units(means.get('kl_nats_by_latent')),
      'rmse': math.sqrt(means['squared_error'] / num_dims),
      'sigma_opt': sigma_opt,
      'nll_nats_per_dim': nll,
      'nll_bits_per_dim': nll / math.log(2),
      'elbo_nats': -means['nll_nats'] - means['kl_nats'],
      'constraints': constraint_report(
        experiment, inputs, means, state.log_multipliers, split
      ),
    }

  first, *others = (record(split) for split in splits)
  return {**first, 'other_splits': {other['split']: other for other in others}}
