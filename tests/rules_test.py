"""Where multipliers start, and which clip is theirs."""

import math

import numpy as np
import pytest

from geco_jax.rules import MULTIPLIERS


@pytest.mark.parametrize('name', ['geco', 'algorithm_1'])
@pytest.mark.parametrize('end', [-2.0, 3.0])
def test_a_multiplier_may_start_at_either_end_of_its_range(name, end):
  rule = MULTIPLIERS[name](
    {'re': 1.0},
    step_size=0.01,
    initial=math.exp(end),
    log_multiplier_range=(-2.0, 3.0),
  )
  assert rule.initial_log_multipliers == {'re': pytest.approx(end)}


@pytest.mark.parametrize(
  ('natural', 'expected'),
  [(1e-9, -2.0), (5.0, math.log(0.5)), (1e9, 3.0)],
)
def test_geco_starts_at_a_tenth_of_the_natural_multiplier_within_its_range(
  natural, expected
):
  rule = MULTIPLIERS['geco'](
    {'re': natural}, step_size=0.01, log_multiplier_range=(-2.0, 3.0)
  )
  np.testing.assert_allclose(
    rule.initial_log_multipliers['re'], expected, rtol=1e-5
  )


def test_algorithm_1_starts_at_a_multiplier_of_one():
  """As beta = 1 does, whatever the natural multipliers."""
  rules = (
    MULTIPLIERS['algorithm_1']({'re': 50.0}, step_size=0.01),
    MULTIPLIERS['fixed']({'re': 50.0}),
  )
  for rule in rules:
    assert rule.initial_log_multipliers == {'re': 0.0}


@pytest.mark.parametrize('name', ['geco', 'algorithm_1'])
@pytest.mark.parametrize('relative', [False, True])
def test_violations_are_relative_where_it_is_asked(name, relative):
  rule = MULTIPLIERS[name]({'re': 1.0}, step_size=0.01, relative=relative)
  assert rule.relative == relative


@pytest.mark.parametrize('beta', [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta):
  with pytest.raises(ValueError, match=f'beta must be > 0, got {beta}'):
    MULTIPLIERS['fixed']({'re': 1.0}, beta=beta)
