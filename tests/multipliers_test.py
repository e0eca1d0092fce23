"""Contract and convergence tests of the multiplier updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geco_jax import annealed_beta
from geco_jax import fixed
from geco_jax import geco
from geco_jax import lagrangian
from geco_jax import scheduled

GECOS = {
  'geco': lambda: geco(1e-2),
  'damped': lambda: geco(1e-2, violation_clip=1.0, damping=100.0),
  'decaying_step_size': lambda: geco(optax.linear_schedule(1e-2, 1e-3, 10)),
  'injected': lambda: optax.inject_hyperparams(geco)(step_size=1e-2),
  'injected_schedule': lambda: optax.inject_hyperparams(geco)(
    step_size=optax.linear_schedule(1e-2, 1e-3, 10), violation_clip=1.0
  ),
  'chained': lambda: optax.chain(optax.clip(1.0), geco(1e-2)),
}
UPDATES = GECOS | {
  'fixed': fixed,
  'scheduled': lambda: scheduled(annealed_beta(2.0, 0.7, 10)),
}
TREES = {
  'scalar': 0.5,
  'empty': {},
  'nested': {'re': 0.5, 'other': {'cla': -0.25, 'list': [1.0, (2.0,)]}},
  'tuple': (0.5, -0.25),
}

all_updates = pytest.mark.parametrize('make', UPDATES.values(), ids=[*UPDATES])
all_gecos = pytest.mark.parametrize('make', GECOS.values(), ids=[*GECOS])
all_trees = pytest.mark.parametrize('tree', TREES.values(), ids=[*TREES])


def arrays(tree, dtype=jnp.float32):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def advance(update, constraints, state, log_multipliers):
  """Returns the state and the log-multipliers after one update."""
  updates, state = update.update(constraints, state, log_multipliers)
  return state, optax.apply_updates(log_multipliers, updates)


def trajectory(update, constraints, initial=0.0):
  """Returns log-multipliers [steps] after each of constraints [steps]."""

  def step(carry, constraint):
    carry = advance(update, constraint, *carry)
    return carry, carry[1]

  initial = jnp.asarray(initial, constraints.dtype)
  return jax.lax.scan(step, (update.init(initial), initial), constraints)[1]


def signature(tree):
  """Returns what a compiled program is specialised to."""
  return jax.tree.structure(tree), [
    jax.typeof(leaf) for leaf in jax.tree.leaves(tree)
  ]


# The contract of every update.


@all_updates
@all_trees
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_structure_and_dtype_are_kept(make, tree, dtype):
  update, log_multipliers = make(), arrays(tree, dtype)
  before = (update.init(log_multipliers), log_multipliers)
  after = advance(update, arrays(tree, dtype), *before)
  assert signature(after) == signature(before)


@all_updates
def test_float64_is_kept(make):
  with jax.enable_x64(True):
    update, log_multipliers = make(), arrays(TREES['nested'], jnp.float64)
    before = (update.init(log_multipliers), log_multipliers)
    after = advance(update, log_multipliers, *before)
    assert signature(after) == signature(before)


@all_updates
def test_bfloat16_log_multipliers_take_float32_constraints(make):
  update, log_multiplier = make(), jnp.bfloat16(0.0)
  before = (update.init(log_multiplier), log_multiplier)
  after = advance(update, jnp.float32(0.5), *before)
  assert signature(after) == signature(before)


@all_updates
@all_trees
def test_jit_changes_nothing(make, tree):
  update, values = make(), arrays(tree)
  before = (update.init(values), values)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    advance(update, values, *before),
    jax.jit(lambda *args: advance(update, *args))(values, *before),
  )


@all_updates
def test_training_loop_compiles_once(make):
  update, num_traces = make(), 0

  @jax.jit
  def step(constraint, state, log_multiplier):
    nonlocal num_traces
    num_traces += 1
    return advance(update, constraint, state, log_multiplier)

  log_multiplier = jnp.float32(0.0)
  state = update.init(log_multiplier)
  for constraint in (0.5, -0.5, 2.0):
    state, log_multiplier = step(jnp.float32(constraint), state, log_multiplier)
  assert num_traces == 1


@all_updates
def test_scan_takes_weakly_typed_log_multipliers(make):
  update, log_multiplier = make(), jnp.asarray(0.0)
  assert log_multiplier.weak_type
  (_, scanned), _ = jax.lax.scan(
    lambda carry, _: (advance(update, 0.5, *carry), None),
    (update.init(log_multiplier), log_multiplier),
    length=3,
  )
  expected = trajectory(update, jnp.full(3, 0.5))[-1]
  np.testing.assert_allclose(scanned, expected, rtol=1e-6)


@all_updates
@pytest.mark.parametrize('transform', [jax.vmap, jax.pmap])
def test_mapping_over_runs_is_running_each(make, transform):
  num_runs = 1 if transform is jax.pmap else 3
  constraints = jnp.linspace(-0.5, 2.0, num_runs * 20).reshape(num_runs, 20)
  update = make()
  mapped = transform(lambda c: trajectory(update, c))(constraints)
  for run, constraint in zip(mapped, constraints, strict=True):
    np.testing.assert_allclose(run, trajectory(update, constraint), rtol=1e-5)


# Algorithm 1.


def algorithm_1(constraints, step_size, decay):
  """Returns log lambda after each step: the paper's loop, in NumPy."""
  log_multiplier, log_multipliers = 0.0, []
  for t, constraint in enumerate(constraints):
    if t == 0:
      moving_average = constraint
    else:
      moving_average = decay * moving_average + (1 - decay) * constraint
    log_multiplier += step_size * moving_average
    log_multipliers.append(log_multiplier)
  return log_multipliers


