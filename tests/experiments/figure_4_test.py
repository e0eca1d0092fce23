"""Figure 4 has the paper's rows and points, and draws what was measured."""

import json

import numpy as np
from PIL import Image
import pytest

from experiments import figure_4
from experiments.results import figure_4_findings
from experiments.shared import figure_4_plane
from experiments.shared import runs
from experiments.shared.runs import Run
from geco_jax.base_config import PAPER_KAPPAS
from geco_jax.sizes import SIZES


def made_row(panel='ConvDRAW', scale=1.0, seeds=(0,)):
  """Return a row in which GECO is as it should be; KL times `scale`."""

  def run(objective, rmse, kl, kappa=None, seed=0):
    violation = None if kappa is None else rmse**2 / kappa**2 - 1
    return {
      'objective': objective,
      'kappas': {} if kappa is None else {'re': kappa},
      'seed': seed,
      'steps': 2_000,
      'infeasible': [],
      'evaluation': {
        'rmse': rmse,
        'kl_nats': kl * (1 + seed),
        'nll_nats_per_dim': 4 + np.log(rmse),
        'constraints': {
          're': {'violation': violation, 'multiplier': 40.0, 'verdict': 'met'}
        },
      },
    }

  each = [
    (('elbo', 0.03, 900.0), ('annealed_beta', 0.035, 700.0)),
    tuple(('geco', k, scale * 3.0 / k, k) for k in PAPER_KAPPAS[::-1]),
  ]
  return {
    'panel': panel,
    'dataset': 'made up',
    'gaussian': {
      'kappas': [*PAPER_KAPPAS],
      'rate_nats': [6.0 / kappa for kappa in PAPER_KAPPAS],
      'nll_nats_per_dim': [4 + np.log(kappa) for kappa in PAPER_KAPPAS],
    },
    'runs': [
      run(*point, seed=seed)
      for seed in seeds
      for part in each
      for point in part
    ],
  }


def made_point(kappa, kl, verdict='met', nll=2.0):
  """Return a point of one run of GECO."""
  return figure_4_plane.Point(
    *('geco', kappa, kl, None, nll, kappa, 0.0, 1.0, verdict, 0.02),
    trained=[(2_000, 0)],
  )


def test_rows_are_the_papers_models_and_data_sets():
  panels = {}
  for row in figure_4.ROWS.values():
    panels.setdefault(row.panel, set()).add(row.data)
  assert panels == {
    'Conditional ConvDRAW': {'mnist_sum', 'mnist_sum_hard', 'mnist_rotate'},
    'ConvDRAW': {
      'celeb_a',
      'cifar10',
      'mnist',
      'color_mnist',
      'mnist_triplets',
    },
    'VAE+NVP': {'color_mnist', 'cifar10'},
  }


def test_the_table_has_the_frechet_distance_where_all_seeds_have_it():
  row = made_row(seeds=(0, 1))
  for seed, run in enumerate([row['runs'][0], row['runs'][7], row['runs'][1]]):
    distances = dict.fromkeys(('reconstructions', 'train'), 0.5)
    distances['samples'] = 1.5 + seed
    run['sample_quality'] = {'frechet': distances}
  header, *lines = figure_4.figure_4_plane.table({'mnist': row}).splitlines()
  end = len(header)
  assert header.endswith('   Frechet')
  assert [line[end - 9 :].strip() for line in lines] == ['2', *[''] * 6]


@pytest.mark.parametrize(
  'other', [{'network_sha256': 'b'}, {'layer': 'logits'}, {'num_samples': 9}]
)
def test_distances_that_were_measured_in_two_ways_are_not_compared(other):
  row = made_row()
  way = {'network_sha256': 'a', 'layer': 'pooled', 'num_samples': 99}
  distances = dict.fromkeys(('samples', 'reconstructions', 'train'), 0.5)
  for run in row['runs']:
    run['sample_quality'] = {'frechet': {**way, **distances}}
  assert {p.frechet for p in figure_4_plane.points(row)} == {0.5}

  def compared():
    lines = figure_4_findings.frechet({'celeb_a': row})
    return [line for line in lines if line.verdict != 'not measured']

  assert len(compared()) == 2
  row['runs'][-1]['sample_quality']['frechet'] |= other
  for point in figure_4_plane.points(row):
    assert point.frechet is point.reconstructions_frechet is None
    assert point.train_frechet is None
  assert not compared()


