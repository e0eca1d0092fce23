"""Updates of Lagrange multipliers as optax gradient transformations.

Each function returns an `optax.GradientTransformation` over a pytree of
log-multipliers. Its `update(constraints, state, log_multipliers)` takes the
batch-mean constraint values (C <= 0 holds) where an optimizer would take
gradients, and `optax.apply_updates` then gives the next log-multipliers. This
module imports nothing else of the package: lift it into any training loop.
"""

from collections.abc import Callable
import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class GecoState(NamedTuple):
  """Memory of `geco`."""

  count: jax.Array  # int32 [], updates made so far.
  moving_average: Any  # C_ma of Algorithm 1, like the constraints.


class ScheduledState(NamedTuple):
  """Memory of `scheduled`."""

  count: jax.Array  # int32 [], updates made so far.


def geco(
  step_size: float | jax.Array | optax.Schedule,
  decay: float | jax.Array = 0.99,
  *,
  violation_clip: float | jax.Array | None = None,
  damping: float | jax.Array = 0.0,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
) -> optax.GradientTransformation:
  """Returns the multiplier update of GECO (Rezende & Viola 2018, Algorithm 1).

      C_ma       <- decay C_ma + (1 - decay) C        (at first: C_ma = C)
      log lambda <- log lambda + step_size C_ma

  The Lagrangian is linear in C, so that the paper's
  `C + StopGradient(C_ma - C)` changes dL/dlambda alone: the moving average
  belongs to this state and the model's loss needs only C.

  Feed it relative violations (`C / scale`, dimensionless) and one step size
  serves every data set and constraint; feed it C and it is the paper's literal
  update. The paper writes alpha both for the decay and for the step size; they
  are two numbers.

  Departs from the paper: log-multipliers stay in `log_multiplier_range`, so
  that no unreachable constraint overflows; `violation_clip` and `damping` are
  off by default, which is the literal algorithm.

  Args:
    step_size: change of log lambda per unit of C_ma and step, or a schedule of
      it over the number of updates; finite and >= 0.
    decay: of the moving average, in [0, 1).
    violation_clip: if given, > 0: C_ma enters the update clipped to
      [-violation_clip, violation_clip]. 1 suits relative violations: however
      far off a constraint is at first, log lambda grows by `step_size` a step.
      Where meeting it takes long, less keeps the multiplier from winding up.
    damping: >= 0, in steps: adds `step_size * damping * (the change of C_ma)`,
      the proportional term of a PI controller. It damps the oscillation of
      multiplier against model that large step sizes cause.
    log_multiplier_range: (lowest, highest) log lambda, in that order, finite.

  Returns:
    A transformation whose `update` needs the log-multipliers as third argument.

  Raises:
    ValueError: if a Python number is outside its range. Arrays, traced ones
      included (`optax.inject_hyperparams`), are not checked.
  """
  _check_number('step_size', step_size, low=0.0)
  _check_number('decay', decay, low=0.0, below=1.0)
  _check_number('violation_clip', violation_clip, above=0.0)
  _check_number('damping', damping, low=0.0)
  lowest, highest = log_multiplier_range
  if not (math.isfinite(lowest) and math.isfinite(highest)) or lowest > highest:
    raise ValueError(
      'log_multiplier_range must be two finite numbers, the lower first, got '
      f'{log_multiplier_range}'
    )

  def init(log_multipliers):
    return GecoState(
      count=jnp.zeros([], jnp.int32),
      moving_average=jax.tree.map(jnp.zeros_like, log_multipliers),
    )

  def update(constraints, state, log_multipliers=None):
    if log_multipliers is None:
      raise ValueError(
        'geco.update needs the log-multipliers: update(constraints, state, '
        'log_multipliers)'
      )
    previous = jax.tree.map(
      lambda c, average: jnp.where(state.count == 0, c, average).astype(
        average.dtype
      ),
      constraints,
      state.moving_average,
    )
    moving_average = jax.tree.map(
      lambda c, average: (decay * average + (1 - decay) * c).astype(
        average.dtype
      ),
      constraints,
      previous,
    )
    rate: Any = step_size(state.count) if callable(step_size) else step_size

    def change(average, before, log_multiplier):
      if violation_clip is not None:
        average = jnp.clip(average, -violation_clip, violation_clip)
        before = jnp.clip(before, -violation_clip, violation_clip)
      target = log_multiplier + rate * (average + damping * (average - before))
      return (jnp.clip(target, lowest, highest) - log_multiplier).astype(
        log_multiplier.dtype
      )

    updates = jax.tree.map(change, moving_average, previous, log_multipliers)
    return updates, GecoState(
      count=optax.safe_increment(state.count), moving_average=moving_average
    )

  return optax.GradientTransformation(init, update)


