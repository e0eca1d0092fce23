"""The figures are drawn from short runs, through their own functions."""

import json

from absl import flags
import numpy as np
from PIL import Image
import pytest

from experiments import figure_3
from experiments import information_plane
from geco_jax.build import build
from geco_jax.errors import UserError
from geco_jax.io.logs import read_metrics
from geco_jax.sweep import figures as sweep_figures
from geco_jax.sweep import results as sweep_results
from geco_jax.training.loop import train


@pytest.fixture
def quick(tiny_config, monkeypatch):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  return tiny_config(kappa=0.3)


def test_gaussian_nll_is_the_entropy_of_a_discretized_normal():
  stddev, edges = 0.1, (np.arange(-3000, 3001) - 0.5) / 255
  import scipy.stats

  mass = np.diff(scipy.stats.norm.cdf(edges, 0, stddev))
  mass = mass[mass > 0]
  entropy = -(mass * np.log(mass)).sum()
  assert figure_3.gaussian_nll(stddev) == pytest.approx(entropy, rel=1e-4)


def test_figure_3_has_its_four_panels(quick, make_dataset, tmp_path):
  experiment = build(quick, make_dataset())
  train(quick, str(tmp_path), experiment=experiment, show_progress=False)
  logged = read_metrics(str(tmp_path))
  trained = np.isfinite(logged['loss'])
  figure = figure_3.figure_3(
    {name: values[trained] for name, values in logged.items()}, 0.3, 'test'
  )
  assert len(figure.axes) == 5  # And the color bar.
  figure.savefig(tmp_path / 'figure.png')


def test_figure_3_of_a_run_without_its_log_is_one_sentence(
  quick, tmp_path, monkeypatch
):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(figure_3.cli, 'config', lambda: quick)
  monkeypatch.setattr(figure_3.cli, 'workdir', lambda: str(tmp_path))
  figure_3.main([])
  assert Image.open(tmp_path / 'figure_3.png').size[0] > 100
  (tmp_path / 'run' / 'metrics.jsonl').unlink()
  with pytest.raises(UserError, match='run has lost its log; delete it'):
    figure_3.main([])


@pytest.fixture
def train_kappas(make_dataset, monkeypatch):
  """Return (config, kappas, workdir) -> results, on the small data set."""
  monkeypatch.setattr(
    'geco_jax.sweep.local.build_dataset', lambda *_: make_dataset()
  )
  return information_plane.train_kappas


def test_information_plane_runs_each_kappa_and_reuses_it(
  quick, train_kappas, tmp_path
):
  results = train_kappas(quick, [0.3, 0.4], str(tmp_path))
  rows = [information_plane.as_row(result) for result in results]
  assert [row['kappa'] for row in rows] == [0.3, 0.4]
  again = train_kappas(quick, [0.3], str(tmp_path))
  assert information_plane.as_row(again[0]) == rows[0]
  text = information_plane.table(rows)
  assert len(text.splitlines()) == 3
  json.dumps(rows)
  figure = information_plane.plane_figure(results, 'test')
  figure.savefig(tmp_path / 'plane.png')
  assert Image.open(tmp_path / 'plane.png').size[0] > 100
  (line,) = sweep_results.lines(results)
  labels = [axes.texts[0].get_text() for axes in sweep_figures.strip(line).axes]
  shown = ('reconstructions', 'samples')
  assert labels == [
    'data',
    *(f'{k}\nkappa {x}' for k in shown for x in ('0.3\n(not met)', '0.4')),
  ]
