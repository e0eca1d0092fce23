"""Reconstruction fixed points of high-capacity beta-VAEs (Eqs. 19-20).

The latent space is cut into tiles with prior masses pi_a. On tile a the decoder
is a constant vector psi_a, and the posterior of x_i is the prior times m_ia:

    m_ia = exp(-||x_i - psi_a||^2 / (2 beta)) / c_i,
    c_i = sum_b pi_b exp(-||x_i - psi_b||^2 / (2 beta)),        (Eq. 19)
    F(psi)_a = sum_i x_i m_ia / sum_j m_ja.                     (Eq. 20)

With beta = 1 / (2 lambda), c_i and the weights over the data are softmaxes:
both are taken in log space, since at small beta a tile may be so far from every
data point that each of its m_ia underflows. Appendix A smooths the iteration
exponentially, `psi <- 0.9 psi + 0.1 F(psi)`.

Matrices over tiles and data are [tiles, n] here, the paper's m transposed: on a
CPU this is three times as fast.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

# Most dimensions of the data over which the sum is written out.
_MAX_FUSED_DIMS = 8


class Tiles(NamedTuple):
  """A partition of [-1/2, 1/2]^d into equal cubes."""

  centers: np.ndarray  # [tiles, d].
  side: float  # Length of a cube's edges.


class FixedPoints(NamedTuple):
  """Where the iteration ended, for each beta."""

  psi: jax.Array  # [betas, tiles, dims], reconstructions of the tiles.
  squared_error: jax.Array  # [betas], u = E ||x - g||^2 over data and encoder.
  kl_nats: jax.Array  # [betas], average KL from posterior to prior.
  num_steps: jax.Array  # [betas], steps taken.
  last_step: jax.Array  # [betas], Euclidean length of the last step of psi.
  trajectories: jax.Array | None  # [betas, max_steps + 1, tiles, dims].


def grid(tiles_per_side: int = 32, num_dims: int = 2) -> Tiles:
  """Return Appendix A's grid of tiles, whose uniform prior is density 1.

  >>> grid(2, 1).centers.ravel().tolist()
  [-0.25, 0.25]

  Args:
    tiles_per_side: >= 1.
    num_dims: dimensions of the latent space, >= 1.

  Raises:
    ValueError: if a number is not in its range.
  """
  if tiles_per_side < 1 or num_dims < 1:
    raise ValueError(
      'tiles_per_side and num_dims must be >= 1, got '
      f'{tiles_per_side} and {num_dims}'
    )
  middles = (np.arange(tiles_per_side) + 0.5) / tiles_per_side - 0.5
  mesh = np.meshgrid(*[middles] * num_dims, indexing='ij')
  centers = np.stack([axis.ravel() for axis in mesh], axis=-1)
  return Tiles(centers, 1 / tiles_per_side)


def initial_psi(
  centers: np.ndarray, seed: int, noise: float = 0.1
) -> np.ndarray:
  """Return Appendix A's start: the tiles' centers plus uniform noise.

  Args:
    centers: [tiles, dims].
    seed: of the noise.
    noise: its greatest size in each dimension, >= 0.
  """
  rng = np.random.default_rng(seed)
  return centers + rng.uniform(-noise, noise, centers.shape)


def log_weights(
  data: jax.Array, psi: jax.Array, log_prior: jax.Array, beta: jax.Array
) -> jax.Array:
  """Return log m [tiles, n], the posteriors over the prior (Eq. 19).

  Args:
    data: [n, dims].
    psi: [tiles, dims].
    log_prior: [tiles], of the tiles' masses.
    beta: [], > 0, in units of squared error.
  """
  energies = squared_distances(data, psi) / (-2 * beta)
  return energies - jax.nn.logsumexp(
    energies + log_prior[:, None], axis=0, keepdims=True
  )


def squared_distances(data: jax.Array, psi: jax.Array) -> jax.Array:
  """Return ||x_i - psi_a||^2 [tiles, n], as exact as float32 can be.

  In `||x||^2 - 2 x.psi + ||psi||^2` near points would cancel, and the rounding
  error is then divided by a small beta. Over few dimensions the sum is written
  out, so that XLA fuses it into the exponentials that follow.
  """
  if data.shape[1] > _MAX_FUSED_DIMS:
    return jax.lax.map(lambda p: ((data - p[None]) ** 2).sum(axis=1), psi)
  differences = (
    psi[:, d][:, None] - data[:, d][None] for d in range(data.shape[1])
  )
  return functools.reduce(jnp.add, (x**2 for x in differences))


def transition(
  data: jax.Array, psi: jax.Array, log_prior: jax.Array, beta: jax.Array
) -> jax.Array:
  """Return F(psi) [tiles, dims], the decoder's best answer (Eq. 20)."""
  return decode(data, log_weights(data, psi, log_prior, beta))


def decode(data: jax.Array, log_m: jax.Array) -> jax.Array:
  """Return `sum_i x_i m_ia / sum_j m_ja` [tiles, dims] (Eqs. 4 and 18).

  Args:
    data: [n, dims].
    log_m: [tiles, n]; a tile where all are -inf is a hole: NaN.
  """
  return jax.nn.softmax(log_m, axis=1) @ data


