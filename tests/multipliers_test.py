"""Contract and convergence tests of the multiplier updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geco_jax import algorithm_1
from geco_jax import annealed_beta
from geco_jax import fixed
from geco_jax import geco
from geco_jax import lagrangian
from geco_jax import scheduled

# Each rule is made once: what is compiled is cached by the rule it is of.
shared_geco, shared_algorithm_1 = map(functools.cache, (geco, algorithm_1))
GECOS = {
  'geco': lambda: geco(1e-2),
  'bounded': lambda: geco(1e-2, natural_multiplier=2.0),
  'algorithm_1': lambda: algorithm_1(1e-2),
  'linear': lambda: geco(1e-2, 0.99, error='linear', damping=100.0),
  'decaying_step_size': lambda: geco(optax.linear_schedule(1e-2, 1e-3, 10)),
  'injected': lambda: optax.inject_hyperparams(geco)(step_size=1e-2),
  'injected_schedule': lambda: optax.inject_hyperparams(geco)(
    step_size=optax.linear_schedule(1e-2, 1e-3, 10), violation_clip=1.0
  ),
  'chained': lambda: optax.chain(optax.clip(1.0), geco(1e-2)),
}
GECOS = {name: functools.cache(make) for name, make in GECOS.items()}
UPDATES = GECOS | {
  'fixed': functools.cache(fixed),
  'scheduled': functools.cache(lambda: scheduled(annealed_beta(2.0, 0.7, 10))),
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
  """Return the state and the log-multipliers after one update."""
  updates, state = update.update(constraints, state, log_multipliers)
  return state, optax.apply_updates(log_multipliers, updates)


@functools.partial(jax.jit, static_argnums=0)
def compiled_trajectory(update, constraints, initial):
  def step(carry, constraint):
    carry = advance(update, constraint, *carry)
    return carry, carry[1]

  return jax.lax.scan(step, (update.init(initial), initial), constraints)[1]


def trajectory(update, constraints, initial=0.0):
  """Return log-multipliers [steps] after each of constraints [steps]."""
  constraints = np.asarray(constraints, jax.dtypes.canonicalize_dtype(float))
  initial = constraints.dtype.type(initial)
  return np.asarray(compiled_trajectory(update, constraints, initial))


def signature(tree):
  """Return what a compiled program is specialized to."""
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
    length=20,
  )
  expected = trajectory(update, np.full(20, 0.5))[-1]
  np.testing.assert_allclose(scanned, expected, rtol=1e-6)


@all_updates
@pytest.mark.parametrize('transform', [jax.vmap, jax.pmap])
def test_mapping_over_runs_is_running_each(make, transform):
  num_runs = 1 if transform is jax.pmap else 3
  constraints = np.linspace(-0.4, 2.0, num_runs * 20, dtype=np.float32)
  constraints = constraints.reshape(num_runs, 20)
  update = make()
  mapped = transform(lambda c: compiled_trajectory(update, c, 0.0))(constraints)
  for run, constraint in zip(mapped, constraints, strict=True):
    np.testing.assert_allclose(run, trajectory(update, constraint), rtol=1e-5)


# Their step size is a function of the number of updates, missed ones included.
_COUNTING = ('decaying_step_size', 'injected_schedule')


# Algorithm 1.


def literal(constraints, step_size, decay):
  """Return log lambda after each step: the paper's loop, in NumPy."""
  log_multiplier, log_multipliers = 0.0, []
  for t, constraint in enumerate(constraints):
    if t == 0:
      moving_average = constraint
    else:
      moving_average = decay * moving_average + (1 - decay) * constraint
    log_multiplier += step_size * moving_average
    log_multipliers.append(log_multiplier)
  return log_multipliers


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('decay', [0.0, 0.9, 0.99])
def test_algorithm_1_is_the_papers_loop(seed, decay):
  constraints = np.random.default_rng(seed).normal(0.2, 1.0, 300)
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      trajectory(shared_algorithm_1(1e-2, decay), constraints),
      literal(constraints, 1e-2, decay),
      rtol=1e-6,
      atol=1e-12,
    )


