"""The report says what the folders of the runs say, and nothing else."""

import csv
import errno
import functools
import glob
import json
import os
import re
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from geco_jax.datasets import shapes
from geco_jax.datasets.splits import fingerprint
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.evaluation.gaussian_rate import Curve
from geco_jax.io import files as io_files
from geco_jax.io.files import write_json
from geco_jax.sweep import completion
from geco_jax.sweep import curves
from geco_jax.sweep import figures
from geco_jax.sweep import report
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep.grid import points


def record(split, kappa, kl_nats, holds):
  return {
    'split': split,
    'step': 20,
    'rmse': kappa,
    'kl_nats': kl_nats,
    'nll_nats_per_dim': 3 * kappa,
    'constraints': {
      're': {
        'kappa': kappa,
        'value': kappa,
        'unit': 'RMSE per pixel',
        'violation': 0.0 if holds else 0.5,
        'multiplier': 1 / kappa if holds else np.exp(14.0),
        'holds': holds,
        'verdict': 'met' if holds else 'infeasible',
      }
    },
  }


def read_only(monkeypatch):
  """Let no file be written any more."""

  def open_for_reading(path, mode='r', **kwargs):
    if 'w' in mode:
      raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    return open(path, mode, **kwargs)

  monkeypatch.setattr(io_files, 'open', open_for_reading, raising=False)