@pytest.mark.parametrize('preset', SIZES)
@pytest.mark.parametrize('name', figure_4.ROWS)
def test_every_point_of_every_row_has_a_config(name, preset):
  points = figure_4.ROWS[name].runs()
  assert len({point.name for point in points}) == 2 + len(PAPER_KAPPAS)
  assert figure_4.ROWS[name].runs(['geco', 'elbo']) == [points[0], *points[2:]]
  for point in points:
    config = point.config(preset)
    conditional = config.model.kwargs.get('conditional', False)
    assert conditional == ('Conditional' in figure_4.ROWS[name].panel)
    kappas = {k: v.kappa for k, v in config.constraints.items()}
    assert kappas == (point.kappas or {'nll': 0.0})


def test_short_runs_are_those_of_conv_draw_on_digits_with_as_many_latents():
  short = {
    name
    for name, row in figure_4.ROWS.items()
    if figure_4.is_short(row, 'quick')
  }
  assert short == {
    *('color_mnist', 'mnist_triplets', 'mnist_sum', 'mnist_sum_hard'),
    'mnist_rotate',
  }
  assert not any(
    figure_4.is_short(row, preset)
    for row in figure_4.ROWS.values()
    for preset in ('medium', 'gpu', 'paper')
  )
  for name in short:
    (full, small) = (
      figure_4.ROWS[name].runs()[0].config('quick', changes=changes)
      for changes in ({}, figure_4.SHORT)
    )
    latents = [
      c.model.kwargs.num_steps * c.model.kwargs.latent_channels
      for c in (full, small)
    ]
    assert latents[1] >= latents[0]
    assert small.num_steps <= full.num_steps


def test_until_rest_a_row_trains_what_is_planned_at_most(tmp_path, monkeypatch):
  """In one folder for each number of steps, below that of short runs."""
  trained = {}

  def train_all(some, folder, preset, steps, data_dir, changes):
    assert (preset, data_dir, changes) == ('quick', 'd', figure_4.SHORT)
    trained.update({f'{folder}/{run.name}': steps for run in some})
    return [runs.Result(run, *[None] * 5) for run in some]

  def curve(*_):
    raise InterruptedError  # Enough has been seen.

  monkeypatch.setattr(runs, 'train_all', train_all)
  monkeypatch.setattr(figure_4.rest, 'is_at_rest', lambda _: False)
  monkeypatch.setattr(runs, 'table', curve)
  each = figure_4.ROWS['mnist_sum'].runs()
  args = each, str(tmp_path), 'quick'
  kwargs = dict(short=True, until_rest=True, max_steps=8_000)
  with pytest.raises(InterruptedError):
    figure_4.run_row(
      *('mnist_sum', str(tmp_path), 'quick', each), data_dir='d', **kwargs
    )
  planned = {
    f'{tmp_path}/{point.name}': point.config.num_steps
    for point in figure_4.points(*args, **kwargs)
  }
  assert trained == planned
  assert sorted(set(planned.values())) == [2_000, 4_000, 8_000]
  assert len(planned) == 2 * 3 + len(PAPER_KAPPAS)


def test_points_are_in_order_and_means_over_seeds():
  row = made_row(seeds=(0, 1))
  elbo, annealed, *geco = figure_4_plane.points(row)
  assert (elbo.objective, annealed.objective) == ('elbo', 'annealed_beta')
  assert [point.kappa for point in geco] == [*PAPER_KAPPAS]
  assert elbo.kl_nats == pytest.approx(1.5 * 900)
  assert figure_4_plane.kl_text(elbo) == '1350.0 ± 636.4'  # 900 and 1800.
  for point in geco:
    assert point.trained == [(2_000, 0), (2_000, 1)]


