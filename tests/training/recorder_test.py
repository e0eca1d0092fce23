"""Which checkpoint is best, and what a run logs and saves."""

import contextlib
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geco_jax import multipliers
from geco_jax.build import run_inputs
from geco_jax.config_tree import without_sweep
from geco_jax.errors import UserError
from geco_jax.io import provenance
from geco_jax.io.logs import read_metrics
from geco_jax.rules import MULTIPLIERS
from geco_jax.rules import Multipliers
from geco_jax.training import loop
from geco_jax.training.recorder import final_multipliers
from geco_jax.training.recorder import Recorder
from geco_jax.training.recorder import score


def test_score_prefers_met_constraints_then_low_kl():
  met_scores = [score(kl, {'re': 0.01}, tolerance=0.02) for kl in (3.0, 5.0)]
  violated = [score(1.0, {'re': v}, tolerance=0.02) for v in (0.03, 0.5)]
  assert met_scores[0] < met_scores[1] < violated[0] < violated[1]


@pytest.fixture
def finals(build_once):
  """Return config -> its `final_multipliers`."""

  def known(config):
    experiment = build_once(config)
    inputs = run_inputs(config, experiment)
    return final_multipliers(experiment, inputs, config.num_steps)

  return known


@pytest.mark.parametrize(
  ('objective', 'multiplier'),
  [('elbo', 1.0), ('beta_vae', 1 / 4), ('annealed_beta', 1 / 0.7)],
)
def test_the_best_checkpoint_minimizes_what_the_run_does(
  objective, multiplier, finals, tiny_config, build_once, tmp_path, draw_once
):
  config = tiny_config(objective)
  config.constraints.nll.kappa = 100.0  # So that it always "holds".
  config.num_steps = 60
  if objective == 'annealed_beta':
    config.multipliers.kwargs.transition_steps = 45
  assert finals(config) == {'nll': pytest.approx(multiplier)}
  experiment = build_once(config)
  loop.train(config, str(tmp_path), experiment=experiment, show_progress=False)
  logged = read_metrics(str(tmp_path))
  is_saved = np.isfinite(logged['validation/kl_nats'])
  steps, kl_nats, nll_per_dim = (
    logged[name][is_saved]
    for name in ('step', 'validation/kl_nats', 'validation/nll/value')
  )
  scores = kl_nats + multiplier * 16 * (nll_per_dim - 100)
  best = json.loads((tmp_path / 'best.json').read_text())
  assert best['step'] == steps[np.argmin(scores)]
  assert best['score'] == pytest.approx(scores.min(), rel=1e-5)
  assert best['step'] > steps[np.argmin(kl_nats)]  # The least trained.


def test_an_annealed_multiplier_ends_where_the_steps_do(finals, tiny_config):
  config = tiny_config('annealed_beta')  # From beta 2 to 0.7.
  config.multipliers.kwargs.transition_steps = 2 * config.num_steps
  assert finals(config) == {'nll': pytest.approx(1 / 1.35)}


def _unclipped(naturals):
  """Return a rule of one's own that moves multipliers without a clip."""
  rule = optax.GradientTransformation(
    lambda logs: optax.EmptyState(), lambda values, state, _: (values, state)
  )
  return Multipliers(rule, dict.fromkeys(naturals, 0.0))


def _later(naturals):
  """Return a rule of one's own that moves them later than at first."""
  rule = optax.GradientTransformation(
    lambda logs: jnp.int32(0),
    lambda values, count, _: (
      jax.tree.map(lambda value: jnp.where(count < 5, 0.0, value), values),
      count + 1,
    ),
  )
  return Multipliers(rule, dict.fromkeys(naturals, 0.0))


def _own_schedule(naturals):
  """Return a rule of one's own that follows a schedule."""
  rule = multipliers.scheduled(lambda count: 1.0 + jnp.asarray(count, float))
  starts = dict.fromkeys(naturals, 0.0)
  return Multipliers(rule, starts, moved_by_constraints=False)