def write_run(folder, point):
  """Write what the report reads of a run; kappa 0.1 is infeasible."""
  kappa, seed = point.config.constraints.re.kappa, point.config.seed
  folder.mkdir(parents=True)
  train = record('train', kappa, 1 / kappa + seed, holds=kappa > 0.1)
  test = record('test', kappa, 1 / kappa + seed, holds=True)
  evaluation = {**train, 'other_splits': {'test': test}}
  write_json(str(folder / 'evaluation.json'), evaluation)
  lines = [
    {'step': step, 're/value': kappa + 1 / step, 're/log_multiplier': 0.0}
    for step in (5, 10, 20)
  ]
  text = ''.join(f'{json.dumps(line)}\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)
  rows = np.full((3, 4, 5, 5, 1), kappa)
  for split in ('train', 'test'):
    path = folder / f'reconstructions_{split}.png'
    pictures.save_png(path, pictures.grid(rows), 'abc')


def write_report(grid, folder, *args, **kwargs):
  """Write the report of the finished runs in a folder; return them."""
  results = sweep_results.read(grid, folder)
  report.write(grid, results, folder, *args, **kwargs)
  return results


@pytest.fixture
def grid(tiny_config):
  config = tiny_config()
  config.sweep = (
    {'constraints.re.kappa': [0.3, 0.1, 0.2]},
    {'model.kwargs.latent_size': [2, 3]},
    {'seed': [0, 1]},
  )
  return points(config)


@pytest.fixture
def sweep(grid, tmp_path):
  """Return a sweep's folder, whose last run is not finished."""
  for point in grid[:-1]:
    write_run(tmp_path / point.name, point)
  return tmp_path


@pytest.fixture
def _undrawn(monkeypatch):
  """Leave the figures out of the page, which take a second to draw."""
  monkeypatch.setattr(report, '_figures', lambda *_: {})


def test_places_rise_and_lines_are_what_else_is_swept(grid, sweep):
  lines = sweep_results.lines(sweep_results.read(grid, str(sweep)))
  assert [line.name for line in lines] == ['latent_size 2', 'latent_size 3']
  for line, last in zip(lines, (2, 1), strict=True):
    assert [*line.places] == ['kappa 0.1', 'kappa 0.2', 'kappa 0.3']
    assert [len(seeds) for seeds in line.places.values()] == [2, last, 2]


def test_data_sets_are_lines_and_strips_of_their_own(tiny_config, tmp_path):
  config = tiny_config()
  with config.unlocked():
    config.dataset.kwargs.path = ''
  paths = ['left.npz', 'right.npz']
  config.sweep = (
    {'dataset.kwargs.path': paths},
    {'model.kwargs.latent_size': [2, 3]},
  )
  grid = points(config)
  for level, point in enumerate(grid):
    write_run(tmp_path / point.name, point)
    rows = np.full((3, 4, 5, 5, 1), level // 2)
    path = tmp_path / point.name / 'reconstructions_train.png'
    pictures.save_png(path, pictures.grid(rows), 'abc')
  lines = sweep_results.lines(sweep_results.read(grid, str(tmp_path)))
  assert [line.name for line in lines] == [f'path {path}' for path in paths]
  for level, line in enumerate(lines):
    assert [*line.places] == ['latent_size 2', 'latent_size 3']
    for panel in figures.strip(line).axes:
      assert panel.images[0].get_array().min() == 255 * level
  config.sweep = ({'dataset.kwargs.path': paths},)
  grid = points(config)
  for point in grid:
    write_run(tmp_path / point.name, point)
  lines = sweep_results.lines(sweep_results.read(grid, str(tmp_path)))
  assert [line.name for line in lines] == [f'path {path}' for path in paths]
  assert [[*line.places] for line in lines] == [[''], ['']]


def test_a_strip_says_where_a_constraint_is_not_met(grid, sweep):
  line, _ = sweep_results.lines(sweep_results.read(grid, str(sweep)))
  labels = [panel.texts[0].get_text() for panel in figures.strip(line).axes]
  unmet = {label.split('\n')[1] for label in labels if '(not met)' in label}
  assert unmet == {'kappa 0.1'}
  assert len(labels) == 7


def test_table_has_a_row_per_finished_run_and_names_the_infeasible(grid, sweep):
  rows = sweep_results.table(sweep_results.read(grid, str(sweep)))
  assert len(rows) == len(grid) - 1
  verdicts = {(row['kappa'], row['re']) for row in rows}
  assert verdicts == {('0.3', 'met'), ('0.2', 'met'), ('0.1', 'infeasible')}
  text = sweep_results.as_text(rows).splitlines()
  assert len({len(line) for line in text}) == 1
  assert len(text) == len(rows) + 1


def test_each_split_has_numbers_of_its_own(grid, tmp_path):
  write_run(tmp_path / grid[0].name, grid[0])
  path = tmp_path / grid[0].name / 'evaluation.json'
  evaluation = json.loads(path.read_text())
  measures = {'rmse': 0.5, 'kl_nats': 7.0, 'nll_nats_per_dim': 1.5}
  evaluation['other_splits']['test'] |= measures
  write_json(str(path), evaluation)
  (result,) = sweep_results.read(grid, str(tmp_path))
  numbers = sweep_results.numbers(result)
  assert {name: numbers[f'test/{name}'] for name in measures} == measures
  assert numbers['train/rmse'] == 0.3
  row = sweep_results.cells(result.evaluation)
  names = 'RMSE', 'test RMSE', 'test KL/nats', 'test NLL/dim'
  assert [row[k] for k in names] == ['0.3000', '0.5000', '7.000', '1.500']


def test_page_needs_nothing_else_and_is_the_same_every_time(grid, sweep):
  curve = Curve(np.array([0.1, 0.3]), np.array([9.0, 2.0]), np.array([0.3, 1]))
  pages = []
  for _ in range(2):
    write_report(grid, str(sweep), {'digits': curve})
    pages.append((sweep / 'report.html').read_text())
  assert pages[0] == pages[1]
  page = pages[0]
  sources = re.findall(r'src="([^"]{,30})', page)
  assert len(sources) == 5
  assert all(source.startswith('data:image/png') for source in sources)
  links = re.findall(r'href="([^"]+)"', page)
  assert links == [*(f'{point.name}/' for point in grid[:-1]), 'sweep.csv']
  assert all((sweep / link).exists() for link in links)
  assert 'http' not in page
  assert str(sweep) not in page
  assert f'Not finished: {grid[-1].name}.' in page
  assert 'num_steps: 20' in page and 'constraints.re.kappa:' not in page
  assert 'at once' in page and '--runs_at_once' in page
  for name in ('plane', 'constraints', 'multipliers', 'strip_0', 'strip_1'):
    assert (sweep / f'{name}.png').exists()


@pytest.mark.filterwarnings('error')
def test_a_sweep_of_seeds_alone_is_drawn_without_a_warning(
  tiny_config, tmp_path
):
  config = tiny_config()
  config.sweep = ({'seed': [0, 1]},)
  grid = points(config)
  for point in grid:
    write_run(tmp_path / point.name, point)
  assert len(write_report(grid, str(tmp_path))) == 2


@pytest.mark.usefixtures('_undrawn')
def test_page_is_for_every_screen_and_says_where_it_is_from(grid, sweep):
  command = 'geco-jax sweep --x="<a b>" --workdir=\udcc3\udca9'
  written = {'Written': '2026-01-01', 'By': command}
  session = dict(
    seconds=1.0, device='1 x cpu', version='0.1.0', commit='f' * 40
  )
  session |= dict(command='geco-jax train', started='2026-01-01')
  write_json(str(sweep / grid[0].name / 'run.json'), {'sessions': [session]})
  write_report(grid, str(sweep), written=written)
  page = (sweep / 'report.html').read_text()
  assert '<meta name="viewport" content="width=device-width' in page
  assert page.count('<main>') == page.count('</main>') == 1
  assert 'prefers-color-scheme: dark' in page
  footer = page[page.index('<footer>') :]
  assert '2026-01-01' in footer
  assert '--x=&quot;&lt;a b&gt;&quot; --workdir=é<' in footer
  assert 'Trained on 1 x cpu by geco_jax 0.1.0 (ffffffffffff).' in page
  assert 'Mean ± standard deviation over seeds' in page


@pytest.mark.usefixtures('_undrawn')
def test_rows_of_runs_that_miss_a_constraint_are_marked(grid, sweep):
  write_report(grid, str(sweep))
  page = (sweep / 'report.html').read_text()
  marked = re.findall(r'<tr class=broken><td><a href="([^"]+)/"', page)
  missed = [p.name for p in grid if p.config.constraints.re.kappa == 0.1]
  assert marked == missed


def test_means_and_deviations_are_those_over_seeds(grid, sweep):
  results = sweep_results.read(grid, str(sweep))
  rows = {row['runs']: row for row in sweep_results.means(results)}
  assert len(rows) == 6
  row = rows['latent_size 2, kappa 0.3']
  kls = np.array([1 / 0.3, 1 / 0.3 + 1])
  assert row['seeds'] == '2'
  assert row['KL/nats'] == f'{kls.mean():.4g} ± {kls.std(ddof=1):.2g}'
  alone = rows['latent_size 3, kappa 0.2']  # Its other seed is not finished.
  assert (alone['seeds'], alone['KL/nats']) == ('1', '5')
  assert not sweep_results.means(
    [r for r in results if not r.point.config.seed]
  )


@pytest.mark.usefixtures('_undrawn')
def test_the_table_for_programs_has_every_digit(grid, sweep):
  write_report(grid, str(sweep))
  with open(sweep / 'sweep.csv', newline='') as file:
    rows = {row['run']: row for row in csv.DictReader(file)}
  assert len(rows) == len(grid) - 1
  for point in grid[:-1]:
    row, kappa = rows[point.name], point.config.constraints.re.kappa
    assert float(row['constraints.re.kappa']) == kappa
    assert float(row['train/kl_nats']) == 1 / kappa + point.config.seed
    assert float(row['test/nll_nats_per_dim']) == 3 * kappa
    assert row['re/verdict'] == ('met' if kappa > 0.1 else 'infeasible')


def scalars(path):
  """Return the scalars of an event file, (step, tag) -> value."""
  values = {}
  content = path.read_bytes()
  while content:
    (length,) = struct.unpack('<Q', content[:8])
    event = event_pb2.Event.FromString(content[12 : 12 + length])
    content = content[16 + length :]
    for value in event.summary.value:
      values[event.step, value.tag] = value.simple_value
  return values


@pytest.mark.usefixtures('_undrawn')
def test_the_page_names_every_model_data_set_and_tolerance(
  tiny_config, tmp_path
):
  config = tiny_config()
  config.sweep = (
    {'tolerance': [0.1, 0.02]},
    {'dataset.name': ['digits', 'mnist']},
    {'model.name': ['mlp_vae', 'conv_draw']},
  )
  grid = points(config)
  for point in grid:
    write_run(tmp_path / point.name, point)
  write_report(grid, str(tmp_path))
  page = (tmp_path / 'report.html').read_text()
  assert '<h1>mlp_vae, conv_draw on digits, mnist</h1>' in page
  assert "at most its run's\ntolerance, 0.02 or 0.1. " in page


@pytest.mark.usefixtures('_undrawn')
def test_tensorboard_has_every_run_once_with_its_evaluation(grid, sweep):
  for _ in range(2):
    write_report(grid, str(sweep))
  folders = glob.glob(f'{sweep}/**/events*', recursive=True)
  assert len(folders) == len(grid) - 1
  for point in grid[:-1]:
    (path,) = (sweep / point.name / 'tensorboard').iterdir()
    kl_nats = scalars(path)[20, 'train/kl_nats']
    expected = 1 / point.config.constraints.re.kappa + point.config.seed
    assert kl_nats == pytest.approx(expected)


@pytest.mark.usefixtures('_undrawn')
def test_a_run_in_the_sweeps_own_folder_keeps_its_logs(grid, sweep):
  log = sweep / 'tensorboard' / 'events.out'
  log.parent.mkdir()
  log.touch()
  write_report(grid, str(sweep))
  assert log.exists()


@pytest.mark.usefixtures('_undrawn')
def test_a_report_that_stands_already_costs_a_warning_where_nothing_is_written(
  grid, sweep, monkeypatch, caplog
):
  write_report(grid, str(sweep), written={'Written': 'on Monday'})
  read_only(monkeypatch)
  write_report(grid, str(sweep), written={'Written': 'on Tuesday'})
  (record,) = caplog.records
  assert 'The report stays as it was' in record.getMessage()
  assert 'Read-only file system' in record.getMessage()
  assert 'on Monday' in (sweep / 'report.html').read_text()
  with pytest.raises(OSError, match='Read-only file system'):
    write_report(grid[:-2], str(sweep))  # It would say less.
  (sweep / 'sweep.csv').unlink()
  with pytest.raises(OSError, match='Read-only file system'):
    write_report(grid, str(sweep))


def without(evaluation, *names):
  """Return a copy without the leaf of these names."""
  copy = json.loads(json.dumps(evaluation))
  *parents, leaf = names
  functools.reduce(dict.__getitem__, parents, copy).pop(leaf)
  return copy


DAMAGES = {
  'nothing': lambda _: '',
  'no_text': lambda _: b'\xff\x00',
  'no_json': lambda e: json.dumps(e)[:-9],
  **{text: lambda _, text=text: text for text in ('{}', '[]', 'null', '3')},
  'no_step': lambda e: without(e, 'step'),
  'no_kl_on_test': lambda e: without(e, 'other_splits', 'test', 'kl_nats'),
  'no_constraint': lambda e: without(e, 'constraints', 're'),
  'no_multiplier': lambda e: without(e, 'constraints', 're', 'multiplier'),
  'word_for_a_number': lambda e: {**e, 'rmse': 'low'},
  'truth_for_a_number': lambda e: {**e, 'kl_nats': True},
  'list_of_splits': lambda e: {**e, 'other_splits': []},
  'other_splits_are_words': lambda e: {**e, 'other_splits': {'test': 'x'}},
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_an_evaluation_of_another_form_is_none_and_said(
  damage, grid, tmp_path, caplog
):
  for point in grid[:2]:
    write_run(tmp_path / point.name, point)
  path = tmp_path / grid[1].name / 'evaluation.json'
  content = DAMAGES[damage](json.loads(path.read_text()))
  if not isinstance(content, (str, bytes)):
    content = json.dumps(content)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  (result,) = sweep_results.read(grid, str(tmp_path))
  assert result.point == grid[0]
  assert f'{path} is damaged' in caplog.text
  assert grid[1] in completion.unfinished(grid, str(tmp_path))


def test_an_evaluation_at_another_step_or_with_a_damaged_picture_is_not_final(
  grid, tmp_path, caplog
):
  for point in grid[:3]:
    write_run(tmp_path / point.name, point)
  path = tmp_path / grid[0].name / 'evaluation.json'
  write_json(str(path), {**json.loads(path.read_text()), 'step': 10})
  picture = tmp_path / grid[1].name / 'reconstructions_test.png'
  picture.write_bytes(picture.read_bytes()[:60])
  assert [r.point for r in sweep_results.read(grid, str(tmp_path))] == [grid[2]]
  assert not caplog.records


def test_values_with_dollars_are_drawn_as_they_are(tiny_config, tmp_path):
  config = tiny_config()
  config.sweep = (
    {'optimizer.name': ['$a\udcc3\udca9', 'b^{$', r'\$c_$']},
    {'constraints.re.kappa': [0.2, 0.3]},
  )
  grid = points(config)
  for point in grid:
    write_run(tmp_path / point.name, point)
  curve = Curve(np.array([0.1, 0.3]), np.array([9.0, 2.0]), np.array([0.3, 1]))
  assert len(write_report(grid, str(tmp_path), {'$x^{$': curve})) == 6
  page = (tmp_path / 'report.html').read_text()
  assert 'Reconstructions and samples, name b^{$' in page
  assert 'Reconstructions and samples, name $aé' in page
  assert ',$aé,' in (tmp_path / 'sweep.csv').read_text()


@pytest.mark.parametrize(
  'content', ['', '[]', '3', '{"digits": 3}', '{"digits": [[1], [2]]}']
)
def test_a_damaged_file_of_curves_is_made_anew(
  content, grid, make_dataset, tmp_path, monkeypatch
):
  monkeypatch.setattr(curves, 'build_dataset', lambda *_: make_dataset())
  path = tmp_path / 'gaussian_rate.json'
  path.write_text(content)
  results = curves.curves(grid, str(tmp_path))
  assert [*results] == ['digits']
  np.testing.assert_array_equal(results['digits'].kappas, [0.1, 0.2, 0.3])
  stored = json.loads(path.read_text())
  assert stored['digits'][0] == [0.1, 0.2, 0.3]
  monkeypatch.setattr(curves, 'build_dataset', None)  # Is not called again.
  assert [*curves.curves(grid, str(tmp_path))] == ['digits']


@pytest.fixture
def record_data(grid, tmp_path, monkeypatch):
  """Return dataset -> the runs are of it; and another, what can be built."""

  def record(trained_on, at_hand):
    for point in grid[:2]:
      (tmp_path / point.name).mkdir(exist_ok=True)
      sha256 = fingerprint(trained_on.splits)
      shapes.record(str(tmp_path / point.name), trained_on, sha256)

    def build_dataset(*_):
      if at_hand is None:
        raise UserError('no such file: d.npz')
      return at_hand

    monkeypatch.setattr(curves, 'build_dataset', build_dataset)

  return record


def test_curves_are_those_of_the_data_that_the_runs_are_of(
  grid, make_dataset, make_images, record_data, tmp_path, caplog
):
  first = make_dataset()
  other = first._replace(
    splits={**first.splits, 'train': make_images(45, (4, 4, 1), 7)}
  )
  record_data(first, first)
  old = curves.curves(grid, str(tmp_path))['digits']
  record_data(first, other)  # The kept curve is still that of its runs.
  again = curves.curves(grid, str(tmp_path))['digits']
  np.testing.assert_array_equal(again, old)
  record_data(other, other)
  new = curves.curves(grid, str(tmp_path))['digits']
  assert not np.allclose(new.rate_nats, old.rate_nats)
  assert not caplog.records
  record_data(first, other)
  assert curves.curves(grid, str(tmp_path)) == {}
  sha256 = fingerprint(other.splits)
  shapes.record(str(tmp_path / grid[0].name), other, sha256)
  assert curves.curves(grid, str(tmp_path)) == {}  # Its runs are of two.
  for record in caplog.records:
    assert 'digits: no linear model is drawn: its images' in record.getMessage()
  assert len(caplog.records) == 2


def test_data_that_are_gone_cost_a_warning_and_the_curve(
  grid, make_dataset, record_data, tmp_path, caplog
):
  record_data(make_dataset(), None)
  assert curves.curves(grid, str(tmp_path)) == {}
  (record,) = caplog.records
  message = 'digits: no linear model is drawn: no such file: d.npz'
  assert record.getMessage() == message
  assert not (tmp_path / 'gaussian_rate.json').exists()


def test_large_images_are_not_read_to_learn_that_they_are_large(
  grid, make_dataset, record_data, tmp_path, caplog, capsys
):
  record_data(make_dataset((65, 64, 1)), None)
  assert curves.curves(grid, str(tmp_path)) == {}
  assert not caplog.records
  assert 'digits: its covariance is too large' in capsys.readouterr().err


def test_curves_are_written_once_and_cost_a_warning_where_they_cannot_be(
  grid, make_dataset, record_data, tmp_path, monkeypatch, caplog
):
  record_data(make_dataset(), make_dataset())
  with monkeypatch.context() as patch:
    read_only(patch)
    assert [*curves.curves(grid, str(tmp_path))] == ['digits']
    assert 'gaussian_rate.json cannot be written' in caplog.text
  first = curves.curves(grid, str(tmp_path))
  caplog.clear()
  read_only(monkeypatch)
  np.testing.assert_array_equal(
    curves.curves(grid, str(tmp_path))['digits'], first['digits']
  )
  assert not caplog.records


def test_folders_in_the_places_of_files_are_set_aside(grid, sweep):
  grid = grid[:1]
  places = ('report.html', 'sweep.csv', 'plane.png')
  for name in places:
    (sweep / name).mkdir()
  write_report(grid, str(sweep))
  for name in places:
    assert (sweep / name).is_file() and (sweep / f'{name}.set_aside').is_dir()


def test_a_curve_is_made_anew_where_the_kappas_are_others(
  grid, make_dataset, tmp_path, monkeypatch
):
  monkeypatch.setattr(curves, 'build_dataset', lambda *_: make_dataset())
  curves.curves(grid, str(tmp_path))
  for point in grid:
    point.config.constraints.re.kappa *= 2
  for _ in range(2):
    (curve,) = curves.curves(grid, str(tmp_path)).values()
    np.testing.assert_allclose(curve.kappas, [0.2, 0.4, 0.6])
    monkeypatch.setattr(curves, 'build_dataset', None)  # Is not called again.


def test_an_evaluation_of_other_splits_is_not_final(grid, tmp_path):
  """Such as an experiment or `geco-jax evaluate --split=test` writes."""
  for point in grid[:3]:
    write_run(tmp_path / point.name, point)
  whole, train_alone, test_first = (
    tmp_path / point.name / 'evaluation.json' for point in grid[:3]
  )
  train = json.loads(whole.read_text())
  test = train['other_splits']['test']
  write_json(str(train_alone), {**train, 'other_splits': {}})
  swapped = {**test, 'other_splits': {'train': train, 'test': test}}
  write_json(str(test_first), swapped)
  results = sweep_results.read(grid, str(tmp_path))
  assert [result.point for result in results] == grid[:1]
  alone = completion.read_evaluation(grid[1], str(tmp_path), ('train',))
  assert alone is not None


def test_the_seconds_of_a_run_are_those_of_all_its_steps(grid):
  rates = np.array([5.0, np.nan, 10.0, 2.5])  # NaN, of a validation.
  assert grid[0].config.steps_per_dispatch == 5
  result = sweep_results.Result(grid[0], '', {}, {'steps_per_second': rates})
  assert sweep_results.seconds(result) == 1.0 + 0.5 + 2.0
  assert sweep_results.seconds(result._replace(logged={})) == 0.0
