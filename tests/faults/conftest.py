"""What an uninterrupted command leaves, and the counts at the end."""

import collections
from collections.abc import Callable
import pathlib
import shutil
import time
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import tfds_sets
from tests.faults.commands import Command
from tests.faults.commands import FOLDER
from tests.faults.commands import left_in
from tests.faults.commands import Running
from tests.faults.commands import SEED
from tests.faults.commands import wait_until
from tests.faults.commands import Watch

_WORKDIR = f'--workdir={FOLDER}'
_EVERY = ('--config.steps_per_dispatch=10', '--config.checkpoint_every=40')
_MODEL = ('--config.model.kwargs.hidden_sizes=(16,)', '--config.batch_size=32')
_DIGITS = ('--config=configs/digits_vae.py', *_EVERY, *_MODEL, _WORKDIR)
_TRAIN = (*_DIGITS, '--config.num_steps=200', '--noprogress')
_SWEEP = (
  *_DIGITS,
  '--config.num_steps=80',
  "--config.sweep=[{'constraints.re.kappa': [0.2, 0.3]}]",
  '--noprogress',
)
_CLASSIFIER = (
  '--config=configs/classifiers/digits_cnn.py',
  *_EVERY,
  '--config.num_steps=160',
  '--config.batch_size=32',
  '--config.model.kwargs.channels=(2,)',
  '--config.model.kwargs.hidden_size=4',
  _WORKDIR,
)
_CACHE = (
  '--config=configs/mnist_vae.py',
  '--config.dataset.name=fashion_mnist',
  *_EVERY,
  *_MODEL,
  '--config.num_steps=40',
  f'{_WORKDIR}/run',
  '--noprogress',
)
_FIGURE = (*_DIGITS, '--config.num_steps=80', '--kappas=0.2,0.3')
COMMANDS = {
  'train': Command('geco_jax.train', _TRAIN),
  'evaluate': Command('geco_jax.evaluate', (_WORKDIR,), after='train'),
  'sweep': Command('geco_jax.sweep', (*_SWEEP, '--executor=local')),
  'sweep_together': Command('geco_jax.sweep', (*_SWEEP, '--runs_at_once=2')),
  'train_classifier': Command('geco_jax.train_classifier', _CLASSIFIER),
  'cache': Command(
    'geco_jax.train',
    _CACHE,
    watched='cache',
    environment={'GECO_JAX_CACHE': f'{FOLDER}/cache'},
  ),
  'figure': Command('experiments.information_plane', _FIGURE),
}


class Whole(NamedTuple):
  """An uninterrupted command."""

  command: Command
  folder: pathlib.Path
  left: dict[str, Any]
  seconds: float
  num_paths: int  # New paths below the watched part.


@pytest.fixture(scope='session')
def tfds_folder(tmp_path_factory):
  """Return a folder with 900 images of noise as Fashion-MNIST."""
  rng = np.random.default_rng(0)
  folder = tmp_path_factory.mktemp('tfds')
  splits = {
    split: [
      {'image': rng.integers(0, 256, (28, 28, 1), np.uint8), 'label': i % 10}
      for i in range(count)
    ]
    for split, count in {'train': 800, 'test': 100}.items()
  }
  features = {
    'image': tfds.features.Image(shape=(28, 28, 1)),
    'label': tfds.features.ClassLabel(num_classes=10),
  }
  tfds_sets.write(folder, 'fashion_mnist', features, splits, version='3.0.1')
  return folder


@pytest.fixture(scope='session')
def whole(tmp_path_factory, request) -> Callable[[str], Whole]:
  """Return name of a command -> what it leaves uninterrupted."""
  done = {}

  def get(name):
    if name not in done:
      done[name] = _whole(get, name, tmp_path_factory.mktemp(name), request)
    return done[name]

  return get


def _whole(get, name, parent, request):
  command = COMMANDS[name]
  if command.watched == 'cache':
    tfds_folder = request.getfixturevalue('tfds_folder')
    command = command._replace(
      arguments=(*command.arguments, f'--data_dir={tfds_folder}')
    )
  folder = parent / 'whole'
  begin(get, command, folder)
  # The first compiles; the time of the second is that of the others.
  for attempt in ('compile', 'measure'):
    if attempt == 'measure':
      shutil.rmtree(folder)
      begin(get, command, folder)
    watch, start = Watch(folder / command.watched), time.monotonic()
    process = Running(command, folder)
    wait_until(process, lambda watch=watch: watch.count() < 0)
    seconds = time.monotonic() - start
    ended = process.wait()
    assert ended.code == 0, ended.printed
  return Whole(command, folder, left_in(folder), seconds, watch.count())


def begin(get, command: Command, folder: pathlib.Path) -> None:
  """Make the folder that a command starts from."""
  if command.after is not None:
    shutil.copytree(get(command.after).folder, folder)


@pytest.fixture
def begun(whole) -> Callable[[Command, pathlib.Path], None]:
  """Return (command, folder): make the folder that it starts from."""
  return lambda command, folder: begin(whole, command, folder)


@pytest.fixture
def count(record_property) -> Callable[[str, str], None]:
  """Return (kind, outcome): count it for the end of the session."""
  return lambda kind, outcome: record_property('fault', f'{kind}: {outcome}')


def pytest_terminal_summary(terminalreporter):
  """Print how often what happened."""
  counts = collections.Counter(
    value
    for reports in terminalreporter.stats.values()
    for report in reports
    if getattr(report, 'when', None) == 'call'
    for name, value in report.user_properties
    if name == 'fault'
  )
  if counts:
    terminalreporter.section(f'faults, FAULTS_SEED={SEED}')
    for kind, number in sorted(counts.items()):
      terminalreporter.write_line(f'{number:5} {kind}')
