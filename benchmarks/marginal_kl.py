"""Pairs per second of log q(z|x), for the marginal KL of VAE+NVP.

  python -m benchmarks.marginal_kl --num_cpu_devices=2 --output=marginal_kl.json

Samples meet data points in a conditional RealNVP, whose networks see x as 256
features. Against ours stand what a user would write: `vmap` of `vmap` of a
log density whose networks see z and features side by side, in JAX and (as
broadcast tiles, eager) in PyTorch, and the plain double loop over a compiled
density. All have the same weights. Run it on an idle machine.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

from absl import flags
import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np

from benchmarks import contenders
from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from geco_jax import cli
from geco_jax import parallel
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.evaluation import aggregate_posterior
from geco_jax.evaluation.aggregate_posterior import Tiles
from geco_jax.models.base import Posterior
from geco_jax.models.nvp import ConditionalRealNVP
from geco_jax.models.nvp import standard_normal_log_prob

_FEATURES_SHAPE = (16, 16, 1)  # Shape of the "images" that are the features.
_BOUND = 2.0
_LOOP_PAIRS = 400

_OURS = 'geco_jax'


class Sizes(NamedTuple):
  """The sizes of the flow and of the pairs."""

  latent_size: int
  num_couplings: int
  width: int
  num_samples: int
  num_data: int


class Weights(NamedTuple):
  """Weights of a coupling's network, which sees its kept half and features."""

  w_in: Any  # [kept + features, width].
  b_in: Any
  w_out: Any  # [width, 2 * changed].
  b_out: Any


def flow(sizes: Sizes) -> tuple[Posterior, hk.Params]:
  """Return our posterior, whose features are the image, and its weights."""

  def functions():
    module = ConditionalRealNVP(
      sizes.latent_size,
      jmp.get_policy('float32'),
      num_couplings=sizes.num_couplings,
      hidden_sizes=(sizes.width,),
      log_scale_bound=_BOUND,
    )

    def condition(image):
      return module.condition(image.reshape(len(image), -1))

    def log_prob(z, conditions):
      return module.log_prob(z[:, jnp.newaxis], conditions[jnp.newaxis])

    def initial(z, image):
      return log_prob(z, condition(image))

    return initial, (condition, log_prob)

  transformed = hk.multi_transform(functions)
  z = jnp.zeros((1, sizes.latent_size))
  params = transformed.init(
    jax.random.key(0), z, jnp.zeros((1, *_FEATURES_SHAPE))
  )
  leaves, structure = jax.tree.flatten(params)
  # Away from the start, where it is the identity.
  params = jax.tree.unflatten(
    structure,
    [
      x + 0.02 * jax.random.normal(jax.random.key(number), x.shape)
      for number, x in enumerate(leaves)
    ],
  )
  condition, log_prob = (
    lambda params, *args, f=f: f(params, None, *args) for f in transformed.apply
  )

  def never(*args):
    raise NotImplementedError(args)

  posterior = Posterior(
    condition=condition, sample=never, log_prob=log_prob, log_prior=never
  )
  return posterior, params


def concatenated(params: hk.Params, sizes: Sizes) -> list[Weights]:
  """Return the weights as those of networks that see z and features."""

  def module(name):
    (value,) = (v for k, v in params.items() if k.split('/')[-1] == name)
    return value

  shared = module('features')
  weights = []
  for k in range(sizes.num_couplings):
    share = slice(k * sizes.width, (k + 1) * sizes.width)
    out = module(f'coupling_{k}_out')
    weights.append(
      Weights(
        w_in=jnp.concatenate(
          [module(f'coupling_{k}_in')['w'], shared['w'][:, share]]
        ),
        b_in=shared['b'][share],
        w_out=out['w'],
        b_out=out['b'],
      )
    )
  return weights


