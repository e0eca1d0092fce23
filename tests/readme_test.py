"""The README says what is so."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import information_plane
import geco_jax
from geco_jax import config_files
from tests.pages import check_command
from tests.pages import commands_of
from tests.pages import python_blocks
from tests.pages import ROOT

MAX_LINES = 150


@pytest.fixture(scope='module')
def readme():
  with open(os.path.join(ROOT, 'README.md')) as file:
    return file.read()


def read(name):
  """Return the content of a results file."""
  with open(os.path.join(ROOT, 'results', f'{name}.json')) as file:
    return json.load(file)


def test_it_is_short(readme):
  assert len(readme.splitlines()) <= MAX_LINES


def test_example_reaches_the_exact_point_and_multiplier(readme, capsys):
  (example,) = python_blocks(readme)
  assert len([line for line in example.splitlines() if line.strip()]) <= 20
  scope = {}
  exec(example, scope)  # noqa: S102
  x, multiplier = scope['params'][0], jnp.exp(scope['params'][1])
  a, kappa = np.array([2.0, 1.0]), 0.5
  norm = np.linalg.norm(a)
  np.testing.assert_allclose(x, a * (1 - kappa / norm), rtol=1e-3)
  np.testing.assert_allclose(multiplier, norm / kappa - 1, rtol=1e-2)
  (printed,) = re.findall(r'It prints `([^`]+)`', readme)

  def numbers(text):
    return [float(number) for number in re.findall(r'[\d.]+', text)]

  np.testing.assert_allclose(
    numbers(capsys.readouterr().out), numbers(printed), rtol=1e-4
  )


def test_every_command_and_flag_exists(readme):
  lines = [w for w in commands_of(readme) if w[0] == 'geco-jax']
  assert {words[1] for words in lines} == {*SHORT}
  for words in lines:
    check_command(words)
  for module in set(re.findall(r'python -m ([\w.]+\w)', readme)):
    assert importlib.util.find_spec(module), module


def test_every_config_and_variant_named_exists(readme):
  named = re.findall(
    r'`(digits_vae:[\w+]+|geco[\w+]*|\w+_beta\w*|beta_\w+)`', readme
  )
  variants = {name.rpartition(':')[2] for name in named}
  variants -= set(geco_jax.__all__) - {'geco'}
  assert {'elbo', 'geco', 'geco_literal', 'beta_vae', 'geco+re+cla'} <= variants
  for variant in variants:
    config_files.load(f'digits_vae:{variant}')


def test_every_make_target_exists(readme):
  with open(os.path.join(ROOT, 'Makefile')) as file:
    makefile = file.read()
  targets = set(re.findall(r'(?:^|`)make\s([\w-]+)', readme, re.MULTILINE))
  assert {'demo', 'test', 'docs', 'wheel', 'check'} <= targets
  for target in targets:
    assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


def test_the_demos_table_is_that_of_the_result_file(readme):
  assert information_plane.table(read('digits_vae')) in readme


def test_the_rows_of_results_are_those_of_the_result_files(readme):
  rows = []
  medium = read('figure_4_medium')
  for data, title in {'cifar10': 'CIFAR-10', 'celeb_a': 'CelebA'}.items():
    evaluations = {
      run['run'].removeprefix(f'{data}_conv_draw_'): run['evaluation']
      for run in medium[data]['runs']
    }
    cells = [evaluations['elbo'], evaluations['geco_re_0.1']]
    rows.append(
      [
        f'{title}, ConvDRAW: KL at RMSE',
        *(f'{e["kl_nats"]:.1f} nats at {e["rmse"]:.4f}' for e in cells),
      ]
    )
  titles = {'cifar10': 'CIFAR-10', 'color_mnist': 'Color-MNIST, 8x8'}
  for data, title in titles.items():
    runs = read('table_2')[data]
    rows.append(
      [
        f'{title}, VAE+NVP: KL[q(z); p(z)] at RMSE',
        *(
          f'{runs[o]["marginal_kl_nats"]:.1f} nats at '
          f'{runs[o]["evaluation"]["rmse"]:.4f}'
          for o in ('elbo', 'geco')
        ),
      ]
    )
  runs = {
    run['run'].removeprefix('micro_mnist_nvp_'): run['marginal']
    for run in read('figure_8')['digits']['runs']
  }
  shown = [runs['elbo'], runs['geco_re_0.05']]
  rows.append(
    [
      'Micro-MNIST, seven digits: average KL, ln 7 = '
      f'{shown[0]["ln_n_nats"]:.2f}',
      *(f'{run["average_kl_nats"]:.2f} nats' for run in shown),
    ]
  )
  runs = [r for r in read('rate_distortion')['runs'] if r['update'] == 'geco']
  largest = max(abs(run['kl_error']) for run in runs)
  rows.append(
    [
      'Gaussian source, linear VAE: KL / R(D) - 1, at most',
      '',
      f'{largest:.2%}',
    ]
  )
  for row in rows:
    assert '| ' + ' | '.join(row).replace('|  |', '| |') + ' |' in readme


def test_links_and_pictures_exist(readme):
  for path in re.findall(r'\]\(([^)#]+)\)', readme):
    if not path.startswith('https:'):
      assert os.path.exists(os.path.join(ROOT, path)), path


SHORT = {
  'choose_kappa': ['--kappas=0.1'],
  'train': ['--config.num_steps=20', '--config.steps_per_dispatch=10'],
  'evaluate': ['--split=test'],
  'sweep': [
    '--config.num_steps=20',
    '--config.steps_per_dispatch=10',
    '--executor=local',
  ],
}


@pytest.mark.slow
def test_every_command_pasted_in_order_works(readme, tmp_path):
  """Shortened; `make` and `pip` lines set up what runs this test."""
  for program, *words in commands_of(readme):
    if program != 'geco-jax':
      assert program in ('make', 'pip')
      continue
    done = subprocess.run(
      [sys.executable, '-m', 'geco_jax', *words, *SHORT[words[0]]],
      cwd=tmp_path,
      env=os.environ | {'PYTHONPATH': ROOT, 'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
  assert (tmp_path / 'runs/digits/evaluation.json').exists()
  assert (tmp_path / 'runs/sweep/report.html').exists()
