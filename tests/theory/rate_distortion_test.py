"""Tests of Shannon's rate-distortion function."""

import numpy as np
import pytest
from scipy import optimize

from geco_jax.theory import rate_distortion

EIGENVALUES = np.geomspace(0.05, 4.0, 16)
TOTAL = EIGENVALUES.sum()
DISTORTIONS = np.linspace(0.01, 0.99, 50) * TOTAL


def test_water_level_agrees_with_root_finding():
  for distortion in DISTORTIONS:
    root = optimize.brentq(
      lambda m, d=distortion: np.minimum(m, EIGENVALUES).sum() - d,
      0.0,
      EIGENVALUES.max(),
      xtol=1e-14,
    )
    level = rate_distortion.water_level(EIGENVALUES, distortion)
    np.testing.assert_allclose(level, root, rtol=1e-10)


def test_water_fills_exactly_the_distortion():
  level = rate_distortion.water_level(EIGENVALUES, DISTORTIONS)
  filled = np.minimum(level[:, None], EIGENVALUES).sum(axis=-1)
  np.testing.assert_allclose(filled, DISTORTIONS, rtol=1e-12)


def test_rate_of_a_white_source_has_its_closed_form():
  n, variance = 5, 3.0
  distortions = np.array([0.1, 1.0, 7.0, 14.9])
  np.testing.assert_allclose(
    rate_distortion.rate(np.full(n, variance), distortions),
    0.5 * n * np.log(n * variance / distortions),
  )
  np.testing.assert_allclose(
    rate_distortion.optimal_multiplier(np.full(n, variance), distortions),
    n / (2 * distortions),
  )


def test_small_distortion_has_shannons_lower_bound():
  distortion, n = 0.01, EIGENVALUES.size
  np.testing.assert_allclose(
    rate_distortion.rate(EIGENVALUES, distortion),
    0.5 * (np.log(EIGENVALUES).sum() - n * np.log(distortion / n)),
  )


def test_rate_falls_and_is_convex():
  rates = rate_distortion.rate(EIGENVALUES, DISTORTIONS)
  assert (np.diff(rates) < 0).all()
  assert (np.diff(rates, n=2) > 0).all()


def test_multiplier_is_minus_the_slope_of_the_rate():
  step = 1e-6
  slope = (
    rate_distortion.rate(EIGENVALUES, DISTORTIONS + step)
    - rate_distortion.rate(EIGENVALUES, DISTORTIONS - step)
  ) / (2 * step)
  np.testing.assert_allclose(
    rate_distortion.optimal_multiplier(EIGENVALUES, DISTORTIONS),
    -slope,
    rtol=1e-5,
  )


@pytest.mark.parametrize('distortion', [TOTAL, TOTAL + 1e-9, 1e6])
def test_nothing_is_sent_when_the_whole_variance_is_tolerated(distortion):
  assert rate_distortion.rate(EIGENVALUES, distortion) == 0
  assert rate_distortion.optimal_multiplier(EIGENVALUES, distortion) == 0
  assert rate_distortion.water_level(EIGENVALUES, distortion) == np.inf


def test_order_and_constant_dimensions_do_not_matter():
  shuffled = np.random.default_rng(0).permutation(EIGENVALUES)
  padded = np.concatenate([shuffled, np.zeros(3)])
  np.testing.assert_allclose(
    rate_distortion.rate(padded, DISTORTIONS),
    rate_distortion.rate(EIGENVALUES, DISTORTIONS),
  )


def test_a_source_without_variance_has_rate_0():
  assert rate_distortion.rate([0.0, 0.0], 0.5) == 0


def test_results_have_the_shape_of_the_distortion():
  for function in (
    rate_distortion.water_level,
    rate_distortion.rate,
    rate_distortion.optimal_multiplier,
  ):
    assert function(EIGENVALUES, 1.0).shape == ()
    assert function(EIGENVALUES, np.ones((2, 3))).shape == (2, 3)


@pytest.mark.parametrize(
  ('eigenvalues', 'distortion', 'shown'),
  [
    ([1.0, -0.5], 1.0, '-0.5'),
    ([1.0, np.nan], 1.0, 'nan'),
    ([[1.0]], 1.0, r'\[\[1.0\]\]'),
    ([], 1.0, r'\[\]'),
    ([1.0], 0.0, '0.0'),
    ([1.0], -2.0, '-2.0'),
    ([1.0], np.inf, 'inf'),
  ],
)
def test_bad_arguments_are_shown(eigenvalues, distortion, shown):
  for function in (
    rate_distortion.water_level,
    rate_distortion.rate,
    rate_distortion.optimal_multiplier,
  ):
    with pytest.raises(ValueError, match=f'got .*{shown}'):
      function(eigenvalues, distortion)
