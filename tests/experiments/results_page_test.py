"""RESULTS.md is what its command makes of results/, verdicts included."""

import copy
import importlib.util
import json
import os
import re

import pytest

from experiments import results_page
from experiments import table_2
from experiments.figure_4 import ROWS
from experiments.results import figure_4_findings
from experiments.results import findings
from experiments.results import theory_findings
from experiments.results.claims import Claim
from experiments.results.claims import CLAIMS
from geco_jax.errors import UserError
from tests.experiments.figure_4_test import made_row as row_of_figure_4
from tests.experiments.figure_5_test import made_row as row_of_figure_5

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def verdicts(lines):
  return [finding.holds for finding in lines if finding.holds is not None]


def test_committed_page_is_what_the_command_makes_of_the_committed_results():
  text = results_page.page(os.path.join(ROOT, 'results'))
  with open(os.path.join(ROOT, 'RESULTS.md')) as file:
    assert file.read() == text, 'run python -m experiments.results_page'


def test_claims_name_commands_that_exist():
  assert len({claim.title for claim in CLAIMS}) == len(CLAIMS)
  for claim in CLAIMS:
    (module,) = re.findall(r'python -m ([\w.]+)', claim.command)
    assert importlib.util.find_spec(module), module


def test_the_devices_of_runs_go_before_that_of_the_command(tmp_path):
  """The command may have read on a CPU what was trained on two cards."""
  claim = CLAIMS[0]._replace(check=lambda _: [])

  def devices(runs):
    text = json.dumps({'device': 'CPU', 'runs': runs})
    (tmp_path / claim.file).write_text(text)
    page = results_page.page(str(tmp_path), [claim])
    return re.findall(r'device: (.*)\.$', page, re.MULTILINE)

  cards = [{'device': '1 x card, 1 x cpu'}, {'device': '1 x card'}]
  assert devices([{}]) == ['CPU']
  assert devices(cards) == ['1 x card, 1 x cpu']


def test_what_was_not_run_is_said_with_its_command(tmp_path):
  text = results_page.page(str(tmp_path))
  listed = [claim for claim in CLAIMS if not claim.optional]
  assert text.count('not run yet') == text.count('Not run yet') == len(listed)
  for claim in listed:
    assert f'Not run yet: `{claim.command}`' in text


def test_a_file_of_another_preset_is_listed_with_its_own(tmp_path):
  row = {**row_of_figure_4(), 'preset': 'gpu'}
  (tmp_path / 'figure_4_gpu.json').write_text(json.dumps({'mnist': row}))
  for name in ('figure_6.json', 'figure_4.json'):
    (tmp_path / name).write_text(json.dumps({'preset': 'paper', 'runs': []}))
  claims = [
    claim._replace(check=lambda _: [])
    if claim.file == 'figure_4.json'
    else claim
    for claim in CLAIMS
  ]
  text = results_page.page(str(tmp_path), claims)
  assert '| Figure 4, gpu: the KL | 1 of 1, 9 not run |' in text
  for command in (
    'figure_4 --preset=gpu --workdir=runs/gpu',
    'figure_4 --preset=paper --workdir=runs/paper',
    'figure_6 --preset=paper --workdir=runs/paper',
  ):
    assert f'`python -m experiments.{command}' in text
  assert 'figure_4 --preset=quick' not in text
  # One command does not write two presets.
  rows = {preset: {'preset': preset} for preset in ('mnist', 'digits')}
  (tmp_path / 'figure_8.json').write_text(json.dumps(rows))
  (claim,) = [claim for claim in CLAIMS if claim.file == 'figure_8.json']
  text = results_page.page(str(tmp_path), [claim._replace(check=lambda _: [])])
  start, end = claim.command.split('--preset=digits')
  digits, mnist = (f'{start}--preset={p}{end}' for p in ('digits', 'mnist'))
  assert f'`{digits}`, `{mnist}`; preset: digits, mnist' in text


@pytest.mark.parametrize('content', ['{"runs": [', '', None])
def test_a_damaged_file_of_results_is_named(tmp_path, content):
  path = tmp_path / 'figure_6.json'
  path.mkdir() if content is None else path.write_text(content)
  with pytest.raises(UserError, match=f'{path} cannot be read: '):
    results_page.page(str(tmp_path))


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('figure_6.json', '{"preset": "medium"}'),
    ('figure_6.json', '[]'),
    ('table_2.json', '{"mnist": 1}'),
    ('table_2.json', '{"celeb_a": {"data": "celeb_a", "steps": 10}}'),
    ('rate_distortion.json', '{"runs": [{"update": "linear"}]}'),
    ('figure_5.json', '{"cifar10": {"runs": [{}]}}'),
    ('table_2.json', '{"mnist": {"data": "cifar10", "steps": 10, "elbo": 3}}'),
  ],
)
def test_results_of_another_form_are_named(tmp_path, name, content):
  path = tmp_path / name
  path.write_text(content)
  named = f'{path} is not what `python -m experiments.{name[:-5]} .*` writes: '
  with pytest.raises(UserError, match=named):
    results_page.page(str(tmp_path))


