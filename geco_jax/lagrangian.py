"""The Lagrangian of Eq. 2."""

from typing import Any

import jax
import jax.numpy as jnp


def lagrangian(objective: jax.Array, constraints: Any, log_multipliers: Any):
  """Returns `objective + sum_l lambda_l C_l` (Rezende & Viola 2018, Eq. 2).

  Minimise it over the model's parameters. Its derivative with respect to the
  log-multipliers is zero by construction: `geco_jax.geco` moves those.

  Args:
    objective: [], for a VAE the batch-mean KL in nats.
    constraints: pytree of batch-mean violations [], C <= 0 holds.
    log_multipliers: pytree of log lambda [], structured like `constraints`.

  Returns:
    The Lagrangian [].
  """
  multipliers = jax.tree.map(
    lambda m: jnp.exp(jax.lax.stop_gradient(m)), log_multipliers
  )
  terms = jax.tree.map(jnp.multiply, multipliers, constraints)
  return jax.tree.reduce(jnp.add, terms, objective)
