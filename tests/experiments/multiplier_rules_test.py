"""The rival rules are their papers', and the comparison is what it says."""

import contextlib
import json

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
import pytest

from experiments import multiplier_rules
from experiments.multiplier_rules import Task
from experiments.shared import multiplier_comparison
from experiments.shared import rival_multipliers
from experiments.shared.rival_multipliers import RULES
from experiments.shared.runs import Run
from experiments.shared.small_png import write_small_png
from geco_jax.errors import UserError
from geco_jax.evaluation.measures import split_means
from geco_jax.io import lock
from geco_jax.rules import MULTIPLIERS
from geco_jax.step import train_steps

NATURAL = 50.0
RUN = Run('digits', 'geco', {'re': 0.1}, 'vae')
TINY = Task('digits_vae', 'digits', 'vae', [{'re': 0.1}, {'re': 0.15}], (100,))


def follow(transformation, initial, errors):
  """Return the log-multipliers after each of the errors [n]."""

  def step(carry, e):
    log_multipliers, state = carry
    updates, state = transformation.update({'re': e}, state, log_multipliers)
    log_multipliers = optax.apply_updates(log_multipliers, updates)
    return (log_multipliers, state), log_multipliers['re']

  start = {'re': jnp.float32(initial)}
  _, trace = jax.lax.scan(
    step, (start, transformation.init(start)), jnp.asarray(errors, jnp.float32)
  )
  return np.asarray(trace)


def multipliers_of(rule):
  """Return what a rule's config of RE on the digits makes of it."""
  task = multiplier_rules.TASKS['digits_vae']
  config = multiplier_rules.config_of(task, rule, RUN, 1_000)
  return MULTIPLIERS[config.multipliers.name](
    {'re': NATURAL}, **config.multipliers.kwargs
  )


def test_clipped_update_is_its_recurrence():
  errors = np.linspace(3.0, -1.5, 400) + np.sin(np.arange(400))
  log_multiplier, average, expected = 0.5, errors[0], []
  for e in errors:
    before, average = average, 0.9 * average + 0.1 * e
    now, then = np.clip(average, -1, 1), np.clip(before, -1, 1)
    log_multiplier += 0.01 * (now + 20 * (now - then))
    expected.append(log_multiplier)
  update = rival_multipliers.clipped_update(0.01, decay=0.9, damping=20.0)
  np.testing.assert_allclose(
    follow(update, 0.5, errors), expected, rtol=0, atol=1e-4
  )


@pytest.mark.parametrize('decay', [0.0, 0.95])
def test_pi_update_is_the_sum_and_the_average_of_the_errors(decay):
  """Over all errors, since none of them takes the multiplier below 0."""
  errors = 1 + np.sin(np.arange(300) / 20)
  powers = decay ** np.arange(300)
  above = (1 - decay) * np.convolve(errors - errors[0], powers)[:300]
  expected = np.exp(-10) + NATURAL * (0.01 * errors.cumsum() + 0.3 * above)
  update = rival_multipliers.pi_update(0.01, 0.3, decay, {'re': NATURAL})
  np.testing.assert_allclose(
    np.exp(follow(update, -10.0, errors)), expected, rtol=1e-4
  )


def test_without_an_average_the_damping_adds_the_constraint_to_the_multiplier():
  """The modified differential method: lambda' = C, in effect lambda + c C."""
  errors = np.linspace(0.5, 5.0, 100)
  plain, damped = (
    np.exp(
      follow(
        rival_multipliers.pi_update(0.01, gain, 0.0, {'re': NATURAL}),
        -10.0,
        errors,
      )
    )
    for gain in (0.0, 0.2)
  )
  added = NATURAL * 0.2 * (errors - errors[0])
  np.testing.assert_allclose(damped - plain, added, rtol=1e-3, atol=1e-3)


def test_pi_update_is_projected_and_does_not_wind_up_below():
  update = rival_multipliers.pi_update(0.01, 0.0, 0.0, {'re': NATURAL})
  trace = follow(update, 0.0, [-1.0] * 500 + [1.0])
  np.testing.assert_allclose(trace[2:500], -10.0)
  assert np.exp(trace[-1]) == pytest.approx(NATURAL * 0.01, rel=1e-3)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize(
  ('error', 'end'), [(1e4, 14.0), (np.inf, None), (-1.0, None)]
)
def test_log_multipliers_stay_in_their_range(rule, error, end):
  """Whether a constraint is never met, always met or not a number."""
  multipliers = multipliers_of(rule)
  initial = multipliers.initial_log_multipliers['re']
  errors = np.full(20_000, error)
  errors[3::7] = np.nan
  trace = follow(multipliers.transformation, initial, errors)
  assert np.isfinite(trace).all()
  assert trace.min() >= -10.0 and trace.max() <= 14.0
  if end is not None and rule != 'geco':
    assert trace[-1] == end == multipliers.highest_log_multiplier
  if error == np.inf:
    np.testing.assert_array_equal(trace, np.float32(initial))
  if error < 0:
    assert trace[-1] == pytest.approx(-10.0)