def test_claims_of_two_presets_have_workdirs_of_their_own():
  """Their runs have the same names, but not the same configs."""
  places = {}
  for claim in CLAIMS:
    preset = re.search(r'--preset=(\S+)', claim.command)
    workdir = re.search(r'--workdir=(\S+)', claim.command)[1]
    places.setdefault(workdir, set()).add(preset and preset[1])
  assert all(len(presets) == 1 for presets in places.values())


def test_a_gaussian_without_contexts_decides_nothing_of_conditional_models():
  row = row_of_figure_4()
  panels = {'ConvDRAW': True, 'Conditional ConvDRAW': None}
  for panel, holds in panels.items():
    (finding,) = figure_4_findings.gaussian({'a': {**row, 'panel': panel}})
    assert finding.holds is holds


def test_a_lost_run_leaves_the_gaussian_rates_at_their_kappas():
  row = row_of_figure_4()
  kappas = row['gaussian']['kappas']
  rates = [2.0**place for place in range(len(kappas))]
  row['gaussian'] = {'kappas': kappas, 'rate_nats': rates}
  (whole,) = figure_4_findings.gaussian({'mnist': row})
  kept = [run for run in row['runs'] if run['kappas'].get('re') != 0.1]
  (part,) = figure_4_findings.gaussian({'mnist': {**row, 'runs': kept}})
  ratios = whole.ours.split(', ')
  del ratios[kappas.index(0.1)]
  assert part.ours.split(', ') == ratios and len({*ratios}) == len(ratios)


def test_a_marginal_kl_within_its_error_bounds_the_ratio():
  def row(geco):
    kls = {'elbo': (145.4, 0.2), 'geco': (geco, 0.01)}
    record = {
      name: {
        'marginal_kl_nats': kl,
        'marginal_kl_error_nats': error,
        'average_kl_nats': kl + 10,
        'ln_n_nats': 10.7,
        'evaluation': {'rmse': 0.1},
      }
      for name, (kl, error) in kls.items()
    }
    ratio = table_2._ratio(record['elbo'], record['geco'])
    return {'data': 'cifar10', 'steps': 10, **record, **ratio}

  for geco in (-0.02, 0.0, 0.019):
    *_, ratio = findings.table_2({'cifar10': row(geco)})
    assert (ratio.ours, ratio.holds) == ('> 7270.0', True)
  *_, ratio = findings.table_2({'cifar10': row(14.54)})
  assert (ratio.ours, ratio.holds) == ('10.0', False)
  bound = {**row(-0.02), 'ratio': 10.0}  # It may be more than the paper's 16.
  *_, ratio = findings.table_2({'cifar10': bound})
  assert (ratio.ours, ratio.holds) == ('> 10.0', None)


def test_a_failed_claim_is_said_plainly_with_where_its_numbers_are_from(
  tmp_path,
):
  (tmp_path / 'made.json').write_text(
    '{"preset": "quick", "device": "CPU", "num_cores": 2, "runs": '
    '[{"steps": 100, "seed": 0}, {"steps": 100, "seed": 1}]}'
  )

  def check(content):
    del content
    yield findings.Finding('KL', 'below 1', '2', False)
    yield findings.Finding('RMSE', '0.1', '0.1', True)
    yield findings.Finding('kappa', '0.1', '0.1', True, 'met')
    yield findings.Finding('kappa', '0.1', '0.2', False, 'violated')
    yield findings.Finding('kappa', '0.1', '0.3', None, 'infeasible')
    yield findings.Finding('mean', 'below 1', '1.0', None, 'tie')

  claim = Claim('Made', 'KL is low.', 'made.json', 'python -m made', check)
  text = results_page.page(str(tmp_path), [claim])
  assert '| KL | below 1 | 2 | **does not hold** |' in text
  assert '| RMSE | 0.1 | 0.1 | holds |' in text
  assert '| kappa | 0.1 | 0.1 | met |' in text
  assert '| kappa | 0.1 | 0.2 | **violated** |' in text
  assert '| kappa | 0.1 | 0.3 | infeasible |' in text
  assert '| Made | 2 of 4, 1 tie |' in text
  assert 'preset: quick, device: CPU, cores: 2, steps: 100, seeds: 0, 1' in text


FIGURE_4 = (
  figure_4_findings.kl,
  figure_4_findings.nll,
  figure_4_findings.monotone,
  figure_4_findings.met,
  figure_4_findings.gaussian,
)


def test_where_the_elbo_rests_is_told_by_the_multipliers():
  row = row_of_figure_4()
  (finding,) = figure_4_findings.rest({'mnist': row})
  # 2 kappa^2 40 at the paper's kappas, smallest first, and all above 0.03.
  assert finding.ours == '0.288, 0.512, 0.8, 1.25, 2.45; 0.0300'
  assert finding.holds is False
  for run in row['runs'][2:]:
    run['evaluation']['constraints']['re']['multiplier'] = 10.0
  (finding,) = figure_4_findings.rest({'mnist': row})
  assert finding.ours == '0.072, 0.128, 0.2, 0.312, 0.612; 0.0300'
  assert finding.holds is True


