"""The updates of multipliers that a config can name, and where they start.

Each constructor takes the constraints' natural multipliers by name
(`constraints.natural_multiplier`) and the arguments of the config's group.
"""

from collections.abc import Collection, Mapping
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from geco_jax import multipliers
from geco_jax.config_schema import check_is
from geco_jax.config_schema import passes_to
from geco_jax.errors import UserError
from geco_jax.own_parts import Registry

# Where GECO's multipliers start, in natural ones, if the config does not say.
# Measured: from 1/100 to 1/10 the digits' VAE ends within 4% of one KL, from
# 1/3 9% above it; VAE+NVP (Color-MNIST, kappa 0.1, 5,000 steps) ends 20% off
# its constraint from 1/50, 2% from 1/10.
INITIAL_SHARE = 1 / 10


class Multipliers(NamedTuple):
  """What a constructor in `MULTIPLIERS` returns: start and update."""

  transformation: optax.GradientTransformation
  initial_log_multipliers: dict[str, Any]  # By constraint, floats or arrays [].
  relative: bool = True  # Whether it is fed C / budget, not C.
  highest_log_multiplier: float = math.inf  # Its upper clip.
  moved_by_constraints: bool = True  # Or by the steps, or by nothing.


def check(update: Any, constraints: Collection[str]) -> None:
  """Refuse what a constructor of one's own returned if it is of another form.

  Args:
    update: must be `Multipliers`.
    constraints: their names.

  Raises:
    UserError: if it is not, or has no start for each constraint.
  """
  check_is('multipliers', update, Multipliers)
  check_is('multipliers', update.transformation, optax.GradientTransformation)
  names = sorted(update.initial_log_multipliers)
  if names != sorted(constraints):
    raise UserError(
      'config.multipliers: its function must return an initial log-multiplier '
      f'for each of {", ".join(sorted(constraints))}, got '
      f'{", ".join(map(str, names)) or "none"}'
    )


@passes_to(multipliers.geco, filled_in=('natural_multiplier',))
def _geco(
  naturals: Mapping[str, Any],
  *,
  initial: float | None = None,
  relative: bool = True,
  violation_clip: float | None = 1.0,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
  **kwargs,
):
  return Multipliers(
    transformation=multipliers.geco(
      violation_clip=violation_clip,
      # It lowers the clip: without one there is nothing to lower.
      natural_multiplier=dict(naturals) if violation_clip is not None else None,
      log_multiplier_range=log_multiplier_range,
      **kwargs,
    ),
    initial_log_multipliers={
      name: _initial_log_multiplier(initial, natural, log_multiplier_range)
      for name, natural in naturals.items()
    },
    relative=relative,
    highest_log_multiplier=log_multiplier_range[1],
  )


def _initial_log_multiplier(initial, natural, log_multiplier_range):
  """Return log(initial), or the log of a share of the natural multiplier."""
  if initial is None and natural is not None:
    return jnp.clip(
      jnp.log(INITIAL_SHARE * jnp.asarray(natural)), *log_multiplier_range
    )
  if initial is None or not initial > 0:
    raise ValueError(f'initial must be > 0, got {initial}')
  lowest, highest = log_multiplier_range
  if not lowest <= math.log(initial) <= highest:
    raise ValueError(
      f'initial must be in exp({lowest:g}) to exp({highest:g}), the '
      f'log_multiplier_range, got {initial:g}'
    )
  return math.log(initial)


@passes_to(multipliers.algorithm_1)
def _algorithm_1(
  naturals: Mapping[str, Any],
  *,
  initial: float = 1.0,
  relative: bool = True,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
  **kwargs,
):
  start = _initial_log_multiplier(initial, None, log_multiplier_range)
  return Multipliers(
    transformation=multipliers.algorithm_1(
      log_multiplier_range=log_multiplier_range, **kwargs
    ),
    initial_log_multipliers=dict.fromkeys(naturals, start),
    relative=relative,
    highest_log_multiplier=log_multiplier_range[1],
  )


def _fixed(naturals: Mapping[str, Any], *, beta: float = 1.0):
  if not beta > 0:
    raise ValueError(f'beta must be > 0, got {beta}')
  return Multipliers(
    multipliers.fixed(),
    dict.fromkeys(naturals, -math.log(beta)),
    moved_by_constraints=False,
  )


@passes_to(multipliers.annealed_beta)
def _annealed_beta(naturals: Mapping[str, Any], **kwargs):
  schedule = multipliers.annealed_beta(**kwargs)
  with jax.ensure_compile_time_eval():  # A number, also while a step is traced.
    initial = math.log(schedule(jnp.int32(0)))
  return Multipliers(
    multipliers.scheduled(schedule),
    dict.fromkeys(naturals, initial),
    moved_by_constraints=False,
  )


MULTIPLIERS = Registry(
  'update of multipliers',
  {
    'geco': _geco,
    'algorithm_1': _algorithm_1,
    'fixed': _fixed,
    'annealed_beta': _annealed_beta,
  },
)
