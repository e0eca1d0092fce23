"""Random keys: of seeds, and of examples."""

from typing import Any

import jax

IMPL = 'threefry2x32'  # Whatever JAX's default generator is.


def key_of(seed: Any) -> jax.Array:
  """Return a seed's key."""
  return jax.random.key(seed, impl=IMPL)


def per_example_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """Return one PRNG key per number, int [batch] -> keys [batch]."""
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