def fixed_points(
  data: ArrayLike,
  initial: ArrayLike,
  betas: ArrayLike,
  prior: ArrayLike | None = None,
  *,
  smoothing: float = 0.9,
  max_steps: int = 400,
  tolerance: float = 1e-3,
  keep_trajectories: bool = False,
) -> FixedPoints:
  """Iterate Eqs. 19-20 from `initial`, for all betas in one program.

  The betas run one after another, each until its own last step: on a CPU this
  is faster than side by side, where all would take as many steps as the
  slowest.

  Args:
    data: [n, dims].
    initial: [tiles, dims], psi at the start, the same for every beta.
    betas: [betas], > 0, in units of squared error.
    prior: [tiles], masses > 0 that sum to 1; uniform if None.
    smoothing: weight of the old psi in the new, in [0, 1).
    max_steps: >= 1.
    tolerance: stop when the whole of psi moves by less, >= 0.
    keep_trajectories: whether to return psi at every step; after the last step
      a trajectory rests.

  Returns:
    The fixed points; errors and KLs are those of the encoder of Eq. 19 at psi.

  Raises:
    ValueError: if a number is not in its range or shapes do not agree.
  """
  data, initial, betas = (np.asarray(x) for x in (data, initial, betas))
  log_prior = _log_prior(prior, len(initial))
  _check(data, initial, betas, smoothing, max_steps, tolerance)
  # Centering keeps all distances, and float32 is finer around 0.
  center = data.mean(axis=0, keepdims=True)
  points = _iterate(
    *(jnp.asarray(x, jnp.float32) for x in (data - center, initial - center)),
    *(jnp.asarray(x, jnp.float32) for x in (log_prior, betas)),
    smoothing,
    tolerance,
    max_steps,
    keep_trajectories,
  )
  trajectories = points.trajectories
  if trajectories is not None:
    trajectories = trajectories + center[None, None]
  return points._replace(
    psi=points.psi + center[None], trajectories=trajectories
  )


@functools.partial(jax.jit, static_argnums=(6, 7))
def _iterate(
  data, initial, log_prior, betas, smoothing, tolerance, max_steps, keep
):
  """Run every beta in turn; shapes as in `fixed_points`."""

  def fixed_point(beta):
    def move(state):
      psi, num_steps, _ = state
      target = transition(data, psi, log_prior, beta)
      step = (1 - smoothing) * (target - psi)
      return psi + step, num_steps + 1, jnp.linalg.norm(step)

    # A scan of fixed length can keep the trajectory, as a while loop cannot;
    # after the last step `cond` skips the work.
    def step(state, _):
      state = jax.lax.cond(state[2] < tolerance, lambda s: s, move, state)
      return state, state[0] if keep else None

    start = (initial, jnp.int32(0), jnp.float32(jnp.inf))
    (psi, num_steps, last_step), trajectory = jax.lax.scan(
      step, start, length=max_steps
    )
    if keep:
      trajectory = jnp.concatenate([initial[None], jnp.asarray(trajectory)])
    error, kl = error_and_kl(data, psi, log_prior, beta)
    return FixedPoints(psi, error, kl, num_steps, last_step, trajectory)

  return jax.lax.map(fixed_point, betas)


def error_and_kl(
  data: jax.Array, psi: jax.Array, log_prior: jax.Array, beta: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Return u = E ||x - g||^2 and the average KL in nats, each []."""
  log_m = log_weights(data, psi, log_prior, beta)
  # Where the posterior underflows it weighs nothing, however large log m is.
  posterior = jnp.exp(log_m + log_prior[:, None])
  error = (posterior * squared_distances(data, psi)).sum(axis=0).mean()
  return error, (posterior * log_m).sum(axis=0).mean()


def _log_prior(prior, num_tiles):
  """Return log pi [tiles]; raise ValueError if the prior is not one."""
  if prior is None:
    return np.full(num_tiles, -np.log(num_tiles))
  prior = np.asarray(prior, np.float64)
  if prior.shape != (num_tiles,):
    raise ValueError(f'prior must have shape ({num_tiles},), got {prior.shape}')
  if not (prior > 0).all() or abs(prior.sum() - 1) > 1e-5:
    raise ValueError(
      f'prior must be > 0 and sum to 1, got least {prior.min():g} and sum '
      f'{prior.sum():g}'
    )
  return np.log(prior)


def _check(data, initial, betas, smoothing, max_steps, tolerance):
  """Raise ValueError for what `fixed_points` cannot use."""
  if data.ndim != 2 or initial.ndim != 2 or data.shape[1] != initial.shape[1]:
    raise ValueError(
      'data and initial must be [n, dims] and [tiles, dims], got shapes '
      f'{data.shape} and {initial.shape}'
    )
  for name, values in (('data', data), ('initial', initial)):
    if not values.size or not np.isfinite(values).all():
      raise ValueError(f'{name} must be finite and not empty')
  if betas.ndim != 1 or not (np.isfinite(betas) & (betas > 0)).all():
    raise ValueError(f'betas must be a vector of numbers > 0, got {betas}')
  if not 0 <= smoothing < 1:
    raise ValueError(f'smoothing must be in [0, 1), got {smoothing}')
  if max_steps < 1:
    raise ValueError(f'max_steps must be >= 1, got {max_steps}')
  if not tolerance >= 0:
    raise ValueError(f'tolerance must be >= 0, got {tolerance}')
