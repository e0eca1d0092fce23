"""A baseline rests when nothing moves that its learning rate lets move."""

import types

import numpy as np
import pytest

from experiments.shared import rest
from experiments.shared import runs
from experiments.shared.runs import Run
from geco_jax.errors import UserError

STEPS = np.arange(100, 10_001, 100)


def series(kl, rmse=0.1, rate=None):
  """Return metrics with values at x, the share of the run that is over."""
  x = STEPS / STEPS[-1]
  values = {'kl_nats': kl, 'rmse': rmse}
  metrics = {
    name: np.broadcast_to(np.asarray(v(x) if callable(v) else v), x.shape) + 0.0
    for name, v in values.items()
  }
  if rate is not None:
    metrics['learning_rate'] = rate(x)
  return {'step': STEPS, **metrics}


def cosine(x):
  return (1 + np.cos(np.pi * x)) / 2


def learned(x):
  """Return the share of a cosine's learning that is over."""
  return x + np.sin(np.pi * x) / np.pi


@pytest.mark.parametrize(
  'move', [-0.05, -0.021, -0.019, 0.0, 0.019, 0.021, 0.5]
)
@pytest.mark.parametrize('name', ['kl_nats', 'rmse'])
def test_two_percent_of_the_last_fifth_decide(name, move):
  def values(x):  # The mean of the last fifth is 1.
    return 1 + move * (np.maximum(x, 0.5) - 0.9) / 0.2

  metrics = series(100.0)
  metrics[name] = values(STEPS / STEPS[-1])
  assert rest.rested(metrics) == (abs(move) < 0.02)


def test_what_moved_before_the_last_fifth_does_not_count():
  assert rest.rested(series(lambda x: np.where(x < 0.79, 1_000 * x, 300.0)))


@pytest.mark.parametrize('seed', range(5))
def test_the_noise_of_batches_does_not_count(seed):
  noise = np.random.default_rng(seed).normal(size=(2, len(STEPS)))
  metrics = series(100 + 2 * noise[0], 0.1 + 0.001 * noise[1])
  assert np.ptp(metrics['kl_nats'][-20:]) > 2
  assert rest.rested(metrics)


def test_a_learning_rate_that_falls_to_0_is_no_rest():
  """A KL that grows by the learning goes on growing in twice the steps."""
  growing = series(lambda x: 100 + 100 * learned(x), rate=cosine)
  last_fifth = growing['kl_nats'][-20:]
  assert np.ptp(last_fifth) / np.mean(last_fifth) < 0.02
  assert not rest.rested(growing)
  assert rest.rested({k: v for k, v in growing.items() if k != 'learning_rate'})


def test_of_a_constant_rate_it_is_the_last_fifth_of_steps():
  for kl in (lambda x: 100 * x, lambda x: 100 + x, lambda x: 100 * x**0.09):
    constant = series(kl, rate=lambda x: np.full_like(x, 1e-3))
    assert rest.rested(constant) == rest.rested(series(kl))


def test_the_line_through_values_weighs_steps_by_their_learning():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 9))
  weight = rng.uniform(0.1, 3.0, 9)
  dx, dy = (v - np.average(v, weights=weight) for v in (x, y))
  slope = (weight * dx * dy).sum() / (weight * dx**2).sum()
  assert rest._slope(x, y, weight) == pytest.approx(slope)


@pytest.mark.parametrize('move', [0.019, 0.021])
def test_steps_that_learn_nothing_count_for_nothing(move):
  metrics = series(
    lambda x: 1 + move * (x - 0.9) / 0.2,
    rate=lambda x: (x <= 0.99).astype(float),
  )
  metrics['kl_nats'][-1] = 1e3
  assert rest.rested(metrics) == (move < 0.02)


def test_a_run_that_converges_rests_sooner_or_later():
  def at(steps):
    return series(
      lambda x: 100 * (1 - np.exp(-steps * learned(x) / 2_000)), rate=cosine
    )

  answers = [rest.rested(at(steps)) for steps in (1e3, 2e3, 4e3, 8e3, 1.6e4)]
  assert answers == sorted(answers) and not answers[0] and answers[-1]


