"""A constraint has one verdict, whoever prints it."""

import json

import numpy as np
import pytest

from experiments import information_plane
from experiments.results import findings
from experiments.shared import figure_4_plane
from experiments.shared import runs
from geco_jax import evaluate
from geco_jax.build import build
from geco_jax.evaluation import verdicts
from geco_jax.sweep import local
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep.grid import points
from geco_jax.training.recorder import Recorder


@pytest.fixture
def trained(
  tiny_config, make_dataset, monkeypatch, draw_once, caplog, tmp_path
):
  """Return a run of each verdict, last lines of progress, warnings."""
  monkeypatch.setattr(
    'geco_jax.sweep.local.build_dataset', lambda *_: make_dataset()
  )
  log, lines = Recorder.log, {}

  def remembered(self, *args):
    lines[self.workdir] = log(self, *args)
    return lines[self.workdir]

  monkeypatch.setattr(Recorder, 'log', remembered)
  config = tiny_config()
  config.multipliers.kwargs.step_size = 1e-4  # They stay where they start.
  # In natural multipliers, 1 / (2 kappa^2), these are 1, 0.1 and 5.
  initial = [1 / (2 * 0.9**2), 0.1 / (2 * 0.2**2), 5 / (2 * 0.2**2)]
  config.sweep = (
    {
      'constraints.re.kappa': [0.9, 0.2, 0.2],
      'multipliers.kwargs.initial': initial,
    },
  )
  grid = points(config)
  assert not local.run_here(grid, str(tmp_path), show_progress=False)
  return sweep_results.read(grid, str(tmp_path)), lines, caplog.text


def words(text):
  """Return which verdicts stand in a text."""
  spaced = f' {text} '.translate(dict.fromkeys(map(ord, '(),|*\n'), ' '))
  return {
    word
    for word in (verdicts.MET, verdicts.VIOLATED, verdicts.INFEASIBLE)
    if f' {word} ' in spaced
  }


def in_experiments(result, dataset):
  """Return what the experiments print of a sweep's run."""
  row = information_plane.as_row(result)
  if result.evaluation['constraints']['re']['verdict'] == verdicts.INFEASIBLE:
    assert 'kappa 0.2 was asked' in row['infeasible'][0]
  else:
    assert row['infeasible'] == []
  run = runs.Result(
    run=runs.Run('digits', 'geco', {'re': row['kappa']}, 'vae'),
    config=result.point.config,
    experiment=build(result.point.config, dataset),
    evaluation=result.evaluation,
    infeasible=row['infeasible'],
    preset=None,
  )
  records = json.loads(json.dumps(runs.records([run])))
  gaussian = {'kappas': [], 'rate_nats': []}
  (finding,) = findings.constraints_of_runs({'runs': records})
  (swept, _) = findings.sweep([row])
  return [
    information_plane.table([row]),
    runs.table([run]),
    figure_4_plane.table({'row': {'runs': records, 'gaussian': gaussian}}),
    finding.verdict,
    swept.verdict,
  ]


def test_whoever_prints_a_verdict_prints_the_same_of_one_folder(
  trained, make_dataset
):
  results, progress, warnings = trained
  expected = [verdicts.MET, verdicts.VIOLATED, verdicts.INFEASIBLE]
  assert warnings.count('constraint re is infeasible in this run') == 1
  for result, verdict in zip(results, expected, strict=True):
    train, test = evaluate.table(result.evaluation).splitlines()[1:]
    assert words(test) == set() and 'C/scale' in test
    (cells,) = sweep_results.table([result])
    for text in (
      progress[result.folder],
      result.evaluation['constraints']['re']['verdict'],
      train,
      cells['re'],
      *in_experiments(result, make_dataset()),
    ):
      assert words(text) == {verdict}, text
    (other,) = result.evaluation['other_splits'].values()
    assert 'verdict' not in other['constraints']['re']


