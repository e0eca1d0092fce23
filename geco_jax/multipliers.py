"""Updates of Lagrange multipliers as optax gradient transformations.

Each function returns an `optax.GradientTransformation` over a pytree of
log-multipliers. Its `update(constraints, state, log_multipliers)` takes the
batch-mean constraint values (C <= 0 holds) where an optimizer would take
gradients, and `optax.apply_updates` then gives the next log-multipliers. This
module imports nothing else of the package but the sentences by which it
refuses, `multiplier_checks`: lift both into any training loop.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from geco_jax import multiplier_checks as checks


class GecoState(NamedTuple):
  """Memory of `geco`, in float32 or wider whatever the multipliers' dtype."""

  count: jax.Array  # int32 [], updates made so far.
  # Structured like the constraints. The average of the errors, infinite at
  # first, and what the clip has held back, 0 at first.
  moving_average: Any
  residual: Any


class CompensatedState(NamedTuple):
  """Memory of `geco` over multipliers narrower than float32."""

  wide: GecoState
  remainder: Any  # The log-multipliers' exact values minus the rounded ones.


class ScheduledState(NamedTuple):
  """Memory of `scheduled`."""

  count: jax.Array  # int32 [], updates made so far.


ERRORS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'asinh': lambda c: _BEND * jnp.arcsinh(c / _BEND),
  'linear': lambda c: c,
}
# The relative violation at which 'asinh' turns from linear to logarithmic.
_BEND = 3.0
# Time constants of the moving average by which the error is extrapolated.
_LEAD = 4.0
# Steps at full speed that the clip may hold back at most.
_RESIDUAL = 20.0
_STEP_SIZES = {'ge': 0.0, 'le': 1e3}
_FARTHEST = 1e6  # The largest damping.


