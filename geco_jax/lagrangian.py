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
    The Lagrangian [], in which the objective counts once.

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

  structures = tuple(map(jax.tree.structure, (constraints, log_multipliers)))
  if structures[0] != structures[1]:
    raise ValueError(
      'every constraint needs a log-multiplier, got constraints '
      f'{structures[0]} and log-multipliers {structures[1]}'
    )

  def weighted(constraint, log_multiplier):
    if jnp.shape(constraint) != jnp.shape(log_multiplier):
      raise ValueError(
        'constraints must have the shape of their log-multipliers, got '
        f'{jnp.shape(constraint)} for {jnp.shape(log_multiplier)}'
      )
    multiplier = jnp.exp(jax.lax.stop_gradient(log_multiplier))
    return jnp.sum(multiplier * constraint)

  terms = jax.tree.map(weighted, constraints, log_multipliers)
  return jax.tree.reduce(jnp.add, terms, objective)
