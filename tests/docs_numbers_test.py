"""Numbers in docs/results.md and docs/benchmarks.md are the files' numbers."""

import json
import os
import re

import numpy as np
import pytest

from experiments import figure_5
from experiments import information_plane
from experiments.results import findings
from experiments.shared import figure_4_plane

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def page(name):
  """Return the text of a page."""
  with open(os.path.join(ROOT, 'docs', f'{name}.md')) as file:
    return file.read()


@pytest.fixture(scope='module')
def results():
  return page('results')


def test_the_sweep_on_mnist_is_that_of_the_result_file(results):
  with open(os.path.join(ROOT, 'results', 'mnist_vae.json')) as file:
    rows = json.load(file)
  assert information_plane.table(rows) in results


def test_conv_draw_table_is_that_of_the_result_file(results):
  with open(os.path.join(ROOT, 'results', 'conv_draw.json')) as file:
    content = json.load(file)
  assert len(content['runs']) == 11
  for run in content['runs']:
    config, evaluation = run['config'], run['evaluation']
    test = evaluation['other_splits']['test']
    row = (
      f'| `{config.removeprefix("configs/")}` | {evaluation["rmse"]:.4f} | '
      f'{evaluation["kl_nats"]:.1f} | {evaluation["nll_nats_per_dim"]:.3f} | '
      f'{test["rmse"]:.4f} |'
    )
    assert row in results
    if 'elbo' not in config:
      assert evaluation['constraints']['re']['holds'], config
  with open(os.path.join(ROOT, 'results', 'arithmetic.json')) as file:
    assert f'{json.load(file)["samples_right"]:.1%}' in results


def test_what_more_steps_bring_color_mnist_is_that_of_the_files(results):
  def numbers(file, name, value):
    with open(os.path.join(ROOT, 'results', f'{file}.json')) as content:
      runs = json.load(content)['runs']
    (run,) = (run for run in runs if run[name] == value)
    quality = run['sample_quality']
    return (
      run['evaluation']['kl_nats'],
      quality['frechet']['samples'],
      quality['importance']['nll_nats'],
    )

  config = 'configs/color_mnist_conv_draw.py:medium'
  kl, distance, nll = numbers('conv_draw', 'config', config)
  before = numbers('figure_10', 'run', 'color_mnist_conv_draw_geco_re_0.1')
  assert (
    f'kappa 0.1 costs {kl:.1f} nats instead of {before[0]:.1f}, the samples '
    f'are nearer, in the terms of the table below at {distance:.0f} instead of '
    f'{before[1]:.0f}, the NLL is {nll:,.0f} nats instead of {before[2]:,.0f}'
  ) in ' '.join(results.split())


@pytest.mark.parametrize('data', ['digits', 'mnist'])
def test_table_of_constraints_is_that_of_the_result_files(results, data):
  path = os.path.join(ROOT, 'results', f'constraint_table_{data}.json')
  with open(path) as file:
    content = json.load(file)
  for run in content['runs']:
    evaluation = run['evaluation']
    reached = ', '.join(
      f'{name} {evaluation["constraints"][name]["value"]:.4g} for {kappa:g}'
      for name, kappa in run['kappas'].items()
    )
    row = f'| {evaluation["kl_nats"]:.1f} | {evaluation["rmse"]:.4f} |'
    assert f'| {data} | {reached} {row}' in results
    for name, report in evaluation['constraints'].items():
      assert report['holds'], (run['run'], name)


def test_what_a_label_costs_beside_pixels_is_in_the_files(results):
  with open(os.path.join(ROOT, 'results', 'mnist_vae.json')) as file:
    (alone,) = (row for row in json.load(file) if row['kappa'] == 0.1)
  ends_at = f'RE alone ends at {alone["evaluation"]["kl_nats"]:.1f} nats'
  assert ends_at in ' '.join(results.split())


@pytest.mark.parametrize(
  'benchmark',
  [
    'train_step_mlp',
    'train_step_conv',
    'convdraw',
    'marginal_kl',
    'fixed_points',
    'constraint_cost',
    'sweep',
  ],
)
def test_speeds_are_those_of_the_result_files(benchmark):
  """The closest baseline of every row is in the table."""
  with open(os.path.join(ROOT, 'results', f'{benchmark}.json')) as file:
    rows = json.load(file)['rows']
  closest = {}
  for row in sorted(rows, key=lambda row: -row['ratio']):
    closest[row['name'], row['contender']] = row
  for row in closest.values():
    ours, baseline = (
      re.escape(f'{row[rate]:#.3g}'.rstrip('.'))
      for rate in ('steps_per_second', 'baseline_steps_per_second')
    )
    cells = rf'\| {ours} \| [^|]+ \| {baseline} \| {row["ratio"]:.2f} \|'
    assert re.search(cells, page('benchmarks')), row['name']


