"""Grids of images."""

from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest

from geco_jax.evaluation import pictures


def test_grid_places_images_by_row_and_column():
  rows = np.zeros((2, 3, 60, 60, 1), np.float32)
  rows[1, 2] = 1.0
  picture = pictures.grid(rows)
  assert picture.shape == (2 * 62, 3 * 62, 3)
  assert picture.dtype == np.uint8
  assert np.all(picture[62:122, 124:184] == 255)
  assert np.all(picture[:60, :60] == 0)


def test_small_images_are_enlarged_by_whole_pixels():
  rows = np.random.default_rng(0).uniform(size=(1, 1, 8, 8, 3))
  picture = pictures.grid(rows)[:56, :56]
  np.testing.assert_array_equal(picture[::7, ::7], np.round(rows[0, 0] * 255))
  np.testing.assert_array_equal(picture[3::7, 3::7], picture[::7, ::7])


def test_the_shorter_side_of_a_tile_is_large_enough():
  picture = pictures.grid(np.zeros((1, 1, 8, 20, 1)))
  assert picture.shape == (56 + 2, 7 * 20 + 2, 3)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_images_of_any_channels_are_shown_in_three(channels, make_dataset):
  dataset = make_dataset((60, 60, channels))
  images = np.random.default_rng(0).uniform(size=(2, 60, 60, channels))
  gray = np.full((2, 60, 60, 1), 0.2)
  rows = pictures.stack_rows(dataset, gray, images)
  assert rows.shape == (2, 2, 60, 60, 1 if channels == 1 else 3)
  picture = pictures.grid(rows)
  assert picture.shape == (2 * 62, 2 * 62, 3)
  assert np.all(picture[:60, :60] == 51)
  shown = np.zeros((60, 60, 3))
  for channel in range(3):
    if channel < channels or channels == 1:
      shown[..., channel] = images[1, ..., min(channel, channels - 1)]
  np.testing.assert_array_equal(
    picture[62:122, 62:122], np.round(255 * shown).astype(np.uint8)
  )
  np.testing.assert_array_equal(
    pictures.grid(images[np.newaxis]), picture[62:124]
  )
  assert pictures.labeled(picture, ['contexts', 'data']).shape[-1] == 3


def test_channels_that_are_images_stand_side_by_side_beside_white(make_dataset):
  dataset = make_dataset()._replace(channels_are_images=True)
  pair = np.zeros((1, 2, 3, 2))
  pair[..., 1] = 0.5
  rows = pictures.stack_rows(dataset, None, pair, np.zeros((1, 2, 3, 1)))
  assert rows.shape == (2, 1, 2, 6, 1)
  assert rows[0, 0, 0, :, 0].tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
  assert rows[1, 0, 0, :, 0].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_tiles_without_an_image_are_white(channels, make_dataset):
  dataset = make_dataset((60, 60, channels))
  images = np.random.default_rng(0).uniform(size=(5, 60, 60, channels))
  picture = pictures.tiles(dataset, images, 3)
  assert picture.shape == (2 * 62, 3 * 62, 3)
  rows = pictures.stack_rows(dataset, images[:3], images[2:])
  expected = pictures.grid(rows)
  np.testing.assert_array_equal(picture[:62], expected[:62])
  np.testing.assert_array_equal(picture[62:, :124], expected[62:, 62:])
  assert np.all(picture[62:, 124:] == 255)


def test_values_outside_the_unit_interval_are_clipped():
  rows = np.array([-1.0, 2.0]).reshape(1, 2, 1, 1, 1)
  picture = pictures.grid(rows)
  assert picture[0, 0, 0] == 0
  assert picture[0, 60, 0] == 255


def test_png_reads_back(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  pictures.save_png(tmp_path / 'a.png', picture)
  np.testing.assert_array_equal(
    np.asarray(Image.open(tmp_path / 'a.png')), picture
  )
  assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_labels_stand_beside_their_rows_and_are_taken_off_again(tmp_path):
  rows = np.random.default_rng(0).uniform(size=(3, 2, 8, 8, 1))
  picture = pictures.grid(rows)
  labels = ['data', '', 'samples of kappa 0.1']
  pictures.save_png(tmp_path / 'a.png', picture, labels)
  read = pictures.read_rows(tmp_path / 'a.png')
  np.testing.assert_array_equal(np.concatenate(read), picture)
  shown = np.asarray(Image.open(tmp_path / 'a.png'))
  margin = shown.shape[1] - picture.shape[1]
  inked = [
    (part[:, :margin] < 128).any() for part in np.split(shown, len(labels))
  ]
  assert inked == [True, False, True]
  assert (shown[:, :2] == 255).all()  # Nothing is cut off.


def test_rows_without_labels_are_refused(tmp_path):
  pictures.save_png(tmp_path / 'a.png', np.zeros((4, 4, 3), np.uint8))
  with pytest.raises(ValueError, match='does not say how many rows'):
    pictures.read_rows(tmp_path / 'a.png')


def test_rows_are_data_reconstructions_and_samples_under_their_labels(
  make_dataset,
):
  dataset = make_dataset()

  def apply(params, key, image, context):
    return SimpleNamespace(reconstruction=0 * image + params)

  def sample(params, key, context):
    return 0 * dataset.splits['test'].image[:3] + 2 * params

  model = SimpleNamespace(apply=apply, sample=sample)
  experiment = SimpleNamespace(dataset=dataset, model=model)
  programs = pictures.row_programs.__wrapped__(experiment)
  images = dataset.splits['test']
  batch = programs[0](images, np.array([0, 4, 9]))
  reconstructions, samples = programs[1](np.float32(0.25), batch)
  assert np.unique(reconstructions).tolist() == [0.25]
  assert np.unique(samples).tolist() == [0.5]
  labels = ['data', 'reconstructions', 'samples']
  assert pictures.row_labels(dataset) == labels
  with_contexts = dataset._replace(context_shape=(4, 4, 1))
  assert pictures.row_labels(with_contexts) == ['contexts', *labels]
