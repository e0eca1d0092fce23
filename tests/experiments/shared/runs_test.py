"""Runs that experiments share, and the panels that show them."""

from concurrent import futures
import json
import os
import shutil
import types

from absl import flags
import numpy as np
from PIL import Image
import pytest

from experiments import constraint_table
from experiments import figure_6
from experiments import figure_9
from experiments import figure_10
from experiments import figure_11
from experiments.shared import panels
from experiments.shared import runs
from experiments.shared.runs import Run
from geco_jax.errors import UserError
from geco_jax.evaluation import sample_quality
from geco_jax.evaluation.checkpoints import evaluate
from geco_jax.io import files
from geco_jax.sweep import local
from geco_jax.sweep import throughput
from geco_jax.training.loop import train
from tests.small_networks import save_classifier

FIGURES = (figure_6, figure_9, figure_10, figure_11)
RUNS = (
  Run('digits', 'elbo', model='vae'),
  Run('digits', 'geco', {'re': 0.3, 'pncc': 0.4}, 'vae'),
)


@pytest.mark.parametrize('preset', panels.PRESETS)
def test_every_panel_has_a_config_at_its_kappas(preset):
  for run in {run.name: run for f in FIGURES for run in f.PANELS}.values():
    config = run.config(preset, num_steps=300)
    assert config.num_steps == 300
    asked = {k: v.kappa for k, v in config.constraints.items()}
    assert asked == (run.kappas or {'nll': 0.0})


def test_the_panels_are_the_papers():
  """Every figure has the ELBO, and GECO+RE below and above the default."""
  for figure in FIGURES:
    objectives = {run.objective for run in figure.PANELS}
    assert {'elbo', 'geco'} <= objectives
    assert ('annealed_beta' in objectives) == (figure is not figure_6)
  named = {name for f in FIGURES for run in f.PANELS for name in run.kappas}
  assert named == {'re', 'fre', 'pncc'}


@pytest.mark.parametrize('data', ['digits', 'mnist'])
def test_every_run_of_the_constraint_table_has_a_config(data):
  for kappas in constraint_table.ROWS.values():
    config = Run(data, 'geco', kappas, 'vae').config()
    assert {k: v.kappa for k, v in config.constraints.items()} == kappas


def test_names_and_titles_tell_runs_apart():
  assert [run.name for run in RUNS] == [
    'digits_vae_elbo',
    'digits_vae_geco_re_0.3_pncc_0.4',
  ]
  assert RUNS[0].title == 'ELBO'
  assert RUNS[1].title == r'GECO+RE $\kappa$=0.3+pNCC $\kappa$=0.4'


def test_only_another_seed_than_0_stands_in_the_name():
  assert RUNS[0]._replace(seed=3).name == 'digits_vae_elbo_seed_3'
  assert RUNS[0]._replace(seed=3).config().seed == 3


def test_seeds_are_counted_from_the_first_that_is_given(monkeypatch):
  given = types.SimpleNamespace(seed=3, num_seeds=2)
  monkeypatch.setattr(flags, 'FLAGS', given)
  seeded = runs.with_seeds(RUNS)
  assert [(run.objective, run.seed) for run in seeded] == [
    *(('elbo', 3), ('elbo', 4), ('geco', 3), ('geco', 4))
  ]


def test_changes_are_by_dotted_name_and_steps_come_last():
  changes = {'model.kwargs.latent_size': 2, 'num_steps': 500}
  assert RUNS[0].config(changes=changes).num_steps == 500
  config = RUNS[0].config(num_steps=700, changes=changes)
  assert config.num_steps == 700
  assert config.learning_rate.kwargs.decay_steps == 700
  assert config.model.kwargs.latent_size == 2


def test_runs_that_differ_in_kappa_or_seed_share_one_experiment(
  tmp_path, monkeypatch, count_builds
):
  trained = []

  def run_here(grid, workdir, choose_width, *, splits, experiments):
    del workdir, splits
    trained.extend(point.name for point in grid)
    assert choose_width is throughput.in_turn  # On a CPU.
    assert len(experiments) == 2
    return {}

  monkeypatch.setattr(local, 'run_here', run_here)
  monkeypatch.setattr(
    runs,
    'restore_state',
    lambda _, experiment: types.SimpleNamespace(params=experiment),
  )
  monkeypatch.setattr(
    runs, 'final_evaluation', lambda *_: {'constraints': {}, 'step': 1}
  )
  monkeypatch.setattr(runs, 'read_metrics', lambda _: {})
  kinds = [
    Run('digits', 'geco', {'re': kappa}, 'vae', seed)
    for kappa in (0.1, 0.2)
    for seed in (0, 1)
  ]
  asked = [*kinds, RUNS[0], kinds[0]]
  results = runs.train_all(asked, str(tmp_path), num_steps=100)
  assert [result.run for result in results] == asked
  assert trained == [run.name for run in asked[:-1]]  # Each once.
  assert len(count_builds) == 2
  assert [r.experiment is results[0].experiment for r in results] == [
    *[True] * 4,
    False,
    True,
  ]
  assert all(result.params() is result.experiment for result in results)