def test_damping_can_undo_the_lag_of_the_moving_average():
  """With damping = decay / (1 - decay) the update follows C itself."""
  update = geco(1e-2, 0.99, error='linear', damping=99.0, violation_clip=None)
  constraints = np.sin(np.arange(50.0))
  np.testing.assert_allclose(
    trajectory(update, constraints), 1e-2 * np.cumsum(constraints), atol=1e-5
  )


def test_first_moving_average_is_the_constraint():
  constraints = arrays(TREES['nested'])
  update = algorithm_1(1e-2)
  _, state = update.update(
    constraints, update.init(constraints), arrays(TREES['nested'])
  )
  jax.tree.map(
    lambda average, c: np.testing.assert_allclose(average, c, rtol=1e-6),
    state.moving_average,
    constraints,
  )
  assert state.count == 1


# The default: a PI controller of log lambda.


def pi_controller(constraints, step_size, natural=np.inf):
  """Return log lambda after each step by the docstring's equations."""
  log_multiplier, log_multipliers = 0.0, []
  average, residual = 3 * np.arcsinh(constraints[0] / 3), 0.0
  for constraint in constraints:
    error = 3 * np.arcsinh(constraint / 3)
    old, average = average, (1 - step_size) * average + step_size * error
    signal = average + 4 * (error - old) + residual
    speed = np.clip(signal, -1, 1)
    residual = np.clip(signal - speed, -20, 20)
    top = 1 / (1 + np.exp(log_multiplier) / natural)
    log_multiplier += step_size * min(speed, top)
    log_multipliers.append(log_multiplier)
  return log_multipliers


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('natural', [None, 0.5, 3.0])
def test_geco_equals_its_docstrings_equations(seed, natural):
  constraints = np.random.default_rng(seed).normal(0.3, 0.3, 300)
  constraints[:20] += 50.0
  update = shared_geco(0.03, natural_multiplier=natural)
  with jax.enable_x64(True):
    np.testing.assert_allclose(
      trajectory(update, constraints),
      pi_controller(constraints, 0.03, natural or np.inf),
      rtol=1e-6,
      atol=1e-12,
    )


def test_log_multiplier_is_the_integral_and_four_times_the_average():
  """Where nothing is clipped: the PI form of Sohrabi et al. 2024."""
  errors = 0.05 * np.sin(np.arange(200.0) / 9)
  rate, averages = 0.1, [errors[0]]
  for error in errors:
    averages.append((1 - rate) * averages[-1] + rate * error)
  averages = np.array(averages)
  expected = rate * np.cumsum(averages[1:]) + 4 * (averages[1:] - averages[0])
  np.testing.assert_allclose(
    trajectory(geco(rate), 3 * np.sinh(errors / 3)), expected, atol=2e-6
  )


def test_multiplier_waits_while_the_model_is_on_its_way():
  """A violation that will be gone within 4 / step_size steps needs no push."""
  step_size = 0.01
  violations = 30 * np.exp(-np.arange(400.0) * step_size)
  on_its_way = trajectory(shared_geco(step_size), violations)
  stuck = trajectory(shared_geco(step_size), np.full(400, 30.0))
  assert on_its_way[-1] < 0.7 and stuck[-1] > 3.99


@pytest.mark.parametrize('natural', [0.1, 1.0, 50.0])
def test_growth_above_the_natural_multiplier_is_linear(natural):
  """With d log r = rate / (1 + r), log r + r = rate t + 1 from r = 1."""
  update = geco(0.02, natural_multiplier=natural)
  logs = trajectory(update, np.full(2000, 1e3), np.log(natural))
  ratios = np.exp(logs) / natural
  np.testing.assert_allclose(
    np.log(ratios) + ratios, 0.02 * np.arange(1, 2001) + 1, rtol=0.01
  )
  assert ratios[-1] < 38  # The 40 nepers of a run, from the natural multiplier.