def damped_algorithm_1(constraints, step_size, decay, bound, damping):
  """Returns the same with the clipped average and its proportional term."""
  log_multiplier, log_multipliers = 0.0, []
  moving_average = constraints[0]
  for constraint in constraints:
    before = np.clip(moving_average, -bound, bound)
    moving_average = decay * moving_average + (1 - decay) * constraint
    clipped = np.clip(moving_average, -bound, bound)
    log_multiplier += step_size * (clipped + damping * (clipped - before))
    log_multipliers.append(log_multiplier)
  return log_multipliers


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('decay', [0.0, 0.9, 0.99])
def test_geco_equals_algorithm_1(seed, decay):
  constraints = np.random.default_rng(seed).normal(0.2, 1.0, 300)
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      trajectory(geco(1e-2, decay), jnp.asarray(constraints)),
      algorithm_1(constraints, 1e-2, decay),
      rtol=1e-6,
      atol=1e-12,
    )


@pytest.mark.parametrize('seed', range(3))
def test_damped_geco_equals_its_formula(seed):
  constraints = np.random.default_rng(seed).normal(0.2, 1.0, 300)
  constraints[:20] += 5.0
  update = geco(1e-2, 0.9, violation_clip=0.5, damping=7.0)
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      trajectory(update, jnp.asarray(constraints)),
      damped_algorithm_1(constraints, 1e-2, 0.9, 0.5, 7.0),
      rtol=1e-6,
      atol=1e-12,
    )


def test_damping_can_undo_the_lag_of_the_moving_average():
  """With damping = decay / (1 - decay) the update follows C itself."""
  constraints = jnp.sin(jnp.arange(50.0))
  np.testing.assert_allclose(
    trajectory(geco(1e-2, 0.99, damping=99.0), constraints),
    1e-2 * jnp.cumsum(constraints),
    atol=1e-5,
  )


def test_first_moving_average_is_the_constraint():
  constraints = arrays(TREES['nested'])
  update = geco(1e-2)
  _, state = update.update(
    constraints, update.init(constraints), arrays(TREES['nested'])
  )
  jax.tree.map(
    lambda average, c: np.testing.assert_allclose(average, c, rtol=1e-6),
    state.moving_average,
    constraints,
  )
  assert state.count == 1


