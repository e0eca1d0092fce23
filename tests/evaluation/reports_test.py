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


@pytest.mark.parametrize(
  ('below', 'expected'), [(5e-4, 'infeasible'), (5e-3, 'violated')]
)
def test_a_multiplier_at_its_clip_can_do_no_more_though_it_is_not_saturated(
  tiny_config, below, expected, build_once
):
  config = tiny_config(kappa=1e-4)  # The natural multiplier is 5e7, above e^14.
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  highest = experiment.highest_log_multiplier
  log_multiplier = highest - below
  assert reports.saturation(experiment, inputs, 're', log_multiplier) < 0.1
  verdict = reports.verdict(experiment, inputs, 're', 0.5, log_multiplier)
  assert verdict == expected


def test_a_report_has_what_people_read_and_the_run_s_own_tolerance(
  tiny_config, build_once
):
  config = tiny_config()
  config.tolerance = 0.25
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  natural = natural_multiplier(experiment.constraints['re'], 0.2, 16)
  means, logs = {'re': 16 * 0.22**2}, {'re': math.log(3 * natural)}
  for split in ('train', 'test'):
    (report,) = reports.constraint_report(
      experiment, inputs, means, logs, split
    ).values()
    assert report['value'] == pytest.approx(0.22)
    assert report['violation'] == pytest.approx(0.21)
    assert report['multiplier'] == pytest.approx(3 * natural)
    assert report['saturation'] == pytest.approx(3)
    assert (report['kappa'], report['tolerance']) == (0.2, 0.25)
    assert report['holds'] is True
    assert report.get('verdict') == ('met' if split == 'train' else None)
