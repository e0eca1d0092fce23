"""The command tells what a tolerance means, without training."""

import json
import math
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from geco_jax import choose_kappa
from geco_jax.build import COMPOSITIONS
from geco_jax.datasets import sources
from geco_jax.evaluation import gaussian_rate


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'geco_jax.choose_kappa', *arguments],
    capture_output=True,
    text=True,
  )


def test_channels_that_are_images_stand_side_by_side():
  dataset = COMPOSITIONS['mnist_triplets'](sources.digits())
  spectrum = gaussian_rate.spectrum(dataset)
  rows = choose_kappa.rows(dataset, spectrum, [0.1, 0.2])
  assert rows.shape == (3, 12, 8, 24, 1)
  # The stricter kappa is nearer to the data, which are the first row.
  near, far = (np.square(rows[i] - rows[0]).mean() for i in (1, 2))
  assert near < far


def test_rate_falls_and_fewer_components_are_kept_as_kappa_grows(make_dataset):
  dataset = make_dataset()
  spectrum = gaussian_rate.spectrum(dataset)
  summary = choose_kappa.describe(dataset, spectrum, [0.05, 0.1, 0.2, 0.9])
  for name in ('rate_nats', 'components'):
    values = [row[name] for row in summary['kappas']]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0
  for row in summary['kappas']:
    assert row['rate_bits'] == pytest.approx(row['rate_nats'] / math.log(2))
  assert len(choose_kappa.table(summary).splitlines()) == 2 + 4


def test_the_mean_images_error_is_the_root_of_a_mean_square(make_dataset):
  dataset = make_dataset()
  spectrum = gaussian_rate.spectrum(dataset)
  summary = choose_kappa.describe(dataset, spectrum, [0.1])
  image = dataset.splits['train'].image / 255
  rmse = math.sqrt(np.square(image - image.mean(axis=0)).mean())
  assert summary['rmse_of_mean'] == pytest.approx(rmse, rel=1e-5)
  assert f'has RMSE {rmse:.4f}' in choose_kappa.table(summary)


def test_the_kappa_of_the_config_is_among_the_defaults(tiny_config):
  kappas = choose_kappa._default_kappas(tiny_config(kappa=0.07))
  assert kappas == [0.06, 0.07, 0.08, 0.1, 0.125, 0.175]


@pytest.mark.slow
def test_command_writes_table_numbers_and_picture(tmp_path):
  process = run(
    '--config=configs/digits_vae.py', f'--workdir={tmp_path / "made"}'
  )
  assert process.returncode == 0, process.stderr
  summary = json.loads((tmp_path / 'made' / 'choose_kappa.json').read_text())
  assert choose_kappa.table(summary) in process.stdout
  assert [row['kappa'] for row in summary['kappas']] == [
    *(0.06, 0.08, 0.1, 0.125, 0.175)
  ]
  picture = Image.open(tmp_path / 'made' / 'choose_kappa.png')
  assert np.asarray(picture).std() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
  ('kappas', 'complaint'),
  [
    ('0.1,much', '--kappas must be numbers, got 0.1,much'),
    ('', '--kappas is empty'),
    ('0.1,-1', 'must be finite and > 0, got -1.0, 0.1'),
    ('0.1,1e-200', 'must be finite and > 0, got 1e-200, 0.1'),
  ],
)
def test_bad_kappas_are_answered_in_one_line(tmp_path, kappas, complaint):
  process = run(
    '--config=configs/digits_vae.py',
    f'--workdir={tmp_path}',
    f'--kappas={kappas}',
  )
  assert process.returncode == 2
  assert process.stderr.startswith('error:') and complaint in process.stderr
  assert process.stderr.count('\n') == 1
