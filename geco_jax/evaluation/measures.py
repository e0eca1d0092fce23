"""What is measured of a trained model, on whole splits (Appendix D)."""

from collections.abc import Callable, Mapping, Sequence
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import feed
from geco_jax import parallel
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import run_inputs
from geco_jax.constraints import natural_multiplier
from geco_jax.constraints import squared_error
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.distributions import quantized_normal_log_prob
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.experiment import data_sha256
from geco_jax.experiment import Experiment
from geco_jax.experiment import once_per_experiment
from geco_jax.experiment import RunInputs
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import Checkpointer
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.step import state_like
from geco_jax.step import TrainState

SPLITS = ('train', 'validation', 'test')
MIN_DRAWS = 2**15
# Of pixels: where an image has more of them, fewer draws will do, for all of
# them take minutes then (128x128x3: 5,461 draws).
_MAX_DRAWN = 2**28
# Of images that stay on the host, what is summed over at once.
_EXAMPLES_PER_CALL, _BYTES_PER_CALL = 2_048, 2**24
_NOISE_SEED = 0
# A multiplier this close to its clip stands at it.
_AT_CLIP = 1e-3
# In natural multipliers; none is needed above 1. From here on, what a violated
# constraint waits for is the optimization.
SATURATED = 2.0

_ACTIVE_NATS = 0.01  # A latent's mean KL, from which on it is in use.

SplitMeans = Callable[..., dict[str, Any]]


@once_per_experiment
def split_means(experiment: Experiment, likelihood: bool) -> SplitMeans:
  """Return the function that averages over all examples of a split.

  It runs on all devices, in batches, the last of which is filled up and masked;
  it returns the means of `kl_nats`, `kl_nats_by_step` (a list), `squared_error`
  (summed over pixels), each constraint's statistic under its name and, if
  `likelihood`, `nll_nats`, the quantized normal's negative log-likelihood
  (Appendix D), and `kl_nats_by_latent` (a list) where the model has it.

  z is drawn from q(z|x) as often per example as `num_draws` says, so that noise
  does not rule on small sets. A draw depends on the example's index and the
  draw's number alone.

  Args:
    experiment: model, constraints and batch size.
    likelihood: whether to compute `nll_nats`, which costs as much as a model.

  Returns:
    (params, replicated; images, as `placed` returns them; stddev) -> means.
  """
  on_split = _on_host if experiment.dataset.is_on_host else _on_devices
  sum_up = on_split(experiment, _batch_sums(experiment, likelihood))
  num_pixels = math.prod(experiment.dataset.image_shape)

  def means(params, images, stddev=1.0):
    num_examples, sums = sum_up(
      params, images, parallel.replicate(np.float32(stddev))
    )
    return {
      # Batches are summed in float64: float32 loses digits on large splits.
      name: (
        values.astype(np.float64).sum(axis=0)
        / num_draws(num_examples, num_pixels)
      ).tolist()
      for name, values in sums.items()
    }

  return means


def placed(experiment: Experiment, images: Images) -> Any:
  """Return a split's images for `split_means`: on the devices, or as they are.

  Args:
    experiment: its data set says where its images are to be.
    images: of the split, on the host.
  """
  is_on_host = experiment.dataset.is_on_host
  return images if is_on_host else parallel.replicate(images)


def _batch_sums(experiment: Experiment, likelihood: bool):
  """Return (params, batch, draws, number of draws, stddev) -> sums."""

  def batch_sums(params, batch, draws, most, stddev):
    weights = (draws < most).astype(jnp.float32)
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
  """Return what sums over a split that the devices hold."""
  num_pixels = math.prod(experiment.dataset.image_shape)

  def all_batch_sums(params, images, stddev):
    num_examples = images.image.shape[0]
    most = num_draws(num_examples, num_pixels)

    def sums_from(start):
      draws = start + parallel.local_places(experiment.batch_size)
      batch = fixed_batch(experiment.dataset, images, draws % num_examples)
      return batch_sums(params, batch, draws, most, stddev)

    return jax.lax.map(sums_from, jnp.arange(0, most, experiment.batch_size))

  compiled = parallel.pmap(all_batch_sums)

  def sum_up(params, images, stddev):
    num_examples = images.image.shape[1]  # Behind the devices' axis.
    return num_examples, parallel.unreplicate(compiled(params, images, stddev))

  return sum_up


