"""Figure 8 and Table 2 are drawn from runs and their marginal KLs."""

import json

import numpy as np
from PIL import Image
import pytest

from experiments import figure_8
from experiments import table_2
from experiments.shared import runs
from experiments.shared.runs import Run
from geco_jax.base_config import PAPER_KAPPAS
from geco_jax.evaluation.aggregate_posterior import estimate

TINY = {
  'batch_size': 14,
  'steps_per_dispatch': 10,
  'model.kwargs.channels': (4,),
  'model.kwargs.hidden_size': 8,
  'model.kwargs.num_couplings': 2,
  'model.kwargs.coupling_sizes': (4,),
}


def test_figure_8_shows_the_papers_runs_and_a_curve_in_kappa():
  titles = [run.title for run in figure_8.SHOWN]
  assert titles == [
    'ELBO',
    r'GECO+RE $\kappa$=0.05',
    r'GECO+RE $\kappa$=0.5',
    r'GECO+CLA $\kappa$=0.9',
  ]
  for preset in ('digits', 'mnist'):
    for run in (*figure_8.SHOWN, *figure_8.CURVE):
      assert run.config(preset).model.kwargs.latent_size == 2


@pytest.fixture
def panels(tmp_path, monkeypatch):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  results = runs.train_all(
    [Run('micro_mnist', 'geco', {'re': kappa}, 'nvp') for kappa in (0.05, 0.5)],
    str(tmp_path),
    'digits',
    num_steps=20,
    changes=TINY,
  )
  return [
    figure_8.Panel(
      result,
      estimate(
        str(tmp_path / result.run.name),
        50,
        experiment=result.experiment,
        show_progress=False,
      ),
    )
    for result in results
  ]


@pytest.mark.slow
def test_figure_8_draws_samples_of_every_digit(panels, tmp_path):
  samples = figure_8.posterior_samples(panels[0].result)
  assert samples.shape == (7, 100, 2)
  assert np.isfinite(samples).all() and len(np.unique(samples)) == samples.size
  for figure in (figure_8.tiles_figure(panels), figure_8.curve_figure(panels)):
    figure.savefig(tmp_path / 'figure.png', dpi=40)
    assert np.asarray(Image.open(tmp_path / 'figure.png')).std() > 0
  text = figure_8.table(panels).splitlines()
  assert len(text) == 4 and text[-1] == 'ln n = 1.9459'


@pytest.mark.slow
def test_table_2_compares_both_objectives_with_the_paper(tmp_path, monkeypatch):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  monkeypatch.setattr('experiments.table_2._NUM_COMPOSED', 200)
  assert table_2.KAPPA in PAPER_KAPPAS
  row = table_2.row('color_mnist', str(tmp_path), 'quick', 20, num_steps=100)
  row = json.loads(json.dumps(row))
  assert row['steps'] == 100
  for objective in ('elbo', 'geco'):
    record = row[objective]
    assert (record['num_samples'], record['num_data']) == (20, 200)
    assert record['average_kl_nats'] > 0
  ratio = row['elbo']['marginal_kl_nats'] / row['geco']['marginal_kl_nats']
  assert row['ratio'] == pytest.approx(ratio)
  text = table_2.table([row])
  assert '182.5' in text and '10.3' in text and '17.7' in text