def plain_log_prob(
  weights: Sequence[Weights], z: jax.Array, features: jax.Array
) -> jax.Array:
  """Return log q(z|x) [] of one z [latent_size] and one x's features."""
  half = len(z) // 2
  halves = [z[:half], z[half:]]
  log_determinant = jnp.float32(0)
  for k in reversed(range(len(weights))):
    w = weights[k]
    seen = jnp.concatenate([halves[k % 2], features])
    raw = jnp.tanh(seen @ w.w_in + w.b_in) @ w.w_out + w.b_out
    raw_scale, shift = jnp.split(raw, 2)
    log_scale = _BOUND * jnp.tanh(raw_scale / _BOUND)
    halves[1 - k % 2] = (halves[1 - k % 2] - shift) * jnp.exp(-log_scale)
    log_determinant -= log_scale.sum()
  return standard_normal_log_prob(jnp.concatenate(halves)) + log_determinant


def random_features(sizes: Sizes) -> np.ndarray:
  """Return features of the data points as uint8 images."""
  return np.random.default_rng(0).integers(
    0, 256, (sizes.num_data, *_FEATURES_SHAPE), dtype=np.uint8
  )


def random_latents(sizes: Sizes) -> np.ndarray:
  """Return z [num_samples, latent_size]."""
  shape = (sizes.num_samples, sizes.latent_size)
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ours(sizes: Sizes, tiles: Tiles) -> Callable[[], np.ndarray]:
  """Return our program: () -> log sums over the data [num_samples]."""
  posterior, params = flow(sizes)
  image = random_features(sizes)
  images = Images(image, np.zeros(len(image), np.int32))
  splits = {split: images for split in ('train', 'validation', 'test')}
  dataset = as_dataset(ImageSet('features', splits))
  per_call = tiles.data * parallel.num_devices()
  tiles = tiles._replace(data_per_call=math.ceil(sizes.num_data / per_call))
  z = random_latents(sizes).reshape(-1, tiles.samples, sizes.latent_size)
  program = aggregate_posterior.accumulator(
    posterior, dataset, sizes.num_data, tiles
  )
  args = parallel.replicate((params, images, z))
  fresh = np.full(z.shape[:2], -np.inf, np.float32)

  def run():
    sums = program(
      *args, parallel.replicate(fresh), parallel.replicate(np.int32(0))
    )
    return parallel.unreplicate(sums).ravel()

  return run


def double_vmap(sizes: Sizes, tile: int) -> Callable[[], np.ndarray]:
  """Return `vmap` of `vmap`, over tiles of data that fit into memory."""
  _, params = flow(sizes)
  weights = concatenated(params, sizes)
  features = jnp.asarray(random_features(sizes).reshape(-1, tile, 256) / 255.0)
  z = jnp.asarray(random_latents(sizes))
  pairs = jax.vmap(
    jax.vmap(plain_log_prob, in_axes=(None, None, 0)), in_axes=(None, 0, None)
  )

  @jax.jit
  def program(z, features):
    sums = jax.lax.map(
      lambda part: jax.nn.logsumexp(pairs(weights, z, part), axis=1), features
    )
    return jax.nn.logsumexp(sums, axis=0)

  return lambda: np.asarray(program(z, features.astype(jnp.float32)))