def test_every_task_has_a_config_under_every_rule():
  for task in multiplier_rules.PRESETS['full']:
    for kappas in task.kappas:
      run = Run(task.data, 'geco', kappas, task.model)
      for rule in RULES:
        config = multiplier_rules.config_of(task, rule, run, task.steps[0])
        asked = {k: v.kappa for k, v in config.constraints.items()}
        assert asked == kappas
        assert config.num_steps == task.steps[0]
        assert config.learning_rate.kwargs.decay_steps == task.steps[0]
        assert config.multipliers.name in MULTIPLIERS


@pytest.mark.parametrize(
  ('run', 'initial'),
  [
    (RUN, 1.0),
    (Run('digits', 'geco', {'cla': 0.9}, 'vae'), 100.0),
    (Run('color_mnist', 'geco', {'re': 0.1}, 'nvp'), 50.0),
    (Run('micro_mnist', 'geco', {'re': 0.1}, 'nvp'), 1.0),
  ],
)
def test_clipped_has_the_two_exceptions_of_its_time(run, initial):
  variants = {'micro_mnist': 'digits', 'color_mnist': 'quick'}
  config = run.config(variants.get(run.data))
  assert RULES['clipped'].multipliers(config).kwargs.initial == initial


def made_run(rule, steps, kl, violation, multiplier=10.0, **others):
  """Return a record of RE 0.1 on the digits: scale 0.64, natural 50."""
  met = violation <= 0.02
  report = {
    'violation': violation,
    'verdict': 'met' if met else 'violated',
    'multiplier': multiplier,
    'peak_multiplier': multiplier,
    'natural_multiplier': NATURAL,
    'scale': 0.64,
  }
  return {
    'run': f'{rule}/{steps}/{RUN.name}',
    'task': 'digits_vae',
    'problem': RUN.name,
    'rule': rule,
    'kappas': {'re': 0.1},
    'steps': steps,
    'seed': 0,
    'kl_nats': kl,
    'constraints': {'re': report},
    'verdict': report['verdict'],
    'first_met': steps if met else None,
    'seconds': 1.0,
    **others,
  }


def test_kls_are_carried_along_the_multiplier_of_the_longest_run_of_geco():
  records = multiplier_comparison.compared(
    [
      made_run('geco', 1_000, 16.0, -0.1, multiplier=30.0),
      made_run('geco', 4_000, 12.0, 0.0, multiplier=15.0),
      made_run('clipped', 8_000, 11.0, 0.01, multiplier=99.0),
      made_run('mdmm', 1_000, 10.0, 0.5, multiplier=99.0),
    ]
  )
  kls = [each['kl_at_constraint'] for each in records]
  carried = 15 * 0.64 * np.array([-0.1, 0.0, 0.01, 0.5])
  np.testing.assert_allclose(kls, carried + [16, 12, 11, 10])
  # mdmm's 14.8 nats are the least of 1,000 steps, but not near C = 0.
  ratios = [each['relative'] for each in records]
  np.testing.assert_allclose(ratios, [1, 1, 1, 14.8 / 15.04])


def test_where_geco_met_nothing_another_rules_multiplier_serves_within_bounds():
  runs = [
    made_run('geco', 1_000, 16.0, 0.1, multiplier=20.0),
    made_run('clipped', 1_000, 20.0, 0.0, multiplier=1e6),
  ]
  first, second = multiplier_comparison.compared(runs)
  # No rate-distortion function has a multiplier above the natural one.
  assert first['kl_at_constraint'] == pytest.approx(16 + NATURAL * 0.64 * 0.1)
  assert second['relative'] == pytest.approx(20 / 19.2)
  (alone,) = multiplier_comparison.compared(runs[:1])
  assert alone['kl_at_constraint'] == pytest.approx(16 + 20 * 0.64 * 0.1)
  far = made_run('geco', 1_000, 1.0, 0.5)
  assert multiplier_comparison.compared([far])[0]['relative'] is None


