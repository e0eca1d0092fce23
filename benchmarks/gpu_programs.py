"""What `benchmarks.gpu` times: programs by model, precision and name.

Every builder is called in a process of its own, which has the program's
framework alone on the device: beside PyTorch's, JAX stays on the CPU.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict

from benchmarks import contenders
from benchmarks import flops
from benchmarks import marginal_kl
from benchmarks.gpu_table import MATMUL
from benchmarks.gpu_table import OURS
from benchmarks.side_by_side import Contender
from geco_jax.errors import UserError
from geco_jax.evaluation.aggregate_posterior import choose_tiles
from geco_jax.models import conv_draw

_NUM_IMAGES = 10_000
_TINY_BATCH = 4
_MATMULS = 10  # Products of a call, one after another.
# A GPU multiplies float32 as tf32, unless it is told not to.
POLICIES = {
  'tf32': 'params=float32,compute=float32,output=float32',
  'bf16': 'params=float32,compute=bfloat16,output=float32',
}
# PyTorch's forms. Adam is fused and the memory format channels_last in all.
TORCHS: Mapping[str, str | None] = {
  'torch eager': None,
  'torch.compile': 'default',
  'torch.compile, CUDA graphs': 'reduce-overhead',
}


class Workload(NamedTuple):
  """A model and the images that it is trained on."""

  config: str  # A module's name in `configs`.
  variant: str  # Variant of the config, with {} for the objective.
  image_shape: tuple[int, int, int]
  steps_per_call: int
  tiny: dict[str, Any]  # Changes to the model in a dry run.


_TINY_CONV_DRAW = dict(num_steps=2, hidden_channels=4, latent_channels=2)
_TINY_NVP = dict(
  latent_size=4,
  channels=(4,),
  hidden_size=8,
  num_couplings=2,
  coupling_sizes=(8,),
)
WORKLOADS = {
  'ConvDRAW, gpu preset': Workload(
    *('cifar10_conv_draw', 'gpu,{}', (32, 32, 3), 20, _TINY_CONV_DRAW)
  ),
  'ConvDRAW, quick preset': Workload(
    *('cifar10_conv_draw', 'quick,{}', (32, 32, 3), 50, _TINY_CONV_DRAW)
  ),
  'MLP VAE': Workload(
    *('mnist_vae', '{}', (28, 28, 1), 100),
    dict(latent_size=4, hidden_sizes=(16,)),
  ),
  'convolutional VAE': Workload(
    *('mnist_vae', '{},conv', (28, 28, 1), 100),
    dict(latent_size=4, channels=(4, 4), hidden_size=8),
  ),
  'VAE+NVP, quick preset': Workload(
    *('cifar10_nvp', 'quick,{}', (32, 32, 3), 100, _TINY_NVP)
  ),
  'VAE+NVP, gpu preset': Workload(
    *('cifar10_nvp', 'gpu,{}', (32, 32, 3), 100, _TINY_NVP)
  ),
}
PAIRS = 'marginal KL'
_PAIRS_SIZES = marginal_kl.Sizes(
  latent_size=64,
  num_couplings=8,
  width=256,
  num_samples=256,
  num_data=8_192,
)
_TINY_PAIRS_SIZES = marginal_kl.Sizes(
  latent_size=4, num_couplings=2, width=8, num_samples=16, num_data=512
)
_PAIRS_TILE = 256  # Data points at once, in the programs that are not ours.


class Switch(NamedTuple):
  """A private constant of ConvDRAW, read while a program is traced."""

  attribute: str
  on: Any
  off: Any


SWITCHES = {
  'unrolled': Switch('_UNROLLED_STEPS', 16, 1),
  'padded': Switch('_CHANNEL_MULTIPLE', 8, 1),
  'stacked': Switch('_STACKED_WEIGHT_GRADIENTS', True, False),
}


class Program(NamedTuple):
  """One program; those of a model and precision stand beside each other."""

  model: str
  precision: str
  name: str
  build: Callable[[], Contender]  # Can be pickled.

  @property
  def full_name(self) -> str:
    """Model, precision and name, which no two programs share."""
    return f'{self.model}, {self.precision}: {self.name}'


def config_of(
  model: str, precision: str, objective: str = 'geco', tiny: bool = False
) -> ConfigDict:
  """Return the config of a workload's run."""
  workload = WORKLOADS[model]
  module = importlib.import_module(f'configs.{workload.config}')
  config = module.get_config(workload.variant.format(objective))
  config.policy = POLICIES[precision]
  if tiny:
    config.batch_size = _TINY_BATCH
    config.model.kwargs.update(workload.tiny)
  return config