@pytest.mark.parametrize('check', FIGURE_4)
def test_claims_of_figure_4_hold_where_they_should(check):
  assert verdicts(check({name: row_of_figure_4() for name in ROWS})) == [
    True
  ] * len(ROWS)


def test_claims_of_figure_4_fail_where_they_should():
  dear = {'mnist': row_of_figure_4(scale=20.0)}  # 1,000 nats at kappa 0.06.
  assert verdicts(figure_4_findings.kl(dear)) == [False]
  assert verdicts(figure_4_findings.gaussian(dear)) == [False]
  worse = {'mnist': row_of_figure_4()}
  evaluations = [run['evaluation'] for run in worse['mnist']['runs']]
  evaluations[0]['nll_nats_per_dim'] = 5.0
  evaluations[2]['kl_nats'] = 1e3  # At the largest kappa.
  evaluations[3]['constraints']['re']['verdict'] = 'violated'
  assert verdicts(figure_4_findings.nll(worse)) == [False]
  assert verdicts(figure_4_findings.monotone(worse)) == [False]
  assert verdicts(figure_4_findings.met(worse)) == [False]


def test_what_reconstructs_better_than_the_elbo_is_not_compared_with_it():
  row = row_of_figure_4()
  elbo = row['runs'][0]
  elbo['evaluation'] |= {'rmse': 0.09, 'kl_nats': 35.0, 'nll_nats_per_dim': 1.5}
  (finding, *_) = figure_4_findings.kl({'mnist': row})
  # 35 nats over 50, 37.5, 30, 24 and 17.
  assert finding.ours == '(0.7x), (0.933x), 1.17x, 1.46x, 2.04x'
  assert finding.holds
  (finding,) = figure_4_findings.nll({'mnist': row})
  # 4 + log kappa.
  assert finding.ours == '1.500, (1.187), (1.474), 1.697, 1.921, 2.257'
  assert finding.holds
  elbo['evaluation']['rmse'] = 0.2
  (finding, *_) = figure_4_findings.kl({'mnist': row})
  assert finding.holds is None
  (finding,) = figure_4_findings.nll({'mnist': row})
  assert finding.holds is None


def test_a_run_at_the_error_of_the_elbo_is_compared_and_a_tie_is_no_win():
  assert findings.is_comparable(0.1, 0.1)
  row = row_of_figure_4()
  gecos = [run['evaluation'] for run in row['runs'][2:]]
  row['runs'][0]['evaluation'] = gecos[-1]  # The ELBO's is that at 0.06.
  (finding,) = figure_4_findings.nll({'mnist': row})
  assert '(' not in finding.ours
  assert finding.holds is False


def test_figures_compare_a_run_with_the_elbo_at_no_smaller_error():
  def run(name, objective, rmse, kl, **kappas):
    evaluation = {'rmse': rmse, 'kl_nats': kl}
    return {
      'run': name,
      'data': 'celeb_a',
      'objective': objective,
      'kappas': kappas,
      'evaluation': evaluation,
    }

  runs = [
    run('elbo', 'elbo', 0.05, 500.0),
    run('better', 'geco', 0.04, 700.0, re=0.04),
    run('worse', 'geco', 0.1, 100.0, re=0.1),
    run('dear', 'geco', 0.1, 1000.0, fre=0.5),
  ]
  lines = [*findings.kl_of_runs({'runs': runs})]
  assert [finding.holds for finding in lines] == [None, True, False]
  assert [finding.ours for finding in lines] == [
    '(700.0, 1.4x above)',
    '100.0 (5x below)',
    '1000.0 (2x above)',
  ]
  assert 'worse, RMSE 0.1000: KL in nats; of the ELBO 500.0 at RMSE 0.0500' == (
    lines[1].what
  )


def test_an_infeasible_kappa_does_not_count_and_is_told():
  row = row_of_figure_4()
  run = row['runs'][-1]  # Kappa 0.06.
  report = run['evaluation']['constraints']['re']
  report |= {'violation': 0.5, 'verdict': 'infeasible'}
  (finding,) = figure_4_findings.met({'mnist': row})
  assert finding.holds
  assert finding.ours.count('infeasible') == 1
  assert finding.ours.startswith('+50.0% (infeasible), ')


def test_a_row_of_figure_4_needs_one_kappa_that_is_met():
  row = row_of_figure_4()
  for run in row['runs'][2:]:
    run['evaluation']['constraints']['re']['verdict'] = 'infeasible'
  (finding,) = figure_4_findings.met({'mnist': row})
  assert finding.holds is False
  run['evaluation']['constraints']['re']['verdict'] = 'met'
  (finding,) = figure_4_findings.met({'mnist': row})
  assert finding.holds is True


def test_seeds_of_figure_4_are_told_with_their_spread():
  content = {'mnist': row_of_figure_4(seeds=(0, 1, 2))}
  (first, *_) = figure_4_findings.kl(content)
  assert '3 seeds: ELBO (rest not known) 1800.0 ± 900.0 nats' in first.what
  (finding,) = figure_4_findings.monotone(content)
  assert finding.holds
  assert finding.ours.startswith('100.0 ± 50.0, ')