def _growing(naturals):
  """Return a rule of one's own that adds to log lambda, with no memory."""
  rule = optax.GradientTransformation(
    lambda logs: optax.EmptyState(),
    lambda values, state, _: (jax.tree.map(lambda _: 0.1, values), state),
  )
  starts = dict.fromkeys(naturals, 0.0)
  return Multipliers(rule, starts, moved_by_constraints=False)


def test_multipliers_that_constraints_move_are_not_known_before_the_end(
  finals, tiny_config, monkeypatch
):
  for objective in ('geco', 'geco_literal'):
    assert finals(tiny_config(objective)) is None
  for rule, expected in (
    (_unclipped, None),
    (_later, None),
    (_own_schedule, {'nll': 21.0}),
    (_growing, {'nll': math.exp(0.1 * 20)}),
  ):
    monkeypatch.setitem(MULTIPLIERS, rule.__name__, rule)
    config = tiny_config('elbo')
    with config.unlocked():
      config.multipliers = {'name': rule.__name__, 'kwargs': {}}
    assert finals(config) == (expected and pytest.approx(expected))


def test_a_logged_value_is_that_of_the_mean_violation(
  tiny_config, build_once, tmp_path, draw_once
):
  """It would be too small as a mean of roots."""
  config = tiny_config('geco')
  experiment = build_once(config)
  loop.train(config, str(tmp_path), experiment=experiment, show_progress=False)
  logged = read_metrics(str(tmp_path))
  logged = {k: v[np.isfinite(logged['loss'])] for k, v in logged.items()}
  kappa = config.constraints.re.kappa
  np.testing.assert_allclose(
    logged['re/value'], kappa * np.sqrt(1 + logged['re/violation']), rtol=1e-5
  )
  np.testing.assert_allclose(logged['re/value'], logged['rmse'], rtol=1e-5)


@pytest.fixture
def open_run(tiny_config, build_once, tmp_path):
  """Return () -> the recorder of one run, opened anew; a line is of 5 steps."""
  config = without_sweep(tiny_config('geco'))
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  return lambda: Recorder(config, str(tmp_path), experiment, inputs)


def some_metrics(num_steps):
  """Return metrics of steps, which all are one."""
  return dict.fromkeys(
    ('loss', 'kl_nats', 'mse', 're/violation', 're/log_multiplier'),
    np.ones(num_steps),
  )


def test_a_line_that_two_sessions_share_has_the_rate_of_both(
  open_run, tmp_path
):
  for first, last, seconds in ((0, 2, 4.0), (2, 5, 1.0)):
    recorder = open_run()
    assert recorder.step == first
    recorder.note(last, some_metrics(last - first), seconds)
    recorder.step = last
    recorder.save(recorder.state._replace(step=np.int32(last)))
    recorder.close()
  (rate,) = read_metrics(str(tmp_path))['steps_per_second']
  assert rate == pytest.approx(5 / (4 + 1))


def test_a_run_that_was_left_between_two_lines_misses_none(
  open_run, caplog, tmp_path
):
  run = open_run()
  for step, num_steps in ((5, 5), (7, 2)):
    run.note(step, some_metrics(num_steps), 1.0)
  run.step = 7
  run.save(run.state._replace(step=np.int32(7)))
  run.close()
  open_run().close()
  assert 'has lost its lines' not in caplog.text
  first, _ = provenance.read(str(tmp_path))
  assert first['last_step'] == 7


def test_parameters_that_are_not_finite_are_saved_at_no_step(
  open_run, tmp_path
):
  """After a signal too, where nothing is evaluated."""
  run = open_run()
  run.step = 3
  params = jax.tree.map(lambda x: x * np.nan, run.state.params)
  broken = run.state._replace(step=np.int32(3), params=params)
  with (
    contextlib.closing(run),
    pytest.raises(UserError, match='at step 4; there was no checkpoint yet'),
  ):
    run.save(broken)
  assert not os.listdir(tmp_path / 'checkpoints')


def test_a_run_that_cannot_be_opened_leaves_its_folder_free(
  open_run, monkeypatch
):
  def fail(*_):
    raise UserError('no log')

  with monkeypatch.context() as patch:
    patch.setattr(Recorder, '_open', fail)
    with pytest.raises(UserError, match='no log') as kept:
      open_run()
  open_run().close()
  assert kept.tb  # What failed is still referred to.