def test_lines_of_the_validation_split_are_passed_over():
  metrics = series(100.0)
  metrics['kl_nats'][::3] = np.nan
  assert rest.rested(metrics)


@pytest.mark.parametrize(
  'metrics',
  [
    {},
    {'step': STEPS, 'kl_nats': STEPS * 1.0},
    {k: v[:20] for k, v in series(1.0).items()},
    {k: v[:0] for k, v in series(1.0).items()},
    series(1.0, rate=np.zeros_like),
    series(np.nan),
  ],
)
def test_what_cannot_be_told_is_no_rest(metrics):
  assert not rest.rested(metrics)


def test_a_collapsed_posterior_rests():
  assert rest.rested(series(0.0))


def test_steps_are_doubled_up_to_the_cap():
  assert rest.lengths(1_000, None) == [1_000 * 2**k for k in range(5)]
  assert rest.lengths(1_000, 4_000) == [1_000, 2_000, 4_000]
  assert rest.lengths(1_000, 7_999) == [1_000, 2_000, 4_000]
  assert rest.lengths(1_000, 500) == [1_000]
  # What `build` refuses is not tried: 2**31 examples.
  paper = [2_000_000 * 2**k for k in range(4)]
  assert rest.lengths(2_000_000, None, 128) == paper
  assert rest.lengths(2_000_000, 64_000_000, 128) == paper
  with pytest.raises(UserError, match='steps must be >= 1, got 0'):
    rest.lengths(0, None)


RUNS = [
  Run('digits', 'elbo', model='vae'),
  Run('digits', 'elbo', model='vae', seed=1),
  Run('digits', 'annealed_beta', model='vae'),
  Run('digits', 'geco', {'re': 0.1}, 'vae'),
]


@pytest.fixture
def trained(monkeypatch):
  """Return what was trained; a log moves until `rests_at` steps of its run."""
  calls = {}
  rests_at = {RUNS[0].name: 200, RUNS[1].name: 400, RUNS[2].name: 10**9}

  def train_all(some, folder, preset, steps, data_dir, changes):
    del preset, data_dir, changes
    for run in some:
      calls[f'{folder}/{run.name}'] = steps
    return [
      runs.Result(
        run,
        types.SimpleNamespace(num_steps=steps),
        *[None] * 4,
        folder=f'{folder}/{run.name}',
      )
      for run in some
    ]

  def read_metrics(folder):
    moving = calls[folder] < rests_at[folder.rpartition('/')[2]]
    slope = 100.0 if moving else 0.0
    return series(lambda x: 1 + slope * x, rate=np.ones_like)

  monkeypatch.setattr(runs, 'train_all', train_all)
  monkeypatch.setattr(rest, 'read_metrics', read_metrics)
  return calls


def test_baselines_train_until_they_rest_and_geco_as_long_as_the_elbo(trained):
  results = rest.train_until_rest(RUNS, 'w', num_steps=100, max_steps=1_600)
  assert [result.run for result in results] == RUNS
  assert [result.rested for result in results] == [True, True, False, None]
  steps = [result.config.num_steps for result in results]
  assert steps == [400, 400, 1_600, 400]  # By the slower seed; at the cap.
  elbo = RUNS[0].name
  tried = [folder for folder in trained if folder.endswith(elbo)]
  assert tried == [f'w/{elbo}', f'w/steps_200/{elbo}', f'w/steps_400/{elbo}']
  assert f'w/steps_400/{RUNS[3].name}' in trained


def test_old_baselines_that_rest_are_reused(trained):
  results = rest.train_until_rest(RUNS, 'w', num_steps=500, max_steps=500)
  assert set(trained.values()) == {500}
  assert set(trained) == {f'w/{run.name}' for run in RUNS}
  assert [r.rested for r in results] == [True, True, False, None]