def fixed() -> optax.GradientTransformation:
  """Returns the update that leaves the multipliers as they are.

  With the negative log-likelihood as the only constraint, a multiplier of 1 is
  the ELBO (Eq. 1) and 1/beta a beta-VAE (Section 3.2).
  """
  return optax.set_to_zero()


def scheduled(schedule: optax.Schedule) -> optax.GradientTransformation:
  """Returns the update that makes every multiplier follow a schedule.

  After the update of step t the multipliers equal `schedule(t + 1)`; start
  them at `schedule(0)`. With `annealed_beta` it is the hand-annealed ELBO of
  the paper's Figure 4.

  Args:
    schedule: number of updates -> lambda > 0 (not its logarithm).

  Returns:
    A transformation whose `update` needs the log-multipliers as third argument.

  Raises:
    ValueError: if `schedule` is not callable.
  """
  if not callable(schedule):
    raise ValueError(f'schedule must be a function of the step, got {schedule}')

  def init(log_multipliers):
    del log_multipliers
    return ScheduledState(count=jnp.zeros([], jnp.int32))

  def update(constraints, state, log_multipliers=None):
    del constraints
    if log_multipliers is None:
      raise ValueError(
        'scheduled.update needs the log-multipliers: update(constraints, '
        'state, log_multipliers)'
      )
    count = optax.safe_increment(state.count)
    log_lambda = jnp.log(jnp.asarray(schedule(count)))
    updates = jax.tree.map(
      lambda m: (log_lambda - m).astype(m.dtype), log_multipliers
    )
    return updates, ScheduledState(count=count)

  return optax.GradientTransformation(init, update)


def annealed_beta(
  initial_beta: float = 2.0,
  final_beta: float = 0.7,
  transition_steps: int = 200_000,
) -> Callable[[jax.Array], jax.Array]:
  """Returns lambda = 1 / beta(t) of the paper's hand-crafted annealing.

      beta(t) = max(final + (initial - final) (1 - t / transition_steps), final)

  as in Section 4.1 and Figure 4 (the scheme of Eslami et al. 2018).

  Args:
    initial_beta: beta at step 0, > 0.
    final_beta: beta from `transition_steps` on, > 0.
    transition_steps: >= 1.

  Raises:
    ValueError: if a number is outside its range.
  """
  _check_number('initial_beta', initial_beta, above=0.0)
  _check_number('final_beta', final_beta, above=0.0)
  _check_number('transition_steps', transition_steps, low=1)
  beta = optax.linear_schedule(initial_beta, final_beta, transition_steps)
  return lambda count: 1.0 / beta(count)


def _check_number(name, value, low=None, above=None, below=None):
  """Raises ValueError if a Python number is not finite or not in range."""
  if not isinstance(value, numbers.Real):
    return
  wanted = [
    *([f'>= {low:g}'] if low is not None else []),
    *([f'> {above:g}'] if above is not None else []),
    *([f'< {below:g}'] if below is not None else []),
  ]
  if (
    not math.isfinite(value)
    or (low is not None and value < low)
    or (above is not None and value <= above)
    or (below is not None and value >= below)
  ):
    raise ValueError(
      f'{name} must be finite and {" and ".join(wanted)}, got {value}'
    )