def test_table_tells_what_was_met_and_how_much_is_saved():
  row = made_row()
  for run, verdict in ((-1, 'infeasible'), (-2, 'violated')):
    row['runs'][run]['evaluation']['constraints']['re']['verdict'] = verdict
  text = figure_4_plane.table({'mnist': row}).splitlines()
  assert len(text) == 1 + 7
  assert ' infeasible ' in text[3] and ' violated ' in text[4]
  assert all(' met ' in line for line in text[5:])
  last = text[-1].split()  # Kappa 0.175: 900 / (3 / 0.175), 6 / 0.175.
  assert last[-2:] == ['52.5', '34.3']
  row['runs'][0]['steps'] = 12_000
  text = figure_4_plane.table({'mnist': row}).splitlines()
  assert text[-1].split()[-2:] == ['17.1', '34.3']  # The KL, no ratio.


@pytest.mark.parametrize(
  ('answers', 'text'),
  [
    ((None, None), ''),
    ((True, True), 'at rest'),
    ((True, False), 'not at rest'),
    ((False, False), 'not at rest'),
  ],
)
def test_a_baseline_says_whether_all_its_seeds_rest(answers, text):
  row = made_row(seeds=(0, 1))
  elbos = [run for run in row['runs'] if run['objective'] == 'elbo']
  for run, rested in zip(elbos, answers, strict=True):
    if rested is not None:
      run['rested'] = rested
  elbo, annealed, *_ = figure_4_plane.points(row)
  assert figure_4_plane.rest_text(elbo.rested) == text
  assert figure_4_plane.rest_text(annealed.rested) == ''
  line = figure_4_plane.table({'mnist': row}).splitlines()[1]
  assert ('at rest' in line, 'not at rest' in line) == (
    *('at rest' in text, 'not' in text),
  )
  finding = next(figure_4_findings.kl({'mnist': row}))
  between = f' ({text or "rest not known"}) '
  assert f'2000 steps, 2 seeds: ELBO{between}1350.0' in finding.what


def test_figure_has_a_panel_per_model_and_a_line_per_row(tmp_path):
  rows = {
    'mnist': made_row(),
    'color_mnist': made_row(scale=2.0),
    'color_mnist_nvp': made_row('VAE+NVP'),
  }
  canvas = figure_4_plane.figure(rows)
  assert [axes.get_title() for axes in canvas.axes] == ['ConvDRAW', 'VAE+NVP']
  # A Gaussian, the ELBO, annealed beta and GECO for each row.
  assert [len(axes.lines) for axes in canvas.axes] == [8, 4]
  canvas.savefig(tmp_path / 'figure.png', dpi=50)
  assert np.asarray(Image.open(tmp_path / 'figure.png')).std() > 0


def test_points_and_their_kappas_stand_at_their_nll_and_kl():
  row = made_row()
  (axes,) = figure_4_plane.figure({'mnist': row}).axes
  assert axes.get_yscale() == 'log'
  (legend,) = [text.get_text() for text in axes.get_legend().get_texts()]
  assert legend == row['dataset']
  gaussian, elbo, _, geco = (line.get_xydata() for line in axes.lines)
  rates = row['gaussian']
  np.testing.assert_array_equal(
    gaussian, np.transpose([rates['nll_nats_per_dim'], rates['rate_nats']])
  )
  np.testing.assert_allclose(elbo, [[4 + np.log(0.03), 900.0]])
  points = figure_4_plane.points_of(row, 'geco')
  np.testing.assert_array_equal(
    geco, [(point.nll_nats_per_dim, point.kl_nats) for point in points]
  )
  places = {text.get_text(): text.xy for text in axes.texts}
  for point in points:
    place = places[f'{point.kappa:g}']
    assert place == (point.nll_nats_per_dim, point.kl_nats)