def description(model: str, tiny: bool) -> dict[str, Any]:
  """Return the sizes of a workload."""
  config = config_of(model, 'tf32', tiny=tiny)
  return {
    'image_shape': WORKLOADS[model].image_shape,
    'batch_size': config.batch_size,
    **config.model.kwargs,
  }


@contextlib.contextmanager
def switched(on: Collection[str]) -> Iterator[None]:
  """Turn these `SWITCHES` on, the others off, for what is traced meanwhile.

  Raises:
    UserError: if the constant of one that is to be on is not there.
  """
  with contextlib.ExitStack() as undo:
    for name, (attribute, *values) in SWITCHES.items():
      if hasattr(conv_draw, attribute):
        before = getattr(conv_draw, attribute)
        undo.callback(setattr, conv_draw, attribute, before)
        setattr(conv_draw, attribute, values[name not in on])
      elif name in on:
        raise UserError(f'{name}: {conv_draw.__name__} has no {attribute}')
    yield


def training(
  model: str,
  precision: str,
  tiny: bool,
  *,
  objective: str = 'geco',
  num_runs: int = 1,
  switches: Collection[str] | None = None,
) -> Contender:
  """Return our training step, counted where it is a single run of GECO's.

  Args:
    model: of `WORKLOADS`.
    precision: of `POLICIES`.
    tiny: whether it is a dry run's, on the CPU.
    objective: of the config.
    num_runs: trained at once.
    switches: those of `SWITCHES` that are on, the others off; None leaves all
      as they are.
  """
  _use_jax_on('cpu' if tiny else 'cuda')
  config, images = config_of(model, precision, objective, tiny), _images(model)
  steps = 1 if tiny else WORKLOADS[model].steps_per_call
  with contextlib.ExitStack() as stack:
    if switches is not None:
      stack.enter_context(switched(switches))
    contender = contenders.ours(config, images, steps, num_runs)
    contender.run()  # Traced here.
  if objective != 'geco' or num_runs > 1 or switches is not None:
    return contender
  with switched(()):  # Padded channels do no work.
    counted = contenders.flops_of_step(config, images)
  return contender._replace(flops=counted)


