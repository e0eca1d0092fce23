"""Images of one's own: trained on, evaluated, loaded, sampled, by commands."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

import geco_jax
from geco_jax import config_files
from geco_jax import sample
from geco_jax.base_config import group
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import checkpoints
from geco_jax.sweep import grid
from geco_jax.sweep import local
from geco_jax.training.loop import train

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TINY = {
  'num_steps': 20,
  'steps_per_dispatch': 10,
  'checkpoint_every': 20,
  'batch_size': 8,
  'model.kwargs.latent_size': 3,
}


def write_digits(folder, num_pictures):
  """Write digits as pictures of 24x20 pixels, a folder for each label."""
  digits, labels = sklearn.datasets.load_digits(return_X_y=True)
  for number in range(num_pictures):
    pixels = np.round(digits[number].reshape(8, 8) * (255 / 16))
    path = folder / str(labels[number]) / f'{number:03}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(pixels.astype(np.uint8))
    image.resize((24, 20)).save(path)


@pytest.fixture
def pictures(tmp_path, monkeypatch, draw_once):
  """Return the path of a folder of 30 pictures; nothing is slow or kept."""
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path / 'cache'))
  write_digits(tmp_path / 'pictures', 30)
  return tmp_path / 'pictures'


def make_config(path, variant='folder', **changes):
  """Return the tiny config of a run on images at a path."""
  config = config_files.load(f'own_images:{variant}')
  changes = {'dataset.kwargs.path': str(path), **TINY, **changes}
  config.model = group('mlp_vae', latent_size=3, hidden_sizes=(8,))
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.slow
def test_a_folder_of_pictures_by_commands_from_an_empty_folder(tmp_path):
  write_digits(tmp_path / 'pictures', 100)
  empty = tmp_path / 'empty'
  empty.mkdir()

  def command(name, *arguments):
    process = subprocess.run(
      [sys.executable, '-m', 'geco_jax', name, *arguments],
      cwd=empty,
      env=os.environ
      | {'PYTHONPATH': ROOT, 'GECO_JAX_CACHE': str(tmp_path / 'cache')},
      capture_output=True,
      text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout

  command(
    *('train', '--config=own_images', '--workdir=runs/mine'),
    f'--config.dataset.kwargs.path={tmp_path / "pictures"}',
    '--config.dataset.kwargs.image_size=12',
    *(f'--config.{name}={value}' for name, value in TINY.items()),
  )
  table = command('evaluate', '--workdir=runs/mine')
  assert re.search('train +80 ', table) and re.search('test +10 ', table)
  command('sample', '--workdir=runs/mine', '--output=samples.png', '--num=9')
  ends = [str(tmp_path / 'pictures' / f'{n}/00{n}.png') for n in (0, 1)]
  command(
    *('sample', '--workdir=runs/mine', '--output=line.png', '--num=4'),
    f'--interpolate={",".join(ends)}',
  )
  for name in ('samples.png', 'line.png'):
    assert PIL.Image.open(empty / name).mode in ('L', 'RGB')
  run = geco_jax.load(str(empty / 'runs' / 'mine'))
  assert run.experiment.dataset.image_shape == (12, 12, 1)
  assert run.evaluation['step'] == 20


def test_what_is_known_of_the_data_is_in_the_folder_and_refuses_others(
  pictures, tmp_path
):
  config = make_config(pictures, **{'dataset.kwargs.image_size': 9})
  workdir = str(tmp_path / 'run')
  train(config, workdir, show_progress=False)
  with open(os.path.join(workdir, 'data.json')) as file:
    data = json.load(file)
  assert data['image_shape'] == [9, 9, 1] and len(data['sha256']) == 64
  evaluation = checkpoints.evaluate(workdir)
  assert evaluation['num_examples'] == 24
  run = geco_jax.load(workdir)
  assert run.sample(2).shape == (2, 9, 9, 1)
  paths = [str(pictures / '0' / '000.png'), str(pictures / '1' / '001.png')]
  line = sample.draw(run, 3, 0, paths)  # Cropped and resized as the data were.
  images = build_dataset(config).splits
  images = np.concatenate([split.image for split in images.values()])
  resized = sample.read_image(paths[0], run)
  assert (images == resized).all(axis=(1, 2, 3)).any()
  np.testing.assert_allclose(line[:1], run.reconstruct([resized]), atol=1e-6)
  picture = pictures / '3' / '003.png'
  PIL.Image.open(picture).transpose(PIL.Image.Transpose.ROTATE_180).save(
    picture
  )
  for again in (
    lambda: train(
      make_config(pictures, **{'dataset.kwargs.image_size': 9}),
      workdir,
      show_progress=False,
    ),
    lambda: checkpoints.evaluate(workdir),
  ):
    with pytest.raises(UserError, match='was trained on other data: the image'):
      again()
  geco_jax.load(workdir)  # It needs none.


@pytest.mark.slow
def test_a_sweep_runs_on_an_npz(pictures, tmp_path):
  image = np.zeros((20, 10, 10, 3))
  image[::2] = np.random.default_rng(0).random((10, 10, 10, 3))
  path = tmp_path / 'mine.npz'
  np.savez(path, train=image, labels=np.arange(20) % 3)
  config = make_config(path, 'npz')
  config.sweep = ({'constraints.re.kappa': [0.2, 0.3]},)
  points = grid.points(config)
  assert not local.run_here(points, str(tmp_path / 's'), show_progress=False)
  for point in points:
    run = geco_jax.load(str(tmp_path / 's' / point.name))
    assert run.reconstruct(image[:2]).shape == (2, 10, 10, 3)
    assert run.evaluation['num_examples'] == 16


@pytest.mark.slow
def test_arrays_of_a_program_are_trained_on_and_evaluated(pictures, tmp_path):
  images = np.random.default_rng(0).random((20, 6, 6)) > 0.5
  dataset = geco_jax.dataset_from_arrays(images, images[:4])
  config = make_config('')
  experiment, workdir = build(config, dataset), str(tmp_path / 'run')
  train(config, workdir, experiment=experiment, show_progress=False)
  evaluation = checkpoints.evaluate(workdir, ['test'], experiment=experiment)
  assert evaluation['num_examples'] == 4
  with pytest.raises(UserError, match='config.dataset.kwargs.path is missing'):
    checkpoints.evaluate(workdir)


@pytest.mark.parametrize(
  ('variant', 'changes', 'message'),
  [
    ('folder', {'dataset.kwargs.path': ''}, 'kwargs.path is missing'),
    ('folder', {'dataset.kwargs.path': '/no/such'}, '/no/such is no such path'),
    ('folder', {'dataset.kwargs.image_size': 0}, 'config.dataset: image_size'),
    ('folder', {'dataset.kwargs.channels': 2}, 'config.dataset: channels must'),
    (
      'folder',
      {'dataset.kwargs.white': 0},
      r'white must be an integer in \[1, 255\]',
    ),
    ('npz', {}, 'is not an npz file'),
  ],
)
def test_what_is_wrong_is_named_before_a_folder_is_made(
  variant, changes, message, pictures, tmp_path
):
  workdir = tmp_path / 'run'
  with pytest.raises(UserError, match=message):
    train(make_config(pictures, variant, **changes), str(workdir))
  assert not workdir.exists()


def test_levels_0_and_1_are_refused_or_scaled_in_a_folder(pictures):
  for path in pictures.rglob('*.png'):
    pixels = np.asarray(PIL.Image.open(path)) // 255
    PIL.Image.fromarray(pixels).save(path)
  with pytest.raises(UserError, match='reach 1 of 255 only.*by white=1'):
    build_dataset(make_config(pictures))
  dataset = build_dataset(make_config(pictures, **{'dataset.kwargs.white': 1}))
  assert dataset.splits['train'].image.max() == 255