def test_an_evaluation_that_was_removed_is_missed_in_a_sentence(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(local, 'run_here', lambda *_, **__: {})
  with pytest.raises(UserError, match='has lost its evaluation'):
    runs.train_all(RUNS[:1], str(tmp_path), num_steps=100)


def test_on_an_accelerator_several_runs_are_trained_at_once(monkeypatch):
  assert throughput.on_accelerators('runs') is throughput.in_turn
  monkeypatch.setattr('geco_jax.parallel.on_accelerator', lambda: True)
  monkeypatch.setattr(throughput, 'remembered_width', lambda w: f'at {w}')
  assert throughput.on_accelerators('runs') == 'at runs'


def test_a_failing_run_is_named_when_the_others_are_finished(
  tmp_path, monkeypatch
):
  def train(config, workdir, **kwargs):
    del workdir, kwargs
    trained.append(config.seed)
    if config.seed < 2:
      raise UserError(f'the loss is not finite at step {config.seed}')

  trained = []
  monkeypatch.setattr('geco_jax.training.loop.train', train)
  monkeypatch.setattr(local, 'evaluate', lambda *_, **__: None)
  seeds = [RUNS[0]._replace(seed=seed) for seed in (0, 1, 2)]
  with pytest.raises(UserError) as refusal:
    runs.train_all(seeds, str(tmp_path), num_steps=100)
  assert trained == [0, 1, 2]
  for run in seeds[:2]:
    reason = f'the loss is not finite at step {run.seed}'
    assert f'{run.name} failed: {reason} (see ' in str(refusal.value)
  assert seeds[2].name not in str(refusal.value)


@pytest.mark.parametrize('content', ['', '[]', '{"runs"'])
def test_damaged_numbers_are_not_overwritten(content, tmp_path):
  path = tmp_path / 'table.json'
  path.write_text(content)
  with pytest.raises(UserError, match='table.json is damaged.*move it away'):
    runs.save_row(str(path), 'digits', {})
  assert path.read_text() == content


@pytest.mark.parametrize(
  'content',
  [
    {'digits': 3},
    {'digits': {'runs': [3]}},
    {'digits': {'runs': [{'kl': 1.0}]}},
    {'preset': 'quick', 'runs': [{'kl': 1.0}]},
  ],
)
def test_numbers_of_another_form_are_damaged(content, tmp_path):
  path = tmp_path / 'table.json'
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match='table.json is damaged.*move it away'):
    runs.save_row(str(path), 'digits', {'runs': []}, keep=True)
  assert json.loads(path.read_text()) == content


def test_rows_saved_at_the_same_time_are_all_kept(tmp_path):
  """By processes side by side, as threads here with files of their own."""
  path = str(tmp_path / 'figure_4.json')

  def save(worker):
    for row in range(20):
      runs.save_row(path, f'{worker} {row}', {'row': row})

  with futures.ThreadPoolExecutor(4) as pool:
    [*pool.map(save, range(4))]
  assert len(json.loads((tmp_path / 'figure_4.json').read_text())) == 80
  assert os.listdir(tmp_path) == ['figure_4.json']


def test_runs_are_trained_once_told_and_drawn(tmp_path, draw_once):
  results = runs.train_all(RUNS, str(tmp_path), num_steps=100)
  text = runs.table(results).splitlines()
  assert len(text) == 3
  # The ELBO had no constraint to meet.
  assert (
    text[1].split()[-1] == f'{results[0].evaluation["nll_nats_per_dim"]:.3f}'
  )
  for words in ('re 0.', 'for 0.3', 'pncc 0.', 'for 0.4', 'at lambda'):
    assert words in text[2]
  runs.save_records(str(tmp_path / 'table.json'), results)
  written = json.loads((tmp_path / 'table.json').read_text())
  assert written['device'] and written['num_cores'] > 0
  assert [record['run'] for record in written['runs']] == [r.name for r in RUNS]
  for record in written['runs']:
    assert (record['steps'], record['seed']) == (100, 0)
    assert record['device'] == '1 x cpu'
  table, other = str(tmp_path / 'table.json'), results[0].run._replace(seed=1)
  runs.save_records(table, [results[0]._replace(run=other)], keep=True)
  kept = json.loads((tmp_path / 'table.json').read_text())['runs']
  assert kept[:2] == written['runs']
  assert [run['seed'] for run in kept] == [0, 0, 1]
  panels.figure(results).savefig(tmp_path / 'figure.png', dpi=50)
  assert Image.open(tmp_path / 'figure.png').size[0] > 200
  saved = tmp_path / RUNS[0].name / 'checkpoints' / '100'
  evaluated = tmp_path / RUNS[0].name / 'evaluation.json'
  before = [path.stat().st_mtime_ns for path in (saved, evaluated)]
  distances = {'samples': 3.0, 'reconstructions': 1.0, 'train': 0.5}
  measured = {'step': 100, 'frechet': distances}
  files.write_json(evaluated.parent / 'sample_quality.json', measured)
  again = runs.train_all(RUNS, str(tmp_path), num_steps=100)
  after = [path.stat().st_mtime_ns for path in (saved, evaluated)]
  assert after == before
  assert [r.evaluation for r in again] == [r.evaluation for r in results]
  assert [r.sample_quality for r in again] == [measured, None]
  moved = tmp_path / RUNS[1].name / 'run.json'
  sessions = json.loads(moved.read_text())['sessions']
  card = {**sessions[0], 'device': '1 x NVIDIA H200'}
  files.write_json(str(moved), {'sessions': [card, *sessions, card]})
  with_it, without = runs.records(again)
  assert without['device'] == '1 x NVIDIA H200, 1 x cpu'
  (evaluated.parent / 'run.json').unlink()
  assert 'device' not in runs.records(again)[0]
  assert with_it['sample_quality'] == measured
  assert 'sample_quality' not in without


