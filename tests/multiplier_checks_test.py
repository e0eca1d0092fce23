"""Library calls that are wrong are answered by a sentence of this package."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geco_jax import algorithm_1
from geco_jax import annealed_beta
from geco_jax import fixed
from geco_jax import geco
from geco_jax import GecoState
from geco_jax import lagrangian
from geco_jax import scheduled

RULES = {
  'geco': lambda: geco(0.1),
  'algorithm_1': lambda: algorithm_1(0.1),
  'scheduled': lambda: scheduled(lambda _: 2.0),
  'fixed': fixed,
}
LOGS = {'a': jnp.float32(0.0), 'b': jnp.float32(0.0)}
CONSTRAINTS = {'a': 1.0, 'b': jnp.float32(2.0)}
NOT_REAL = {
  'complex': (1j, '1j'),
  'complex array': (jnp.complex64(1), r'complex64\[\]'),
  'complex of NumPy': (np.complex128(1), r'complex128\[\]'),
  'bool': (True, 'True'),
  'bool array': (jnp.bool_(True), r'bool\[\]'),
  'bool of NumPy': (np.bool_(True), r'bool\[\]'),
  'text': ('x', "'x'"),
  'text of NumPy': (np.str_('x'), 'x'),
  'bytes': (b'x', "b'x'"),
  'time': (np.datetime64('2020'), 'datetime64'),
  'objects': (np.array([1.0, None], object), r'object\[2\]'),
  'masked': (np.ma.masked_array(1.0, True), r'masked float64\[\]'),
  'object': (object(), '<object'),
  'fraction': (fractions.Fraction(1, 2), r'Fraction\(1, 2\)'),
  'set': ({1, 2}, r'\{1, 2\}'),
  'function': (abs, 'built-in'),
  'type': (jax.ShapeDtypeStruct((), np.float32), 'ShapeDtype'),
  'key': (jax.random.key(0), r'key<fry>\[\]'),
  'float of 8 bits': (jnp.float8_e4m3fn(1), r'float8_e4m3fn\[\]'),
  'float of 128 bits': (np.longdouble(1), r'float\d+\[\]'),
  'integer of 34 bits': (10**10, 'integer of 34 bits, beyond int32'),
  'integer of 100 bits': (10**30, 'integer of 100 bits, beyond int32'),
  'integer of 5001 digits': (10**5000, 'integer of 16610 bits'),
  'integer of NumPy': (np.int64(10**10), r'int64\[\] beyond int32'),
  'integers of NumPy': (np.array([1, 10**10]), r'int64\[2\] beyond int32'),
}
HUGE = 10**5000  # No float, and too long for Python to print.

all_rules = pytest.mark.parametrize('name', RULES)
not_real = pytest.mark.parametrize(
  ('leaf', 'shown'), NOT_REAL.values(), ids=[*NOT_REAL]
)


def with_leaf(leaf):
  return {'a': leaf, 'b': 1.0}


def refuses(shown):
  return pytest.raises(ValueError, match=shown)


@all_rules
@not_real
def test_update_takes_real_constraints_and_log_multipliers(name, leaf, shown):
  rule = RULES[name]()
  state = rule.init(LOGS)
  with refuses(rf"^{name}\.update's constraints must be real.*{shown}.*'a'\]$"):
    rule.update(with_leaf(leaf), state, LOGS)
  with refuses(rf"^{name}\.update's log-.* must be floats.*{shown}.*'a'\]$"):
    rule.update(CONSTRAINTS, state, with_leaf(leaf))
  with refuses(rf"^{name}\.init's log-.* must be floats.*{shown}.*'a'\]$"):
    rule.init(with_leaf(leaf))


@not_real
def test_the_lagrangian_takes_real_numbers(leaf, shown):
  with refuses(f'^the objective must be one number.* got .*{shown}'):
    lagrangian(leaf, CONSTRAINTS, LOGS)
  with refuses(f"^the Lagrangian's constraints must be real.*{shown}.*'a'"):
    lagrangian(1.0, with_leaf(leaf), LOGS)
  with refuses(f"^the Lagrangian's log-multipliers must be .*{shown}.*'a'"):
    lagrangian(1.0, CONSTRAINTS, with_leaf(leaf))


@all_rules
@pytest.mark.parametrize('leaf', [0, np.int32(0), jnp.int32(0)])
def test_integers_are_no_log_multipliers(name, leaf):
  with refuses(rf"^{name}\.init's log-multipliers must be floats, got"):
    RULES[name]().init(with_leaf(leaf))


def test_integers_and_numbers_of_numpy_are_constraints():
  logs = jnp.zeros([])
  updates = [
    geco(0.1).update(c, geco(0.1).init(logs), logs)[0]
    for c in (2.0, 2, np.int64(2), np.float64(2.0), np.uint8(2), jnp.int32(2))
  ]
  assert len({float(u) for u in updates}) == 1
  np.testing.assert_allclose(lagrangian(1, np.int64(2), 0), 3.0)


def test_keys_that_cannot_be_sorted_are_refused():
  tree = {1: jnp.zeros([]), 'a': jnp.zeros([])}
  with refuses(r"^geco\.update's constraints must be .*sorted, got \{"):
    geco(0.1).update(tree, geco(0.1).init(LOGS), LOGS)
  with refuses(r'^geco\.update needs the state .* got \{'):
    geco(0.1).update(CONSTRAINTS, tree, LOGS)
  with refuses(r"^geco\.init's log-multipliers must be .*sorted, got \{"):
    geco(0.1).init(tree)
  with refuses("^the Lagrangian's constraints must be .*sorted, got"):
    lagrangian(1.0, tree, tree)
  with refuses('^natural_multiplier must be .*sorted, got'):
    geco(0.1, natural_multiplier=tree)


# States.


@pytest.mark.parametrize('field', ['moving_average', 'residual'])
@pytest.mark.parametrize(
  ('leaf', 'shown'),
  [
    (jnp.int32(0), r'int32\[\]'),
    (jnp.bool_(0), r'bool\[\]'),
    (jnp.bfloat16(0), r'bfloat16\[\]'),
    (np.float16(0), r'float16\[\]'),
    (jnp.complex64(0), r'complex64\[\]'),
    (np.complex128(0), r'complex128\[\]'),
    (jnp.zeros(1), r'float32\[1\]'),
    (jax.random.key(0), r'key<fry>\[\]'),
    ('x', "'x'"),
    (0, 'int32 0'),
    (False, 'False'),
    pytest.param(HUGE, 'an integer of 16610 bits', id='huge'),
    (np.array(None), r'object\[\]'),
  ],
)
def test_averages_and_residuals_have_the_dtype_of_init(field, leaf, shown):
  rule = geco(0.1)
  state = rule.init(LOGS)._replace(**{field: {**LOGS, 'a': leaf}})
  expected = rf"float32\[\] at \.{field}\['a'\], got {shown}"
  with refuses(rf'^geco\.update needs the state of geco\.init.*{expected}'):
    rule.update(CONSTRAINTS, state, LOGS)


@pytest.mark.parametrize('name', ['geco', 'algorithm_1', 'scheduled'])
@pytest.mark.parametrize(
  'count',
  [0.0, jnp.float32(0), True, jnp.int8(0), 'x', 10**30, jnp.zeros(1, int)],
)
def test_counts_are_integers(name, count):
  rule = RULES[name]()
  state = rule.init(LOGS)._replace(count=count)
  with refuses(rf'^{name}\.update needs .* int32\[\] at \.count, got '):
    rule.update(CONSTRAINTS, state, LOGS)


@all_rules
@pytest.mark.parametrize(
  ('state', 'shown'),
  [
    ('x', "'x'"),
    (3, 'int32 3'),
    (None, 'None'),
    ([], r'\[\]'),
    pytest.param(HUGE, 'an integer of 16610 bits', id='huge'),
    (jnp.zeros(3), r'float32\[3\]'),
    (GecoState(jnp.int32(0), 'x', None), r"GecoState\(count=int32\[\], .*'x'"),
    ({'count': 'x'}, r"\{'count': 'x'\}"),
  ],
)
def test_other_states_are_shown(name, state, shown):
  with refuses(rf'^{name}\.update needs the state of .*, got {shown}'):
    RULES[name]().update(CONSTRAINTS, state, LOGS)


@pytest.mark.parametrize('name', ['geco', 'algorithm_1', 'scheduled'])
def test_a_state_may_be_of_numpy_or_python(name):
  """As checkpoints restore it."""
  rule = RULES[name]()
  first = rule.update(CONSTRAINTS, rule.init(LOGS), LOGS)[1]
  expected = rule.update(CONSTRAINTS, first, LOGS)
  for convert in (np.asarray, lambda leaf: leaf.item()):
    state = jax.tree.map(convert, first)
    got = rule.update(CONSTRAINTS, state, LOGS)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert jax.tree.map(jnp.result_type, got) == jax.tree.map(
      jnp.result_type, expected
    )


def test_with_64_bits_averages_are_of_their_log_multipliers_dtype():
  with jax.enable_x64(True):
    rule, log = geco(0.1), jnp.float64(0.0)
    state = rule.init(log)
    for count in (jnp.int64(0), 0, np.uint32(0)):
      rule.update(10**10, state._replace(count=count), log)
    rule.update(1.0, state._replace(residual=0.0), log)
    with refuses(r'float64\[\] at \.residual, got float32'):
      rule.update(1.0, state._replace(residual=jnp.float32(0)), log)
    with refuses('integer of 100 bits, beyond int64'):
      rule.update(10**30, state, log)


# Options.

OPTIONS = {
  'step_size': geco,
  'decay': lambda value: geco(0.1, value),
  'damping': lambda value: geco(0.1, damping=value),
  'violation_clip': lambda value: geco(0.1, violation_clip=value),
  'natural_multiplier': lambda value: geco(0.1, natural_multiplier=value),
  'initial_beta': annealed_beta,
  'final_beta': lambda value: annealed_beta(final_beta=value),
  'transition_steps': lambda value: annealed_beta(transition_steps=value),
  'log_multiplier_range': lambda value: geco(
    0.1, log_multiplier_range=(value, 20.0)
  ),
  "the schedule's step size": lambda value: geco(lambda _: value).update(
    CONSTRAINTS, geco(0.1).init(LOGS), LOGS
  ),
  "the schedule's lambda": lambda value: scheduled(lambda _: value).update(
    CONSTRAINTS, RULES['scheduled']().init(LOGS), LOGS
  ),
}
all_options = pytest.mark.parametrize('name', OPTIONS)


@all_options
@pytest.mark.parametrize(
  'value', [NOT_REAL[k][0] for k in NOT_REAL if 'integer' not in k]
)
def test_options_are_real_numbers(name, value):
  if callable(value) and name == 'step_size':
    return  # It is a schedule.
  with refuses(f'^{name} must be .* got '):
    OPTIONS[name](value)


@all_options
@pytest.mark.parametrize(
  'value', [np.array([0.1, 0.2]), jnp.array([0.1]), np.zeros((0,)), [0.1]]
)
def test_options_are_one_number(name, value):
  if name == 'natural_multiplier':
    return  # It is a tree, each leaf of its multiplier's shape.
  with refuses(f'^{name} must be (a|two finite) number.* got '):
    OPTIONS[name](value)


@all_options
@pytest.mark.parametrize('kind', [float, np.float32, np.array, jnp.float32])
def test_values_at_hand_are_in_their_range(name, kind):
  for value in (np.nan, np.inf, -np.inf, -1.0):
    if name == 'log_multiplier_range' and value == -1.0:
      continue
    with refuses(f'^{name} must be .*finite.* got '):
      OPTIONS[name](kind(value))


@all_options
def test_integers_beyond_floats_are_refused(name):
  with refuses(f'^{name} must be .* got '):
    OPTIONS[name](HUGE)


def test_options_that_are_none_or_functions_are_refused_where_they_must_not():
  for name in ('initial_beta', "the schedule's lambda", 'log_multiplier_range'):
    with refuses(f'^{name} must be .* got .*None'):
      OPTIONS[name](None)
  for name in OPTIONS.keys() - {'step_size'}:
    with refuses(f'^{name} must be .* got .*<function'):
      OPTIONS[name](lambda _: 0.5)


def test_large_integers_are_the_floats_that_they_are():
  def moved(large):
    bounds = (-large, large)
    rule = geco(0.1, violation_clip=large, log_multiplier_range=bounds)
    return rule.update(CONSTRAINTS, rule.init(LOGS), LOGS)[0]

  assert moved(10**30) == moved(1e30)


@pytest.mark.parametrize(
  'ends',
  ['ab', '12', 1.0, (False, True), (1.0,), {}, (0, 1j), [[0], [1]]],
)
def test_ranges_are_two_numbers(ends):
  with refuses('^log_multiplier_range must be two finite numbers'):
    geco(0.1, log_multiplier_range=ends)


def test_the_values_of_a_vector_of_natural_multipliers_are_checked():
  with refuses('^natural_multiplier must be finite and > 0, got -2.0'):
    geco(0.1, natural_multiplier={'a': np.array([1.0, -2.0])})


# What is traced.


@pytest.mark.parametrize(
  'value', [np.nan, np.inf, -np.inf, -0.5, -1e-30, 1000.5, 1e30]
)
def test_a_traced_step_size_that_is_not_allowed_is_a_step_of_0(value):
  """At update 2 of 5; the other steps are taken."""
  rates = jnp.full(5, 0.25).at[2].set(value)
  rule = algorithm_1(lambda count: rates[count])

  def step(carry, constraint):
    state, log = carry
    change, state = rule.update(constraint, state, log)
    return (state, log + change), log + change

  start = jnp.float32(0.0)
  (state, _), logs = jax.lax.scan(
    step, (rule.init(start), start), jnp.ones(5, np.float32)
  )
  np.testing.assert_allclose(logs, [0.25, 0.5, 0.5, 0.75, 1.0])
  assert jnp.isfinite(state.moving_average)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, -1.0, 0.0, -0.0])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_no_multiplier_moves_at_a_traced_lambda_that_is_not_allowed(
  value, dtype
):
  lambdas = jnp.array([1.0, 2.0, value, 4.0])
  rule = scheduled(lambda count: lambdas[count])

  def step(carry, _):
    state, log = carry
    change, state = rule.update(jnp.ones([], dtype), state, log)
    assert change.dtype == dtype
    return (state, log + change), log + change

  start = jnp.zeros([], dtype)
  _, logs = jax.lax.scan(step, (rule.init(start), start), length=3)
  np.testing.assert_allclose(
    logs.astype(jnp.float32), np.log([2.0, 2.0, 4.0]), rtol=4e-3
  )


def test_a_known_value_of_a_schedule_is_refused_while_tracing_too():
  for rule, shown in (
    (geco(lambda _: np.nan), "^the schedule's step size must be .* got nan"),
    (scheduled(lambda _: -1.0), "^the schedule's lambda must be .* got -1.0"),
  ):
    with refuses(shown):
      jax.eval_shape(rule.update, CONSTRAINTS, rule.init(LOGS), LOGS)


@all_rules
def test_wrong_types_are_refused_while_tracing(name):
  rule, logs = RULES[name](), jnp.zeros(3)
  wrong = jnp.ones(3, jnp.complex64)

  def update(constraints):
    return rule.update(constraints, rule.init(logs), logs)[0]

  for traced in (
    lambda: jax.eval_shape(update, wrong),
    lambda: jax.eval_shape(jax.vmap(update), wrong[None]),
    lambda: jax.eval_shape(jax.vmap(rule.init), wrong[None]),
    lambda: jax.eval_shape(lagrangian, 1.0, wrong, logs),
  ):
    with refuses(r'must be (real numbers|floats), got complex64\[3\]'):
      traced()


def test_checks_add_nothing_to_programs():
  """The Lagrangian is traced to its own operations alone."""
  arguments = jnp.float32(1), jnp.ones(3), jnp.zeros(3)
  program = jax.make_jaxpr(lagrangian)(*arguments)
  names = [str(equation.primitive) for equation in program.eqns]
  assert names == ['stop_gradient', 'exp', 'mul', 'reduce_sum', 'add']


def test_a_constant_schedule_is_the_constant_step_size():
  rules = geco(0.1), geco(lambda _: 0.1), geco(np.float32(0.1))
  state = rules[0].init(LOGS)
  updates = [rule.update(CONSTRAINTS, state, LOGS) for rule in rules]
  assert updates[0][0] == updates[1][0] == updates[2][0]
  programs = [
    str(jax.make_jaxpr(rule.update)(CONSTRAINTS, state, LOGS))
    for rule in rules[:2]
  ]
  assert programs[0] == programs[1]


def test_hyperparameters_are_checked_where_they_are_known():
  rule = optax.inject_hyperparams(geco)(step_size=0.1)
  state = rule.init(LOGS)
  state.hyperparams['step_size'] = jnp.float32(np.nan)
  with refuses('^step_size must be finite .* got nan'):
    rule.update(CONSTRAINTS, state, LOGS)


@pytest.mark.parametrize(
  ('make', 'shown'),
  [
    (lambda: geco(-0.1), 'step_size .* got -0.1'),
    (lambda: geco(float('nan')), 'step_size .* got nan'),
    (lambda: geco(np.float32(-0.5)), 'step_size .* got -0.5'),
    (lambda: geco(1e30), 'step_size .* <= 1000, got 1e.30'),
    (lambda: algorithm_1(1e30), 'step_size .* <= 1000, got 1e.30'),
    (lambda: geco(1e-2, damping=1e39), 'damping .* got 1e.39'),
    (lambda: geco(1e-2, 1.0), 'decay .* got 1.0'),
    (lambda: geco(1e-2, -0.5), 'decay .* got -0.5'),
    (lambda: geco(1e-2, violation_clip=0.0), 'violation_clip .* got 0.0'),
    (lambda: geco(1e-2, damping=-1.0), 'damping .* got -1.0'),
    (lambda: geco(1e-2, error='log'), "asinh, linear, got 'log'"),
    (lambda: geco(1e-2, error=['log']), r"asinh, linear, got \['log'\]"),
    (lambda: geco(None), 'step_size must be .* got None'),
    (lambda: geco('a'), "step_size must be a number, got 'a'"),
    (lambda: geco(True), 'step_size must be a number, got True'),
    (lambda: geco(1e-2, '0.9'), "decay must be a number, got '0.9'"),
    (
      lambda: geco(1e-2, natural_multiplier=1.0, violation_clip=None),
      'natural_multiplier lowers violation_clip.* got None',
    ),
    (
      lambda: geco(1e-2, log_multiplier_range=(1, 2, 3)),
      r'log_multiplier_range .* got \(1, 2, 3\)',
    ),
    (
      lambda: geco(1e-2, log_multiplier_range=None),
      'log_multiplier_range .* got None',
    ),
    (
      lambda: geco(1e-2, natural_multiplier={'re': 0.0}),
      'natural_multiplier .* got 0.0',
    ),
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


@pytest.mark.parametrize('name', ['geco', 'algorithm_1', 'scheduled'])
def test_update_asks_for_the_log_multipliers(name):
  update = RULES[name]()
  with pytest.raises(ValueError, match='needs the log-multipliers'):
    update.update(jnp.float32(1.0), update.init(jnp.float32(0.0)))


@pytest.mark.parametrize(
  ('natural', 'shown'),
  [
    ({'cla': 1.0}, "must be a number or structured like.*'re'.*got.*'cla'"),
    ({'re': np.ones(2)}, r'got \(2,\) for \(3,\)'),
  ],
)
def test_natural_multipliers_that_do_not_fit_are_refused(natural, shown):
  update, logs = geco(1e-2, natural_multiplier=natural), {'re': jnp.zeros(3)}
  with pytest.raises(ValueError, match=shown):
    update.update({'re': jnp.ones(3)}, update.init(logs), logs)


@pytest.mark.parametrize('name', ['geco', 'algorithm_1', 'scheduled', 'fixed'])
@pytest.mark.parametrize(
  ('constraints', 'log_multipliers', 'shown'),
  [
    (jnp.ones(8), jnp.zeros([]), r"got \(8,\) for \(\); take the batch's mean"),
    (
      {'re': jnp.ones(2)},
      {'re': jnp.zeros(3)},
      r"got \(2,\) for \(3,\) at \['re'\]",
    ),
    ({'re': jnp.ones([])}, jnp.zeros([]), 'a constraint for each'),
    (
      {'re': jnp.ones([])},
      {'re': jnp.zeros([]), 'cla': jnp.zeros([])},
      "a constraint for each.*'cla'",
    ),
  ],
)
def test_constraints_that_do_not_fit_are_refused(
  name, constraints, log_multipliers, shown
):
  update = RULES[name]()
  state = update.init(log_multipliers)
  with pytest.raises(ValueError, match=shown):
    update.update(constraints, state, log_multipliers)


@pytest.mark.parametrize('name', ['geco', 'algorithm_1'])
@pytest.mark.parametrize(
  'other',
  [
    lambda name, logs: RULES[name]().init({'other': logs['re']}),
    lambda name, logs: RULES[name]().init({'re': jnp.zeros(4)}),
    lambda name, logs: RULES[name]().init({'re': jnp.bfloat16(0)}),
    lambda name, logs: fixed().init(logs),
    lambda name, logs: optax.adam(1e-2).init(logs),
    lambda name, logs: logs,
    lambda name, logs: None,
    lambda name, logs: 'state',
  ],
)
def test_a_state_of_other_multipliers_or_another_rule_is_refused(name, other):
  update, logs = RULES[name](), {'re': jnp.zeros(3)}
  state = other(name, logs)
  with pytest.raises(ValueError, match=rf'needs the state of {name}\.init'):
    update.update({'re': jnp.ones(3)}, state, logs)


@pytest.mark.parametrize('name', ['geco', 'algorithm_1', 'scheduled', 'fixed'])
def test_refusals_name_their_own_rule(name):
  update, logs = RULES[name](), {'re': jnp.zeros(3)}
  for arguments in (
    ({'re': jnp.ones(2)}, update.init(logs), logs),
    ({'cla': jnp.ones(3)}, update.init(logs), logs),
    ({'re': jnp.ones(3)}, {'count': 0}, logs),
    ({'re': jnp.ones(3)}, update.init(logs)),
  ):
    with pytest.raises(ValueError, match=rf'^{name}\.update'):
      update.update(*arguments)


def test_integers_are_refused_as_log_multipliers():
  with pytest.raises(ValueError, match='must be floats, got int32'):
    geco(1e-2).init({'re': 0})


@pytest.mark.parametrize('value', [0.0, 1000.0])
def test_the_ends_of_a_step_size_s_range_are_allowed_where_it_is_traced(value):
  rates = jnp.full(1, value)
  rule = algorithm_1(lambda count: rates[count], log_multiplier_range=(0, 2e3))
  log = jnp.float32(0.0)
  change, _ = jax.jit(rule.update)(jnp.float32(1.0), rule.init(log), log)
  assert change == value
