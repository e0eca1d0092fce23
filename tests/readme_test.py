"""The README says what is so."""

import importlib.util
import json
import os
import re

import numpy as np
import pytest

from experiments import figure_5
from experiments import information_plane
from experiments.shared import figure_4_plane

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope='module')
def readme():
  with open(os.path.join(ROOT, 'README.md')) as file:
    return file.read()


def test_example_reaches_the_exact_point_and_multiplier(readme):
  (example,) = re.findall(r'```python\n(.*?)```', readme, re.DOTALL)
  assert len([line for line in example.splitlines() if line.strip()]) <= 20
  scope = {}
  exec(example, scope)  # noqa: S102
  a, kappa = np.array([2.0, 1.0]), 0.5
  norm = np.linalg.norm(a)
  x, _, log_multiplier, _ = scope['state']
  np.testing.assert_allclose(x, a * (1 - kappa / norm), rtol=1e-3)
  np.testing.assert_allclose(
    np.exp(log_multiplier), norm / kappa - 1, rtol=1e-2
  )


def test_every_command_names_a_module_that_exists(readme):
  modules = set(re.findall(r'python -m ([\w.]+)', readme))
  assert 'geco_jax.train' in modules
  for module in modules:
    assert importlib.util.find_spec(module), module


def test_every_make_target_exists(readme):
  with open(os.path.join(ROOT, 'Makefile')) as file:
    makefile = file.read()
  targets = set(re.findall(r'^make ([\w-]+)', readme, re.MULTILINE))
  assert {'demo', 'test'} <= targets
  for target in targets:
    assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


def test_every_config_named_exists(readme):
  for path in set(re.findall(r'configs/\w+\.py', readme)):
    assert os.path.exists(os.path.join(ROOT, path)), path


@pytest.mark.parametrize('name', ['digits', 'mnist'])
def test_tables_are_those_of_the_result_files(readme, name):
  with open(os.path.join(ROOT, 'results', f'{name}_vae.json')) as file:
    rows = json.load(file)
  assert information_plane.table(rows) in readme


def test_conv_draw_table_is_that_of_the_result_file(readme):
  with open(os.path.join(ROOT, 'results', 'conv_draw.json')) as file:
    results = json.load(file)
  assert len(results['runs']) == 10
  for run in results['runs']:
    config, evaluation = run['config'], run['evaluation']
    test = evaluation['other_splits']['test']
    row = (
      f'| `{config.removeprefix("configs/")}` | {evaluation["rmse"]:.4f} | '
      f'{evaluation["kl_nats"]:.1f} | {evaluation["nll_nats_per_dim"]:.3f} | '
      f'{test["rmse"]:.4f} |'
    )
    assert row in readme
    if 'elbo' not in config:
      assert evaluation['constraints']['re']['holds'], config
  assert f'{results["arithmetic"]["samples_right"]:.1%}' in readme


@pytest.mark.parametrize('data', ['digits', 'mnist'])
def test_table_of_constraints_is_that_of_the_result_files(readme, data):
  path = os.path.join(ROOT, 'results', f'constraint_table_{data}.json')
  with open(path) as file:
    results = json.load(file)
  for run in results['runs']:
    evaluation = run['evaluation']
    reached = ', '.join(
      f'{name} {evaluation["constraints"][name]["value"]:.4g} for {kappa:g}'
      for name, kappa in run['kappas'].items()
    )
    row = f'| {evaluation["kl_nats"]:.1f} | {evaluation["rmse"]:.4f} |'
    assert f'| {data} | {reached} {row}' in readme
    for name, report in evaluation['constraints'].items():
      assert report['holds'], (run['run'], name)


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
def test_speeds_are_those_of_the_result_files(readme, benchmark):
  """Of every row, the baseline that comes closest is in the table."""
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
    assert re.search(cells, readme), row['name']


def test_figure_4_is_that_of_the_result_file(readme):
  with open(os.path.join(ROOT, 'results', 'figure_4.json')) as file:
    rows = json.load(file)
  ratios = {}
  for name, row in rows.items():
    (elbo,) = figure_4_plane.points_of(row, 'elbo')
    points = figure_4_plane.points_of(row, 'geco')
    ratios[name] = [elbo.kl_nats / point.kl_nats for point in points]
  below = {name for name, r in ratios.items() if min(r) > 1}
  assert below == {'mnist', 'cifar10', 'celeb_a', 'mnist_sum', 'mnist_rotate'}
  text = ' '.join(readme.split())
  named = 'On MNIST, CIFAR-10, CelebA, MNIST-sum and MNIST-rotate it is below'
  assert named in text
  largest = max(max(ratios[name]) for name in below)
  assert f'up to {largest:.0f} times' in text


def test_figure_5_is_that_of_the_result_file(readme):
  with open(os.path.join(ROOT, 'results', 'figure_5.json')) as file:
    rows = json.load(file)
  assert figure_5.table(rows) in readme
  kls = {
    name: [run['evaluation']['kl_nats'] for run in row['runs']]
    for name, row in rows.items()
    if name != 'cifar10'
  }
  lower = [1 - geco / elbo for elbo, geco in kls.values()]
  assert f'by {100 * min(lower):.1f} to {max(lower):.0%}' in (
    ' '.join(readme.split())
  )


def test_pictures_exist(readme):
  for path in re.findall(r'!\[[^\]]*\]\(([^)]+)\)', readme):
    assert os.path.exists(os.path.join(ROOT, path)), path