@pytest.mark.parametrize(
  ('distances', 'expected'),
  [
    ((5.0, 3.0, 4.0, 3.0, 2.0, 1.0), [True]),
    ((5.0, 3.0, 5.5, 3.0, 2.0, 1.0), [False]),
    ((5.0, 3.0, 4.0, 3.0, 2.0, None), []),
    ((None, 3.0, 4.0, 3.0, 2.0, 1.0), []),
  ],
)
def test_samples_of_figure_4_are_compared_where_measured(distances, expected):
  row = row_of_figure_4()
  elbo, _, *gecos = row['runs']
  for run, distance in zip([elbo, *gecos], distances, strict=True):
    if distance is not None:
      others = {'reconstructions': distance / 2, 'train': 0.25}
      run['sample_quality'] = {'frechet': {'samples': distance, **others}}
  lines = [*figure_4_findings.frechet({'celeb_a': row})]
  absent = [line.what for line in lines if line.verdict == 'not measured']
  assert absent == [n for n in ROWS if n != 'celeb_a' or not expected]
  lines = [line for line in lines if line.what not in absent]
  assert verdicts(lines) == expected
  for reconstructions in lines[1:]:
    assert reconstructions.ours.startswith('2.5, ')
    assert reconstructions.ours.endswith('; 0.25')
  row['runs'] = [elbo]
  lines = [*figure_4_findings.frechet({'celeb_a': row})]
  assert [line.what for line in lines] == [*ROWS]
  wanted = '`--only=celeb_a --network=NETWORK`'
  assert wanted in [line.ours for line in lines]


def test_infeasible_runs_are_no_match_for_the_gaussian_at_their_kappa():
  """They are not at that kappa."""
  row = row_of_figure_4()
  gecos = [run for run in row['runs'] if run['objective'] == 'geco']
  rates = {
    k: 2 * r['evaluation']['kl_nats']
    for k, r in ((run['kappas']['re'], run) for run in gecos)
  }
  row['gaussian'] = {
    **row['gaussian'],
    'kappas': [*rates],
    'rate_nats': [*rates.values()],
  }
  (finding,) = figure_4_findings.gaussian({'mnist': row})
  assert (finding.ours, finding.holds) == (', '.join(['0.50'] * 5), True)
  (tightest,) = (run for run in gecos if run['kappas']['re'] == min(rates))
  tightest['evaluation']['kl_nats'] *= 4
  (finding,) = figure_4_findings.gaussian({'mnist': row})
  assert finding.holds is False
  report = tightest['evaluation']['constraints']['re']
  report['verdict'] = 'infeasible'
  (finding,) = figure_4_findings.gaussian({'mnist': row})
  assert finding.ours == ', '.join(['(2.00)', *['0.50'] * 4])
  assert finding.holds is True


def test_rows_of_figure_4_without_an_elbo_or_geco_are_passed_over():
  row = row_of_figure_4()
  elbo, _, *gecos = row['runs']
  longer = [{**elbo, 'steps': 9 * elbo['steps']}, *gecos]
  seeds = [*({**elbo, 'seed': seed} for seed in (2, 0, 1)), *gecos]
  # One kappa alone has another seed.
  seed = [elbo, *gecos, {**gecos[0], 'seed': 1}]
  missing = 'not run yet: `--only=mnist --objectives=elbo,geco`'
  for kept, reason in (
    ([elbo], missing),
    (gecos, missing),
    ([], missing),
    (
      longer,
      'ELBO took 18000 steps (seed 0), GECO 2000 steps (seed 0): not compared',
    ),
    (
      seeds,
      'ELBO took 2000 steps (seed 0, 1, 2), GECO 2000 steps (seed 0): not '
      'compared',
    ),
    (
      seed,
      'ELBO took 2000 steps (seed 0), GECO 2000 steps (seed 0, 1): not '
      'compared',
    ),
  ):
    content = {'mnist': {**row, 'runs': kept}}
    lines = [*figure_4_findings.kl(content)]
    assert len(lines) == len(ROWS)
    assert reason in [line.ours for line in lines if line.what == 'mnist']
    for check in FIGURE_4:
      needs_both = check in (figure_4_findings.kl, figure_4_findings.nll)
      expected = [True] if kept not in ([], [elbo]) and not needs_both else []
      assert verdicts(check(content)) == expected


def test_steps_are_those_of_the_runs_that_are_compared():
  row = row_of_figure_4()
  annealed = row['runs'][1]
  assert annealed['objective'] == 'annealed_beta'
  annealed['steps'] = 24_000
  (finding, *_) = figure_4_findings.kl({'mnist': row})
  assert finding.what.startswith(
    'mnist, 2000 steps: ELBO (rest not known) 900.0 nats'
  )


def test_one_kappa_is_no_fall():
  row = row_of_figure_4()
  row['runs'] = row['runs'][:3]
  (finding,) = figure_4_findings.monotone({'mnist': row})
  assert finding.holds is None
  report = {'violation': 0.0, 'verdict': 'met', 'tolerance': 0.02}

  def swept(kappa, kl_nats):
    evaluation = {'kl_nats': kl_nats, 'constraints': {'re': report}}
    return {'kappa': kappa, 'infeasible': [], 'evaluation': evaluation}

  one, two, three = swept(0.1, 9.0), swept(0.2, 8.0), swept(0.3, 8.5)
  for content, expected in (
    ([one], [True]),
    ([one, two], [True, True]),
    ([one, two, three], [True, False]),
  ):
    assert verdicts(findings.sweep(content)) == expected