def test_figure_4_is_that_of_the_result_file(results):
  with open(os.path.join(ROOT, 'results', 'figure_4.json')) as file:
    rows = json.load(file)
  ratios = {}
  for name, row in rows.items():
    (elbo,) = figure_4_plane.points_of(row, 'elbo')
    points = figure_4_plane.points_of(row, 'geco')
    ratios[name] = [elbo.kl_nats / point.kl_nats for point in points]
  below = {name for name, r in ratios.items() if min(r) > 1}
  assert below == {'mnist', 'cifar10', 'celeb_a', 'mnist_sum', 'mnist_rotate'}
  text = ' '.join(results.split())
  named = (
    "On MNIST, CIFAR-10, CelebA, MNIST-sum and MNIST-rotate GECO's KL is below"
  )
  assert named in text
  largest = max(max(ratios[name]) for name in below)
  assert f'up to {largest:.0f} times' in text


def test_figure_4_in_medium_is_that_of_the_result_file(results):
  with open(os.path.join(ROOT, 'results', 'figure_4_medium.json')) as file:
    rows = json.load(file)
  assert figure_4_plane.table(rows) in results
  ratios = {}
  for name, row in rows.items():
    (elbo,) = figure_4_plane.points_of(row, 'elbo')
    above = [
      point
      for point in figure_4_plane.points_of(row, 'geco')
      if point.kappa > elbo.rmse
    ]
    assert all(abs(point.violation) < 0.02 for point in above)
    ratios[name] = [elbo.kl_nats / point.kl_nats for point in above]
  text = ' '.join(results.split())
  assert "above the ELBO's own error to within 2%" in text
  titles = {
    'cifar10': 'CIFAR-10',
    'celeb_a': 'CelebA',
    'mnist': 'MNIST',
    'color_mnist': 'Color-MNIST',
    'mnist_triplets': 'MNIST-triplets',
    'mnist_sum': 'MNIST-sum',
    'mnist_sum_hard': 'MNIST-sum-hard',
    'mnist_rotate': 'MNIST-rotate',
  }
  assert set(titles) == set(rows)
  for name, title in titles.items():
    range_ = f'{min(ratios[name]):.1f} to {max(ratios[name]):.0f} times'
    assert f'{range_} on {title}' in text
  (elbo,) = figure_4_plane.points_of(rows['celeb_a'], 'elbo')
  distances = [
    point.frechet for point in figure_4_plane.points_of(rows['celeb_a'], 'geco')
  ]
  assert (
    f'is {elbo.frechet:.3g} under the ELBO and {min(distances):.3g} to '
    f'{max(distances):.3g} under GECO'
  ) in text


@pytest.mark.parametrize(
  ('file', 'row', 'title'),
  [
    ('figure_4_medium', 'celeb_a', 'CelebA'),
    ('figure_11', None, 'CIFAR-10'),
    ('figure_10', None, 'Color-MNIST'),
    ('figure_4_medium', 'mnist_sum', 'MNIST-sum'),
    ('figure_4_medium', 'mnist_rotate', 'MNIST-rotate'),
  ],
)
def test_samples_as_numbers_are_those_of_the_files(results, file, row, title):
  with open(os.path.join(ROOT, 'results', f'{file}.json')) as content:
    runs = json.load(content)
  runs = (runs[row] if row else runs)['runs']
  (elbo,) = (run for run in runs if run['objective'] == 'elbo')
  fair = sorted(
    (
      run
      for run in runs
      if [*run['kappas']] == ['re']
      and run['evaluation']['rmse'] > elbo['evaluation']['rmse']
    ),
    key=lambda run: run['kappas']['re'],
  )

  def distances(name):
    each = [run['sample_quality']['frechet'][name] for run in (elbo, *fair)]
    text = ', '.join(f'{distance:.3g}' for distance in each[1:])
    return each[0], f'{each[0]:.3g} | {text}'

  def nll(run):
    importance = run['sample_quality']['importance']
    return '' if importance is None else f'{importance["nll_nats"]:,.0f}'

  floor = elbo['sample_quality']['frechet']['train']
  kappas = ', '.join(f'{run["kappas"]["re"]:g}' for run in fair)
  first, others = distances('reconstructions')
  nlls = ', '.join(map(nll, fair)) if nll(elbo) else ''
  line = (
    f'| {title} | {kappas} | {distances("samples")[1]} | {floor:.2g} | '
    f'{first:.2g} | {others.partition(" | ")[2]} | {nll(elbo)} | {nlls} |'
  )
  assert line in results


