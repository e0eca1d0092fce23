"""Random keys: of seeds, and of examples."""

from typing import Any

import jax


def key_of(seed: Any) -> jax.Array:
  """Return a seed's key, whatever JAX's default generator is."""
  return jax.random.key(seed, impl='threefry2x32')


def per_example_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """Return one PRNG key per number, int [batch] -> keys [batch]."""
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
