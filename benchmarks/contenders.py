"""What is timed side by side: our training step and PyTorch's."""

from collections.abc import Callable
import inspect
from typing import Any

import jax
from ml_collections.config_dict import ConfigDict
import numpy as np

from benchmarks import flops
from benchmarks.side_by_side import Contender
from geco_jax import parallel
from geco_jax.build import build
from geco_jax.build import run_inputs
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.step import init_state
from geco_jax.step import state_like
from geco_jax.step import train_steps
from geco_jax.step import train_steps_together


def random_images(
  image_shape: tuple[int, int, int], num_images: int
) -> Dataset:
  """Return random bytes as a data set: speed does not depend on pixels."""
  image = np.random.default_rng(0).integers(
    0, 256, (num_images, *image_shape), dtype=np.uint8
  )
  images = Images(image, np.full(num_images, -1, np.int32))
  splits = ('train', 'validation', 'test')
  return as_dataset(ImageSet('random', {split: images for split in splits}))


def ours(
  config: ConfigDict, dataset: Dataset, num_steps: int, num_runs: int = 1
) -> Contender:
  """Return our compiled program as something to time.

  Args:
    config: of the run.
    dataset: of the config.
    num_steps: of each run, per call of the program.
    num_runs: trained at once, from seeds of their own; the steps of all count.
  """
  experiment = build(config, dataset)
  inputs = run_inputs(config, experiment)
  runs = [inputs._replace(seed=seed) for seed in range(num_runs)]
  states = [init_state(experiment, run) for run in runs]
  layout = parallel.SHARED if num_runs == 1 else parallel.SPREAD
  take_steps = train_steps if num_runs == 1 else train_steps_together
  program = take_steps(experiment, num_steps)
  state = layout.place(states)
  placed = layout.place([run.step_inputs() for run in runs])
  images = parallel.replicate(experiment.dataset.splits['train'])

  def run():
    nonlocal state
    state, metrics = program(state, placed, images)
    jax.block_until_ready((state, metrics))

  return Contender(run, num_runs * num_steps)


def flops_of_step(config: ConfigDict, dataset: Dataset) -> int:
  """Return the operations of a training step's products (`flops.count`)."""
  experiment = build(config, dataset)
  inputs = run_inputs(config, experiment)
  trees = (
    state_like(experiment),
    inputs.step_inputs(),
    experiment.dataset.splits['train'],
  )
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((parallel.num_devices(), *x.shape), x.dtype),
    trees,
  )
  return flops.count(train_steps(experiment, 1), *shapes)


def torch_on(device: str | None) -> tuple[Any, str]:
  """Return PyTorch's module, and its name of a device to compute on.

  Args:
    device: the name; None is the kind of device that JAX uses.

  Raises:
    UserError: if PyTorch is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError(
      "PyTorch is missing: pip install -e '.[benchmarks]'"
    ) from error
  return torch, device or ('cuda' if jax.default_backend() == 'gpu' else 'cpu')


def torch_network(
  image_shape: tuple[int, int, int], model: ConfigDict
) -> Callable[[], Any]:
  """Return () -> PyTorch's form of the model that a config describes."""

  def network():
    from benchmarks import torch_conv_draw
    from benchmarks import torch_vae

    constructors = {
      'mlp_vae': torch_vae.mlp_vae,
      'conv_vae': torch_vae.conv_vae,
      'conv_draw': torch_conv_draw.ConvDraw,
    }
    constructor = constructors[model.name]
    takes = inspect.signature(constructor).parameters
    kwargs = {k: v for k, v in model.kwargs.items() if k in takes}
    return constructor(image_shape, **kwargs)

  return network


def torchs(
  make_network: Callable,
  images: np.ndarray,
  batch_size: int,
  num_steps: int,
  *,
  device: str | None = None,
  channels_last: bool = False,
  compile_mode: str | None = None,
  fused_adam: bool = False,
  autocast: bool = False,
) -> Contender:
  """Return the PyTorch program as something to time.

  Args:
    make_network: () -> a `torch_vae.Vae` or its like.
    images: uint8 [n, height, width, channels].
    batch_size: examples per step.
    num_steps: per round.
    device: PyTorch's name of it; None is the kind that JAX uses.
    channels_last: memory format of the network.
    compile_mode: of `torch.compile`, which the network passes unless None.
    fused_adam: whether to use PyTorch's fused kernel.
    autocast: whether the network computes in bfloat16.

  Raises:
    UserError: if PyTorch is not installed.
  """
  torch, device = torch_on(device)
  from benchmarks import torch_vae

  data = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
  network: Any = make_network().to(device)
  if channels_last:
    network.to(memory_format=torch.channels_last)
  if compile_mode is not None:
    import torch._inductor.config

    # Otherwise a compilation may be another run's, found on the disk.
    torch._inductor.config.force_disable_caches = True
    network = torch.compile(network, mode=compile_mode)
  trainer = torch_vae.Trainer(
    network,
    data,
    batch_size,
    kappa=0.1,
    fused_adam=fused_adam,
    autocast=autocast,
  )
  return Contender(lambda: trainer.run(num_steps), num_steps)
