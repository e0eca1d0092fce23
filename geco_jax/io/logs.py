"""Where a run's numbers go: metrics.jsonl and TensorBoard."""

import array
from collections.abc import Mapping
import contextlib
import glob
import json
import mmap
import os
import time
from typing import Any, BinaryIO
import uuid

from absl import logging
import numpy as np
import tensorboardX
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.event_pb2 import SessionLog

from geco_jax.io import encodings
from geco_jax.io import files
from geco_jax.io import trackers

_FILE = 'metrics.jsonl'
_TENSORBOARD = 'tensorboard'
_SECONDS_BETWEEN_FLUSHES = 30
_EVALUATION_SUFFIX = '.evaluation'
# Names of what a sweep measures of every run.
EVALUATED = tuple(
  f'{split}/{name}'
  for split in ('train', 'test')
  for name in ('rmse', 'kl_nats', 'nll_nats_per_dim')
)
_MAX_INTEGER = 2**63 - 1  # The largest in an array.


class MetricsWriter:
  """Writes scalars, pictures and hyperparameters of a run."""

  def __init__(self, workdir: str, first_step: int, last_line: int = 0):
    """Open the run's logs and cut off their entries after `first_step`.

    Args:
      workdir: the run's directory.
      first_step: step after which new entries come.
      last_line: step of the last line up to there; if the log lacks it, a
        warning says that lines were lost.

    Raises:
      UserError: if the file of scalars cannot be written.
    """
    self._path = os.path.join(workdir, _FILE)
    files.make_room(self._path)
    is_missing = not os.path.exists(self._path)
    if first_step and is_missing:
      logging.warning(
        '%s is missing; it begins anew after step %d', self._path, first_step
      )
    with files.writing(self._path):
      self._file = open(self._path, 'a+b', buffering=0)
      end, last_step = _end_of_kept(self._file, first_step)
      self._file.truncate(end)
    if last_step < last_line and not is_missing:
      logging.warning(
        '%s has lost its lines from step %d to %d; it goes on without them',
        self._path,
        last_step + 1,
        last_line,
      )
    self._step = first_step
    is_wanted = trackers.TENSORBOARD in trackers.chosen()
    self._tensorboard = _TensorBoard(
      os.path.join(workdir, _TENSORBOARD), first_step + 1, is_wanted=is_wanted
    )
    self._trackers = trackers.Trackers(workdir)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Write one line of scalars by name.

    Raises:
      UserError: if it cannot be written.
    """
    self._step = step
    line = {'step': step, **{k: float(v) for k, v in values.items()}}
    with files.writing(self._path):
      self._file.write(f'{json.dumps(line)}\n'.encode())
    for name, value in values.items():
      self._tensorboard.add(tensorboardX.summary.scalar(name, value), step)
    self._trackers.scalars(step, values)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Write a picture, uint8 [height, width, channels]."""
    summary = tensorboardX.summary.image(name, image, dataformats='HWC')
    self._tensorboard.add(summary, step)
    self._trackers.image(step, name, image)

  def hyperparameters(
    self, config: Mapping[str, Any], results: Mapping[str, float]
  ) -> None:
    """Write the run's row of TensorBoard's HPARAMS table."""
    self._tensorboard.add_hyperparameters(config, results, self._step)

  def close(self) -> None:
    """Flush and close the logs."""
    self._tensorboard.close()
    self._trackers.close()
    with files.writing(self._path):
      self._file.close()


class _TensorBoard:
  """TensorBoard's file of a run, which costs a warning if it cannot be written.

  tensorboardX's own writer hands events to a thread: when that dies of a full
  disk, the next events wait for it forever.
  """

  def __init__(
    self,
    folder: str,
    purge_step: int | None = None,
    suffix: str = '',
    is_wanted: bool = True,
  ):
    """Open a new file; entries of others from `purge_step` on are hidden."""
    self._folder = folder
    self._events: EventsWriter | None = None
    self._next_flush = 0.0
    if not is_wanted:
      return
    try:
      if os.path.lexists(folder) and not os.path.isdir(folder):
        aside = files.set_aside(folder)
        logging.warning('%s was a file, it is now %s', folder, aside)
      os.makedirs(folder, exist_ok=True)
      # Two writers that start in the same second get a file each.
      self._events = EventsWriter(
        os.path.join(os.path.abspath(folder), 'events'),
        f'.{uuid.uuid4().hex}{suffix}',
      )
    except OSError as error:
      self._give_up(error)
    if purge_step is not None:
      self._write(Event(step=purge_step, file_version='brain.Event:2'))
      start = SessionLog(status=SessionLog.START)
      self._write(Event(step=purge_step, session_log=start))

  def add(self, summary: Any, step: int = 0) -> None:
    """Write a summary made by tensorboardX."""
    self._write(Event(step=step, summary=summary))

  def add_hyperparameters(
    self, values: Mapping[str, Any], results: Mapping[str, float], step: int
  ) -> None:
    """Write the row of the HPARAMS table whose curves are in this file."""
    # The table's columns; the sweep adds what is measured at the end.
    columns = {**results, **dict.fromkeys(EVALUATED, 0.0)}
    row = tensorboardX.summary.hparams(
      {k: _tensorboard_value(v) for k, v in values.items()}, columns
    )
    scalars = (tensorboardX.summary.scalar(*item) for item in results.items())
    for summary in (*row, *scalars):
      self.add(summary, step)

  def close(self) -> None:
    """Close the file."""
    self._try(lambda events: events.close())
    self._events = None

  def _write(self, event):
    event.wall_time = time.time()
    self._try(lambda events: events.write_event(event))
    if event.wall_time > self._next_flush:
      self._try(lambda events: events.flush())
      self._next_flush = event.wall_time + _SECONDS_BETWEEN_FLUSHES

  def _try(self, action):
    if self._events is not None:
      try:
        action(self._events)
      except OSError as error:
        self._give_up(error)

  def _give_up(self, error):
    self._events = None
    logging.warning(
      'Going on without TensorBoard: %s cannot be written: %s',
      self._folder,
      error.strerror or error,
    )