def test_of_several_constraints_each_has_its_multiplier():
  run = made_run('geco', 1_000, 16.0, 0.01)
  slack = {**run['constraints']['re'], 'violation': -0.3, 'multiplier': 2.0}
  run['constraints'] |= {'cla': slack}
  (each,) = multiplier_comparison.compared([run])
  assert each['kl_at_constraint'] == pytest.approx(
    16 + 0.64 * (10 * 0.01 - 2 * 0.3)
  )
  assert multiplier_comparison.offset(each) == 0.01  # Not the slack one.


CONTENT = {
  'runs': [
    made_run('mdmm', 1_000, 30.0, 3.0),
    made_run('geco', 1_000, 16.0, -0.1),
    made_run('geco', 4_000, 12.0, 0.0),
    made_run('mdmm', 4_000, 15.0, 0.0),
    made_run('mdmm', 2_000, 14.0, 0.25),
  ]
}


def test_table_has_a_line_a_problem_and_a_column_a_rule():
  text = multiplier_comparison.table(CONTENT)
  header, _, *lines = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
  ]
  assert header == ['model', 'constraints', 'steps', 'mdmm', 'geco']
  start = ['digits_vae', 're 0.1']
  # 30 + 10 * 0.64 * 3 = 49.2 against 15.36.
  assert lines == [
    [*start, '1,000', '3.20 (+300.0%, violated)', '1.00 (-10.0%)'],
    [*start, '4,000', '1.25', '1.00'],
    [*start, '2,000', '- (+25.0%, violated)', '-'],
    [
      *('all', '', ''),
      '2.23, worst 3.20; 1 of 2 met',
      '1.00, worst 1.00; 2 of 2 met',
    ],
  ]


def test_two_rules_are_compared_on_the_lines_that_both_have():
  # 15.36 to 49.2, and 12 to 15.
  assert multiplier_comparison.against(CONTENT, 'geco', 'mdmm') == (
    'KL at the constraint, geco over mdmm: lower in 2 of 2 lines, -44.4% in '
    'the median; best digits_vae re 0.1 1,000 (-68.8%); over 2% higher: none.'
  )
  assert multiplier_comparison.against(CONTENT, 'mdmm', 'geco') == (
    'KL at the constraint, mdmm over geco: lower in 0 of 2 lines, +122.7% in '
    'the median; best digits_vae re 0.1 4,000 (+25.0%); over 2% higher: '
    'digits_vae re 0.1 1,000 (+220.3%), digits_vae re 0.1 4,000 (+25.0%).'
  )
  none = multiplier_comparison.against(CONTENT)
  assert none == 'geco and clipped have no line in common.'


def test_figure_has_a_row_a_line_and_hollow_marks_for_what_was_not_met(
  tmp_path,
):
  drawn = multiplier_comparison.figure(CONTENT)
  (axes,) = drawn.axes
  assert len(axes.get_yticks()) == 3
  marks = {mark.get_xdata()[0]: mark.get_fillstyle() for mark in axes.lines}
  assert len(axes.lines) == 4  # What has no ratio has no mark.
  assert marks[1.0] == marks[1.25] == 'full'
  assert marks[max(marks)] == 'none'
  path = tmp_path / 'figure.png'
  write_small_png(path, drawn)
  assert np.asarray(Image.open(path)).std() > 0
  assert path.stat().st_size < 40_000


@pytest.fixture
def command(tmp_path, monkeypatch, draw_once):
  """Return flags -> main with them, on a tiny task; `runs` is its folder."""
  multiplier_rules.define_flags()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(multiplier_rules, 'TASKS', {'digits_vae': TINY})
  monkeypatch.setitem(multiplier_rules.PRESETS, 'quick', (TINY,))

  def run(**values):
    workdir = {'workdir': str(tmp_path / 'runs')}
    for name, value in (workdir | values).items():
      flags.FLAGS[name].value = value
    multiplier_rules.main([])
    with open(tmp_path / 'runs' / 'multiplier_rules.json') as file:
      return json.load(file)

  yield run
  for name in ('preset', 'only', 'rules', 'seed', 'num_seeds'):
    delattr(flags.FLAGS, name)
  flags.FLAGS['workdir'].value = None