def test_records_say_it_of_baselines_alone(trained, monkeypatch):
  results = rest.train_until_rest(RUNS[1:], 'w', num_steps=100, max_steps=200)
  config = types.SimpleNamespace(
    num_steps=100, multipliers=types.SimpleNamespace(name='geco')
  )
  results = [r._replace(config=config, infeasible=[]) for r in results]
  elbo, annealed, geco = runs.records(results)
  assert elbo['rested'] is False and annealed['rested'] is False
  assert 'rested' not in geco


def test_geco_without_the_elbo_whose_steps_it_takes_is_refused(trained):
  with pytest.raises(UserError, match='which must be among .* got annealed'):
    rest.train_until_rest(RUNS[2:], 'w', num_steps=100)
  assert not trained


def test_the_plan_has_what_would_be_trained_at_most(tmp_path, monkeypatch):
  args = (RUNS, str(tmp_path), None, 100, {}, 400)
  at_most = [point.name for point in rest.points(*args)]
  assert len(at_most) == 3 * 3 + 1
  assert at_most[-1] == f'steps_400/{RUNS[3].name}'
  monkeypatch.setattr(rest, '_rests', lambda *_: True)
  assert [point.name for point in rest.points(*args)] == [
    run.name for run in RUNS
  ]


def test_of_a_log_without_it_the_learning_rate_is_the_schedules(
  tiny_config, make_dataset, monkeypatch
):
  from geco_jax.build import build

  seen = []
  config = tiny_config('elbo')
  result = runs.Result(
    RUNS[0], config, build(config, make_dataset()), *[None] * 3
  )
  log = {'step': np.array([5, 10, 15, 20])}
  monkeypatch.setattr(rest, 'read_metrics', lambda _: dict(log))
  monkeypatch.setattr(rest, 'rested', lambda metrics: seen.append(metrics))
  rest.is_at_rest(result)
  (metrics,) = seen
  np.testing.assert_allclose(
    metrics['learning_rate'], 1e-3 * cosine(log['step'] / 20), atol=1e-9
  )


def test_a_log_without_the_learning_rate_does_not_shorten_the_plan(
  tmp_path, monkeypatch
):
  """Whether such a run rests is known where its schedule is built."""
  assert rest.rested(series(100.0))
  monkeypatch.setattr(rest, 'is_finished', lambda *_: True)
  monkeypatch.setattr(rest, 'read_metrics', lambda _: series(100.0))
  points = rest.points(RUNS, str(tmp_path), None, 100, {}, 400)
  assert len(points) == 3 * 3 + 1


def test_five_lines_in_the_last_fifth_decide_and_four_do_not():
  for num_lines, decides in ((25, True), (20, False)):
    log = series(100.0)
    few = {name: values[:num_lines] for name, values in log.items()}
    assert rest.rested(few) == decides


@pytest.mark.parametrize('move', [0.019, 0.021])
def test_a_log_that_has_lost_its_first_lines_decides_as_the_whole(move):
  """The first line that is left stands for all the steps up to it."""
  whole = series(lambda x: 1 + move * (np.maximum(x, 0.8) - 0.9) / 0.2)
  late = {name: values[60:] for name, values in whole.items()}
  assert rest.rested(late) == rest.rested(whole) == (move < 0.02)


def test_a_run_that_is_not_finished_does_not_rest_whatever_its_log_says(
  tmp_path, monkeypatch
):
  log = series(100.0, rate=np.ones_like)
  assert rest.rested(log)
  monkeypatch.setattr(rest, 'read_metrics', lambda _: log)
  points = rest.points(RUNS, str(tmp_path), None, 100, {}, 400)
  assert len(points) == 3 * 3 + 1


def test_a_baseline_that_has_lost_its_log_is_named(trained, monkeypatch):
  monkeypatch.setattr(rest, 'read_metrics', lambda _: {})
  folder = f'w/{RUNS[0].name}'
  with pytest.raises(UserError, match=f'{folder} has lost its log, which says'):
    rest.train_until_rest(RUNS, 'w', num_steps=100)
  assert set(trained.values()) == {100}  # Nothing longer begins.
  result = runs.Result(RUNS[0], *[None] * 5, folder=folder)
  assert rest.is_at_rest(result) is None
