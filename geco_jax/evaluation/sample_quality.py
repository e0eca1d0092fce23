"""How good a run's samples and its likelihood are, on the test split.

Frechet distances (`frechet`) of samples and of reconstructions to the test
split, beside that of the train split, which is their floor: all four sets are
of one size, on which the distance depends. And the importance-weighted NLL.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from geco_jax import console
from geco_jax import feed
from geco_jax import parallel
from geco_jax.classifiers import pretrained
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import frechet
from geco_jax.evaluation import importance
from geco_jax.evaluation.restored import open_run
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.experiment import once_per_experiment
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.step import TrainState

FILE = 'sample_quality.json'
NUM_DRAWS = 100
NUM_IMAGES = 1_000  # Test images whose NLL is estimated, if there are as many.
_BATCH, _NLL_BATCH = 256, 32
# Fewest examples of a composed set, which has any number of them.
_EXAMPLES_PER_FEATURE = 10


class Sizes(NamedTuple):
  """How much is drawn; None is what the data set and the network suggest."""

  num_samples: int | None = None  # Examples of each of the four sets.
  num_images: int | None = None  # Test images whose NLL is estimated.
  num_draws: int = NUM_DRAWS  # k, draws of z for each of these.


DEFAULT_SIZES = Sizes()


class _FeaturePrograms(NamedTuple):
  """The programs of a layer's features, of a model's images and of data."""

  layer: str
  num_features: int
  model_features: Callable[..., dict[str, jax.Array]]
  data_features: Callable[..., dict[str, jax.Array]]


@once_per_experiment
def _feature_programs(
  experiment: Experiment, network: str, sha256: str, layer: str | None
) -> _FeaturePrograms:
  """Return the programs of a network whose file has this digest."""
  del sha256
  model = experiment.model
  layer, features, num_features = frechet.extractor(
    pretrained.load(network), layer, experiment.dataset.image_shape
  )

  @jax.jit
  def model_features(params, keys, indices, batch):
    own_keys = [per_example_keys(key, indices) for key in keys]
    output = model.apply(params, own_keys[0], batch.image, batch.context)
    samples = model.sample(params, own_keys[1], batch.context)
    return {
      'samples': features(samples),
      'reconstructions': features(output.reconstruction),
      'test': features(batch.image),
    }

  @jax.jit
  def data_features(indices, batch):
    del indices
    return {'train': features(batch.image)}

  return _FeaturePrograms(layer, num_features, model_features, data_features)


def frechet_distances(
  experiment: Experiment,
  params: Any,
  network: str,
  layer: str | None,
  num_samples: int | None,
  seed: int,
  *,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Return the distances to the test split, and how they were measured.

  Samples are the means of p(x|z), z of the prior, given the test split's
  contexts where the model is conditional; reconstructions those of z ~ q(z|x).

  Args:
    experiment: model and data set.
    params: the model's parameters, not replicated.
    network: name or path of a trained classifier.
    layer: of the network; None is the one before the logits.
    num_samples: samples of each set, more than the layer has features.
    seed: of the samples, and of which examples are taken.
    show_progress: whether to draw a progress bar on stderr.

  Raises:
    ValueError: if the network takes other images, it has no such layer, there
      are too few or too many samples, or what the model draws is not finite.
    UserError: if there is no such network.
  """
  dataset, digest = experiment.dataset, pretrained.sha256(network)
  programs = _feature_programs(experiment, network, digest, layer)
  layer, num_features = programs.layer, programs.num_features
  num_samples = _num_samples(dataset, num_samples, layer, num_features)
  keys = _keys(seed)[:2]
  progress = console.Progress(2 * num_samples, 0, show_progress, unit='example')
  collected = {}
  with contextlib.closing(progress):
    for split, program in (
      ('test', functools.partial(programs.model_features, params, keys)),
      ('train', programs.data_features),
    ):
      indices = _chosen(dataset, split, num_samples, seed)
      collected |= _collect(
        dataset, split, indices, _BATCH, program, progress.part(split)
      )
  moments = {name: _moments(name, value) for name, value in collected.items()}
  test = moments.pop('test')
  return {
    'network': network,
    'network_sha256': digest,
    'layer': layer,
    'num_features': num_features,
    'num_samples': num_samples,
    **{
      name: frechet.distance(moments[name], test)
      for name in ('samples', 'reconstructions', 'train')
    },
  }