def test_table_2_of_mnists_digits_is_that_of_the_result_file(results):
  with open(os.path.join(ROOT, 'results', 'table_2_medium.json')) as file:
    row = json.load(file)['color_mnist']
  assert row['steps'] == 10_000
  elbo, geco = (
    (row[name]['marginal_kl_nats'], row[name]['evaluation']['rmse'])
    for name in ('elbo', 'geco')
  )
  assert (
    f'it is {elbo[0]:.1f} nats under the ELBO, at RMSE {elbo[1]:.3f}, and '
    f'{geco[0]:.1f} under GECO, at {geco[1]:.3f}, {row["ratio"]:.1f} times less'
  ) in ' '.join(results.split())


def test_figure_5_is_that_of_the_result_file(results):
  with open(os.path.join(ROOT, 'results', 'figure_5.json')) as file:
    rows = json.load(file)
  assert figure_5.table(rows) in results
  lower: dict[str, list[float]] = {}
  finer = []
  for name, row in rows.items():
    elbo, geco = (run['evaluation'] for run in row['runs'])
    ratio = geco['kl_nats'] / elbo['kl_nats']
    lower.setdefault(name.partition(',')[0], []).append(1 - ratio)
    if 'until rest' not in name:
      finer.append(1 - geco['rmse'] / elbo['rmse'])
  text = ' '.join(results.split())
  cifar10, digits = (np.mean(lower[name]) for name in ('cifar10', 'digits'))
  assert f'(4,000 steps), by {digits:.1%} in the mean of three seeds' in text
  assert f'in each of three seeds, by {cifar10:.1%} in the mean' in text
  assert min(lower['cifar10']) > 0
  assert f"RMSE is up to {max(finer):.1%} below the ELBO's" in text
  ties = [
    finding.what.partition(',')[0]
    for finding in findings.figure_5(rows)
    if finding.verdict == findings.TIE
  ]
  assert ties == ['cifar10', 'mnist']
  above = [-share for share in lower['digits until rest']]
  assert f'GECO ends {min(above):.1%} to {max(above):.1%} above it' in text
  ends = rows['digits until rest']['runs'][0]['evaluation']
  assert f'{ends["kl_nats"]:.1f} nats after 4,000, 8,000, 16,000' in text
  assert f'an RMSE of {ends["rmse"]:.4f} in the end' in text
  steps = {r['steps'] for r in rows['digits until rest']['runs']}
  assert steps == {64_000}
  assert not any(run['rested'] for row in rows.values() for run in row['runs'])
  assert 'None of our runs [rests]' in text
  assert 'do not rule out a tie. On MNIST (8,000) it is a tie.' in text


def test_the_course_of_figure_3_is_that_of_the_file(results):
  with open(os.path.join(ROOT, 'results', 'figure_3.json')) as file:
    content = json.load(file)
  curve, kappa = content['curve'], content['kappa']
  peak = int(np.argmax(curve['kl_nats']))
  met = next(i for i, rmse in enumerate(curve['rmse']) if rmse <= kappa)
  assert max(curve['rmse'][met:]) / kappa - 1 < 0.01
  assert (
    f'The KL rises to {curve["kl_nats"][peak]:.1f} nats at step '
    f'{curve["step"][peak]:,.0f}, where the RMSE is '
    f'{curve["rmse"][peak] / kappa - 1:.0%} above kappa, and falls from there; '
    f'kappa is first reached at step {curve["step"][met]:,.0f}, at '
    f'{curve["kl_nats"][met]:.1f} nats, and the run ends within 1% of it, at '
    f'{curve["kl_nats"][-1]:.1f}.'
  ) in ' '.join(results.split())


def test_what_pncc_and_fre_cost_is_that_of_the_files(results):
  text = ' '.join(results.split())
  below = []
  for number in (6, 11):
    path = os.path.join(ROOT, 'results', f'figure_{number}.json')
    with open(path) as file:
      runs = {run['run']: run['evaluation'] for run in json.load(file)['runs']}
    data = 'celeb_a' if number == 6 else 'cifar10'
    elbo, fre = (
      runs[f'{data}_conv_draw_{name}'] for name in ('elbo', 'geco_fre_0.5')
    )
    below.append(elbo['kl_nats'] / fre['kl_nats'])
    assert fre['constraints']['fre']['holds']
  assert (
    f"{below[0]:.1f} times below the ELBO's on CelebA and {below[1]:.1f} times "
    'on CIFAR-10'
  ) in text
  pncc = runs['cifar10_conv_draw_geco_pncc_0.8']['kl_nats']
  assert f'loses brightness and colors, at {pncc:.0f} nats' in text
