"""The figures are drawn from short runs, through their own functions."""

import copy
import json

import numpy as np
from PIL import Image
import pytest

from experiments import figure_3
from experiments import information_plane
from geco_jax.metrics import read_metrics
from geco_jax.training import train


@pytest.fixture
def quick(tiny_config, monkeypatch):
  monkeypatch.setattr('geco_jax.evaluation.MIN_DRAWS', 1)
  return tiny_config(kappa=0.3)


def test_gaussian_nll_is_the_entropy_of_a_discretised_normal():
  stddev, edges = 0.1, (np.arange(-3000, 3001) - 0.5) / 255
  import scipy.stats

  mass = np.diff(scipy.stats.norm.cdf(edges, 0, stddev))
  mass = mass[mass > 0]
  entropy = -(mass * np.log(mass)).sum()
  assert figure_3.gaussian_nll(stddev) == pytest.approx(entropy, rel=1e-4)


def test_figure_3_has_its_four_panels(quick, make_dataset, tmp_path):
  train(quick, str(tmp_path), dataset=make_dataset(), show_progress=False)
  logged = read_metrics(str(tmp_path))
  trained = np.isfinite(logged['loss'])
  figure = figure_3.figure_3(
    {name: values[trained] for name, values in logged.items()}, 0.3, 'test'
  )
  assert len(figure.axes) == 5  # And the colour bar.
  figure.savefig(tmp_path / 'figure.png')


def test_information_plane_runs_each_kappa_and_reuses_it(
  quick, make_dataset, tmp_path
):
  dataset = make_dataset()
  rows = []
  for kappa in (0.3, 0.4):
    row, images = information_plane.run_one(
      quick, kappa, str(tmp_path / f'{kappa}'), dataset
    )
    rows.append(row)
    assert images.shape[0] == 2
  again, _ = information_plane.run_one(
    quick, 0.3, str(tmp_path / '0.3'), dataset
  )
  assert again == rows[0]
  text = information_plane.table(rows)
  assert len(text.splitlines()) == 3
  json.dumps(rows)
  figure = information_plane.plane_figure(rows, 'test')
  figure.savefig(tmp_path / 'plane.png')
  assert Image.open(tmp_path / 'plane.png').size[0] > 100


def test_an_infeasible_kappa_is_named_in_the_table(
  quick, make_dataset, tmp_path
):
  config = copy.deepcopy(quick)
  config.multipliers.kwargs.log_multiplier_range = (-1.0, 0.1)
  row, _ = information_plane.run_one(
    config, 1e-4, str(tmp_path), make_dataset()
  )
  assert 'infeasible' in information_plane.table([row])