@once_per_experiment
def _weights_program(experiment: Experiment, num_draws: int):
  """Return (params, key, stddev, indices, batch) -> the weights, by name."""
  posterior, decode = experiment.model.posterior, experiment.model.decode
  assert posterior is not None
  weights = importance.log_weights(posterior, decode, num_draws)

  @jax.jit
  def batch_weights(params, key, stddev, indices, batch):
    keys = per_example_keys(key, indices)
    return {'weights': weights(params, keys, batch.image, stddev)}

  return batch_weights


def importance_nll(
  experiment: Experiment,
  params: Any,
  stddev: float,
  num_images: int | None,
  num_draws: int,
  seed: int,
  *,
  show_progress: bool = True,
) -> dict[str, Any] | None:
  """Return the importance-weighted NLL of test images, None if there is none.

  Models whose posterior depends on a context have none.

  Args:
    experiment: model and data set.
    params: the model's parameters, not replicated.
    stddev: of p(x|z).
    num_images: images of the test split; None is `NUM_IMAGES`, or all if fewer.
    num_draws: k.
    seed: of the draws, and of which images are taken.
    show_progress: whether to draw a progress bar on stderr.

  Raises:
    ValueError: if a number is out of its range.
  """
  dataset, model = experiment.dataset, experiment.model
  if model.posterior is None:
    return None
  num_images = _num_images(dataset, num_images)
  program = functools.partial(
    _weights_program(experiment, num_draws),
    params,
    _keys(seed)[2],
    np.float32(stddev),
  )
  indices = _chosen(dataset, 'test', num_images, seed)
  progress = console.Progress(num_images, 0, show_progress, unit='image')
  with contextlib.closing(progress):
    drawn = _collect(
      dataset,
      'test',
      indices,
      _NLL_BATCH,
      program,
      progress.part(f'NLL, {num_draws} draws'),
    )['weights'].astype(np.float64)
  bounds = importance.log_likelihood(drawn)
  nats = -float(bounds.mean())
  num_dims = dataset.num_dims
  error = bounds.std(ddof=1) / math.sqrt(num_images) if num_images > 1 else None
  return {
    'num_images': num_images,
    'num_draws': num_draws,
    'sigma_opt': stddev,
    'nll_nats': nats,
    'nll_error_nats': None if error is None else float(error),
    'nll_bits_per_dim': nats / num_dims / math.log(2),
    'elbo_nats': float(drawn.mean()),  # k = 1, of the same draws.
  }