def test_step_size_schedule_counts_updates():
  schedule = optax.linear_schedule(1.0, 0.0, 4)
  logs = trajectory(geco(schedule), jnp.ones(5))
  np.testing.assert_allclose(logs, [1.0, 1.75, 2.25, 2.5, 2.5], rtol=1e-6)


@all_gecos
def test_multiplier_grows_while_constraint_is_violated(make):
  assert (jnp.diff(trajectory(make(), jnp.full(20, 0.3))) > 0).all()


@all_gecos
def test_multiplier_falls_while_constraint_holds(make):
  assert (jnp.diff(trajectory(make(), jnp.full(20, -0.3))) < 0).all()


def test_violation_clip_bounds_the_growth():
  update = geco(1e-2, violation_clip=1.0)
  logs = trajectory(update, jnp.full(10, 1e6))
  np.testing.assert_allclose(logs, 1e-2 * np.arange(1, 11), rtol=1e-5)


@pytest.mark.parametrize('violation', [1e6, -1e6, 1e30])
@pytest.mark.parametrize('damping', [0.0, 100.0])
def test_log_multiplier_stays_in_its_range(violation, damping):
  update = geco(1.0, damping=damping, log_multiplier_range=(-3.0, 5.0))
  logs = trajectory(update, jnp.full(10_000, violation))
  assert logs[-1] == (5.0 if violation > 0 else -3.0)
  assert ((logs >= -3.0) & (logs <= 5.0)).all()


@pytest.mark.parametrize('step_size', [1e-2, 1.0])
@pytest.mark.parametrize('damping', [0.0, 100.0])
def test_unreachable_constraint_leaves_everything_finite(step_size, damping):
  update = geco(step_size, damping=damping)
  optimizer = optax.adam(1e-2)

  def loss(x, log_multiplier):
    constraint = x**2 + 1.0
    return lagrangian(x**2, constraint, log_multiplier), constraint

  def step(carry, _):
    x, optimizer_state, state, log_multiplier = carry
    (value, constraint), gradient = jax.value_and_grad(loss, has_aux=True)(
      x, log_multiplier
    )
    updates, optimizer_state = optimizer.update(gradient, optimizer_state)
    state, log_multiplier = advance(update, constraint, state, log_multiplier)
    x = optax.apply_updates(x, updates)
    return (x, optimizer_state, state, log_multiplier), (value, gradient)

  x = log_multiplier = jnp.float32(0.0)
  carry, seen = jax.lax.scan(
    step,
    (x + 3.0, optimizer.init(x), update.init(x), log_multiplier),
    length=10_000,
  )
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(seen))
  assert carry[-1] == 20.0


# The other updates.


def test_fixed_never_moves():
  logs = trajectory(fixed(), jnp.full(10, 5.0), initial=0.7)
  np.testing.assert_array_equal(logs, np.full(10, 0.7, np.float32))


def test_scheduled_follows_its_schedule():
  schedule = optax.exponential_decay(3.0, 5, 0.5)
  logs = trajectory(scheduled(schedule), jnp.ones(20), jnp.log(schedule(0)))
  np.testing.assert_allclose(
    jnp.exp(logs), [schedule(t) for t in range(1, 21)], rtol=1e-6
  )


@pytest.mark.parametrize('step', [0, 1, 50_000, 199_999, 200_000, 500_000])
def test_annealed_beta_is_the_papers_formula(step):
  beta = max(0.7 + (2.0 - 0.7) * (1 - step / 2e5), 0.7)
  np.testing.assert_allclose(annealed_beta()(step), 1 / beta, rtol=1e-6)


def test_hyperparameters_can_be_changed_during_training():
  update = optax.inject_hyperparams(geco)(step_size=1.0)
  log_multiplier = jnp.float32(0.0)
  state = update.init(log_multiplier)
  state.hyperparams['step_size'] = jnp.float32(0.25)
  _, log_multiplier = advance(update, jnp.float32(2.0), state, log_multiplier)
  np.testing.assert_allclose(log_multiplier, 0.5, rtol=1e-6)


# Bad arguments.