def _on_host(experiment: Experiment, batch_sums):
  """Return what sums over a split that the host holds, some batches a call."""
  dataset, batch_size = experiment.dataset, experiment.batch_size

  def some_batch_sums(params, images, starts, most, stddev):
    def sums_from(start_and_batch):
      start, batch = start_and_batch
      draws = start + parallel.local_places(batch_size)
      return batch_sums(params, dataset.compose(*batch), draws, most, stddev)

    return jax.lax.map(sums_from, (starts, images))

  compiled = parallel.pmap(some_batch_sums)
  shapes = dataset.image_shape, dataset.context_shape or (0,)
  num_bytes = sum(map(math.prod, shapes))
  at_once = min(_EXAMPLES_PER_CALL, _BYTES_PER_CALL // num_bytes)
  per_call = max(at_once // batch_size, 1)
  batches = feed.fixed_batches(dataset, batch_size, per_call)

  def sum_up(params, images, stddev):
    num_examples = len(images.label)
    most = num_draws(num_examples, math.prod(dataset.image_shape))
    placed_most = parallel.replicate(np.int32(most))
    parts, latest = [], None
    for number, some in enumerate(batches(images, 0, most, num_examples)):
      starts = (number * per_call + np.arange(per_call)) * batch_size
      placed_starts = parallel.replicate(starts.astype(np.int32))
      sums = compiled(params, some, placed_starts, placed_most, stddev)
      if latest is not None:  # So that no more than two calls wait.
        parts.append(parallel.unreplicate(latest))
      latest = sums
    parts.append(parallel.unreplicate(latest))
    # What fills the last call up has no weight: its sums are 0.
    return num_examples, jax.tree.map(lambda *x: np.concatenate(x), *parts)

  return sum_up


def num_draws(num_examples: int, num_pixels: int) -> int:
  """Return how many z are drawn for a split, a multiple of its examples.

  Args:
    num_examples: of the split; each has a draw at least.
    num_pixels: of an image, channels included. Up to 8,192 of them there are
      `MIN_DRAWS` draws or more.
  """
  least = min(MIN_DRAWS, _MAX_DRAWN // num_pixels)
  return num_examples * max(math.ceil(least / num_examples), 1)


def verdict(
  experiment: Experiment,
  inputs: RunInputs,
  name: str,
  violation: float,
  log_multiplier: float,
) -> str:
  """Return what became of a constraint, in a word of `verdicts`.

  It is infeasible in this run if it is violated while GECO's multiplier stands
  at its upper clip or is saturated: at least `SATURATED` times the natural one.

  Args:
    experiment: of the run.
    inputs: of the run.
    name: of the constraint.
    violation: mean C / scale of training data, which is what the constraint
      speaks of (Eq. 1).
    log_multiplier: at the end.
  """
  if violation <= inputs.tolerance:
    return verdicts.MET
  highest = experiment.highest_log_multiplier
  if not math.isfinite(highest):  # Nothing moves it.
    return verdicts.VIOLATED
  at_clip = float(log_multiplier) >= highest - _AT_CLIP
  saturated = saturation(experiment, inputs, name, log_multiplier) >= SATURATED
  return verdicts.INFEASIBLE if at_clip or saturated else verdicts.VIOLATED


def saturation(
  experiment: Experiment, inputs: RunInputs, name: str, log_multiplier: float
) -> float:
  """Return a multiplier in natural ones (`constraints.natural_multiplier`)."""
  natural = natural_multiplier(
    experiment.constraints[name],
    inputs.kappas[name],
    math.prod(experiment.dataset.image_shape),
  )
  return math.exp(log_multiplier) / float(natural)


def constraint_report(
  experiment: Experiment,
  inputs: RunInputs,
  means: Mapping[str, float],
  log_multipliers: Mapping[str, Any],
  split: str,
) -> dict[str, dict[str, Any]]:
  """Return what is reported of each constraint.

  Args:
    experiment: of the run.
    inputs: of the run.
    means: of the statistics, by constraint.
    log_multipliers: at the end, by constraint.
    split: of the means; the training split's alone have a verdict.
  """
  report = {}
  for name, constraint in experiment.constraints.items():
    kappa = inputs.kappas[name]
    excess = means[name] - constraint.bound(kappa)
    violation = float(excess / constraint.scale(kappa))
    report[name] = {
      'kappa': float(kappa),
      'value': float(constraint.measure(means[name])),
      'unit': constraint.unit,
      'violation': violation,
      'multiplier': math.exp(log_multipliers[name]),
      'saturation': saturation(experiment, inputs, name, log_multipliers[name]),
      'tolerance': inputs.tolerance,
      'holds': violation <= inputs.tolerance,
    }
    if split == 'train':
      report[name]['verdict'] = verdict(
        experiment, inputs, name, violation, log_multipliers[name]
      )
  return report


def active_units(kl_by_latent: Sequence[float] | None) -> int | None:
  """Return how many latents a model uses: those of a mean KL > 0.01 nats.

  Args:
    kl_by_latent: means over a split, in nats; None where the KL has no terms by
      latent (VAE+NVP), and then that is the answer.
  """
  if kl_by_latent is None:
    return None
  return sum(kl > _ACTIVE_NATS for kl in kl_by_latent)


def evaluate_state(
  experiment: Experiment,
  inputs: RunInputs,
  state: TrainState,
  splits: Sequence[str],
) -> dict[str, Any]:
  """Return the evaluation of a state, the first split at the top level.

  Args:
    experiment: of the run.
    inputs: of the run.
    state: NumPy arrays, not replicated.
    splits: names of splits, most wanted first.
  """
  params = parallel.replicate(state.params)
  train = placed(experiment, experiment.dataset.splits['train'])
  num_dims = math.prod(experiment.dataset.image_shape)
  # Eq. 26, with the division by D that it leaves out.
  train_means = split_means(experiment, likelihood=False)(params, train)
  sigma_opt = math.sqrt(train_means['squared_error'] / num_dims)
  likelihood_means = split_means(experiment, likelihood=True)

  def record(split):
    images = experiment.dataset.splits[split]
    own = train if split == 'train' else placed(experiment, images)
    means = likelihood_means(params, own, sigma_opt)
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


def evaluate(
  workdir: str,
  splits: Sequence[str] = ('train', 'test'),
  *,
  data_dir: str | None = None,
  experiment: Experiment | None = None,
  step: int | None = None,
) -> dict[str, Any]:
  """Evaluate a run's checkpoint; write evaluation.json and pictures.

  Args:
    workdir: of the run.
    splits: names of splits, most wanted first.
    data_dir: of TFDS.
    experiment: of the run, for callers that have it already.
    step: of the checkpoint; None is the latest that is intact.

  Returns:
    What evaluation.json holds.

  Raises:
    UserError: if there is no such run, checkpoint or split, or the run was
      trained on other data.
  """
  unknown = [split for split in splits if split not in SPLITS]
  if unknown or not splits:
    raise UserError(
      f'--split must name any of {", ".join(SPLITS)}, got '
      f'{",".join(splits) or "nothing"}'
    )
  config = run_folder.read_config(workdir)
  if experiment is None:
    experiment = build(config, build_dataset(config, data_dir))
  sha256 = data_sha256(experiment)
  run_folder.check_data(workdir, experiment.dataset.name, sha256)
  inputs = run_inputs(config, experiment)
  state = restore_state(workdir, experiment, step)
  evaluation = evaluate_state(experiment, inputs, state, splits)
  # On which the rounding of all these numbers depends.
  evaluation['runs_at_once'] = by_products.runs_at_once(workdir)
  if parallel.is_main_process():
    files.write_json(os.path.join(workdir, 'evaluation.json'), evaluation)
    for split in splits:
      images = experiment.dataset.splits[split]
      shown = pictures.image_rows(experiment, images)(state.params)
      path = os.path.join(workdir, f'reconstructions_{split}.png')
      labels = pictures.row_labels(experiment.dataset)
      pictures.save_png(path, pictures.grid(shown), labels)
  return evaluation


def restore_state(
  workdir: str, experiment: Experiment, step: int | None = None
) -> TrainState:
  """Return the state of a run's checkpoint, as NumPy arrays.

  Raises:
    UserError: if there is no such checkpoint.
  """
  checkpointer = Checkpointer(workdir, read_only=True)
  try:
    steps = checkpointer.steps()
    if step is not None and step not in steps:
      raise UserError(
        f'--workdir={workdir} has no checkpoint of step {step}; it has {steps}'
      )
    restored = checkpointer.restore(state_like(experiment), step)
  finally:
    checkpointer.close()
  if restored is None:
    raise UserError(f'--workdir={workdir} has no checkpoint yet')
  return restored.state