def test_files_of_earlier_versions_are_read():
  def run(kappa, violation, infeasible=()):  # Without a verdict.
    report = {'violation': violation, 'multiplier': 9.0, 'holds': violation < 0}
    return {
      'objective': 'geco',
      'kappas': {'re': kappa},
      'steps': 1,
      'seed': 0,
      'infeasible': [*infeasible],
      'evaluation': {
        **dict.fromkeys(('kl_nats', 'rmse', 'nll_nats_per_dim'), 1.0),
        'constraints': {'re': report},
      },
    }

  sentence = 'constraint re is infeasible in this run: ...'
  row = {'runs': [run(0.06, 2.0, [sentence]), run(0.1, 0.1), run(0.175, -0.1)]}
  read = [point.verdict for point in figure_4_plane.points_of(row, 'geco')]
  assert read == [verdicts.INFEASIBLE, verdicts.VIOLATED, verdicts.MET]
  report = {'holds': False}
  evaluation = {'constraints': {'re': report, 'fre': report}}
  sentences = ['constraint fre is infeasible in this run: ...']
  assert verdicts.read(evaluation, 're', sentences) == verdicts.VIOLATED
  assert verdicts.read(evaluation, 'fre', sentences) == verdicts.INFEASIBLE


def test_constraints_are_met_together_or_not_and_none_is_met():
  reports = {'re': {'verdict': 'met'}, 'cla': {'verdict': 'met'}}
  assert verdicts.are_met({'constraints': {}})
  assert verdicts.are_met({'constraints': reports})
  for verdict in ('violated', 'infeasible'):
    broken = {**reports, 'cla': {'verdict': verdict}}
    assert not verdicts.are_met({'constraints': broken})


def test_logs_number_verdicts_from_best_to_worst():
  levels = [verdicts.level(v) for v in ('met', 'violated', 'infeasible')]
  assert levels == [0, 1, 2]


def test_the_worst_verdict_stands_for_several():
  assert verdicts.worst([verdicts.MET, verdicts.MET]) == verdicts.MET
  assert verdicts.worst(['violated', 'met']) == verdicts.VIOLATED
  assert verdicts.worst(['infeasible', 'violated']) == verdicts.INFEASIBLE


INFEASIBLE_REPORT = {
  'verdict': verdicts.INFEASIBLE,
  'kappa': 0.175,
  'unit': 'RMSE per pixel',
  'multiplier': 501.0,
  'saturation': 31.0,
}


@pytest.mark.parametrize(('kl_nats', 'collapsed'), [(0.02, True), (3.0, False)])
def test_an_infeasible_run_says_whether_its_posterior_has_collapsed(
  kl_nats, collapsed
):
  logged = {
    're/violation': np.array([2.0, 1.4, np.nan]),
    're/value': np.array([0.3, 0.271, np.nan]),
    'kl_nats': np.array([5.0, kl_nats, np.nan]),  # NaN, of a validation.
  }
  reports = {'re': INFEASIBLE_REPORT}
  (sentence,) = verdicts.infeasibility_sentences(reports, logged)
  assert 'the best RMSE per pixel in its log is 0.271' in sentence
  assert ('collapsed onto the prior (KL 0.02 nats)' in sentence) == collapsed


def test_an_infeasible_run_without_its_log_has_a_sentence_without_its_best():
  reports = {'re': INFEASIBLE_REPORT}
  for logged in ({}, {'re/violation': np.full(2, np.nan)}):
    (sentence,) = verdicts.infeasibility_sentences(reports, logged)
    assert 'kappa 0.175 was asked; its multiplier, 501, is 31 times' in sentence


@pytest.mark.parametrize('tolerance', [0.0, 0.02])
def test_a_constraint_holds_up_to_its_tolerance_and_not_beyond(tolerance):
  beyond = np.nextafter(tolerance, 1.0)
  assert verdicts.is_met(tolerance, tolerance)
  assert not verdicts.is_met(beyond, tolerance)
  violations = np.array([-1.0, tolerance, beyond, np.nan])
  answers = verdicts.is_met(violations, tolerance)
  np.testing.assert_array_equal(answers, [True, True, False, False])


def test_a_sentence_on_a_constraint_is_on_no_other_whose_name_begins_alike():
  report = {'holds': False}  # Earlier versions stored no verdict.
  evaluation = {'constraints': {'fre': report, 'fre_stats': report}}
  sentences = ['constraint fre_stats is infeasible in this run: ...']
  assert verdicts.read(evaluation, 'fre', sentences) == verdicts.VIOLATED
  other = verdicts.read(evaluation, 'fre_stats', sentences)
  assert other == verdicts.INFEASIBLE