@pytest.mark.parametrize(
  ('make', 'shown'),
  [
    (lambda: geco(-0.1), 'step_size .* got -0.1'),
    (lambda: geco(float('nan')), 'step_size .* got nan'),
    (lambda: geco(1e-2, 1.0), 'decay .* got 1.0'),
    (lambda: geco(1e-2, -0.5), 'decay .* got -0.5'),
    (lambda: geco(1e-2, violation_clip=0.0), 'violation_clip .* got 0.0'),
    (lambda: geco(1e-2, damping=-1.0), 'damping .* got -1.0'),
    (
      lambda: geco(1e-2, log_multiplier_range=(1.0, -2.0)),
      r'log_multiplier_range .* got \(1.0, -2.0\)',
    ),
    (
      lambda: geco(1e-2, log_multiplier_range=(0.0, float('inf'))),
      r'log_multiplier_range .* got \(0.0, inf\)',
    ),
    (lambda: scheduled(0.5), 'schedule .* got 0.5'),
    (lambda: annealed_beta(initial_beta=0.0), 'initial_beta .* got 0.0'),
    (lambda: annealed_beta(final_beta=-1.0), 'final_beta .* got -1.0'),
    (lambda: annealed_beta(transition_steps=0), 'transition_steps .* got 0'),
  ],
)
def test_bad_arguments_are_shown(make, shown):
  with pytest.raises(ValueError, match=shown):
    make()


@pytest.mark.parametrize('name', ['geco', 'damped', 'scheduled'])
def test_update_asks_for_the_log_multipliers(name):
  update = UPDATES[name]()
  with pytest.raises(ValueError, match='needs the log-multipliers'):
    update.update(jnp.float32(1.0), update.init(jnp.float32(0.0)))


# Convergence to exact primal and dual solutions.

TARGET = np.array([3.0, -4.0], np.float32)  # |a| = 5.


def solve(update, kappa, num_steps=100_000):
  """Minimises |x|^2 subject to |x - a|^2 <= kappa^2; returns x, lambda.

  With a multiplier lambda the minimum is at x = a lambda / (1 + lambda), where
  |x - a| = |a| / (1 + lambda). Hence lambda* = |a| / kappa - 1 and
  x* = a (1 - kappa / |a|), if kappa < |a|; else lambda* = 0 and x* = 0.
  """

  def loss(x, log_multiplier):
    constraint = ((x - TARGET) ** 2).sum() - kappa**2
    return lagrangian((x**2).sum(), constraint, log_multiplier), constraint

  def step(carry, _):
    x, state, log_multiplier = carry
    gradient, constraint = jax.grad(loss, has_aux=True)(x, log_multiplier)
    return (
      x - 1e-2 * gradient,
      *advance(update, constraint / kappa**2, state, log_multiplier),
    ), None

  x, log_multiplier = jnp.ones(2), jnp.float32(0.0)
  (x, _, log_multiplier), _ = jax.lax.scan(
    step, (x, update.init(log_multiplier), log_multiplier), length=num_steps
  )
  return x, jnp.exp(log_multiplier)


TOY_UPDATES = {
  'literal': lambda: geco(1e-3),
  'damped': lambda: geco(1e-3, violation_clip=1.0, damping=100.0),
  'damped_fast': lambda: geco(1e-2, violation_clip=1.0, damping=100.0),
}
toy_updates = pytest.mark.parametrize(
  'make', TOY_UPDATES.values(), ids=[*TOY_UPDATES]
)


@toy_updates
@pytest.mark.parametrize('kappa', [1.0, 2.0, 3.0, 4.5])
def test_geco_finds_the_primal_and_the_dual_solution(make, kappa):
  x, multiplier = solve(make(), kappa)
  np.testing.assert_allclose(x, TARGET * (1 - kappa / 5.0), rtol=1e-3)
  np.testing.assert_allclose(multiplier, 5.0 / kappa - 1, rtol=1e-3)


@toy_updates
def test_multiplier_of_an_inactive_constraint_vanishes(make):
  x, multiplier = solve(make(), kappa=8.0)
  assert multiplier < 1e-4
  np.testing.assert_allclose(x, [0.0, 0.0], atol=1e-3)
