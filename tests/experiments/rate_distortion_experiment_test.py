"""Tests of GECO against the rate-distortion function."""

import json

import jax
import matplotlib.image
import numpy as np
import pytest

from experiments import rate_distortion
from geco_jax.theory import rate_distortion as theory
from tests import processes


def test_exact_expectations_agree_with_a_large_sample():
  model = rate_distortion.init_model(jax.random.key(0))
  model = model._replace(log_stddev=model.log_stddev - 0.5)
  sampled = rate_distortion.kl_and_squared_error(
    model, jax.random.key(1), 50_000
  )
  exact = rate_distortion.exact_kl_and_squared_error(model)
  np.testing.assert_allclose(exact, sampled, rtol=1e-2)


def test_short_training_comes_near_the_rate_and_the_multiplier():
  (row,), _ = rate_distortion.run_update(
    'geco', [1e-2], 3_000, 128, seed=0, distortions=[4.0]
  )
  assert abs(row['kl_error']) < 0.03
  assert abs(row['violation']) < 0.02
  assert abs(row['multiplier_error']) < 0.03
  # No model needs fewer nats than the rate of the distortion it reached.
  distortion = row['distortion'] * (1 + row['violation'])
  assert row['kl_nats'] > theory.rate(rate_distortion.EIGENVALUES, distortion)


@pytest.mark.parametrize(
  'robustness', [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_run_writes_numbers_and_figure(tmp_path, robustness):
  rows = rate_distortion.run(
    str(tmp_path), robustness, num_steps=3, batch_size=2, seed=0
  )
  name = 'rate_distortion_robustness' if robustness else 'rate_distortion'
  assert json.loads((tmp_path / f'{name}.json').read_text())['runs'] == rows
  assert len(rows) == (56 if robustness else 8)
  assert matplotlib.image.imread(tmp_path / f'{name}.png').std() > 0


def test_bad_flags_are_answered_in_one_line(tmp_path):
  code, _, err = processes.run(
    'experiments.rate_distortion', f'--workdir={tmp_path}', '--num_steps=0'
  )
  assert code == 2
  assert '--num_steps=0: 0 is not a positive integer' in err
  assert err.count('\n') == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'step_sizes'),
  [('literal', [1e-3]), ('geco', [3e-3, 1e-2, 3e-2, 1e-1])],
)
def test_geco_reaches_the_rate_and_the_exact_multiplier(name, step_sizes):
  rows, _ = rate_distortion.run_update(name, step_sizes, 12_000, 512, seed=0)
  for row in rows:
    assert abs(row['kl_error']) <= 0.01, row
    assert abs(row['violation']) <= 0.01, row
    assert abs(row['multiplier_error']) <= 0.02, row