def test_rows_of_figure_4_that_lack_are_named():
  lines = [*figure_4_findings.kl({'mnist': row_of_figure_4()})]
  assert len(lines) == len(ROWS)
  missing = 'not run yet: `--only=cifar10 --objectives=elbo,geco`'
  (line,) = [finding for finding in lines if finding.what == 'cifar10']
  assert (line.ours, line.holds, line.verdict) == (missing, None, 'not run')


def test_seeds_of_figure_5_of_different_steps_have_no_mean():
  def row(seed, steps):
    run = {
      'seed': seed,
      'steps': steps,
      'evaluation': {'rmse': 0.03, 'kl_nats': 100.0},
    }
    return {'runs': [run, run]}

  name = 'digits until rest'
  rows = {name: row(0, 400), f'{name}, seed 1': row(1, 800)}
  *_, last = findings.figure_5(rows)
  assert (last.what, last.ours) == (name, 'seeds of different steps: no mean')
  assert last.holds is None
  rows[f'{name}, seed 1'] = row(1, 400)
  *_, last = findings.figure_5(rows)
  assert '2 seeds' in last.what


def test_an_annealed_beta_is_compared_like_the_elbo():
  row = row_of_figure_4()
  _, annealed, *gecos = row['runs']
  assert annealed['objective'] == 'annealed_beta'
  annealed['rested'] = False
  first, *others = figure_4_findings.annealed({'mnist': row})
  kl = annealed['evaluation']['kl_nats']
  assert f'annealed beta (not at rest) {kl:.1f} nats' in first.what
  ratios = sorted(kl / run['evaluation']['kl_nats'] for run in gecos)
  assert first.ours == ', '.join(f'{ratio:.3g}x' for ratio in ratios)
  assert first.holds is (min(ratios) > 1)
  missing = 'not run yet: `--only=cifar10 --objectives=annealed_beta,geco`'
  assert missing in [finding.ours for finding in others]
  gecos[0]['evaluation']['kl_nats'] = 2 * kl
  (first, *_) = figure_4_findings.annealed({'mnist': row})
  assert first.holds is False


def test_the_overview_counts_what_was_not_run(tmp_path):
  (claim,) = [claim for claim in CLAIMS if claim.title == 'Figure 4: the KL']
  (tmp_path / claim.file).write_text(json.dumps({'mnist': row_of_figure_4()}))
  page = results_page.page(str(tmp_path), [claim])
  absent = len(ROWS) - 1
  assert f'| Figure 4: the KL | 1 of 1, {absent} not run |' in page
  assert page.count('| not run |') == absent


def run_with_distances(run, objective, samples, **changes):
  """Return a record of a run on CelebA whose samples are at this distance."""
  frechet = {
    **{'network_sha256': 'a', 'layer': 'pooled', 'num_samples': 100},
    **{'samples': samples, 'reconstructions': 0.5, 'train': 0.03},
  }
  return {
    **{'run': run, 'data': 'celeb_a', 'objective': objective, 'kappas': {}},
    'evaluation': {'rmse': 0.03 if objective == 'elbo' else 0.1},
    'sample_quality': {'frechet': frechet, 'importance': None},
    **changes,
  }


def test_distances_of_runs_stand_beside_those_of_the_elbo():
  elbo = run_with_distances('elbo', 'elbo', 8.0)
  geco = run_with_distances('re', 'geco', 3.0, kappas={'re': 0.1})

  def answers(*others):
    content = {'runs': [elbo, *others]}
    return [f.holds for f in findings.samples_of_runs(content)]

  (finding,) = findings.samples_of_runs({'runs': [geco, elbo]})
  assert finding.what.startswith('re: ')
  assert finding.ours == '3, 0.5; 8, 0.5; 0.03'
  assert answers(geco) == [True]
  assert answers(run_with_distances('re', 'geco', 9.0, kappas={'re': 1})) == [
    False
  ]
  # It is trained in such features, reconstructs better, or is no GECO.
  fre = run_with_distances('fre', 'geco', 3.0, kappas={'fre': 0.5})
  better = {**geco, 'evaluation': {'rmse': 0.02}}
  annealed = run_with_distances('annealed', 'annealed_beta', 3.0)
  assert answers(fre, better, annealed) == [None] * 3


def test_distances_are_not_compared_that_were_measured_differently():
  elbo = run_with_distances('elbo', 'elbo', 8.0)
  geco = run_with_distances('re', 'geco', 3.0, kappas={'re': 0.1})
  unmeasured = {k: v for k, v in geco.items() if k != 'sample_quality'}
  assert not [*findings.samples_of_runs({'runs': [elbo, unmeasured]})]
  assert not [*findings.samples_of_runs({'runs': [geco]})]
  for name, value in (('network_sha256', 'b'), ('num_samples', 200)):
    frechet = {**geco['sample_quality']['frechet'], name: value}
    other = {**geco, 'sample_quality': {'frechet': frechet, 'importance': None}}
    (finding,) = findings.samples_of_runs({'runs': [elbo, other]})
    assert (finding.verdict, finding.holds) == ('not measured', None)