def geco(
  step_size: float | jax.Array | optax.Schedule,
  decay: float | jax.Array | None = None,
  *,
  error: str = 'asinh',
  damping: float | jax.Array | None = None,
  violation_clip: float | jax.Array | None = 1.0,
  natural_multiplier: Any = None,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
) -> optax.GradientTransformation:
  """Return GECO's multiplier update, a PI controller of log lambda.

  Feed it relative violations C / budget, where the budget is the slack that a
  perfect solution leaves (D kappa^2, 1 - kappa, ...), and choose one number,
  the step size:

      e = 3 asinh(C / budget / 3)
      a_old, a <- a, (1 - step_size) a + step_size e
      v = a + 4 (e - a_old) + r
      u = clip(v, -1, 1)
      r <- clip(v - u, -20, 20)
      log lambda <- log lambda + step_size min(u, top)
      top = 1 / (1 + lambda / natural_multiplier), or 1 without one

  a begins with its first value, r with 0. `asinh` makes a factor a factor:
  log-like far from 0, linear near it. a integrates, the second term of v is the
  proportional one; together they are the error extrapolated four time constants
  of a ahead: lambda stops growing when the model is on its way to meet the
  constraint within these 4 / step_size steps. The clip bounds lambda's speed,
  whatever the constraint. What it holds back of a batch's noise, which is
  skewed, r makes up for in the next steps: it would become an offset. `top`
  ends lambda's growth where no rate-distortion function is steeper, beyond
  which a constraint waits for the optimization, not for lambda
  (docs/multipliers.md). `step_size = 40 / num_steps` is the configs': lambda
  may travel 40 nepers in a run, and nothing else needs to be known of it.

  It is Algorithm 1 of Rezende & Viola 2018 (`algorithm_1`, to the letter) with
  the error of a PI controller (nuPI, Sohrabi et al. 2024; PID Lagrangian,
  Stooke et al. 2020), clamping against wind-up (Astrom & Hagglund 2006) and
  error feedback (Seide et al. 2014).

  A constraint that is not finite is passed over: neither its average nor its
  multiplier moves. An equality is a pair of constraints, h and -h: the net
  multiplier is the difference of the two. Vectors are updated by element.

  Args:
    step_size: largest change of log lambda per step, or a schedule of it over
      the number of updates; in [0, 1000]. A schedule's traced value out of
      this range, or NaN, is a step of 0.
    decay: of the moving average a (a low-pass filter), in [0, 1); None is
      1 - step_size, or 0 if that is negative.
    error: 'asinh', which compresses large violations as a logarithm does, or
      'linear', e = C, as in Algorithm 1.
    damping: in steps, in [0, 1e6]: how far ahead the average is extrapolated
      along its last change, the proportional gain over the integral one; None
      is 4 / (1 - decay).
    violation_clip: if given, > 0: the extrapolated error is clipped to
      [-violation_clip, violation_clip] (rate limiting), r to 20 times that.
    natural_multiplier: lambda0 > 0, a number or a pytree like the multipliers
      (in `optax.partition` with any number for what it masks, as in `(1.0,
      {'re': 50.0})`), above which growth ends softly (anti-wind-up): D / (2
      budget) for a constraint on a squared error in D dimensions. It lowers
      `violation_clip`, which must not be None then. None is no such bound.
    log_multiplier_range: (lowest, highest) log lambda, in that order, finite.

  Returns:
    A transformation whose `update(constraints, state, params)` takes the
    batch-mean constraints and, as params, the log-multipliers.

  Raises:
    ValueError: if a number is outside its range or not one real number, or
      `error` is unknown. Values of traced arrays (`optax.inject_hyperparams`
      under jit) are not checked. `init` and `update` raise it where
      log-multipliers are not floats, `update` where constraints are not real,
      differ from log-multipliers in structure or shape, or the state is not of
      `init(log_multipliers)`, or a schedule's value is known and not allowed.
  """
  if step_size is None:
    raise ValueError('step_size must be a number or a schedule, got None')
  if not callable(step_size):
    checks.checked_number('step_size', step_size, **_STEP_SIZES)
  if decay is not None:
    checks.checked_number('decay', decay, ge=0.0, lt=1.0)
  if violation_clip is not None:
    violation_clip = checks.checked_number(
      'violation_clip', violation_clip, gt=0.0
    )
  if damping is not None:
    checks.checked_number('damping', damping, ge=0.0, le=_FARTHEST)
  checks.check_naturals(natural_multiplier, violation_clip)
  if not isinstance(error, str) or error not in ERRORS:
    raise ValueError(f'error must be one of {", ".join(ERRORS)}, got {error!r}')
  lowest, highest = checks.checked_range(
    'log_multiplier_range', log_multiplier_range
  )

  def init(log_multipliers):
    averages = optax.tree.full_like(log_multipliers, jnp.inf)
    residuals = jax.tree.map(jnp.zeros_like, log_multipliers)
    return GecoState(jnp.zeros([], jnp.int32), averages, residuals)

  def update(constraints, state, log_multipliers):
    rate: Any = step_size
    if callable(step_size):
      rate = _scheduled_step_size(step_size, state.count)
    weight = jnp.minimum(rate, 1.0) if decay is None else 1 - decay
    lead = _LEAD if damping is None else damping * weight

    def move(constraint, average, residual, log_multiplier, natural):
      c = constraint.astype(average.dtype)  # It may be infinite only there.
      finite = jnp.isfinite(c)
      e = ERRORS[error](jnp.where(finite, c, 0))
      old = jnp.where(jnp.isinf(average), e, average)
      new = (old + weight * (e - old)).astype(average.dtype)
      speed, rest = new + lead * (e - old), residual
      if violation_clip is not None:
        signal = speed + residual
        speed = jnp.clip(signal, -violation_clip, violation_clip)
        bound = _RESIDUAL * violation_clip
        rest = jnp.clip(signal - speed, -bound, bound).astype(residual.dtype)
        if natural_multiplier is not None:
          excess = jnp.exp(log_multiplier - jnp.log(natural))
          speed = jnp.minimum(speed, violation_clip / (1 + excess))
      target = jnp.clip(log_multiplier + rate * speed, lowest, highest)
      change = (target - log_multiplier).astype(log_multiplier.dtype)
      moves = (change, 0), (new, average), (rest, residual)
      return [jnp.where(finite, moved, kept) for moved, kept in moves]

    naturals = _naturals(natural_multiplier, log_multipliers)
    treedef = jax.tree.structure(log_multipliers)
    trees = constraints, *state[1:], log_multipliers, naturals
    rows = zip(*(treedef.flatten_up_to(tree) for tree in trees), strict=True)
    columns = [*zip(*(move(*row) for row in rows), strict=True)] or [()] * 3
    updates, *averages = map(treedef.unflatten, columns)
    return updates, GecoState(optax.safe_increment(state.count), *averages)

  return _checked('geco', _compensated(init, update))