def torch_training(
  model: str, precision: str, tiny: bool, compile_mode: str | None
) -> Contender:
  """Return PyTorch's training step, in a form of `TORCHS`."""
  _use_jax_on('cpu')
  device = _torch_device(tiny)
  config, workload = config_of(model, precision, tiny=tiny), WORKLOADS[model]
  return contenders.torchs(
    contenders.torch_network(workload.image_shape, config.model),
    _images(model).splits['train'].image,
    config.batch_size,
    1 if tiny else max(1, workload.steps_per_call // 2),
    device=device,
    channels_last=True,
    compile_mode=compile_mode,
    fused_adam=True,
    autocast=precision == 'bf16',
  )


def matmul(precision: str, tiny: bool) -> Contender:
  """Return square matrix products, 8,192 wide: what the device can do."""
  _use_jax_on('cpu' if tiny else 'cuda')
  width = 64 if tiny else 8_192
  dtype = jnp.bfloat16 if precision == 'bf16' else jnp.float32
  x = jax.random.normal(jax.random.key(0), (width, width), dtype)
  # With this scale, products stay as large as their factors.
  factor = x / width**0.5

  @jax.jit
  def program(x, factor):
    return jax.lax.scan(lambda x, _: (x @ factor, None), x, length=_MATMULS)[0]

  return Contender(
    lambda: program(x, factor).block_until_ready(), _MATMULS, 2 * width**3
  )


def pairs(tiny: bool) -> Contender:
  """Return our log densities of all pairs, a pair being a step."""
  _use_jax_on('cpu' if tiny else 'cuda')
  sizes = _TINY_PAIRS_SIZES if tiny else _PAIRS_SIZES
  num_pairs = sizes.num_samples * sizes.num_data
  posterior, params = marginal_kl.flow(sizes)
  counted = flops.count(
    posterior.log_prob,
    params,
    jnp.zeros((1, sizes.latent_size)),
    jnp.zeros((1, sizes.num_couplings, sizes.width)),
  )
  run = marginal_kl.ours(sizes, choose_tiles())
  return Contender(run, num_pairs, flops=counted)


def plain_pairs(tiny: bool) -> Contender:
  """Return the same as `vmap` of `vmap` of a log density."""
  _use_jax_on('cpu' if tiny else 'cuda')
  sizes = _TINY_PAIRS_SIZES if tiny else _PAIRS_SIZES
  run = marginal_kl.double_vmap(sizes, _PAIRS_TILE)
  return Contender(run, sizes.num_samples * sizes.num_data)


def torch_pairs(tiny: bool, compile_mode: str | None) -> Contender:
  """Return PyTorch's form of the same, in a form of `TORCHS`."""
  _use_jax_on('cpu')
  sizes = _TINY_PAIRS_SIZES if tiny else _PAIRS_SIZES
  run = marginal_kl.torch_tiles(
    sizes, _PAIRS_TILE, device=_torch_device(tiny), compile_mode=compile_mode
  )
  return Contender(run, sizes.num_samples * sizes.num_data)


def programs(tiny: bool, variants: Collection[str] = ()) -> list[Program]:
  """Return all programs, those that compile longest first.

  Args:
    tiny: whether they are a dry run's.
    variants: of ConvDRAW's gpu preset, `SWITCHES` that are on with + between
      or 'none', the others off.

  Raises:
    UserError: if a switch is unknown.
  """
  large, quick, mlp, conv, *nvps = WORKLOADS
  listed = []

  def add(model, precision, name, build, *args, **kwargs):
    build = functools.partial(build, *args, **kwargs)
    listed.append(Program(model, precision, name, build))

  def add_training(model, precision, name, **kwargs):
    add(model, precision, name, training, model, precision, tiny, **kwargs)

  def add_torchs(model, precision):
    for name, mode in TORCHS.items():
      add(model, precision, name, torch_training, model, precision, tiny, mode)

  for precision in POLICIES:
    add_training(large, precision, OURS)
    add_torchs(large, precision)
    for variant in variants:
      on = _switches(variant)
      add_training(large, precision, f'{OURS}, {variant}', switches=on)
  add_training(large, 'bf16', f'{OURS}, ELBO', objective='elbo')
  for model in (conv, mlp):
    add_training(model, 'tf32', OURS)
    add_torchs(model, 'tf32')
  add_training(mlp, 'tf32', f'{OURS}, ELBO', objective='elbo')
  for num_runs in (5, 10):
    name = f'{OURS}, {num_runs} runs at once'
    add_training(mlp, 'tf32', name, num_runs=num_runs)
  add_training(quick, 'tf32', OURS)
  add_training(quick, 'tf32', f'{OURS}, 5 runs at once', num_runs=5)
  for model in nvps:
    add_training(model, 'tf32', OURS)
  add(PAIRS, 'tf32', OURS, pairs, tiny)
  add(PAIRS, 'tf32', 'vmap of vmap', plain_pairs, tiny)
  for name, mode in TORCHS.items():
    add(PAIRS, 'tf32', name, torch_pairs, tiny, mode)
  for precision in POLICIES:
    add(MATMUL, precision, 'jax.numpy', matmul, precision, tiny)
  return listed


def _switches(variant):
  """Return the switches that a variant names."""
  names = [] if variant == 'none' else variant.split('+')
  for name in names:
    if name not in SWITCHES:
      raise UserError(
        f'unknown switch {name!r}; choose from none, {", ".join(SWITCHES)}'
      )
  return names


def _use_jax_on(platform):
  """Keep JAX on a platform; it fails if that is not there."""
  jax.config.update('jax_platforms', platform)


def _torch_device(tiny):
  """Return PyTorch's device, set up as JAX is: tf32, algorithms measured."""
  import torch

  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.benchmark = True
  return 'cpu' if tiny else 'cuda'


def _images(model):
  return contenders.random_images(WORKLOADS[model].image_shape, _NUM_IMAGES)
