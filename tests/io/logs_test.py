"""Logs: read back, cut where a run resumes, whole after a crash."""

import errno
import glob
import json
import os

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from geco_jax.errors import UserError
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


def test_no_log_reads_as_nothing_and_says_so(tmp_path, caplog):
  assert read_metrics(str(tmp_path)) == {}
  assert 'metrics.jsonl is missing' in caplog.text


@pytest.mark.parametrize('number', [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_log_that_cannot_be_read_is_as_none_and_said(
  tmp_path, caplog, monkeypatch, number
):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')

  def fail(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr('builtins.open', fail)
  logged = read_metrics(str(tmp_path))
  monkeypatch.undo()
  assert logged == {}
  assert f'metrics.jsonl cannot be read: {os.strerror(number)}' in caplog.text


NO_SCALARS = [
  *(b'', b'[1]', b'3', b'null', b'"x"', b'{}', b'{"loss": 1}', b'\x00\xff\xfe'),
  *(b'{"step": "10"}', b'{"step": null}', b'{"step": 1.5}', b'{"step": true}'),
  *(b'{"step": 10, "loss": "x"}', b'{"step": 10, "loss": null}', b'{"step": 1'),
  b'{"step": 1' + b'0' * 30 + b'}',
  b'[' * 10_000,
]


@pytest.mark.parametrize('bad', NO_SCALARS, ids=range(len(NO_SCALARS)))
@pytest.mark.parametrize('place', [0, 1, 2, 3])
def test_a_bad_line_is_passed_over_wherever_it_stands(
  tmp_path, caplog, bad, place
):
  lines = [json.dumps({'step': s, 'loss': s / 2}).encode() for s in (1, 2, 3)]
  (tmp_path / 'metrics.jsonl').write_bytes(
    b'\n'.join([*lines[:place], bad, *lines[place:], b''])
  )
  logged = read_metrics(str(tmp_path))
  np.testing.assert_array_equal(logged['step'], [1, 2, 3])
  np.testing.assert_array_equal(logged['loss'], [0.5, 1, 1.5])
  assert f'passed over, the first is line {place + 1}' in caplog.text
  writer = MetricsWriter(str(tmp_path), 2)
  writer.scalars(3, {'loss': -1})
  writer.close()
  logged = read_metrics(str(tmp_path))
  np.testing.assert_array_equal(logged['step'], [1, 2, 3])
  np.testing.assert_array_equal(logged['loss'], [0.5, 1, -1])


@pytest.mark.parametrize('content', [b'', b'\n', b'\x00' * 50, None])
@pytest.mark.parametrize('first_step', [0, 20])
def test_a_log_without_a_line_begins_anew(tmp_path, content, first_step):
  if content is not None:
    (tmp_path / 'metrics.jsonl').write_bytes(content)
  writer = MetricsWriter(str(tmp_path), first_step)
  writer.scalars(30, {'loss': 1})
  writer.close()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == (
    b'{"step": 30, "loss": 1.0}\n'
  )


def test_lines_that_a_log_has_lost_are_named(tmp_path, caplog):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 10}\n{"step": 20}\n{"step": 30')
  MetricsWriter(str(tmp_path), 25, last_line=20).close()
  assert not caplog.text
  MetricsWriter(str(tmp_path), 40, last_line=40).close()
  assert f'{path} has lost its lines from step 21 to 40' in caplog.text


def test_what_is_kept_of_a_log_is_not_written_again(tmp_path):
  """Also where it is long."""
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1, "x": 1}\n{"step":2}\n{"step": 3}\n{"step": 4')
  before = os.stat(path).st_ino
  MetricsWriter(str(tmp_path), 2).close()
  assert path.read_bytes() == b'{"step": 1, "x": 1}\n{"step":2}\n'
  assert os.stat(path).st_ino == before


def test_what_stands_in_the_logs_places_is_set_aside(tmp_path, caplog):
  (tmp_path / 'metrics.jsonl').mkdir()
  (tmp_path / 'tensorboard').write_text('notes')
  assert read_metrics(str(tmp_path)) == {}
  writer = MetricsWriter(str(tmp_path), 0)
  writer.scalars(10, {'loss': 1.0})
  writer.close()
  np.testing.assert_array_equal(read_metrics(str(tmp_path))['step'], [10])
  assert (tmp_path / 'metrics.jsonl.set_aside').is_dir()
  assert (tmp_path / 'tensorboard.set_aside').read_text() == 'notes'
  assert {v.tag for e in events(tmp_path) for v in e.summary.value} == {'loss'}
  assert 'was no file' in caplog.text and 'was a file' in caplog.text


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
  writer = MetricsWriter(str(tmp_path), 0)
  with open('/dev/full', 'wb', buffering=0) as full, monkeypatch.context() as m:
    m.setattr(writer, '_file', full)
    with pytest.raises(UserError, match=r'metrics.jsonl cannot .*: No space'):
      writer.scalars(10, {'loss': 1.0})
  writer.close()


def test_tensorboard_s_full_disk_costs_a_warning(tmp_path, monkeypatch, caplog):
  def fail(self, event):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('geco_jax.io.logs.EventsWriter.write_event', fail)
  writer = MetricsWriter(str(tmp_path), 0)
  for step in range(30):  # More than tensorboardX's queue holds.
    writer.scalars(step, {'loss': 1.0})
  writer.close()
  assert len(read_metrics(str(tmp_path))['step']) == 30
  assert caplog.text.count('Going on without TensorBoard') == 1


def test_writers_of_one_second_have_a_file_each(tmp_path):
  for first_step in (0, 10):
    writer = MetricsWriter(str(tmp_path), first_step)
    writer.scalars(first_step + 10, {'loss': 1.0})
    writer.close()
  steps = {e.step for e in events(tmp_path) for _ in e.summary.value}
  assert steps == {10, 20}


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
  writer.hyperparameters(
    {'kappa': 0.1, 'sizes': (1, 2), 'path': 'a\udcff'}, {'kl': 3.0}
  )
  writer.close()
  tags = {v.tag for event in events(tmp_path) for v in event.summary.value}
  assert {'loss', 'grid', 'kl', '_hparams_/experiment'} <= tags


def test_a_run_that_goes_on_hides_what_tensorboard_has_after_its_step(tmp_path):
  """TensorBoard drops steps from that of SessionLog.START on, not before."""
  MetricsWriter(str(tmp_path), 20).close()
  starts = [e for e in events(tmp_path) if e.HasField('session_log')]
  assert [event.step for event in starts] == [21]


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
  """A process that is killed loses none of what it logged."""
  writer = MetricsWriter(str(tmp_path), 0)
  for step in (10, 20):
    writer.scalars(step, {'loss': 1.0})
    assert read_metrics(str(tmp_path))['step'][-1] == step
  writer.close()