def double_loop(sizes: Sizes) -> Callable[[], None]:
  """Return the loop over some pairs that calls a compiled log density."""
  _, params = flow(sizes)
  weights = concatenated(params, sizes)
  features = jnp.asarray(random_features(sizes).reshape(-1, 256) / 255.0)
  z = jnp.asarray(random_latents(sizes))
  program = jax.jit(plain_log_prob)

  def run():
    for m in range(_LOOP_PAIRS // 20):
      for i in range(20):
        program(weights, z[m], features[i]).block_until_ready()

  return run


def torch_tiles(
  sizes: Sizes,
  tile: int,
  *,
  device: str | None = None,
  compile_mode: str | None = None,
) -> Callable[[], np.ndarray]:
  """Return PyTorch's program, of broadcast tiles of data.

  Args:
    sizes: of the flow and of the pairs.
    tile: data points at once; divides their number.
    device: PyTorch's name of it; None is the kind that JAX uses.
    compile_mode: of `torch.compile`, which a tile's program passes unless None.

  Raises:
    UserError: if PyTorch is not installed.
  """
  torch, device = contenders.torch_on(device)
  _, params = flow(sizes)

  def tensor(x):
    return torch.from_numpy(np.array(x, np.float32)).to(device)

  weights = [Weights(*map(tensor, w)) for w in concatenated(params, sizes)]
  features = tensor(random_features(sizes).reshape(-1, tile, 256) / 255.0)
  z = tensor(random_latents(sizes))

  def log_sum_of_tile(part):
    shape = (len(z), len(part))
    half = z.shape[-1] // 2
    seen_features = part[None].expand(*shape, -1)
    halves = [h[:, None].expand(*shape, -1) for h in (z[:, :half], z[:, half:])]
    log_determinant = 0.0
    for k in reversed(range(len(weights))):
      w = weights[k]
      seen = torch.cat([halves[k % 2], seen_features], dim=-1)
      raw = torch.tanh(seen @ w.w_in + w.b_in) @ w.w_out + w.b_out
      raw_scale, shift = raw.chunk(2, dim=-1)
      log_scale = _BOUND * torch.tanh(raw_scale / _BOUND)
      halves[1 - k % 2] = (halves[1 - k % 2] - shift) * torch.exp(-log_scale)
      log_determinant = log_determinant - log_scale.sum(dim=-1)
    u = torch.cat(halves, dim=-1)
    base = -0.5 * (u**2 + math.log(2 * math.pi)).sum(dim=-1)
    return torch.logsumexp(base + log_determinant, dim=1)

  log_sum: Any = log_sum_of_tile
  if compile_mode is not None:
    log_sum = torch.compile(log_sum_of_tile, mode=compile_mode)

  @torch.no_grad()
  def run():
    # What CUDA graphs return is overwritten by the next call.
    sums = [log_sum(part).clone() for part in features]
    return torch.logsumexp(torch.stack(sums), dim=0).cpu().numpy()

  return run


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_integer('latent_size', 64, 'Dimensions of z.')
  flags.DEFINE_integer('num_couplings', 8, 'Couplings of the flow.')
  flags.DEFINE_integer('width', 256, 'Width of the hidden layers.')
  flags.DEFINE_integer('num_samples', 256, 'Samples of z.')
  flags.DEFINE_integer('num_data', 1_024, 'Data points.')
  flags.DEFINE_integer('sample_tile', None, 'Samples at once, else ours.')
  flags.DEFINE_integer(
    'data_tile', aggregate_posterior.DATA_TILE, 'Data points at once.'
  )
  side_by_side.define_flags(rounds=5, num_cpu_devices=1)


def main(argv: Sequence[str]) -> None:
  """Measure all rows, print and write them."""
  del argv
  side_by_side.split_cpu()
  sizes = Sizes(
    flags.FLAGS.latent_size,
    flags.FLAGS.num_couplings,
    flags.FLAGS.width,
    flags.FLAGS.num_samples,
    flags.FLAGS.num_data,
  )
  tiles = aggregate_posterior.choose_tiles(
    flags.FLAGS.sample_tile, flags.FLAGS.data_tile
  )
  num_pairs = sizes.num_samples * sizes.num_data
  programs = {
    _OURS: Contender(ours(sizes, tiles), num_pairs),
    'vmap of vmap': Contender(double_vmap(sizes, 32), num_pairs),
    'torch, tiles': Contender(torch_tiles(sizes, 32), num_pairs),
    'loop of loop': Contender(double_loop(sizes), _LOOP_PAIRS),
  }
  rates = side_by_side.measure(programs, flags.FLAGS.rounds)
  rows = [
    side_by_side.compare('pairs', rates, _OURS, name)
    for name in programs
    if name != _OURS
  ]
  side_by_side.report(rows, sizes=sizes._asdict())


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