def test_command_trains_compares_and_trains_nothing_twice(
  command, tmp_path, monkeypatch, capsys, count_builds
):
  kept = made_run('geco', 100, 1.0, 0.0)
  (tmp_path / 'runs').mkdir()
  file = tmp_path / 'runs' / 'multiplier_rules.json'
  file.write_text(json.dumps({'runs': [kept]}))
  content = command(rules=['mdmm'])
  assert len(count_builds) == 1  # Both runs share it.
  first, other, second = content['runs']
  assert other.items() >= kept.items()
  assert [first['run'], second['run']] == [
    f'mdmm/100/digits_vae_geco_re_{kappa}' for kappa in (0.1, 0.15)
  ]
  for each in (first, second):
    folder = tmp_path / 'runs' / each['run']
    config = json.loads((folder / 'config.json').read_text())
    assert config['multipliers']['name'] == 'pi'
    evaluation = json.loads((folder / 'evaluation.json').read_text())
    (report,) = evaluation['constraints'].values()
    (ours,) = each['constraints'].values()
    assert ours['violation'] == report['violation']
    assert ours['natural_multiplier'] == pytest.approx(
      report['multiplier'] / report['saturation']
    )
    assert ours['peak_multiplier'] >= ours['multiplier'] > 0
    assert each['kl_nats'] == evaluation['kl_nats']
    assert each['seconds'] > 0
    assert each['first_met'] is None and each['verdict'] != 'met'
  assert (tmp_path / 'runs' / 'multiplier_rules.png').exists()
  assert 're 0.15 | 100 |' in capsys.readouterr().out
  monkeypatch.setattr(
    'geco_jax.training.loop.train', None
  )  # Is not called again.
  assert command(rules=['mdmm']) == content
  (tmp_path / 'runs' / first['run'] / 'metrics.jsonl').unlink()
  file.unlink()
  with pytest.raises(UserError, match=f'{first["run"]} failed: .*lost its log'):
    command(rules=['mdmm'])
  (saved,) = json.loads(file.read_text())['runs']
  assert saved['run'] == second['run']


def test_rules_of_a_task_share_its_model_and_the_programs_that_evaluate_it(
  count_builds,
):
  listed, left_out = multiplier_rules.jobs([TINY], ['geco', 'mdmm'])
  first, same, other, _ = listed
  assert not left_out
  assert len(count_builds) == 2
  assert first.experiment is same.experiment
  assert first.experiment is not other.experiment
  assert first.experiment.model is other.experiment.model
  means, other_means = (
    split_means(job.experiment, likelihood=True) for job in (first, other)
  )
  assert means is other_means
  steps, other_steps = (
    train_steps(job.experiment, 1) for job in (first, other)
  )
  assert steps is not other_steps


def test_what_cannot_be_trained_is_said(command, tmp_path, monkeypatch, capsys):
  mnist = TINY._replace(name='mnist_vae', data='mnist')
  (first, _), left_out = multiplier_rules.jobs(
    [mnist, TINY], ['geco'], data_dir=str(tmp_path)
  )
  assert first.task == TINY
  assert [*left_out] == ['mnist_vae']
  assert 'mnist_vae is left out: ' in capsys.readouterr().out
  with pytest.raises(UserError, match='no task'):
    multiplier_rules.jobs([mnist], ['geco'], data_dir=str(tmp_path))

  def fail(*args, **kwargs):
    raise UserError('the loss is not finite')

  monkeypatch.setattr('geco_jax.training.loop.train', fail)
  named = f'geco/100/{RUN.name} failed: the loss'
  with pytest.raises(UserError, match=named):
    command(rules=['geco'])


def test_a_failed_run_is_named_when_the_others_are_saved(
  command, tmp_path, monkeypatch
):
  folder = tmp_path / 'runs' / f'geco/100/{RUN.name}'
  folder.mkdir(parents=True)
  with contextlib.closing(lock.Lock(str(folder))):
    with pytest.raises(UserError, match=f'{RUN.name} failed: .*in use'):
      command(rules=['geco'])
  file = tmp_path / 'runs' / 'multiplier_rules.json'
  (saved,) = json.loads(file.read_text())['runs']
  assert saved['run'] == 'geco/100/digits_vae_geco_re_0.15'
  assert file.with_suffix('.png').exists()
  # A task whose network is not there counts if it was asked for by name.
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path))
  cla = TINY._replace(name='digits_cla', kappas=[{'cla': 0.9}])
  monkeypatch.setitem(multiplier_rules.TASKS, 'digits_cla', cla)
  monkeypatch.setitem(multiplier_rules.PRESETS, 'quick', (TINY, cla))
  assert len(command(rules=['geco'])['runs']) == 2
  with pytest.raises(UserError, match='digits_cla failed: no trained class'):
    command(rules=['geco'], only=['digits_vae', 'digits_cla'])
