"""What Propositions 1 to 5 claim, each as numbers that can be checked.

Matrices over tiles and data are [tiles, n], as in `fixed_points`.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import pairwise

from geco_jax.theory import fixed_points

# (data [n, dims], psi [tiles, dims]) -> C [tiles, n].
ConstraintFn = Callable[[jax.Array, jax.Array], jax.Array]


class Equilibrium(NamedTuple):
  """Decoder, encoder and tile masses that agree with each other."""

  psi: jax.Array  # [tiles, dims].
  masses: jax.Array  # [tiles], gamma, sum to 1.
  squared_error: jax.Array  # [], u.
  kl_nats: jax.Array  # [].
  balance: jax.Array  # [tiles], what Prop. 5 says is n.


def lagrangian(
  logits: jax.Array,
  psi: jax.Array,
  data: jax.Array,
  log_prior: jax.Array,
  multiplier: jax.Array | float,
  constraint: ConstraintFn = fixed_points.squared_distances,
) -> jax.Array:
  """Return average KL + lambda E C (Eq. 2) in nats, a scalar.

  Args:
    logits: [tiles, n]; the encoder's masses on the tiles are their softmax,
      which keeps each encoder normalized wherever a gradient leads.
    psi: [tiles, dims], the decoder.
    data: [n, dims].
    log_prior: [tiles].
    multiplier: lambda; 1 / (2 sigma^2) makes this the negative ELBO, up to a
      constant.
    constraint: C, by default the squared error.
  """
  log_posterior = jax.nn.log_softmax(logits, axis=0)
  kl = log_posterior - log_prior[:, None]
  integrand = kl + multiplier * constraint(data, psi)
  return (jnp.exp(log_posterior) * integrand).sum(axis=0).mean()


def optimal_logits(
  data: jax.Array,
  psi: jax.Array,
  log_prior: jax.Array,
  multiplier: jax.Array | float,
  constraint: ConstraintFn = fixed_points.squared_distances,
) -> jax.Array:
  """Return Eq. 5's encoder, log pi - lambda C [tiles, n], not normalized."""
  return log_prior[:, None] - multiplier * constraint(data, psi)


def partition_kl(masses: ArrayLike) -> float:
  """Return `-1/n sum_i log pi_i`, the average KL of a partition (Prop. 2).

  Least when all masses are 1 / n, where it is log n.

  >>> partition_kl([0.5, 0.5]) == np.log(2)
  True

  Args:
    masses: [n], > 0; of a partition they sum to 1. Where supports overlap they
      may sum to more, and log n is no bound.
  """
  return float(-np.log(np.asarray(masses, np.float64)).mean())


def overlap_reconstruction(
  data: np.ndarray, masses: np.ndarray, supports: np.ndarray
) -> np.ndarray:
  """Return the optimal decoder where supports overlap (Eq. 17, Prop. 3).

  It averages the data whose supports hold z, each weighted by 1 / pi_i. Where
  none does, in a hole, the objective does not depend on it: NaN.

  Args:
    data: [n, dims].
    masses: [n], pi_i of the supports under the prior.
    supports: [points, n], whether point z is in support i.

  Returns:
    g(z) [points, dims].
  """
  weights = supports / masses[None]
  totals = weights.sum(axis=1, keepdims=True)
  return np.divide(
    weights @ data,
    totals,
    out=np.full((len(supports), data.shape[1]), np.nan),
    where=totals > 0,
  )


def kernel_pca_preimage_step(
  data: np.ndarray, psi: np.ndarray, coefficients: np.ndarray, beta: float
) -> np.ndarray:
  """Return Mika et al.'s step to a pre-image in kernel PCA (Prop. 4).

  With the Gaussian kernel k of scale sqrt(beta) and expansion coefficients
  alpha_i, `z <- sum_i alpha_i k(x_i, z) x_i / sum_i alpha_i k(x_i, z)`. Eq. 20
  is this with alpha_i = 1 / c_i, which normalizes the kernel over the tiles
  (Mika et al., "Kernel PCA and de-noising in feature spaces", 1999, Eq. 10).

  Args:
    data: [n, dims].
    psi: [tiles, dims], z of every tile.
    coefficients: [n], alpha.
    beta: > 0; k(x, z) = exp(-||x - z||^2 / (2 beta)).

  Returns:
    [tiles, dims], float64.
  """
  weights = coefficients * pairwise.rbf_kernel(psi, data, gamma=0.5 / beta)
  return weights @ data / weights.sum(axis=1, keepdims=True)


def normalized_coefficients(
  data: np.ndarray, psi: np.ndarray, prior: np.ndarray, beta: float
) -> np.ndarray:
  """Return 1 / c_i [n], the coefficients with which Prop. 4 is Eq. 20."""
  kernel = pairwise.rbf_kernel(psi, data, gamma=0.5 / beta)
  return 1 / (prior @ kernel)


def balance(
  data: jax.Array, psi: jax.Array, masses: jax.Array, beta: jax.Array | float
) -> jax.Array:
  """Return `sum_i exp(-H_ia) / sum_b exp(-H_ib) gamma_b` [tiles] (Prop. 5).

  H = ||x - psi||^2 / (2 beta) is Eq. 5's: lambda C, which has 1 / beta already.
  (Prop. 5 as printed divides by beta again.) If the free energy is least in
  gamma, this is n for every a that has mass, and at most n for the others.
  """
  log_m = fixed_points.log_weights(
    data, psi, jnp.log(masses), jnp.asarray(beta)
  )
  return jnp.exp(log_m).sum(axis=1)


def equilibrium(
  data: ArrayLike, psi: ArrayLike, beta: float, num_steps: int = 2_000
) -> Equilibrium:
  """Let the tiles' masses adapt, as those of a free partition would.

  Eq. 20 moves psi only: how much prior falls to each fixed point is then left
  to where the tiles began. The continuous problem also chooses that, and
  Prop. 5 is its stationarity. Blahut's update, `gamma_a <- gamma_a / n sum_i
  m_ia`, lowers the same Lagrangian.

  Args:
    data: [n, dims].
    psi: [tiles, dims], where to start, masses equal.
    beta: > 0, in units of squared error.
    num_steps: steps of both updates, >= 1.
  """
  points = jnp.asarray(data, jnp.float32)
  start = jnp.asarray(psi, jnp.float32)
  masses = jnp.full(len(start), 1 / len(start), jnp.float32)
  return _equilibrium(points, start, masses, jnp.float32(beta), num_steps)


@functools.partial(jax.jit, static_argnums=4)
def _equilibrium(data, psi, masses, beta, num_steps):
  def step(state, _):
    psi, masses = state
    log_m = fixed_points.log_weights(data, psi, jnp.log(masses), beta)
    masses = masses * jnp.exp(log_m).mean(axis=1)
    return (fixed_points.decode(data, log_m), masses / masses.sum()), None

  (psi, masses), _ = jax.lax.scan(step, (psi, masses), length=num_steps)
  error, kl = fixed_points.error_and_kl(data, psi, jnp.log(masses), beta)
  return Equilibrium(psi, masses, error, kl, balance(data, psi, masses, beta))
