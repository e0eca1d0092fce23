"""Figure 8 and Table 2 are drawn from runs and their marginal KLs."""

import json
from types import SimpleNamespace

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


def numbers(marginal, average):
  """Return what `estimate` returns, where the table reads it."""
  return {
    'marginal_kl_nats': marginal,
    'marginal_kl_error_nats': 0.25,
    'average_kl_nats': average,
  }


@pytest.mark.parametrize('is_composed', [True, False])
def test_a_row_of_table_2_divides_the_elbo_s_marginal_kl_by_geco_s(
  is_composed, make_dataset, monkeypatch
):
  dataset = make_dataset()
  if is_composed:
    dataset = dataset._replace(choose=lambda *_: None)
  assert dataset.is_composed == is_composed
  config = SimpleNamespace(
    num_steps=300, multipliers=SimpleNamespace(name='geco')
  )

  def train_all(row_runs, *_):
    return [
      SimpleNamespace(
        run=run,
        config=config,
        evaluation={'rmse': 0.1},
        experiment=SimpleNamespace(dataset=dataset),
      )
      for run in row_runs
    ]

  def estimate(folder, num_samples, num_data, experiment):
    assert (num_samples, num_data) == (20, 60_000 if is_composed else 45)
    return numbers(8.0 if folder.endswith('_elbo') else 2.0, 9.0)

  monkeypatch.setattr(table_2.runs, 'train_all', train_all)
  monkeypatch.setattr(table_2, 'estimate', estimate)
  row = table_2.row('cifar10', 'runs', 'quick', 20)
  assert (row['ratio'], row['steps']) == (4.0, 300)
  assert row['elbo']['marginal_kl_nats'] == 8.0
  assert row['geco']['evaluation'] == {'rmse': 0.1}


def test_table_2_has_the_paper_s_numbers_beside_ours():
  both = {'elbo': numbers(80.0, 99.0), 'geco': numbers(5.0, 7.0)}
  for result in both.values():
    result['evaluation'] = {'rmse': 0.125}
  row = {'data': 'color_mnist', 'ratio': 16.0, **both}
  _, *lines = table_2.table([row]).splitlines()
  assert [line.split() for line in lines] == [
    ['color_mnist', 'elbo', '80.00', '0.25', '99.0', '0.1250', '182.5'],
    ['color_mnist', 'geco', '5.00', '0.25', '7.0', '0.1250', '10.3'],
    ['ratio', '16.0', '17.7'],
  ]


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