def write_evaluation(
  workdir: str, step: int, results: Mapping[str, float]
) -> None:
  """Write the measures of a finished run among its TensorBoard curves.

  A second call replaces the values of the first.

  Args:
    workdir: the run's directory.
    step: its last one.
    results: those of `EVALUATED` and others, by name.
  """
  if trackers.TENSORBOARD not in trackers.chosen():
    return
  folder = os.path.join(workdir, _TENSORBOARD)
  for path in glob.glob(f'{glob.escape(folder)}/*{_EVALUATION_SUFFIX}'):
    with contextlib.suppress(OSError):
      os.remove(path)
  tensorboard = _TensorBoard(folder, suffix=_EVALUATION_SUFFIX)
  for name, value in results.items():
    tensorboard.add(tensorboardX.summary.scalar(name, value), step)
  tensorboard.close()


def read_metrics(workdir: str) -> dict[str, np.ndarray]:
  """Return the scalars of a run by name, each [lines], `step` among them.

  Lines that hold no scalars are passed over with a warning, as is a file that
  is missing or cannot be read.
  """
  path = os.path.join(workdir, _FILE)
  steps = array.array('q')
  columns: dict[str, Any] = {}
  bad_lines = []
  if files.is_no_file(path):
    logging.warning('%s is no file: no scalars are read', path)
    return {}
  try:
    with open(path, 'rb') as file:
      for number, line in enumerate(file, 1):
        scalars = _scalars(line)
        if scalars is None:
          bad_lines.append(number)
          continue
        for name, value in scalars.items():
          if name not in columns:
            columns[name] = array.array('d', [np.nan] * len(steps))
          columns[name].append(value)
        steps.append(int(scalars['step']))
        if len(scalars) < len(columns):
          for column in columns.values():
            if len(column) < len(steps):
              column.append(np.nan)
  except FileNotFoundError:
    logging.warning('%s is missing: no scalars are read', path)
    return {}
  except OSError as error:
    logging.warning('%s cannot be read: %s', path, error.strerror or error)
    return {}
  if bad_lines:
    logging.warning(
      '%s: %d lines hold no scalars and are passed over, the first is line %d',
      path,
      len(bad_lines),
      bad_lines[0],
    )
  if not steps:
    return {}
  return {
    **{k: np.array(v) for k, v in columns.items()},
    'step': np.array(steps),
  }


def _scalars(line: bytes) -> dict[str, float] | None:
  """Return a line's scalars by name, None if it is not as it was written."""
  if not line.endswith(b'\n'):
    return None
  try:
    scalars = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(scalars, dict) or type(scalars.get('step')) is not int:
    return None
  if not set(map(type, scalars.values())) <= {int, float}:
    return None
  if any(
    isinstance(x, int) and abs(x) > _MAX_INTEGER for x in scalars.values()
  ):
    return None
  return scalars


def _end_of_kept(file: BinaryIO, last_step: int) -> tuple[int, int]:
  """Return where the last line up to `last_step` ends, in bytes; its step.

  It is looked for from the end, so that a long log need not be read.
  """
  size = file.seek(0, os.SEEK_END)
  if not size or not last_step:
    return 0, 0
  with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
    end = text.rfind(b'\n') + 1
    while end:
      start = text.rfind(b'\n', 0, end - 1) + 1
      scalars = _scalars(text[start:end])
      if scalars is not None and scalars['step'] <= last_step:
        return end, int(scalars['step'])
      end = start
  return 0, 0


def _tensorboard_value(value):
  if isinstance(value, (bool, int, float)):
    return value
  return encodings.in_unicode(str(value))
