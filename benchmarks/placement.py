"""Images on the host beside images on the device: ConvDRAW's training step.

  python -m benchmarks.placement --output=placement.json

The model is that of configs/cifar10_conv_draw.py in a chosen size, on random
32x32x3 images in a file that is mapped, as the cache's. Steps are dispatched as
a run dispatches them; the two take turns.
"""

from collections.abc import Sequence
import contextlib
import importlib
import os
import tempfile

from absl import flags
import jax
import numpy as np

from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from geco_jax import cli
from geco_jax import parallel
from geco_jax.build import build
from geco_jax.build import run_inputs
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import DEVICE
from geco_jax.datasets.batches import HOST
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.sizes import SIZES
from geco_jax.step import dispatch
from geco_jax.step import init_state
from geco_jax.step import training_images

_SHAPE = (32, 32, 3)


def mapped_images(folder: str, num_images: int) -> ImageSet:
  """Return random images of a file in a folder."""
  path = os.path.join(folder, 'images.npy')
  rng = np.random.default_rng(0)
  np.save(path, rng.integers(0, 256, (num_images, *_SHAPE), np.uint8))
  image = np.asarray(np.load(path, mmap_mode='r'))
  images = Images(image, np.full(num_images, -1, np.int32))
  return ImageSet(
    'random', dict.fromkeys(('train', 'validation', 'test'), images)
  )


def train_step(
  placement: str,
  images: ImageSet,
  size: str,
  num_steps: int,
  stack: contextlib.ExitStack,
) -> Contender:
  """Return the training step of a placement as something to time."""
  config = importlib.import_module('configs.cifar10_conv_draw').get_config(size)
  config.steps_per_dispatch = num_steps
  config.num_steps = config.checkpoint_every = 100 * num_steps
  dataset = as_dataset(images)._replace(placement=placement)
  experiment = build(config, dataset)
  inputs = run_inputs(config, experiment)
  layout = parallel.SHARED
  take_steps = dispatch(experiment, layout)
  state = layout.place([init_state(experiment, inputs)])
  placed = layout.place([inputs.step_inputs()])
  take = stack.enter_context(
    training_images(experiment, layout, [inputs.seed], [0])
  )

  def run():
    nonlocal state
    state, metrics = take_steps(
      state, placed, take(num_steps), num_steps=num_steps
    )
    jax.block_until_ready((state, metrics))

  return Contender(run, num_steps)


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum('size', 'quick', [*SIZES], 'Size of the model.')
  side_by_side.define_flags(rounds=15, steps_per_round=10, num_cpu_devices=1)
  flags.DEFINE_integer(
    'num_images', 50_000, 'Images in the file.', lower_bound=1
  )


def main(argv: Sequence[str]) -> None:
  """Measure both, print and write the ratio."""
  del argv
  side_by_side.split_cpu()
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    images = mapped_images(folder, flags.FLAGS.num_images)
    contenders = {
      placement: train_step(
        placement,
        images,
        flags.FLAGS.size,
        flags.FLAGS.steps_per_round,
        stack,
      )
      for placement in (DEVICE, HOST)
    }
    rates = side_by_side.measure(contenders, flags.FLAGS.rounds)
  title = f'ConvDRAW, {flags.FLAGS.size}'
  rows = [side_by_side.compare(title, rates, HOST, DEVICE)]
  side_by_side.report(rows)


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
