"""Figure 5 trains GECO at the RMSE that the ELBO ended with."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

from experiments import figure_5
from experiments.shared import rest
from experiments.shared.runs import Result
from geco_jax.errors import UserError


def made_row(elbo_kl=300.0, geco_kl=200.0, geco_rmse=0.0302, verdict='met'):
  """Return a row with these results; the ELBO's RMSE is 0.03."""

  def run(objective, rmse, kl, kappas):
    constraints = {name: {'verdict': verdict} for name in kappas}
    evaluation = {'rmse': rmse, 'kl_nats': kl, 'constraints': constraints}
    return {
      'objective': objective,
      'kappas': kappas,
      'seed': 0,
      'steps': 1_000,
      'evaluation': evaluation,
      'infeasible': [],
    }

  curve = {'step': [100, 200], 'kl_nats': [10.0, 20.0], 'rmse': [0.1, 0.05]}
  return {
    'dataset': 'made up',
    'runs': [
      run('elbo', 0.03, elbo_kl, {}),
      run('geco', geco_rmse, geco_kl, {'re': 0.03}),
    ],
    'curves': {'elbo': curve, 'geco': curve},
  }


def test_table_compares_rmse_and_kl():
  (_, line) = figure_5.table({'cifar10': made_row()}).splitlines()
  assert line.split() == [
    *('cifar10', '0.0300', '0.0302', '+0.67%', '300.0', '200.0', '0.667')
  ]


def test_figure_has_a_column_per_data_set_which_seeds_share(tmp_path):
  canvas = figure_5.figure(
    {
      'mnist': made_row(),
      'cifar10': made_row(),
      'cifar10, seed 1': made_row(verdict='violated'),
    }
  )
  assert len(canvas.axes) == 4
  titles = [axes.get_title() for axes in canvas.axes]
  assert 'mnist\n$\\kappa$ = 0.03' in titles
  assert 'cifar10\n$\\kappa$ = 0.03, 0.03, not met by 1 of 2 seeds' in titles
  canvas.savefig(tmp_path / 'figure.png', dpi=50)
  assert np.asarray(Image.open(tmp_path / 'figure.png')).std() > 0


def test_figure_draws_kl_above_rmse_and_the_kappa_that_was_asked():
  row = made_row()
  row['curves']['geco'] = {
    **{'step': [100, 200], 'kl_nats': [5.0, 6.0]},
    'rmse': [0.2, 0.03],
  }
  kl, rmse = figure_5.figure({'mnist': row}).axes
  assert (kl.get_ylabel(), rmse.get_ylabel()) == ('KL [nats]', 'RMSE')
  labels = [line.get_label() for line in kl.lines]
  assert labels == ['ELBO', 'GECO']
  elbo, geco = (line.get_xydata().tolist() for line in kl.lines)
  assert elbo == [[100, 10.0], [200, 20.0]]
  assert geco == [[100, 5.0], [200, 6.0]]
  errors = [line.get_ydata() for line in rmse.lines]
  assert [[*values] for values in errors] == [
    *([0.1, 0.05], [0.2, 0.03]),
    [0.03, 0.03],
  ]


def test_runs_until_rest_are_a_row_of_their_own_beside_the_others():
  name = figure_5.row_name('digits', until_rest=True)
  assert figure_5.row_name('digits', until_rest=False) == 'digits'
  long = made_row()
  long['runs'][1]['kappas']['re'] = 0.009
  rows = {'digits': made_row(), name: long, f'{name}, seed 1': long}
  canvas = figure_5.figure(rows)
  titles = [axes.get_title().partition('\n')[0] for axes in canvas.axes]
  assert [title for title in titles if title] == ['digits', name]
  errors = canvas.axes[2:]  # Below the KLs.
  assert [min(axes.get_yticks()) for axes in errors] == [0.03, 0.01]
  header, *lines = figure_5.table(rows).splitlines()
  assert {len(line) for line in lines} == {len(header)}


def test_a_title_says_plainly_where_no_seed_was_met():
  rows = [made_row(verdict='violated') for _ in range(2)]
  canvas = figure_5.figure({'mnist': rows[0], 'mnist, seed 1': rows[1]})
  assert canvas.axes[0].get_title().endswith('= 0.03, 0.03, not met')


def test_a_run_that_has_lost_its_log_is_named(tmp_path):
  run = figure_5.elbo_run('digits')
  folder = str(tmp_path / run.name)
  lost = Result(run, *[None] * 5, folder=folder)
  with pytest.raises(UserError, match=f'{folder} has lost its log; delete it'):
    figure_5.curve(lost)


def test_a_curve_has_at_most_200_points_and_ends_with_the_last(monkeypatch):
  steps = np.arange(1.0, 1_001.0)
  log = {'step': steps, 'kl_nats': 2 * steps, 'rmse': 1 / steps}
  monkeypatch.setattr(figure_5.runs, 'training_log', lambda folder: log)
  curve = figure_5.curve(SimpleNamespace(folder='run'))
  assert [len(values) for values in curve.values()] == [200] * 3
  assert curve['step'][-1] == 1_000.0 and curve['kl_nats'][-1] == 2_000.0


@pytest.mark.slow
def test_geco_takes_the_steps_at_which_the_elbo_rests(tmp_path, monkeypatch):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)

  def ends_at(is_at_rest, **changes):
    monkeypatch.setattr(rest, 'is_at_rest', is_at_rest)
    row = figure_5.run_row(
      *('digits', str(tmp_path), 'quick'),
      **{'num_steps': 100, 'until_rest': True, **changes},
    )
    elbo, geco = row['runs']
    assert geco['kappas']['re'] == pytest.approx(
      elbo['evaluation']['rmse'], rel=1e-3
    )
    assert (elbo['rested'], geco['rested']) == (
      *(
        is_at_rest(SimpleNamespace(config=SimpleNamespace(num_steps=n)))
        for n in (elbo['steps'], geco['steps'])
      ),
    )
    return elbo['steps'], geco['steps']

  def never(result):
    return False

  def from_200_on(result):
    return result.config.num_steps >= 200

  assert ends_at(from_200_on) == (200, 200)
  assert ends_at(never, max_steps=399) == (200, 200)
  assert ends_at(never, until_rest=False) == (100, 100)
  assert (tmp_path / 'steps_200/digits_vae_elbo/evaluation.json').exists()


@pytest.mark.slow
def test_geco_is_asked_for_the_rmse_of_the_elbo(tmp_path, monkeypatch):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  row = figure_5.run_row('digits', str(tmp_path), 'quick', num_steps=200)
  row = json.loads(json.dumps(row))
  elbo, geco = row['runs']
  assert geco['kappas']['re'] == pytest.approx(
    elbo['evaluation']['rmse'], rel=1e-3
  )
  assert row['curves']['geco']['step'] == [100, 200]
  assert row['preset'] is None  # The config of digits has none.
  assert geco['multiplier_rule'] == 'geco'
  # What was trained is found again by its name.
  assert (
    figure_5.run_row('digits', str(tmp_path), 'quick', num_steps=200) == row
  )
