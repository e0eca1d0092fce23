"""What is timed side by side: our training step and PyTorch's."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.side_by_side import Contender
from geco_jax import parallel
from geco_jax.build import Experiment
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.update import init_state
from geco_jax.update import run_inputs
from geco_jax.update import train_steps


def random_images(
  image_shape: tuple[int, int, int], num_images: int
) -> Dataset:
  """Returns random bytes as a data set: speed does not depend on pixels."""
  image = np.random.default_rng(0).integers(
    0, 256, (num_images, *image_shape), dtype=np.uint8
  )
  images = Images(image, np.full(num_images, -1, np.int32))
  splits = ('train', 'validation', 'test')
  return as_dataset(ImageSet('random', {split: images for split in splits}))


def ours(experiment: Experiment, num_steps: int) -> Contender:
  """Returns our compiled program as something to time."""
  inputs = run_inputs(experiment)
  state = parallel.replicate(init_state(experiment, inputs))
  inputs = parallel.replicate(inputs)
  images = parallel.replicate(experiment.dataset.splits['train'])
  program = train_steps(experiment, num_steps)

  def run():
    nonlocal state
    state, metrics = program(state, inputs, images)
    jax.block_until_ready((state, metrics))

  return Contender(run, num_steps)


def torchs(
  make_network: Callable,
  images: np.ndarray,
  batch_size: int,
  num_steps: int,
  *,
  channels_last: bool = False,
  compiled: bool = False,
  fused_adam: bool = False,
) -> Contender:
  """Returns the PyTorch program as something to time.

  Args:
    make_network: () -> a `torch_vae.Vae` or its like.
    images: uint8 [n, height, width, channels].
    batch_size: examples per step.
    num_steps: per round.
    channels_last: memory format of the network.
    compiled: whether the network passes `torch.compile`.
    fused_adam: whether to use PyTorch's fused kernel.

  Raises:
    UserError: if PyTorch is not installed.
  """
  try:
    import torch

    from benchmarks import torch_vae
  except ImportError as error:
    raise UserError(
      "PyTorch is missing: pip install -e '.[benchmarks]'"
    ) from error
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  data = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
  network: Any = make_network().to(device)
  if channels_last:
    network.to(memory_format=torch.channels_last)
  if compiled:
    import torch._inductor.config

    # Otherwise a compilation may be another run's, found on the disk.
    torch._inductor.config.force_disable_caches = True
    network = torch.compile(network)
  trainer = torch_vae.Trainer(
    network, data, batch_size, kappa=0.1, fused_adam=fused_adam
  )
  return Contender(lambda: trainer.run(num_steps), num_steps)