def test_nlls_of_as_many_images_stand_beside_that_of_the_elbo():
  runs = [
    run_with_distances('elbo', 'elbo', 8.0),
    run_with_distances('re', 'geco', 3.0, kappas={'re': 0.1}),
  ]
  for run, nll in zip(runs, (1_234.4, 1_100.6), strict=True):
    run['sample_quality']['importance'] = {
      **{'num_images': 100, 'num_draws': 50, 'nll_nats': nll}
    }
  _, finding = findings.samples_of_runs({'runs': runs})
  assert 're: NLL of 100 test images, k = 50' in finding.what
  assert (finding.ours, finding.holds) == ('1101; 1234', None)
  for name, value in (('num_images', 90), ('num_draws', 5_000)):
    changed = copy.deepcopy(runs)
    changed[0]['sample_quality']['importance'][name] = value
    (distance,) = findings.samples_of_runs({'runs': changed})
    assert 'Frechet' in distance.what


@pytest.mark.parametrize(
  ('changed', 'expected'),
  [
    ({}, [True]),
    ({'geco_kl': 301.0}, [False]),
    ({'geco_rmse': 0.0307}, [False, True]),
  ],
)
def test_figure_5_compares_at_equal_rmse(changed, expected):
  content = {'cifar10': row_of_figure_5(**changed)}
  assert verdicts(findings.figure_5(content)) == expected


@pytest.mark.parametrize(
  ('kls', 'expected', 'ours'),
  [
    ((290.0, 280.0, 285.0), True, '0.950, 0.909 to 0.991'),
    ((310.0, 320.0, 315.0), False, '1.050, 1.009 to 1.091'),
    ((310.0, 280.0, 300.0), None, '0.989, 0.862 to 1.115'),
    ((270.0, 270.0, 270.0), True, '0.900, 0.900 to 0.900'),
    ((330.0, 330.0, 330.0), False, '1.100, 1.100 to 1.100'),
    ((300.0, 300.0, 300.0), None, '1.000, 1.000 to 1.000'),
  ],
)
def test_figure_5_is_decided_by_the_mean_over_seeds(kls, expected, ours):
  content = {
    'mnist': row_of_figure_5(geco_kl=kls[0]),
    'mnist, seed 1': row_of_figure_5(geco_kl=kls[1]),
    'mnist, seed 2': row_of_figure_5(geco_kl=kls[2]),
  }
  *single, last = findings.figure_5(content)
  assert [finding.holds for finding in single] == [None, None] * 3
  assert (last.holds, last.ours) == (expected, ours)
  assert last.verdict == ('tie' if expected is None else None)


def test_figure_5_says_whether_its_runs_rest():
  row = row_of_figure_5()
  _, finding = findings.figure_5({'mnist': row})
  assert 'KL of the ELBO, and of GECO, in nats' in finding.what
  for run, rested in zip(row['runs'], (False, True), strict=True):
    run['rested'] = rested
  _, finding = findings.figure_5({'mnist': row})
  assert 'the ELBO (not at rest), and of GECO (at rest), in' in finding.what


def test_figure_8_asks_for_ln_7_and_a_filled_prior():
  def run(name, average, marginal):
    kl = {'average_kl_nats': average, 'marginal_kl_nats': marginal}
    return {
      'run': f'micro_mnist_nvp_{name}',
      'marginal': {'ln_n_nats': 1.9459, **kl},
    }

  good = [
    run('elbo', 9.0, 7.0),
    run('geco_re_0.05', 1.97, 0.04),
    run('geco_re_0.5', 0.01, 0.0),
  ]
  assert verdicts(findings.figure_8({'digits': {'runs': good}})) == [True] * 4
  bad = [good[0], run('geco_re_0.05', 2.2, 8.0), run('geco_re_0.5', 3.0, 0.0)]
  assert verdicts(findings.figure_8({'digits': {'runs': bad}})) == [False] * 4


def test_table_2_compares_with_the_papers_ratio():
  def run(kl, error, information, rmse):
    return {
      'marginal_kl_nats': kl,
      'marginal_kl_error_nats': error,
      'average_kl_nats': kl + information,
      'ln_n_nats': 11.002,
      'evaluation': {'rmse': rmse},
    }

  def row(elbo, geco):
    return {
      'data': 'color_mnist',
      'steps': 1_000,
      'elbo': run(elbo, 0.23, 11.002, 0.05),
      'geco': run(geco, 0.037, 9.28, 0.17),
      'ratio': elbo / geco,
    }

  assert verdicts(findings.table_2({'color_mnist': row(200, 10)})) == [
    True,
    True,
  ]
  lines = [*findings.table_2({'color_mnist': row(200, 20)})]
  assert ', at RMSE 0.050 and 0.170;' in lines[0].what
  assert lines[0].ours == '200.0 ± 0.2, 20.00 ± 0.04'
  assert lines[1].ours == '11.00, 9.28; 11.00'
  assert verdicts(lines) == [True, False]
  assert (lines[2].paper, lines[2].ours) == ('17.7', '10.0')