def _scheduled_step_size(schedule, count):
  """Return a schedule's step size, 0 where a traced one is out of range."""
  name = "the schedule's step size"
  rate = checks.checked_number(name, schedule(count), **_STEP_SIZES)
  if not checks.is_traced(rate):
    return rate
  allowed = (rate >= _STEP_SIZES['ge']) & (rate <= _STEP_SIZES['le'])
  return jnp.where(allowed, rate, 0)


def algorithm_1(
  step_size: float | jax.Array | optax.Schedule,
  decay: float | jax.Array = 0.99,
  *,
  log_multiplier_range: tuple[float, float] = (-20.0, 20.0),
) -> optax.GradientTransformation:
  """Return Algorithm 1 of Rezende & Viola 2018, to the letter.

      C_ma       <- decay C_ma + (1 - decay) C        (at first: C_ma = C)
      log lambda <- log lambda + step_size C_ma

  The Lagrangian is linear in C, so that the paper's
  `C + StopGradient(C_ma - C)` changes dL/dlambda alone: the moving average
  belongs to this state and the model's loss needs only C. The paper writes
  alpha both for the decay and for the step size; they are two numbers.

  Departs from the paper: log-multipliers stay in `log_multiplier_range`.

  Args:
    step_size: change of log lambda per unit of C_ma and step, or a schedule of
      it over the number of updates; in [0, 1000]; as `geco`'s.
    decay: of the moving average, in [0, 1).
    log_multiplier_range: (lowest, highest) log lambda, in that order, finite.

  Returns:
    As `geco`.

  Raises:
    ValueError: as `geco`.
  """
  update = geco(
    step_size,
    decay,
    error='linear',
    damping=0.0,
    violation_clip=None,
    log_multiplier_range=log_multiplier_range,
  )
  return _checked('algorithm_1', update)


def fixed() -> optax.GradientTransformation:
  """Return the update that leaves the multipliers as they are.

  With the negative log-likelihood as the only constraint, a multiplier of 1 is
  the ELBO (Eq. 1) and 1/beta a beta-VAE (Section 3.2).
  """
  return _checked('fixed', optax.set_to_zero())


def scheduled(schedule: optax.Schedule) -> optax.GradientTransformation:
  """Return the update that makes every multiplier follow a schedule.

  After the update of step t the multipliers equal `schedule(t + 1)`; start
  them at `schedule(0)`. With `annealed_beta` it is the hand-annealed ELBO of
  the paper's Figure 4.

  Args:
    schedule: number of updates -> lambda > 0 (not its logarithm), a number.
      Where it is traced and not finite or not > 0, no multiplier moves.

  Returns:
    A transformation whose `update` needs the log-multipliers as third argument.

  Raises:
    ValueError: if `schedule` is not callable. `init` and `update` as `geco`'s.
  """
  if not callable(schedule):
    raise ValueError(f'schedule must be a function of the step, got {schedule}')

  def init(_):
    return ScheduledState(count=jnp.zeros([], jnp.int32))

  def update(_, state, log_multipliers):
    count = optax.safe_increment(state.count)
    value = checks.checked_number(
      "the schedule's lambda", schedule(count), gt=0.0
    )
    log_lambda = jnp.log(jnp.asarray(value))

    def move(log_multiplier):
      wide = _widened(log_multiplier)
      change = log_lambda.astype(wide.dtype) - wide
      change = change.astype(log_multiplier.dtype)
      if not checks.is_traced(value):
        return change
      return jnp.where(jnp.isfinite(log_lambda), change, 0)

    return jax.tree.map(move, log_multipliers), ScheduledState(count)

  return _checked('scheduled', optax.GradientTransformation(init, update))


def annealed_beta(
  initial_beta: float = 2.0,
  final_beta: float = 0.7,
  transition_steps: int = 200_000,
) -> Callable[[jax.Array], jax.Array]:
  """Return lambda = 1 / beta(t) of the paper's hand-crafted annealing.

      beta(t) = final + (initial - final) max(1 - t / transition_steps, 0)

  as in Section 4.1 and Figure 4 (the scheme of Eslami et al. 2018).

  Args:
    initial_beta: beta at step 0, > 0.
    final_beta: beta from `transition_steps` on, > 0.
    transition_steps: >= 1.

  Raises:
    ValueError: if a number is outside its range.
  """
  initial_beta = checks.checked_number('initial_beta', initial_beta, gt=0.0)
  final_beta = checks.checked_number('final_beta', final_beta, gt=0.0)
  transition_steps = checks.checked_number(
    'transition_steps', transition_steps, ge=1
  )
  beta = optax.linear_schedule(initial_beta, final_beta, transition_steps)
  return lambda count: 1.0 / beta(count)


