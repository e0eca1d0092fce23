"""Training steps per second, beside PyTorch's and beside our own.

  python -m benchmarks.train_step --output=train_step.json
  python -m benchmarks.train_step --rows=conv --num_cpu_devices=2

Same models, batches and optimizer; images are random bytes in MNIST's numbers.
The ratio is the contender's steps per second over the baseline's: the median
over rounds in which all take their turn, then the lowest and highest. Run
it on an idle machine: contention slows PyTorch's threads down far more than
ours.
"""

from collections.abc import Sequence

from absl import flags
import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import numpy as np

from benchmarks import contenders
from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from benchmarks.side_by_side import Row
from configs import mnist_vae
from geco_jax import cli
from geco_jax.datasets.batches import Dataset

_IMAGE_SHAPE = (28, 28, 1)
_NUM_IMAGES = 60_000


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_multi_enum(
    'rows',
    ['mlp', 'conv', 'own'],
    ['mlp', 'conv', 'own'],
    'The models against PyTorch; the objectives and the batches of our own.',
  )
  side_by_side.define_flags(rounds=9, steps_per_round=100, num_cpu_devices=1)


def main(argv: Sequence[str]) -> None:
  """Measure all rows, print and write them."""
  del argv
  side_by_side.split_cpu()
  dataset = contenders.random_images(_IMAGE_SHAPE, _NUM_IMAGES)
  rows = []
  for name in flags.FLAGS.rows:
    if name == 'own':
      rows += _against_our_own(dataset)
    else:
      rows += _against_torch(name, dataset)
  side_by_side.report(rows)


def _config(objective: str, model: str) -> ConfigDict:
  variant = f'{objective},conv' if model == 'conv' else objective
  return mnist_vae.get_config(variant)


def _ours(dataset: Dataset, objective: str, model: str) -> Contender:
  config = _config(objective, model)
  return contenders.ours(config, dataset, flags.FLAGS.steps_per_round)


def _torchs(model: str, images: np.ndarray, fused_adam: bool) -> Contender:
  config = _config('geco', model)
  return contenders.torchs(
    contenders.torch_network(_IMAGE_SHAPE, config.model),
    images,
    config.batch_size,
    flags.FLAGS.steps_per_round,
    channels_last=model == 'conv',
    fused_adam=fused_adam,
  )


def _against_torch(model: str, dataset: Dataset) -> list[Row]:
  images = dataset.splits['train'].image
  rates = side_by_side.measure(
    {
      'geco_jax': _ours(dataset, 'geco', model),
      'torch': _torchs(model, images, fused_adam=False),
      'torch, fused Adam': _torchs(model, images, fused_adam=True),
    },
    flags.FLAGS.rounds,
  )
  return [
    side_by_side.compare(f'{model} VAE', rates, 'geco_jax', baseline)
    for baseline in ('torch', 'torch, fused Adam')
  ]


def _against_our_own(dataset: Dataset) -> list[Row]:
  """GECO beside the ELBO, batches assembled beside one constant batch."""
  constant = dataset._replace(choose=_first_images)
  rates = side_by_side.measure(
    {
      'GECO': _ours(dataset, 'geco', 'mlp'),
      'ELBO': _ours(dataset, 'elbo', 'mlp'),
      'constant batch': _ours(constant, 'geco', 'mlp'),
    },
    flags.FLAGS.rounds,
  )
  return [
    side_by_side.compare('mlp VAE', rates, 'GECO', 'ELBO'),
    side_by_side.compare('mlp VAE', rates, 'GECO', 'constant batch'),
  ]


def _first_images(
  label: jax.Array, indices: jax.Array, keys: jax.Array
) -> jax.Array:
  """Return the first images' numbers, whatever the step asks for."""
  del label, keys
  return jnp.arange(len(indices))


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