@pytest.mark.parametrize(
  ('value', 'error', 'text'),
  [
    (145.433, 0.465, '145.4 ± 0.5'),
    (0.1229, 0.0161, '0.12 ± 0.02'),
    (20.0, 3.2, '20 ± 3'),
    (7.0, 0.0, '7.0 ± 0.0'),
  ],
)
def test_a_value_is_said_to_the_first_digit_of_its_error(value, error, text):
  assert findings.with_error(value, error) == text


@pytest.mark.parametrize('accurate', [True, False])
def test_a_rate_is_accurate_where_its_run_says_so(accurate):
  run = {
    'update': 'geco',
    'distortion': 0.1,
    'kl_error': 0.2,
    'multiplier_error': 0.3,
    'accurate': accurate,
  }
  (finding,) = findings.rate_distortion({'runs': [run]})
  assert finding.holds is accurate
  assert finding.ours == '1.2000, 1.3000'


@pytest.mark.parametrize(('share', 'holds'), [(0.95, True), (0.6, False)])
def test_arithmetic_wants_nine_samples_in_ten_right(share, holds):
  content = {
    'num_contexts': 10,
    'samples_right': share,
    'real_targets_right': 1.0,
  }
  (finding,) = findings.arithmetic(content)
  assert finding.holds is holds


def test_figure_3_wants_validity_first_and_a_falling_kl_after():
  curve = {
    'step': [100, 200, 300, 400],
    'rmse': [0.2, 0.1, 0.09, 0.1],
    'kl_nats': [1.0, 30.0, 20.0, 12.0],
    'beta': [1.0, 0.01, 0.02, 0.05],
  }
  content = {'dataset': 'made', 'kappa': 0.1, 'curve': curve}
  assert verdicts(findings.figure_3(content)) == [True] * 4
  late = {**curve, 'rmse': [0.2, 0.2, 0.2, 0.11], 'kl_nats': [1, 2, 3, 4]}
  late['beta'] = [1.0, 0.5, 0.2, 0.1]
  assert verdicts(findings.figure_3({**content, 'curve': late})) == [False] * 4


def test_constraints_that_are_out_of_reach_do_not_count():
  def run(kappa, violation, infeasible):
    report = {
      'kappa': kappa,
      'value': kappa,
      'unit': 'RMSE',
      'violation': violation,
      'holds': violation <= 0.02,
    }
    return {
      'run': 'made',
      'steps': 300,
      'kappas': {'re': kappa},
      'infeasible': infeasible,
      'evaluation': {'constraints': {'re': report}},
    }

  content = {
    'runs': [
      run(0.1, 0.01, []),
      run(0.1, 0.5, []),
      run(1e-4, 9.0, ['constraint re is infeasible in this run: ...']),
    ]
  }
  lines = [*findings.constraints_of_runs(content)]
  assert [finding.holds for finding in lines] == [True, False, None]
  words = [finding.verdict for finding in lines]
  assert words == ['met', 'violated', 'infeasible']
  assert all(f.what.startswith('made, 300 steps: re, RMSE') for f in lines)


@pytest.mark.parametrize('verdict', ['met', 'violated', 'infeasible'])
def test_conv_draw_s_runs_have_the_verdict_of_their_evaluation(verdict):
  report = {'kappa': 0.1, 'violation': 0.5, 'verdict': verdict}
  evaluation = {'rmse': 0.12, 'kl_nats': 9.0, 'constraints': {'re': report}}
  runs = [{'config': 'quick', 'evaluation': {**evaluation, 'step': 70}}]
  (finding,) = findings.conv_draw({'runs': runs})
  assert finding.what == 'quick, 70 steps: RMSE'
  assert (finding.verdict, finding.holds) == (verdict, verdict == 'met')


def test_figure_2_wants_points_to_merge_and_the_last_transition_in_place():
  def content(counts, ratio, proxy_ratio=1.0):
    return {
      'panels': [
        {'beta': beta, 'distinct_fixed_points': n, 'squared_error': beta}
        for beta, n in zip([0.01, 0.02, 0.04], counts, strict=True)
      ],
      'last_transition': {
        'lines': {'ratio': ratio, 'proxy_ratio': proxy_ratio}
      },
    }

  good, bad = content([20, 4, 1], 1.02), content([20, 4, 5], 1.06)
  assert verdicts(theory_findings.figure_2(good)) == [True, True, True]
  assert verdicts(theory_findings.figure_2(bad)) == [False, True, False]
  skewed = content([20, 4, 1], 1.06, proxy_ratio=1.06)
  assert verdicts(theory_findings.figure_2(skewed)) == [True, True]


def test_figure_2_wants_fewer_points_and_larger_errors():
  def findings_at(counts, errors):
    panels = [
      {'beta': beta, 'distinct_fixed_points': count, 'squared_error': error}
      for beta, count, error in zip([0.1, 0.2], counts, errors, strict=True)
    ]
    content = {'panels': panels, 'last_transition': {}}
    return verdicts(theory_findings.figure_2(content))

  assert findings_at([4, 1], [0.1, 0.2]) == [True, True]
  assert findings_at([4, 4], [0.2, 0.1]) == [False, False]