def test_natural_multipliers_may_differ():
  constraints = {'re': jnp.full(3, 1e3), 'cla': jnp.float32(1e3)}
  logs = jax.tree.map(jnp.zeros_like, constraints)
  update = geco(0.1, natural_multiplier={'re': 1e-3, 'cla': 1e3})
  updates, _ = update.update(constraints, update.init(logs), logs)
  np.testing.assert_allclose(updates['re'], 0.1 / (1 + 1e3), rtol=1e-5)
  np.testing.assert_allclose(updates['cla'], 0.1 / (1 + 1e-3), rtol=1e-5)


@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize('at', [0, 7])
@pytest.mark.parametrize('name', [name for name in GECOS if name != 'chained'])
def test_a_constraint_that_is_not_finite_is_passed_over(name, bad, at):
  """Nothing moves at that step, and the rest goes on."""
  update, constraints = GECOS[name](), np.linspace(0.5, -0.2, 20)
  others = np.append(np.delete(constraints, at), 0.0)
  constraints[at] = bad
  logs = trajectory(update, constraints)
  before = logs[at - 1] if at else 0.0
  assert np.isfinite(logs).all() and logs[at] == before
  if name not in _COUNTING:
    np.testing.assert_allclose(
      np.delete(logs, at), trajectory(update, others)[:-1], atol=1e-7
    )


def test_only_the_element_that_is_not_finite_is_passed_over():
  update, logs = geco(0.1), jnp.zeros(3)
  updates, state = update.update(
    jnp.array([1.0, jnp.nan, -1.0]), update.init(logs), logs
  )
  np.testing.assert_allclose(
    updates, 0.3 * np.arcsinh([1 / 3, 0.0, -1 / 3]), rtol=1e-5
  )
  np.testing.assert_allclose(
    state.moving_average, 3 * np.arcsinh([1 / 3, np.inf, -1 / 3]), rtol=1e-5
  )


@pytest.mark.parametrize('step_size', [0.003, 0.01, 0.02])
def test_skewed_noise_of_batches_leaves_the_constraint_met(step_size):
  """At the end C is 0 in the mean, not a function of its batches' skewness."""
  rng = np.random.default_rng(0)
  noise = rng.exponential(size=(int(40 / step_size), 8)).astype(np.float32) - 1
  update = geco(step_size)

  @jax.jit
  def run(noise):
    def step(carry, noise):
      constraint = 2 * jnp.exp(-carry[1]) * (1 + 0.5 * noise) - 1
      return advance(update, constraint, *carry), carry[1]

    start = jnp.zeros(8)
    return jax.lax.scan(step, (update.init(start), start), noise)[1]

  mean = 2 * np.exp(-run(noise)[-1_000:]).mean() - 1
  assert abs(mean) < 0.02


@pytest.mark.parametrize('violation', [1.0, 1e9])
def test_what_the_clip_held_back_ends_within_twenty_steps(violation):
  """However long a violation lasted: the residual is no wind-up."""
  step_size, num_steps = 0.01, 3_000
  constraints = np.full(num_steps, violation)
  constraints[-200:] = -violation
  growth = np.diff(trajectory(shared_geco(step_size), constraints))[-200:]
  assert (growth > 0).sum() <= 20
  np.testing.assert_allclose(growth[-1], -step_size, rtol=1e-3)


