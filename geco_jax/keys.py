"""Random keys of examples."""

import jax


def per_example_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """Return one PRNG key per number, int [batch] -> keys [batch]."""
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