def _naturals(natural_multiplier, log_multipliers):
  """Return a natural multiplier for each log-multiplier."""
  if natural_multiplier is None:
    return jax.tree.map(lambda _: math.inf, log_multipliers)
  try:
    naturals = jax.tree.broadcast(natural_multiplier, log_multipliers)
  except ValueError as error:
    structure = jax.tree.structure(log_multipliers)
    hint = ''
    if optax.MaskedNode.__name__ in str(structure):
      hint = '; in optax.partition any number stands for a MaskedNode'
    raise ValueError(
      f'natural_multiplier must be a number or structured like the '
      f'log-multipliers, {structure}, got '
      f'{jax.tree.structure(natural_multiplier)}{hint}'
    ) from error

  def check(natural, log_multiplier):
    shapes = jnp.shape(natural), jnp.shape(log_multiplier)
    if shapes[0] not in ((), shapes[1]):
      raise ValueError(
        'natural_multiplier must be a number or of the shape of its '
        f'log-multiplier, got {shapes[0]} for {shapes[1]}'
      )

  jax.tree.map(check, naturals, log_multipliers)
  return naturals


def _checked(name, transformation) -> optax.GradientTransformation:
  """Return a transformation whose `update` checks its arguments first."""

  def update(constraints, state, params=None):
    if params is None:
      arguments = '(constraints, state, log_multipliers)'
      raise ValueError(f'{name}.update{arguments} needs the log-multipliers')
    checks.check_reals(f"{name}.update's constraints", constraints)
    checks.check_reals(f"{name}.update's log-multipliers", params, 'floats')
    checks.check_pairs(f'{name}.update', constraints, params)
    constraints, params = jax.tree.map(jnp.asarray, (constraints, params))
    expected = jax.eval_shape(transformation.init, params)
    state = checks.checked_state(name, state, expected)
    return transformation.update(constraints, state, params)

  def init(params):
    checks.check_reals(f"{name}.init's log-multipliers", params, 'floats')
    return transformation.init(params)

  return optax.GradientTransformation(init, update)


def _compensated(init, update) -> optax.GradientTransformation:
  """Return the update, run in float32 if log-multipliers are narrower.

  The rounding error of the new log-multipliers is added at the next update
  (error feedback, or compensated summation): bfloat16 would lose every step
  below a 256th of log lambda, and so all of GECO's last approach.
  """

  def init_wide(log_multipliers):
    log_multipliers = jax.tree.map(jnp.asarray, log_multipliers)
    wide = jax.tree.map(_widened, log_multipliers)
    if _dtypes(wide) == _dtypes(log_multipliers):
      return init(log_multipliers)
    return CompensatedState(init(wide), jax.tree.map(jnp.zeros_like, wide))

  def update_wide(constraints, state, log_multipliers):
    if not isinstance(state, CompensatedState):
      return update(constraints, state, log_multipliers)
    wide = jax.tree.map(
      lambda m, rest: _widened(m) + rest, log_multipliers, state.remainder
    )
    updates, wide_state = update(constraints, state.wide, wide)

    def narrow(log_multiplier, target):
      old = _widened(log_multiplier)
      change = _rounded(target - old, log_multiplier.dtype)
      new = _rounded(old + change, log_multiplier.dtype)
      return change.astype(log_multiplier.dtype), target - new

    treedef = jax.tree.structure(log_multipliers)
    targets = treedef.flatten_up_to(optax.apply_updates(wide, updates))
    pairs = map(narrow, treedef.flatten_up_to(log_multipliers), targets)
    changes, remainders = zip(*pairs, strict=True)
    return treedef.unflatten(changes), CompensatedState(
      wide_state, treedef.unflatten(remainders)
    )

  return optax.GradientTransformation(init_wide, update_wide)


def _widened(leaf):
  """Return an array in float32 if it is narrower."""
  return leaf if jnp.finfo(leaf.dtype).bits >= 32 else leaf.astype(jnp.float32)


def _rounded(value, dtype):
  """Round to a dtype's precision, without leaving the value's own dtype.

  XLA may drop a conversion there and back, but not `reduce_precision`.
  """
  info = jnp.finfo(dtype)
  return jax.lax.reduce_precision(value, info.nexp, info.nmant)


def _dtypes(tree):
  return [leaf.dtype for leaf in jax.tree.leaves(tree)]