@pytest.mark.parametrize('step_size', [0.008, 0.02, 0.05])
def test_a_slow_model_comes_to_rest_at_any_step_size(step_size):
  """Adam answers late; a rule that sees late as well would circle."""
  target, adam = np.float32([2.0, 1.0]), optax.adam(1e-2)
  update = geco(step_size)

  def loss(x, log_multiplier):
    constraint = ((x - target) ** 2).sum() - 0.25
    return lagrangian(
      (x**2).sum(), constraint, log_multiplier
    ), constraint / 0.25

  def step(carry, _):
    x, adam_state, state, log_multiplier = carry
    gradient, violation = jax.grad(loss, has_aux=True)(x, log_multiplier)
    change, adam_state = adam.update(gradient, adam_state)
    moved = advance(update, violation, state, log_multiplier)
    return (optax.apply_updates(x, change), adam_state, *moved), None

  @jax.jit
  def run(x, start):
    carry = x, adam.init(x), update.init(start), start
    (x, *_, log_multiplier), _ = jax.lax.scan(step, carry, length=5_000)
    return x, log_multiplier

  x, log_multiplier = run(np.zeros(2, np.float32), np.float32(0.0))
  distance = np.sqrt(5)  # To the target; the point is 0.5 short of it.
  np.testing.assert_allclose(x, target * (1 - 0.5 / distance), rtol=1e-3)
  np.testing.assert_allclose(
    np.exp(log_multiplier), 2 * distance - 1, rtol=1e-3
  )


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@all_gecos
def test_narrow_multipliers_follow_those_in_float32(make, dtype):
  """Rounding is carried on, so that it never adds up."""
  constraints = 0.3 * np.cos(np.arange(600.0, dtype=np.float32) / 90) + 0.1
  update = make()
  narrow = compiled_trajectory(update, constraints, jnp.zeros([], dtype))
  exact = trajectory(update, constraints)[-1]
  assert narrow.dtype == dtype
  np.testing.assert_allclose(
    np.float32(narrow[-1]), exact, atol=jnp.finfo(dtype).eps
  )


def test_an_equality_is_a_pair_of_constraints():
  """The least x^2 + y^2 with x + y = 1: both 1/2, net multiplier -1."""
  update, optimizer = geco(0.03), optax.sgd(0.05)

  def loss(x, logs):
    h = x.sum() - 1
    return lagrangian((x**2).sum(), (h, -h), logs), (h, -h)

  def step(carry, _):
    x, optimizer_state, state, logs = carry
    gradient, constraints = jax.grad(loss, has_aux=True)(x, logs)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state)
    state, logs = advance(update, constraints, state, logs)
    return (optax.apply_updates(x, updates), optimizer_state, state, logs), None

  @jax.jit
  def run(x, logs):
    start = x, optimizer.init(x), update.init(logs), logs
    (x, *_, logs), _ = jax.lax.scan(step, start, length=3000)
    return x, logs

  x, logs = run(np.float32([3.0, -2.0]), (np.float32(0), np.float32(0)))
  np.testing.assert_allclose(x, [0.5, 0.5], atol=1e-5)
  np.testing.assert_allclose(np.exp(logs[0]) - np.exp(logs[1]), -1, rtol=1e-4)


def test_step_size_schedule_counts_updates():
  schedule = optax.linear_schedule(1.0, 0.0, 4)
  logs = trajectory(algorithm_1(schedule), np.ones(5))
  np.testing.assert_allclose(logs, [1.0, 1.75, 2.25, 2.5, 2.5], rtol=1e-6)


@all_gecos
def test_multiplier_grows_while_constraint_is_violated(make):
  assert (np.diff(trajectory(make(), np.full(20, 0.3))) > 0).all()


@all_gecos
def test_multiplier_falls_while_constraint_holds(make):
  assert (np.diff(trajectory(make(), np.full(20, -0.3))) < 0).all()


def test_violation_clip_bounds_the_growth():
  update = geco(1e-2, violation_clip=1.0)
  logs = trajectory(update, np.full(10, 1e6))
  np.testing.assert_allclose(logs, 1e-2 * np.arange(1, 11), rtol=1e-5)


@pytest.mark.parametrize('violation', [1e6, -1e6, 1e30])
@pytest.mark.parametrize('damping', [0.0, 100.0])
def test_log_multiplier_stays_in_its_range(violation, damping):
  update = shared_geco(
    1.0,
    damping=damping,
    violation_clip=None,
    log_multiplier_range=(-3.0, 5.0),
  )
  logs = trajectory(update, np.full(10_000, violation))
  assert logs[-1] == (5.0 if violation > 0 else -3.0)
  assert ((logs >= -3.0) & (logs <= 5.0)).all()


@pytest.mark.parametrize('step_size', [1e-2, 1.0])
@pytest.mark.parametrize('damping', [0.0, 100.0])
def test_unreachable_constraint_leaves_everything_finite(step_size, damping):
  update = geco(step_size, 0.99, damping=damping)
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

  @jax.jit
  def run(x, log_multiplier):
    start = update.init(log_multiplier), log_multiplier
    return jax.lax.scan(step, (x, optimizer.init(x), *start), length=10_000)

  carry, history = run(np.float32(3.0), np.float32(0.0))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(history))
  assert carry[-1] == 20.0


