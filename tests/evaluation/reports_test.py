"""What is reported of a constraint."""

import math

import pytest

from geco_jax.build import run_inputs
from geco_jax.constraints import natural_multiplier
from geco_jax.evaluation import reports


@pytest.mark.parametrize(
  ('objective', 'violation', 'ratio', 'expected'),
  [
    ('geco', 0.02, 1e3, 'met'),
    ('geco', 0.021, 1.9, 'violated'),
    ('geco', 0.021, 2.1, 'infeasible'),
    ('geco', 0.021, 1e6, 'infeasible'),
    ('geco_literal', 0.021, 2.1, 'infeasible'),
    ('elbo', 0.021, 2.1, 'violated'),  # Nothing moves its multiplier.
  ],
)
def test_verdict_is_infeasible_where_the_multiplier_is_saturated(
  tiny_config, objective, violation, ratio, expected, build_once
):
  config = tiny_config(objective)
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  ((name, kappa),) = inputs.kappas.items()
  natural = natural_multiplier(experiment.constraints[name], kappa, 16)
  log_multiplier = math.log(ratio * natural)
  assert natural == pytest.approx(0.5 if name == 'nll' else 1 / (2 * 0.2**2))
  verdict = reports.verdict(experiment, inputs, name, violation, log_multiplier)
  assert verdict == expected