def estimate(
  workdir: str,
  network: str,
  *,
  layer: str | None = None,
  sizes: Sizes = DEFAULT_SIZES,
  step: int | None = None,
  seed: int = 0,
  data_dir: str | None = None,
  experiment: Experiment | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Measure the samples of a run's checkpoint; write sample_quality.json.

  Args:
    workdir: directory of the run, which has been evaluated.
    network: name or path of a trained classifier.
    layer: of the network; None is the one before the logits.
    sizes: see `Sizes`.
    step: checkpoint to load; None is the latest that is intact.
    seed: of all draws.
    data_dir: TFDS data directory.
    experiment: the run's, for callers that have built it; None builds it.
    show_progress: whether to draw progress bars on stderr.

  Returns:
    What sample_quality.json holds.

  Raises:
    UserError: if there is no such run, checkpoint, evaluation or network, the
      run was trained on other data, or a number is out of its range.
  """
  _, experiment = open_run(workdir, data_dir, experiment)
  state = restore_state(workdir, experiment, step)
  stddev = _sigma_opt(workdir, state)
  shows = show_progress and parallel.is_main_process()
  try:
    num_images = _num_images(experiment.dataset, sizes.num_images)
    result = {
      'split': 'test',
      'step': int(state.step),
      'seed': seed,
      'frechet': frechet_distances(
        experiment,
        state.params,
        network,
        layer,
        sizes.num_samples,
        seed,
        show_progress=shows,
      ),
      'importance': importance_nll(
        experiment,
        state.params,
        stddev,
        num_images,
        sizes.num_draws,
        seed,
        show_progress=shows,
      ),
    }
  except ValueError as error:
    raise UserError(str(error)) from error
  if parallel.is_main_process():
    files.write_json(os.path.join(workdir, FILE), result)
  return result


def read(workdir: str, step: int) -> dict[str, Any] | None:
  """Return what sample_quality.json holds, None unless it is of this step."""

  def parse(content):
    for name in ('samples', 'reconstructions', 'train'):
      by_products.check(content['frechet'][name], float, name)
    return content if content['step'] == step else None

  return by_products.read(os.path.join(workdir, FILE), parse)


def _keys(seed: int) -> jax.Array:
  """Return the keys of reconstructions, of samples and of the NLL's draws."""
  return jax.random.split(key_of(seed), 3)


def _sigma_opt(workdir: str, state: TrainState) -> float:
  """Return the sigma of p(x|z) that the evaluation of a state has found."""
  path = os.path.join(workdir, 'evaluation.json')
  evaluation = by_products.read(path, lambda content: dict(content)) or {}
  step, sigma = evaluation.get('step'), evaluation.get('sigma_opt')
  if step != int(state.step) or not isinstance(sigma, float) or not sigma > 0:
    raise UserError(
      f'--workdir={workdir} has no evaluation of step {int(state.step)}, whose '
      'sigma_opt the likelihood needs; run geco-jax evaluate first'
    )
  return sigma


def _num_samples(
  dataset: Dataset, num_samples: int | None, layer: str, num_features: int
) -> int:
  """Return the number of examples of each set; refuse an invalid one."""
  splits = dataset.splits
  available = min(len(splits[split].image) for split in ('train', 'test'))
  if num_samples is None:
    num_samples = available
    if dataset.is_composed:
      num_samples = max(available, _EXAMPLES_PER_FEATURE * num_features)
  if num_samples > available and not dataset.is_composed:
    raise ValueError(
      f'num_samples must be at most {available}, since the sets compared are '
      'of one size and the train and the test split have as many, got '
      f'{num_samples}'
    )
  if num_samples <= num_features:
    raise ValueError(
      f'num_samples must be greater than {num_features}, the features of layer '
      f'{layer}, whose covariance is singular otherwise, got {num_samples}; '
      'another layer may have fewer'
    )
  return num_samples


def _num_images(dataset: Dataset, num_images: int | None) -> int:
  """Return the number of images for the NLL; refuse an invalid one."""
  available = len(dataset.splits['test'].image)
  if num_images is None:
    return min(NUM_IMAGES, available)
  if num_images < 1 or (num_images > available and not dataset.is_composed):
    raise ValueError(
      f'num_images must be at least 1 and at most {available}, the images of '
      f'the test split, got {num_images}'
    )
  return num_images


def _chosen(dataset: Dataset, split: str, num: int, seed: int) -> np.ndarray:
  """Return the examples that are taken, whatever a split's order."""
  available = max(num, len(dataset.splits[split].image))
  order = np.random.default_rng(seed).permutation(available)
  return np.sort(order[:num]).astype(np.int32)


def _collect(
  dataset: Dataset,
  split: str,
  indices: np.ndarray,
  batch_size: int,
  program: Callable[[np.ndarray, Batch], Mapping[str, jax.Array]],
  note: Callable[[int], None],
) -> dict[str, np.ndarray]:
  """Return a program's outputs over all examples, concatenated, by name."""
  parts = [
    jax.tree.map(np.asarray, program(own, batch))
    for own, batch in _batches(dataset, split, indices, batch_size, note)
  ]
  return {
    name: np.concatenate([part[name] for part in parts])[: len(indices)]
    for name in parts[0]
  }


def _batches(
  dataset: Dataset, split: str, indices: np.ndarray, batch_size: int, note
) -> Iterator[tuple[np.ndarray, Batch]]:
  """Yield indices and their examples, the last batch padded."""
  examples, images = feed.fixed_examples(dataset), dataset.splits[split]
  batch_size = min(batch_size, len(indices))
  for start in range(0, len(indices), batch_size):
    own = np.resize(indices[start : start + batch_size], batch_size)
    yield own, examples(images, own)
    note(min(start + batch_size, len(indices)))


def _moments(name: str, features: np.ndarray) -> frechet.Moments:
  try:
    return frechet.moments(features)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from error