# The other updates.


def test_fixed_never_moves():
  logs = trajectory(fixed(), np.full(10, 5.0), initial=0.7)
  np.testing.assert_array_equal(logs, np.full(10, 0.7, np.float32))


def test_scheduled_follows_its_schedule():
  schedule = optax.exponential_decay(3.0, 5, 0.5)
  logs = trajectory(scheduled(schedule), np.ones(20), np.log(schedule(0)))
  np.testing.assert_allclose(
    np.exp(logs), [schedule(t) for t in range(1, 21)], rtol=1e-6
  )


@pytest.mark.parametrize('step', [0, 1, 50_000, 199_999, 200_000, 500_000])
def test_annealed_beta_is_the_papers_formula(step):
  beta = max(0.7 + (2.0 - 0.7) * (1 - step / 2e5), 0.7)
  np.testing.assert_allclose(annealed_beta()(step), 1 / beta, rtol=1e-6)


def test_hyperparameters_can_be_changed_during_training():
  update = optax.inject_hyperparams(algorithm_1)(step_size=1.0)
  log_multiplier = jnp.float32(0.0)
  state = update.init(log_multiplier)
  state.hyperparams['step_size'] = jnp.float32(0.25)
  _, log_multiplier = advance(update, jnp.float32(2.0), state, log_multiplier)
  np.testing.assert_allclose(log_multiplier, 0.5, rtol=1e-6)


@pytest.mark.parametrize('name', ['geco', 'algorithm_1', 'scheduled'])
def test_the_log_multipliers_are_optaxs_params(name):
  update, log_multiplier = UPDATES[name](), jnp.float32(0.5)
  state = update.init(log_multiplier)
  by_name, _ = update.update(jnp.float32(2.0), state, params=log_multiplier)
  by_place, _ = update.update(jnp.float32(2.0), state, log_multiplier)
  assert by_name == by_place != 0


@all_gecos
def test_python_floats_are_taken(make):
  update, logs = make(), {'re': 0.0, 'cla': 1.0}
  updates, _ = update.update({'re': 0.5, 'cla': -0.5}, update.init(logs), logs)
  assert updates['re'] > 0 > updates['cla']


@pytest.mark.parametrize('step', [0, 5, 10, 20])
def test_annealed_beta_may_rise_too(step):
  beta = 1.0 - 0.5 * max(1 - step / 10, 0)
  np.testing.assert_allclose(
    annealed_beta(0.5, 1.0, 10)(step), 1 / beta, rtol=1e-6
  )


def test_each_multiplier_has_its_natural_one_beside_a_partition():
  naturals = {'cla': 3.0, 're': 2.0}
  constraints = {'cla': jnp.float32(9.0), 're': jnp.float32(9.0)}
  start = jax.tree.map(jnp.log, jax.tree.map(jnp.float32, naturals))
  alone = geco(0.1, natural_multiplier=naturals)
  expected, _ = alone.update(constraints, alone.init(start), start)
  labels = ('model', 'multiplier')

  def beside(natural_multiplier):
    rules = {
      'model': optax.sgd(0.1),
      'multiplier': geco(0.1, natural_multiplier=natural_multiplier),
    }
    both = optax.partition(rules, labels)
    params = (jnp.zeros(2), start)
    gradients = (jnp.ones(2), constraints)
    return both.update(gradients, both.init(params), params)[0][1]

  assert beside((1.0, naturals)) == expected
  assert expected == pytest.approx({'cla': 0.05, 're': 0.05}, rel=1e-5)
  with pytest.raises(ValueError, match='any number stands for a MaskedNode'):
    beside(naturals)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
