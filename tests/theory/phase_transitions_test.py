"""Tests of the detection of phase transitions."""

import numpy as np
import pytest

from geco_jax.theory import fixed_points
from geco_jax.theory import phase_transitions
from geco_jax.theory import toy_data

BETAS = np.geomspace(1e-3, 1, 120)
INITIAL = fixed_points.initial_psi(fixed_points.grid(12).centers, 0)


def squared_error(data, betas, max_steps=200):
  result = fixed_points.fixed_points(
    data, INITIAL, betas, smoothing=0, max_steps=max_steps, tolerance=1e-5
  )
  return np.asarray(result.squared_error, np.float64)


def test_water_filling_has_a_transition_at_each_eigenvalue():
  eigenvalues = np.array([0.0123, 0.0711, 0.313])
  u = np.minimum(eigenvalues[None], BETAS[:, None]).sum(axis=1)
  result = phase_transitions.critical_betas(BETAS, u, num=None)
  np.testing.assert_allclose(np.sort(result.betas), eigenvalues, rtol=1e-3)
  # Each takes one dimension of slope, over two steps of the grid.
  step = np.log(BETAS[1] / BETAS[0])
  assert (result.curvatures * step > 0.5).all()
  assert (result.curvatures * step < 1.1).all()


def test_curvature_agrees_with_the_derivative_of_a_smooth_curve():
  betas = np.geomspace(0.1, 10, 2_000)
  result = phase_transitions.curvature(betas, np.tanh(betas))
  tanh = np.tanh(betas[1:-1])
  second = -2 * tanh * (1 - tanh**2)
  np.testing.assert_allclose(result, -betas[1:-1] * second, atol=5e-3)


def test_the_highest_come_first_and_num_limits_them():
  u = np.minimum(0.01, BETAS) + 3 * np.minimum(0.1, BETAS)
  result = phase_transitions.critical_betas(BETAS, u, num=1)
  np.testing.assert_allclose(result.betas, [0.1], rtol=1e-3)


def test_a_smooth_curve_has_none():
  result = phase_transitions.critical_betas(BETAS, BETAS / (1 + BETAS))
  assert result.betas.size == 0


@pytest.mark.parametrize(
  'half_distances', [(0.3,), (0.3, 0.08), (0.3, 0.1, 0.03)]
)
def test_planted_hierarchies_have_as_many_transitions_as_levels(half_distances):
  data = toy_data.cluster_hierarchy(half_distances, 48, 0)
  betas = np.geomspace(3e-4, 0.5, 80)
  result = phase_transitions.critical_betas(
    betas, squared_error(data, betas), num=None
  )
  assert result.betas.size == len(half_distances)
  # Pairs at +- s on one axis merge at their variance s^2, or, where both
  # levels lie on it, at their sum: the covariance's largest eigenvalue.
  np.testing.assert_allclose(
    result.betas.max(), phase_transitions.last_critical_beta(data), rtol=0.05
  )


def test_pairs_of_different_widths_merge_one_after_another():
  """Three mergers: either pair, then both."""
  rng = np.random.default_rng(0)
  pairs = [(-0.3, 0.02), (0.3, 0.07)]
  means = [(x, sign * s) for x, s in pairs for sign in (-1, 1)]
  data = np.repeat(means, 12, axis=0) + rng.normal(0, 1e-3, (48, 2))
  betas = np.geomspace(1e-4, 0.5, 100)
  result = phase_transitions.critical_betas(
    betas, squared_error(data, betas), num=None
  )
  critical = np.sort(result.betas)
  assert critical.size == 3
  np.testing.assert_allclose(critical[:2], [0.02**2, 0.07**2], rtol=0.1)


@pytest.mark.parametrize('name', ['clusters', 'lines', 'rectangle'])
def test_last_transition_is_the_largest_eigenvalue(name, compile_well):
  data = {
    'clusters': toy_data.cluster_hierarchy((0.3, 0.12), 100, 0, 0.02),
    'lines': toy_data.mixture_of_lines(150, 0),
    'rectangle': toy_data.rectangle((1.0, 0.6), 300, 0),
  }[name]
  exact = phase_transitions.last_critical_beta(data)
  betas = np.geomspace(exact / 2, 2 * exact, 40)
  result = phase_transitions.critical_betas(betas, squared_error(data, betas))
  np.testing.assert_allclose(result.betas.max(), exact, rtol=0.05)


def test_the_mean_attracts_just_above_the_largest_eigenvalue():
  data = toy_data.mixture_of_circles(90, 0)
  exact = phase_transitions.last_critical_beta(data)
  start = data.mean(axis=0) + 1e-4 * INITIAL
  result = fixed_points.fixed_points(
    data,
    start,
    [0.95 * exact, 1.05 * exact],
    smoothing=0,
    max_steps=30,
    tolerance=0,
  )
  spread = np.ptp(np.asarray(result.psi), axis=1).max(axis=1)
  assert spread[0] > np.ptp(start, axis=0).max() > spread[1]


def test_variance_proxy_has_kearns_and_sauls_closed_form():
  p = 0.1
  data = np.array([[1.0]] + 9 * [[0.0]])
  exact = (1 - 2 * p) / (2 * np.log((1 - p) / p))
  np.testing.assert_allclose(
    phase_transitions.variance_proxy(data), exact, rtol=1e-5
  )
  assert exact > phase_transitions.last_critical_beta(data) * 1.3


def test_variance_proxy_of_symmetric_pairs_is_the_variance():
  data = np.array([[-0.3, 0.0], [0.3, 0.0]])
  np.testing.assert_allclose(
    phase_transitions.variance_proxy(data), 0.09, rtol=1e-4
  )


def test_skewed_data_stay_apart_beyond_the_largest_eigenvalue():
  """Between eigenvalue and proxy, two reconstructions beat the mean."""
  data = np.array([[0.5]] + 9 * [[0.0]]) - 0.05
  exact = phase_transitions.last_critical_beta(data)
  proxy = phase_transitions.variance_proxy(data)
  beta = 0.5 * (exact + proxy)
  result = fixed_points.fixed_points(
    *(data, np.linspace(-0.5, 0.5, 50)[:, None], [beta]),
    smoothing=0,
    max_steps=500,
  )
  assert np.ptp(np.asarray(result.psi)[0]) > 0.1


def test_count_distinct_counts_groups():
  psi = np.array([[0.0, 0.0], [0.001, 0.0], [1.0, 0.0], [0.0, 1.0]])
  assert phase_transitions.count_distinct(psi, 0.01) == 3


@pytest.mark.parametrize(
  ('betas', 'u'),
  [([1.0, 2.0], [1.0, 2.0]), ([1.0, 3.0, 2.0], [1.0] * 3), ([1, 2, 3], [1, 2])],
)
def test_bad_arguments_are_refused(betas, u):
  with pytest.raises(ValueError, match='betas'):
    phase_transitions.critical_betas(betas, u)


@pytest.mark.parametrize(('drop', 'count'), [(0.2, 0), (0.3, 1)])
def test_a_transition_takes_a_quarter_of_a_dimension_at_least(drop, count):
  """The drop is at a beta of the grid, so that one step has all of it."""
  u = BETAS + drop * np.minimum(BETAS[60], BETAS)
  result = phase_transitions.critical_betas(BETAS, u)
  np.testing.assert_allclose(result.betas, [BETAS[60]] * count)


def test_a_beta_of_zero_is_refused():
  with pytest.raises(ValueError, match='betas must be > 0 and ascend'):
    phase_transitions.curvature([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
