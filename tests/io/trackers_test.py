"""Trackers get what the log gets, and never stop a run."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from geco_jax.errors import UserError
from geco_jax.io import trackers
from geco_jax.io.logs import MetricsWriter


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
  """Let nothing leave this machine; forget what was chosen."""
  monkeypatch.setenv('GECO_JAX_TRACKERS', 'tensorboard')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  monkeypatch.setenv('MLFLOW_TRACKING_URI', f'file://{tmp_path}/mlruns')
  (tmp_path / 'run').mkdir()
  config = {'seed': 3, 'model': {'name': 'mlp_vae'}}
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))


class Recorded(trackers.Tracker):
  """A tracker that keeps what it gets, and may fail."""

  fails_at = None
  got: list = []

  def __init__(self, workdir, run_id):
    super().__init__(workdir, run_id)
    self.got.append(('open', run_id, self._name, dict(self._config)))

  def scalars(self, step, values):
    if step == self.fails_at:
      raise ConnectionError('the server\nis away')
    self.got.append((step, dict(values)))

  def image(self, step, name, image):
    self.got.append((step, name, image.shape))

  def close(self):
    self.got.append('close')


@pytest.fixture
def recorded(monkeypatch):
  """Return what a tracker called wandb gets."""
  monkeypatch.setitem(trackers.TRACKERS, 'wandb', Recorded)
  monkeypatch.setattr(Recorded, 'got', [])
  monkeypatch.setenv('GECO_JAX_TRACKERS', 'wandb')
  return Recorded.got


def write(workdir, first_step=0):
  writer = MetricsWriter(str(workdir), first_step)
  for step in (first_step + 10, first_step + 20):
    writer.scalars(step, {'loss': 1.5 * step})
  writer.image(first_step + 20, 'grid', np.zeros((4, 6, 3), np.uint8))
  writer.close()


def test_a_tracker_gets_config_scalars_and_pictures_and_goes_on(
  recorded, tmp_path
):
  write(tmp_path / 'run')
  config = {'seed': 3, 'model.name': 'mlp_vae'}
  assert recorded == [
    ('open', None, 'run', config),
    (10, {'loss': 15.0}),
    (20, {'loss': 30.0}),
    (20, 'grid', (4, 6, 3)),
    'close',
  ]
  recorded.clear()
  write(tmp_path / 'run', first_step=20)
  ids = json.loads((tmp_path / 'run' / 'trackers.json').read_text())
  assert recorded[0] == ('open', ids['wandb'], 'run', config)
  assert not (tmp_path / 'run' / 'tensorboard').exists()  # It was not named.


def test_a_tracker_that_fails_costs_a_warning(
  recorded, tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(Recorded, 'fails_at', 20)
  write(tmp_path / 'run')
  assert recorded[-1] == (10, {'loss': 15.0})
  assert 'Going on without wandb: ConnectionError: the server is' in caplog.text
  log = (tmp_path / 'run' / 'metrics.jsonl').read_text()
  assert len(log.splitlines()) == 2


def test_an_unknown_or_missing_tracker_is_one_sentence(monkeypatch):
  with pytest.raises(UserError, match="any of tensorboard, .*got 'comet'"):
    trackers.use(['tensorboard', 'comet'])
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"needs mlflow: pip install 'geco_jax\["):
    trackers.use(['mlflow'])
  assert trackers.chosen() == ['tensorboard']
  trackers.use([])
  assert trackers.chosen() == []


def test_without_a_choice_neither_is_imported(tmp_path):
  code = (
    'import sys\n'
    'from geco_jax.io.logs import MetricsWriter\n'
    f'MetricsWriter({str(tmp_path)!r}, 0).close()\n'
    "assert not {'wandb', 'mlflow'} & set(sys.modules)\n"
  )
  environment = {k: v for k, v in os.environ.items() if 'TRACKERS' not in k}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)


def test_wandb_offline_is_filled(tmp_path):
  pytest.importorskip('wandb')
  trackers.use(['wandb'])
  write(tmp_path / 'run')
  write(tmp_path / 'run', first_step=20)
  paths = [*(tmp_path / 'run' / 'wandb').glob('offline-run-*/*.wandb')]
  assert len(paths) == 2
  deadline = time.monotonic() + 30  # Its own process writes behind ours.
  while not all(b'loss' in path.read_bytes() for path in paths):
    assert time.monotonic() < deadline
    time.sleep(0.1)


def test_a_file_store_of_mlflow_is_filled(tmp_path):
  mlflow = pytest.importorskip('mlflow')
  trackers.use(['mlflow'])
  write(tmp_path / 'run')
  write(tmp_path / 'run', first_step=20)
  client = mlflow.MlflowClient()
  experiment = client.get_experiment_by_name('geco_jax')
  (run,) = client.search_runs([experiment.experiment_id])
  assert run.info.run_name == 'run' and run.info.status == 'FINISHED'
  assert run.data.params == {'seed': '3', 'model.name': 'mlp_vae'}
  history = client.get_metric_history(run.info.run_id, 'loss')
  assert [(m.step, m.value) for m in history] == [
    (step, 1.5 * step) for step in (10, 20, 30, 40)
  ]
