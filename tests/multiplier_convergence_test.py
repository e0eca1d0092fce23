"""Multiplier updates end at exact primal and dual solutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from geco_jax import algorithm_1
from geco_jax import geco
from geco_jax import lagrangian
from tests.multipliers_test import advance

# Each rule is made once: what is compiled is cached by its rule.
shared_geco = functools.cache(geco)
TARGET = np.array([3.0, -4.0], np.float32)  # |a| = 5.


def descend(update, loss, x, logs, rate, num_steps):
  """Return x and the log-multipliers after steps of SGD and update.

  Args:
    update: of the multipliers.
    loss: (x, logs) -> (x's Lagrangian, the constraints that move logs).
    x: where it starts.
    logs: log-multipliers at the start.
    rate: SGD's step size.
    num_steps: how many.
  """

  def step(carry, _):
    x, state, logs = carry
    gradient, constraints = jax.grad(loss, has_aux=True)(x, logs)
    return (
      x - rate * gradient,
      *advance(update, constraints, state, logs),
    ), None

  start = x, update.init(logs), logs
  (x, _, logs), _ = jax.lax.scan(step, start, length=num_steps)
  return x, logs


@functools.partial(jax.jit, static_argnums=0)
def solve(update, kappa, num_steps=100_000):
  """Minimize |x|^2 subject to |x - a|^2 <= kappa^2; return x, lambda.

  With a multiplier lambda the minimum is at x = a lambda / (1 + lambda), where
  |x - a| = |a| / (1 + lambda). Hence lambda* = |a| / kappa - 1 and
  x* = a (1 - kappa / |a|), if kappa < |a|; else lambda* = 0 and x* = 0.
  """

  def loss(x, log_multiplier):
    constraint = ((x - TARGET) ** 2).sum() - kappa**2
    value = lagrangian((x**2).sum(), constraint, log_multiplier)
    return value, constraint / kappa**2

  start = jnp.ones(2), jnp.float32(0.0)
  x, log_multiplier = descend(update, loss, *start, 1e-2, num_steps)
  return x, jnp.exp(log_multiplier)


TOY_UPDATES = {
  'algorithm_1': algorithm_1(1e-3),
  'geco': geco(1e-3),
  'geco_fast': geco(3e-2),
}
toy_updates = pytest.mark.parametrize(
  'update', TOY_UPDATES.values(), ids=[*TOY_UPDATES]
)


@toy_updates
@pytest.mark.parametrize('kappa', [1.0, 2.0, 3.0, 4.5])
def test_geco_finds_the_primal_and_the_dual_solution(update, kappa):
  x, multiplier = solve(update, kappa)
  np.testing.assert_allclose(x, TARGET * (1 - kappa / 5.0), rtol=1e-3)
  np.testing.assert_allclose(multiplier, 5.0 / kappa - 1, rtol=1e-3)


@toy_updates
def test_multiplier_of_an_inactive_constraint_vanishes(update):
  x, multiplier = solve(update, kappa=8.0)
  assert multiplier < 1e-4
  np.testing.assert_allclose(x, [0.0, 0.0], atol=1e-3)


def linear_program(num_variables, seed):
  """Return A [5, n], b [5] and the exact x of min |x|^2 with A x <= b.

  The problems of Cooper's convergence tests: singular values of A in
  [1.5, 2.5], |b| = 1, so that some of the constraints are active.
  """
  rng = np.random.default_rng(seed)
  left, _ = np.linalg.qr(rng.normal(size=(5, 5)))
  right, _ = np.linalg.qr(rng.normal(size=(num_variables, num_variables)))
  a = left @ np.diag(rng.uniform(1.5, 2.5, 5)) @ right[:5]
  b = rng.normal(size=5)
  b /= np.linalg.norm(b)
  # By duality x = -A' lambda / 2, lambda the least squares that are >= 0 of
  # |A' lambda|^2 / 4 + b lambda; NNLS wants it as |M lambda - d|^2.
  m = np.linalg.cholesky(a @ a.T).T / 2
  multipliers, _ = optimize.nnls(m, -np.linalg.solve(m.T, b) / 2)
  return a, b, -a.T @ multipliers / 2


@functools.partial(jax.jit, static_argnums=0)
def solve_linear(update, a, b):
  """Return x [n] after 1,500 steps toward min |x|^2 with A x <= b."""

  def loss(x, logs):
    constraints = a @ x - b
    return lagrangian((x**2).sum(), constraints, logs), constraints

  start = jnp.ones(a.shape[1]), jnp.zeros(5)
  return descend(update, loss, *start, 3e-2, 1_500)[0]


@pytest.mark.parametrize('step_size', [0.2, 0.3, 0.5])
@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('num_variables', [5, 10])
def test_geco_solves_coopers_problems(num_variables, seed, step_size):
  """SGD at 3e-2 from ones, 1,500 steps, within 1e-4: one setting for all."""
  a, b, exact = linear_program(num_variables, seed)
  x = solve_linear(shared_geco(step_size), np.float32(a), np.float32(b))
  np.testing.assert_allclose(x, exact, atol=1e-4)


def test_geco_finds_the_maximum_entropy_die():
  """Jaynes' die of mean 4.5: p_k = exp(t k) / Z. Two equalities, four pairs."""
  faces = np.arange(1.0, 7.0, dtype=np.float32)

  def boltzmann(t):
    weights = np.exp(t * np.arange(1, 7))
    return weights / weights.sum()

  tilt = optimize.brentq(lambda t: boltzmann(t) @ np.arange(1, 7) - 4.5, -5, 5)
  update = geco(0.1)

  def loss(p, logs):
    total, mean = p.sum() - 1, (p @ faces) / 4.5 - 1
    constraints = jnp.array([total, -total, mean, -mean])
    positive = jnp.maximum(p, 1e-6)
    entropy = -(positive * jnp.log(positive)).sum()
    return lagrangian(-entropy, constraints, logs), constraints

  def step(carry, _):
    p, state, logs = carry
    gradient, constraints = jax.grad(loss, has_aux=True)(p, logs)
    p = jnp.maximum(p - 1e-2 * gradient, 0)
    return (p, *advance(update, constraints, state, logs)), None

  @jax.jit
  def run(p, logs):
    start = p, update.init(logs), logs
    return jax.lax.scan(step, start, length=5000)[0][0]

  p = run(np.full(6, 1 / 6, np.float32), np.zeros(4, np.float32))
  np.testing.assert_allclose(p, boltzmann(tilt), atol=5e-5)