@pytest.mark.parametrize('make', [lambda: geco(0.1), UPDATES['scheduled']])
def test_strict_promotion_gives_the_same_update(make, dtype):
  rule = make()

  def update():
    log_multiplier = jnp.zeros([], dtype)
    state = rule.init(log_multiplier)
    return rule.update(jnp.ones([], dtype), state, log_multiplier)[0]

  expected = update()
  with jax.numpy_dtype_promotion('strict'):
    actual = update()
  assert actual == expected and actual.dtype == dtype


def test_what_is_infinite_in_the_states_dtype_is_passed_over():
  rule = geco(0.1)
  with jax.enable_x64(True):
    log_multiplier = jnp.zeros([], jnp.float32)
    state = rule.init(log_multiplier)
    for value in (1e39, 0.5):
      update, state = rule.update(jnp.float64(value), state, log_multiplier)
      log_multiplier = optax.apply_updates(log_multiplier, update)
      assert (log_multiplier == 0) == (value > 1)
  assert 0 < log_multiplier < 0.1


@pytest.mark.parametrize('clip', [0.25, 3.0])
def test_a_clip_scales_all_that_is_linear(clip):
  """Speed, its bound and what is held back: in units of the clip."""
  constraints = np.random.default_rng(0).normal(0.0, 1.0, 400)
  constraints[:60] += 5.0  # They hold back more than the residual's bound.
  rules = (geco(0.01, error='linear', violation_clip=c) for c in (1.0, clip))
  with jax.enable_x64(True):
    unit, scaled = (
      trajectory(rule, c * constraints)
      for rule, c in zip(rules, (1.0, clip), strict=True)
    )
  np.testing.assert_allclose(scaled, clip * unit, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('clip', [0.25, 3.0])
def test_at_its_natural_multiplier_growth_is_half_the_clip(clip):
  update = geco(0.01, violation_clip=clip, natural_multiplier=20.0)
  start = jnp.log(jnp.float32(20.0))
  change, _ = update.update(jnp.float32(1e6), update.init(start), start)
  np.testing.assert_allclose(change, 0.01 * clip / 2, rtol=1e-4)


def test_a_step_size_above_one_leaves_no_average():
  """1 - step_size would weigh the past negatively: a is the last error."""
  errors = np.random.default_rng(0).normal(0.0, 0.1, 50)
  speeds = errors + 4 * np.diff(errors, prepend=errors[0])
  update = geco(2.5, error='linear', violation_clip=None)
  np.testing.assert_allclose(
    trajectory(update, errors), 2.5 * np.cumsum(speeds), atol=1e-4
  )


@pytest.mark.parametrize('make', [shared_geco, scheduled])
def test_updates_are_counted_without_an_overflow(make):
  """A negative count would be the start of every schedule once more."""
  update = make(lambda count: 0.5)
  last = jnp.int32(2**31 - 1)
  state = update.init(jnp.float32(0.0))._replace(count=last)
  _, state = update.update(jnp.float32(0.5), state, jnp.float32(0.0))
  assert state.count == last


def test_algorithm_1_averages_over_a_hundred_steps_unless_told():
  constraints = np.random.default_rng(0).normal(0.2, 1.0, 300)
  np.testing.assert_allclose(
    trajectory(algorithm_1(1e-2), constraints),
    literal(constraints, 1e-2, 0.99),
    rtol=1e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize('decay', [0.5, 0.99])
def test_damping_counts_steps_whatever_the_step_size(decay):
  """Over the average's time constant, 1 / (1 - decay), it is a gain of 4."""
  constraints = np.random.default_rng(0).normal(0.0, 0.1, 50)
  by_default = trajectory(geco(0.2, decay), constraints)
  damped = geco(0.2, decay, damping=4 / (1 - decay))
  by_damping = trajectory(damped, constraints)
  np.testing.assert_allclose(by_damping, by_default, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('make', [shared_geco, shared_algorithm_1])
@pytest.mark.parametrize('sign', [-1, 1])
def test_log_multipliers_stay_within_20_or_what_is_asked(make, sign):
  for asked, end in (({}, 20.0), ({'log_multiplier_range': (-3, 3)}, 3.0)):
    logs = trajectory(make(1.0, **asked), np.full(40, sign * 1e3))
    assert logs[-1] == sign * end