def test_samples_of_runs_are_measured_by_one_network_in_one_way(
  tiny_config, build_once, tmp_path
):
  config = tiny_config()
  experiment = build_once(config)
  first, second = (str(tmp_path / name) for name in ('first', 'second'))
  train(config, first, experiment=experiment, show_progress=False)
  evaluate(first, ('test',), experiment=experiment, show_progress=False)
  shutil.copytree(first, second)
  results = [
    runs.Result(
      RUNS[0], config, experiment, *({}, [], None, None, None), folder
    )
    for folder in (first, second)
  ]
  network, other = (
    save_classifier(tmp_path / f'{i}', side=4, channels=4, seed=i)
    for i in (1, 2)
  )

  def ways(results):
    for result in results:
      stored = sample_quality.read(result.folder, config.num_steps)
      assert result.sample_quality == stored
    return [
      tuple(
        result.sample_quality['frechet'][name]
        for name in ('network', 'layer', 'num_samples')
      )
      for result in results
    ]

  results = runs.with_sample_quality(results, network, None)
  assert ways(results) == [(network, 'hidden', 13)] * 2
  assert runs.with_sample_quality(results, None, None) == results
  assert runs.with_sample_quality(results, network, None) == results
  # What another network measured is no distance of this one's.
  mixed = runs.with_sample_quality(results[:1], other, None) + results[1:]
  assert ways(mixed) == [(other, 'hidden', 13), (network, 'hidden', 13)]
  assert ways(runs.with_sample_quality(mixed, other, None)) == (
    [(other, 'hidden', 13)] * 2
  )
  fewer = sample_quality.estimate(
    *(first, other), sizes=sample_quality.Sizes(12), experiment=experiment
  )
  one = [results[0]._replace(sample_quality=fewer), results[1]]
  both = runs.with_sample_quality(one, other, None)
  assert ways(both) == [(other, 'hidden', 12)] * 2
  assert both[0] == one[0]
  differing = [both[0], mixed[0]._replace(folder=second)]
  assert ways(runs.with_sample_quality(differing, other, None)) == (
    [(other, 'hidden', 13)] * 2
  )
  with pytest.raises(UserError, match='no trained classifier at'):
    runs.with_sample_quality(results, str(tmp_path / 'nowhere'), None)


def test_runs_at_kappas_that_are_close_have_folders_of_their_own():
  kappas = [0.1, 0.105, 0.1051, 0.125]
  names = {Run('digits', 'geco', {'re': kappa}).name for kappa in kappas}
  assert len(names) == len(kappas)


def test_a_row_replaces_the_one_before_unless_its_runs_are_to_stay(tmp_path):
  path = str(tmp_path / 'figure.json')
  earlier, later = ({'preset': None, 'runs': [{'run': x}]} for x in 'ab')
  runs.save_row(path, 'row', earlier)
  assert runs.save_row(path, 'row', later) == {'row': later}
  kept = runs.save_row(path, 'row', earlier, keep=True)
  assert [record['run'] for record in kept['row']['runs']] == ['b', 'a']
  assert runs.written(path) == kept


def test_a_kept_run_is_the_latest_of_its_name(tmp_path):
  path = str(tmp_path / 'figure.json')

  def row(kl, *names):
    records = [{'run': name, 'kl': kl} for name in names]
    return {'preset': None, 'runs': records}

  runs.save_row(path, 'row', row(1, 'a', 'b'))
  runs.save_row(path, 'row', row(2, 'b', 'c'), keep=True)
  kept = runs.written(path)['row']['runs']
  assert {record['run']: record['kl'] for record in kept} == dict(a=1, b=2, c=2)


@pytest.mark.parametrize('num', [1, 4, 5, 9, 10, 11])
def test_thinned_values_are_at_equal_distances_up_to_the_last(num):
  thinned = runs.thinned(np.arange(num), 4)
  assert 1 <= len(thinned) <= 4
  assert thinned[-1] == num - 1
  assert len({*np.diff(thinned)}) <= 1