def test_figure_7_judges_constrained_slopes_alone():
  panels = [
    {
      'data': 'lines',
      'constraint': 'local',
      'beta': 0.01,
      'lipschitz': bound,
      'largest_slope': slope,
      'largest_slope_anywhere': slope,
    }
    for bound, slope in ((None, 50.0), (1.0, 1.005), (1.0, 1.2))
  ]
  lines = theory_findings.figure_7({'panels': panels})
  assert verdicts(lines) == [True, False]


@pytest.mark.parametrize(('slope', 'holds'), [(1.04, True), (1.06, False)])
def test_figure_7_allows_slopes_five_percent_above_the_bound(slope, holds):
  panel = {
    'data': 'lines',
    'constraint': 'local',
    'beta': 0.01,
    'largest_slope': slope,
    'largest_slope_anywhere': slope,
  }
  panels = [{**panel, 'lipschitz': bound} for bound in (None, 1.0)]
  (finding,) = theory_findings.figure_7({'panels': panels})
  assert finding.holds is holds


@pytest.mark.parametrize(
  ('reconstruction', 'gradient', 'expected'),
  [([0.25], 0.0, [True]), ([0.3], 1e-9, [False, False])],
)
def test_figure_1_wants_the_average_and_no_gradient_in_the_hole(
  reconstruction, gradient, expected
):
  content = {
    'overlap_weights': [0.75, 0.25],
    'overlap_data': [[0.0], [1.0]],
    'overlap_reconstruction': reconstruction,
    'hole_gradient': gradient,
    'masses': [0.5, 0.5],
    'average_kl_nats': 0.5,
    'least_kl_nats': 0.7,
  }
  assert verdicts(theory_findings.figure_1(content)) == expected


@pytest.mark.parametrize('holds', [True, False])
def test_a_proposition_holds_where_its_file_says_so(holds):
  claim = {
    'proposition': 1,
    'what': 'error',
    'expected': '|x| = 1',
    'measured': 1.0,
    'holds': holds,
  }
  (finding,) = theory_findings.propositions({'claims': [claim]})
  assert finding.holds is holds
  assert finding.paper == r'\|x\| = 1'  # In a cell of a table.


def test_a_folder_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(UserError, match='nowhere is no folder'):
    results_page.page(str(tmp_path / 'nowhere'))


def test_what_stays_as_it_is_does_not_fall():
  assert findings.falls([3.0, 2.0, 1.0])
  for values in ([3.0, 2.0, 2.0], [3.0, 1.0, 2.0]):
    assert findings.falls(values) is False


def test_an_average_kl_far_below_ln_7_is_no_tight_fit():
  def run(name, average):
    kl = {'average_kl_nats': average, 'marginal_kl_nats': 0.0}
    marginal = {'ln_n_nats': 1.9459, **kl}
    return {'run': f'micro_mnist_nvp_{name}', 'marginal': marginal}

  runs = [run('elbo', 9.0), run('geco_re_0.05', 1.5), run('geco_re_0.5', 0.0)]
  first, *_ = findings.figure_8({'digits': {'runs': runs}})
  assert first.what.startswith('digits: average KL at kappa 0.05')
  assert first.holds is False


@pytest.mark.parametrize(('marginal', 'holds'), [(0.09, True), (0.2, False)])
def test_tiles_are_tight_where_the_marginal_kl_is_below_a_tenth(
  marginal, holds
):
  names = ('elbo', 'geco_re_0.05', 'geco_re_0.5')
  kl = {'average_kl_nats': 1.9, 'marginal_kl_nats': marginal}
  runs = [
    {'run': f'micro_mnist_nvp_{name}', 'marginal': {'ln_n_nats': 1.9, **kl}}
    for name in names
  ]
  _, finding, *_ = findings.figure_8({'digits': {'runs': runs}})
  assert 'marginal KL at kappa 0.05' in finding.what
  assert finding.holds is holds


def test_of_a_sweep_the_largest_violation_is_told_whatever_its_kappa():
  def row(kappa, violation, kl_nats):
    report = {'violation': violation, 'holds': violation <= 0.02}
    evaluation = {'constraints': {'re': report}, 'kl_nats': kl_nats}
    return {'kappa': kappa, 'infeasible': [], 'evaluation': evaluation}

  rows = [row(0.06, 0.5, 9.0), row(0.08, 0.01, 8.0), row(0.1, -0.1, 7.0)]
  for content in (rows, rows[1:] + rows[:1]):
    first, _ = findings.sweep(content)
    assert (first.ours, first.holds) == ('+50.00%', False)


@pytest.mark.parametrize(
  ('geco_rmse', 'holds'),
  [(0.0293, False), (0.0295, None), (0.0305, None), (0.0307, False)],
)
def test_figure_5_wants_an_rmse_neither_larger_nor_smaller(geco_rmse, holds):
  first, *_ = findings.figure_5({'mnist': row_of_figure_5(geco_rmse=geco_rmse)})
  assert first.holds is holds
