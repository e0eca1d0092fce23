"""Panels say what they show, and whether what was asked was met."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.shared import panels


def record(verdict, kappas):
  """Return what a results file keeps of a run."""
  constraints = {name: {'verdict': verdict} for name in kappas}
  evaluation = {'kl_nats': 12.3, 'rmse': 0.1, 'constraints': constraints}
  return {
    'data': 'celeb_a',
    'objective': 'geco' if kappas else 'elbo',
    'kappas': kappas,
    'model': 'conv_draw',
    'seed': 0,
    'infeasible': [],
    'evaluation': evaluation,
  }


@pytest.mark.parametrize('verdict', ['met', 'violated', 'infeasible'])
def test_a_title_says_what_was_not_met(verdict):
  title = panels.title(record(verdict, {'re': 0.06}), name_data=False)
  assert title.startswith(r'GECO+RE $\kappa$=0.06')
  assert ('(not met)' in title) == (verdict != 'met')
  assert title.endswith('KL 12 nats, RMSE 0.100')


def test_a_title_names_the_data_where_there_are_several():
  run = record('met', {})
  assert panels.title(run, name_data=True).startswith('celeb_a, ELBO\n')
  assert panels.title(run, name_data=False).startswith('ELBO\n')


def test_a_title_says_how_good_samples_are_where_that_was_measured():
  distances = {'samples': 32.438, 'reconstructions': 1.9, 'train': 3.4256}
  run = {**record('met', {}), 'sample_quality': {'frechet': distances}}
  assert panels.title(run, name_data=False).endswith(
    '\nFrechet distance 32.4, of training images 3.43'
  )


def test_rows_are_labeled_in_the_first_panel_of_each_line():
  image = np.zeros((30, 40, 3), np.uint8)
  labels = ['data', 'reconstructions', 'samples']
  canvas = panels.draw([image] * 5, [*'abcde'], labels)
  shown = [
    [label.get_text() for label in axes.get_yticklabels()]
    if axes.axison
    else []
    for axes in canvas.axes
  ]
  assert shown == [labels, [], [], labels, [], []]
  np.testing.assert_allclose(canvas.axes[0].get_yticks(), [5, 15, 25])


def test_each_panel_has_its_own_picture_and_title():
  images = [np.full((30, 40, 3), 50 * n, np.uint8) for n in range(3)]
  canvas = panels.draw(images, [*'abc'], ['data'])
  assert [axes.get_title() for axes in canvas.axes] == [*'abc']
  for axes, image in zip(canvas.axes, images, strict=True):
    (shown,) = axes.images
    np.testing.assert_array_equal(shown.get_array(), image)


def test_panels_show_the_test_split_by_the_run_s_parameters(
  make_dataset, monkeypatch
):
  dataset, seen = make_dataset(), []

  def image_rows(experiment, images, num_columns):
    seen.append(images)
    return lambda params: np.full((3, num_columns, 8, 8, 1), params)

  monkeypatch.setattr(panels.pictures, 'image_rows', image_rows)
  experiment = SimpleNamespace(dataset=dataset)
  result = SimpleNamespace(experiment=experiment, params=lambda: 0.2)
  picture = panels._picture(result)
  assert seen == [dataset.splits['test']]
  assert picture[0, 0].tolist() == [51] * 3