def test_figure_names_kappas_and_hides_no_row_under_its_equal():
  rows = {'mnist': made_row(), 'color_mnist': made_row()}  # Equal points.
  (axes,) = figure_4_plane.figure(rows).axes
  texts = [text.get_text() for text in axes.texts]
  for row in (texts[: len(texts) // 2], texts[len(texts) // 2 :]):
    assert {'0.06', '0.08', '0.175'} <= set(row)
  above, below = axes.lines[:4], axes.lines[4:]
  for upper, lower in zip(above[1:], below[1:], strict=True):
    np.testing.assert_array_equal(upper.get_xydata(), lower.get_xydata())
    assert lower.get_linewidth() > upper.get_linewidth()
    assert lower.get_markersize() > upper.get_markersize()
    assert lower.get_zorder() < upper.get_zorder()


def test_kappas_that_end_at_one_place_are_named_together():
  shown = [
    made_point(0.06, 100.0, 'infeasible'),
    made_point(0.08, 99.0, 'violated'),
    made_point(0.1, 60.0, 'infeasible'),
    made_point(0.125, 59.0),
    made_point(0.175, 10.0),
  ]
  texts = [text for text, _ in figure_4_plane._kappas(shown)]
  assert texts == ['0.06, 0.08 not met', '0.1 not met, 0.125', '0.175']


def test_kappas_of_one_kl_and_two_errors_are_named_apart():
  shown = [
    made_point(kappa, 10.0, nll=nll)
    for kappa, nll in ((0.06, 1.0), (0.08, 1.01), (0.1, 1.1))
  ]
  texts = [text for text, _ in figure_4_plane._kappas(shown)]
  assert texts == ['0.06, 0.08', '0.1']


def test_rows_that_were_run_before_stay_in_the_file(tmp_path):
  path = str(tmp_path / 'rows.json')
  assert runs.save_row(path, 'mnist', {'preset': 'quick'}) == {
    'mnist': {'preset': 'quick'}
  }
  rows = runs.save_row(path, 'cifar10', {'preset': 'gpu'})
  assert rows == json.loads((tmp_path / 'rows.json').read_text())
  assert [*rows] == ['mnist', 'cifar10']


@pytest.mark.slow
def test_a_row_is_trained_and_drawn(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  points = [
    Run('digits', 'elbo', model='vae'),
    Run('digits', 'geco', {'re': 0.3}, 'vae'),
  ]
  # One that has no presets, in the place of a data set that has.
  row = figure_4.run_row('mnist', str(tmp_path), None, points, num_steps=100)
  assert points[1].name in capsys.readouterr().out
  rows = json.loads(json.dumps({'mnist': row}))
  assert len(rows['mnist']['gaussian']['rate_nats']) == len(PAPER_KAPPAS)
  assert len(figure_4_plane.table(rows).splitlines()) == 3
  assert len(figure_4_plane.figure(rows).axes) == 1
  # Far from rest, so that both are trained at the cap; the first is reused.
  longer = figure_4.run_row(
    *('mnist', str(tmp_path), None, points, 100), until_rest=True, max_steps=200
  )
  elbo, geco = longer['runs']
  assert (elbo['steps'], elbo['rested'], geco['steps']) == (200, False, 200)
  folders = {path.parent.name for path in tmp_path.glob('**/config.json')}
  assert folders == {point.name for point in points}
  assert len([*tmp_path.glob('**/config.json')]) == 4


def test_objectives_of_a_row_can_be_run_one_by_one(tmp_path):
  """Those that were run before stay, unless the row was of another preset."""
  path = str(tmp_path / 'figure_4.json')

  def saved(names, preset='quick', short=True):
    records = [{'run': name, 'preset': preset} for name in names]
    row = {'preset': preset, 'short': short, 'runs': records}
    rows = runs.save_row(path, 'mnist', row, keep=True)
    assert json.loads((tmp_path / 'figure_4.json').read_text()) == rows
    return [record['run'] for record in rows['mnist']['runs']]

  assert saved(['elbo', 'geco']) == ['elbo', 'geco']
  assert saved(['geco', 'annealed']) == ['elbo', 'geco', 'annealed']
  assert saved(['elbo'], short=False) == ['elbo']
  assert saved(['geco'], 'medium') == ['geco']


def test_the_legend_names_the_objectives_that_are_drawn():
  row = made_row()
  drawn = {run['objective'] for run in row['runs']}
  assert drawn == {*figure_4.OBJECTIVES}

  def labels(runs):
    canvas = figure_4_plane.figure({'mnist': {**row, 'runs': runs}})
    (legend,) = canvas.legends
    return [text.get_text() for text in legend.get_texts()]

  everything = labels(row['runs'])
  assert [*map(str.split, everything)][0] == ['ELBO'] and len(everything) == 4
  some = [run for run in row['runs'] if run['objective'] != 'annealed_beta']
  assert labels(some) == [text for text in everything if 'beta' not in text]
