"""Logs: read back, cut where a run resumes, whole after a crash."""

import glob
import json

import numpy as np
from tensorboardX.proto import event_pb2

from geco_jax.io.logs import MetricsWriter
from geco_jax.io.logs import read_metrics


def test_scalars_read_back_by_name(tmp_path):
  writer = MetricsWriter(str(tmp_path), 0)
  writer.scalars(10, {'loss': 1.5})
  writer.scalars(20, {'loss': 0.5, 'kl': np.float32(2)})
  writer.close()
  logged = read_metrics(str(tmp_path))
  np.testing.assert_array_equal(logged['step'], [10, 20])
  np.testing.assert_array_equal(logged['loss'], [1.5, 0.5])
  np.testing.assert_array_equal(logged['kl'], [np.nan, 2])


def test_resuming_forgets_what_came_after(tmp_path):
  writer = MetricsWriter(str(tmp_path), 0)
  for step in (10, 20, 30):
    writer.scalars(step, {'loss': step})
  writer.close()
  writer = MetricsWriter(str(tmp_path), 20)
  writer.scalars(30, {'loss': -1})
  writer.close()
  logged = read_metrics(str(tmp_path))
  np.testing.assert_array_equal(logged['loss'], [10, 20, -1])


def test_a_line_cut_short_is_passed_over(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(json.dumps({'step': 1, 'loss': 2.0}) + '\n{"step": 2, "lo')
  np.testing.assert_array_equal(read_metrics(str(tmp_path))['step'], [1])


def test_no_log_reads_as_nothing(tmp_path):
  assert read_metrics(str(tmp_path)) == {}


def events(folder):
  """Yield TensorBoard's events, from their length-prefixed records."""
  for path in glob.glob(f'{folder}/tensorboard/**/events*', recursive=True):
    with open(path, 'rb') as file:
      while header := file.read(12):
        yield event_pb2.Event.FromString(
          file.read(int.from_bytes(header[:8], 'little'))
        )
        file.read(4)


def test_tensorboard_gets_scalars_pictures_and_hyperparameters(tmp_path):
  writer = MetricsWriter(str(tmp_path), 0)
  writer.scalars(10, {'loss': 1.5})
  writer.image(10, 'grid', np.zeros((4, 6, 3), np.uint8))
  writer.hyperparameters({'kappa': 0.1, 'sizes': (1, 2)}, {'kl': 3.0})
  writer.close()
  tags = {v.tag for event in events(tmp_path) for v in event.summary.value}
  assert {'loss', 'grid', 'kl', '_hparams_/experiment'} <= tags
