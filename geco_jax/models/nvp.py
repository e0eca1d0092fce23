"""Conditional RealNVP: a density of affine couplings that a feature steers.

Dinh et al. 2016, "Density estimation using Real NVP", fully connected, as the
posterior q(z|x) of Rezende & Viola 2018, Section 4.
"""

from collections.abc import Sequence
import math

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np

from geco_jax.models.base import check_sizes
from geco_jax.models.base import with_policy

_PERMUTATION_SEED = 0


def check_couplings(
  latent_size: int,
  num_couplings: int,
  hidden_sizes: Sequence[int],
  log_scale_bound: float,
) -> None:
  """Raise ValueError unless a flow can be made of these."""
  if latent_size < 2:
    raise ValueError(
      f'latent_size must be > 1, for couplings have two halves, got '
      f'{latent_size}'
    )
  check_sizes('num_couplings', [num_couplings])
  check_sizes('coupling_sizes', hidden_sizes)
  if not 0 < log_scale_bound < math.inf:
    raise ValueError(
      f'log_scale_bound must be > 0 and finite, got {log_scale_bound}'
    )


class ConditionalRealNVP(hk.Module):
  """q(z|x): a unit Gaussian u, sent through affine couplings.

  A coupling keeps one half of the dimensions, a, and maps the other, b, to
  `b exp(s) + t`; a network computes s and t from a and from features of x. The
  next coupling changes the other half. `s = bound tanh(raw / bound)` is smooth
  and bounded. The last layer of each network is zero at first, so that z = u.
  Hidden units are tanh: rectified ones all die within 50 steps of Adam while a
  multiplier is too small to pay for nats; these recover when it has grown.

  The first layer of a network is linear in (a, features): `condition` computes
  the features' term, once per x even if many z are paired with it. Leading axes
  of z and conditions broadcast, so that z [m, 1, latent_size] and conditions
  [1, n, ...] give all pairs.
  """

  def __init__(
    self,
    latent_size: int,
    policy: jmp.Policy,
    *,
    num_couplings: int = 8,
    hidden_sizes: Sequence[int] = (256,),
    log_scale_bound: float = 2.0,
    permute: bool = False,
    name: str | None = None,
  ):
    """Make the networks.

    Args:
      latent_size: dimensions of z, > 1.
      policy: precision of the networks; z and densities are float32 always.
      num_couplings: >= 1.
      hidden_sizes: sizes of each coupling's network.
      log_scale_bound: bound of s, > 0.
      permute: whether dimensions are shuffled between couplings, in an order
        that is always the same.
      name: name of the module.

    Raises:
      ValueError: if a size or the bound is out of its range.
    """
    super().__init__(name=name)
    check_couplings(latent_size, num_couplings, hidden_sizes, log_scale_bound)
    self._sizes = (latent_size // 2, latent_size - latent_size // 2)
    self._conditions_shape = (num_couplings, hidden_sizes[0])
    self._bound = log_scale_bound
    self._from_features = with_policy(
      hk.Linear(math.prod(self._conditions_shape), name='features'), policy
    )
    self._networks = [
      with_policy(_network(2 * self._sizes[1 - k % 2], hidden_sizes, k), policy)
      for k in range(num_couplings)
    ]
    rng = np.random.default_rng(_PERMUTATION_SEED)
    # Orders between couplings: one fewer than there are couplings.
    self._orders = [
      rng.permutation(latent_size) if permute else None
      for _ in range(num_couplings - 1)
    ]

  def condition(self, features: jax.Array) -> jax.Array:
    """Return what the couplings need to know about x.

    Args:
      features: of x [n, size].

    Returns:
      Conditions [n, num_couplings, hidden_sizes[0]].
    """
    return self._from_features(features).reshape(-1, *self._conditions_shape)

  def forward(
    self, u: jax.Array, conditions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Return z(u) [..., latent_size] and log |dz / du| [...]."""
    log_determinant = 0.0
    halves = self._split(u)
    for k in range(len(self._networks)):
      log_scale, shift = self._affine(k, halves[k % 2], conditions)
      changed = halves[1 - k % 2] * jnp.exp(log_scale) + shift
      halves[1 - k % 2] = changed
      log_determinant += log_scale.sum(axis=-1)
      halves = self._shuffled(halves, k)
    return _join(halves), jnp.asarray(log_determinant)

  def inverse(
    self, z: jax.Array, conditions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Return u(z) [..., latent_size] and log |du / dz| [...]."""
    log_determinant = 0.0
    halves = self._split(z)
    for k in reversed(range(len(self._networks))):
      halves = self._shuffled(halves, k, back=True)
      log_scale, shift = self._affine(k, halves[k % 2], conditions)
      changed = (halves[1 - k % 2] - shift) * jnp.exp(-log_scale)
      halves[1 - k % 2] = changed
      log_determinant -= log_scale.sum(axis=-1)
    return _join(halves), jnp.asarray(log_determinant)

  def sample_and_log_prob(
    self, u: jax.Array, conditions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Return z(u) for u ~ N(0, I), and log q(z|x) [...] in nats."""
    z, log_determinant = self.forward(u, conditions)
    return z, standard_normal_log_prob(u) - log_determinant

  def log_prob(self, z: jax.Array, conditions: jax.Array) -> jax.Array:
    """Return log q(z|x) [...] in nats."""
    u, log_determinant = self.inverse(z, conditions)
    return standard_normal_log_prob(u) + log_determinant

  def _affine(self, k, kept, conditions):
    raw = self._networks[k]((kept, conditions[..., k, :]))
    raw_scale, shift = jnp.split(raw, 2, axis=-1)
    return self._bound * jnp.tanh(raw_scale / self._bound), shift

  def _split(self, z):
    return [z[..., : self._sizes[0]], z[..., self._sizes[0] :]]

  def _shuffled(self, halves, k, back=False):
    """Return the halves in coupling k's new order, or `back` in the old one."""
    if k >= len(self._orders) or self._orders[k] is None:
      return halves
    order = np.argsort(self._orders[k]) if back else self._orders[k]
    return self._split(_join(halves)[..., order])


def standard_normal_log_prob(z: jax.Array) -> jax.Array:
  """Return log N(z; 0, I), [..., size] -> [...] in nats."""
  return -0.5 * (z**2 + math.log(2 * math.pi)).sum(axis=-1)


def _network(output_size, hidden_sizes, k):
  """Return the network of coupling k; its first layer also sees conditions."""
  first = hk.Linear(hidden_sizes[0], with_bias=False, name=f'coupling_{k}_in')
  layers = []
  for number, size in enumerate(hidden_sizes[1:], start=1):
    layers += [hk.Linear(size, name=f'coupling_{k}_{number}'), jnp.tanh]
  layers.append(
    hk.Linear(
      output_size, w_init=jnp.zeros, b_init=jnp.zeros, name=f'coupling_{k}_out'
    )
  )
  rest = hk.Sequential(layers, name=f'coupling_{k}')

  def network(inputs):
    kept, condition = inputs
    return rest(jnp.tanh(first(kept) + condition))

  return network


def _join(halves):
  """Return halves with leading axes that broadcast as one array."""
  shape = jnp.broadcast_shapes(*(half.shape[:-1] for half in halves))
  return jnp.concatenate(
    [jnp.broadcast_to(half, (*shape, half.shape[-1])) for half in halves],
    axis=-1,
  )
