"""The Lagrangian of Eq. 2."""

from typing import Any

import jax
import jax.numpy as jnp

from geco_jax import multiplier_checks as checks


def lagrangian(
  objective: jax.Array, constraints: Any, log_multipliers: Any
) -> jax.Array:
  """Return `objective + sum_l lambda_l C_l` (Rezende & Viola 2018, Eq. 2).

  Minimize it over the model's parameters. Its derivative with respect to the
  log-multipliers is zero by construction: `geco_jax.geco` moves those.

  Args:
    objective: [], for a VAE the batch-mean KL in nats.
    constraints: pytree of batch-mean violations, C <= 0 holds: one [] each or
      several [...], each element with a multiplier of its own.
    log_multipliers: pytree of log lambda, of the constraints' structure and
      shapes.

  Returns:
    The Lagrangian [].

  Raises:
    ValueError: if the objective is not one real number, or constraints and
      log-multipliers are not real or differ in structure or shape.
  """
  objective_is = 'the objective must be one number, the mean over the batch'
  if not checks.is_real(objective):
    raise ValueError(f'{objective_is}, got {checks.described(objective)}')
  if jnp.shape(objective):
    raise ValueError(f'{objective_is}, got shape {jnp.shape(objective)}')
  checks.check_reals("the Lagrangian's constraints", constraints)
  checks.check_reals("the Lagrangian's log-multipliers", log_multipliers)
  checks.check_pairs('the Lagrangian', constraints, log_multipliers)

  def weighted(constraint, log_multiplier):
    multiplier = jnp.exp(jax.lax.stop_gradient(log_multiplier))
    return jnp.sum(multiplier * constraint)

  terms = jax.tree.map(weighted, constraints, log_multipliers)
  return jax.tree.reduce(jnp.add, terms, objective)
