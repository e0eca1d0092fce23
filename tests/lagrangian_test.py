"""Tests of the Lagrangian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import lagrangian

CONSTRAINTS = {'re': 0.5, 'others': (-2.0, 3.0)}
LOG_MULTIPLIERS = {'re': 1.0, 'others': (0.0, -1.0)}
VALUE = 7.0 + np.exp(1.0) * 0.5 - 2.0 + np.exp(-1.0) * 3.0


def arrays(tree, dtype=jnp.float32):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def test_lagrangian_is_the_objective_plus_weighted_constraints():
  args = (7.0, CONSTRAINTS, LOG_MULTIPLIERS)
  for function in (lagrangian, jax.jit(lagrangian)):
    np.testing.assert_allclose(function(*arrays(args)), VALUE, rtol=1e-6)


def test_without_constraints_it_is_the_objective():
  assert lagrangian(jnp.float32(7.0), {}, {}) == 7.0


def test_it_is_one_number_per_run_under_vmap():
  objectives = jnp.arange(3.0)
  values = jax.vmap(lagrangian, in_axes=(0, None, None))(
    objectives, arrays(CONSTRAINTS), arrays(LOG_MULTIPLIERS)
  )
  np.testing.assert_allclose(values, objectives + VALUE - 7.0, rtol=1e-6)


def test_gradient_to_log_multipliers_is_zero():
  gradients = jax.grad(lagrangian, argnums=2)(
    *arrays((7.0, CONSTRAINTS, LOG_MULTIPLIERS))
  )
  assert all(leaf == 0 for leaf in jax.tree.leaves(gradients))


def test_gradient_to_constraints_is_the_multiplier():
  gradients = jax.grad(lagrangian, argnums=1)(
    *arrays((7.0, CONSTRAINTS, LOG_MULTIPLIERS))
  )
  jax.tree.map(
    lambda gradient, log: np.testing.assert_allclose(
      gradient, np.exp(log), rtol=1e-6
    ),
    gradients,
    LOG_MULTIPLIERS,
  )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_dtype_is_preserved(dtype):
  value = lagrangian(*arrays((7.0, CONSTRAINTS, LOG_MULTIPLIERS), dtype))
  assert value.dtype == dtype


def test_stop_gradient_form_of_algorithm_1_moves_parameters_alike():
  """L is linear in C, so C_ma need not stand in the model's loss.

  Algorithm 1 writes `C + StopGradient(C_ma - C)` into L. Its gradient with
  respect to the parameters is that of `lagrangian`, fed the plain C, and its
  gradient with respect to log lambda is lambda C_ma: the direction that `geco`
  keeps in its own state.
  """
  moving_average, log_multiplier = jnp.float32(0.3), jnp.float32(1.2)
  params = jnp.array([0.5, -1.0, 2.0])

  def objective_and_constraint(params):
    return (params**2).sum(), jnp.sin(params).sum() - 0.7

  def paper_lagrangian(params, log_multiplier):
    objective, constraint = objective_and_constraint(params)
    constraint += jax.lax.stop_gradient(moving_average - constraint)
    return objective + jnp.exp(log_multiplier) * constraint

  def our_lagrangian(params):
    return lagrangian(*objective_and_constraint(params), log_multiplier)

  to_params, to_log_multiplier = jax.grad(paper_lagrangian, argnums=(0, 1))(
    params, log_multiplier
  )
  np.testing.assert_allclose(
    jax.grad(our_lagrangian)(params), to_params, rtol=1e-6
  )
  np.testing.assert_allclose(
    to_log_multiplier / jnp.exp(log_multiplier), moving_average, rtol=1e-6
  )


def test_vectors_of_constraints_are_summed_and_the_objective_counts_once():
  constraints = {'vector': [0.5, -1.0, 2.0], 'scalar': 3.0}
  logs = {'vector': [0.0, 1.0, -1.0], 'scalar': 0.5}

  def as_arrays(tree):
    return {k: jnp.asarray(v, jnp.float32) for k, v in tree.items()}

  expected = 7.0 + sum(
    np.dot(np.exp(logs[k]), constraints[k]) for k in constraints
  )
  value = lagrangian(jnp.float32(7.0), as_arrays(constraints), as_arrays(logs))
  assert value.shape == ()
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_python_floats_are_taken():
  np.testing.assert_allclose(
    lagrangian(7.0, CONSTRAINTS, LOG_MULTIPLIERS), VALUE, rtol=1e-6
  )


@pytest.mark.parametrize(
  ('objective', 'constraint', 'shown'),
  [
    (jnp.zeros(8), jnp.zeros([]), r'objective must be one number.*\(8,\)'),
    (jnp.zeros([]), jnp.zeros(8), r'shape of their.*got \(8,\) for \(\)'),
  ],
)
def test_shapes_that_do_not_fit_are_refused(objective, constraint, shown):
  with pytest.raises(ValueError, match=shown):
    lagrangian(objective, constraint, jnp.zeros([]))


def test_different_structures_are_refused():
  with pytest.raises(ValueError, match="a constraint for each .*'re'.*'cla'"):
    lagrangian(
      jnp.float32(0.0), {'re': jnp.float32(1.0)}, {'cla': jnp.float32(0.0)}
    )


@pytest.mark.parametrize('objective', [None, 'x', jnp.ones(3)])
def test_an_objective_that_is_not_one_number_is_refused(objective):
  with pytest.raises(ValueError, match='must be one number'):
    lagrangian(objective, {}, {})
