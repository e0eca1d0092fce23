"""Runs of a grid as jobs of a Slurm cluster, by submitit.

Every run is a job of its own, which trains and evaluates it as `sweep.local`
does. A job that Slurm takes back (preemption, time limit) is put in the queue
again and goes on from its run's latest checkpoint.
"""

import ast
from collections.abc import Mapping, Sequence
import contextlib
import os
import sys
import time
from typing import Any, NamedTuple

from absl import logging

from geco_jax import signals
from geco_jax.console import say
from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import lock
from geco_jax.io import run_folder
from geco_jax.own_parts import search
from geco_jax.sweep import completion
from geco_jax.sweep import local
from geco_jax.sweep.grid import Point

_FOLDER = 'jobs'  # Subfolder of the sweep: submitit's files and `_IDS`.
_MODULE = 'submitit'  # Stands in the command lines of its processes.
_IDS = 'ids.json'  # Run's name -> id of its latest job.
_MAX_UNKNOWN = 5  # Polls in a row after which a job of unknown state is gone.
_POLL_SECONDS = {'slurm': 15.0, 'local': 1.0}


class _Job(NamedTuple):
  """A run to train and evaluate, which submitit pickles and calls."""

  point: Point
  workdir: str
  data_dir: str | None
  path: Sequence[str] = ()  # Folders of modules, also of own parts.

  def __call__(self) -> None:
    """Train and evaluate the run."""
    search(self.path)
    local.run_here(
      [self.point], self.workdir, data_dir=self.data_dir, show_progress=False
    )

  def checkpoint(self) -> Any:
    """Return the job that submitit submits in place of an interrupted one."""
    return _submitit().helpers.DelayedSubmission(self)


def run_jobs(
  grid: Sequence[Point],
  workdir: str,
  cluster: str = 'slurm',
  options: Mapping[str, Any] | None = None,
  max_jobs: int | None = None,
  *,
  data_dir: str | None = None,
) -> dict[str, str]:
  """Submit the runs that are not finished and wait for them.

  Jobs that an earlier call submitted and that still run are waited for, not
  submitted again; where this process is stopped, its jobs go on.

  Args:
    grid: the runs; each has its folder in `workdir`.
    workdir: directory of the sweep, which the jobs see under the same path.
    cluster: 'slurm', or 'local' for processes of this machine.
    options: keyword arguments of `submitit.AutoExecutor.update_parameters`.
    max_jobs: most jobs in the queue or running at a time; None is all.
    data_dir: TFDS's folder.

  Returns:
    Where to read the reason, by name, of each run that failed.

  Raises:
    UserError: if submitit or the cluster is not there, an option is unknown or
      refused, a folder is another run's or the sweep is in use.
  """
  with (
    contextlib.closing(lock.Lock(workdir)),
    signals.outlook('its jobs go on, and the same command waits for them'),
  ):
    completion.mend(grid, workdir)
    unfinished = completion.unfinished(grid, workdir)
    queue = _Queue(os.path.abspath(workdir), cluster, options or {}, data_dir)
    waiting = [point for point in unfinished if not queue.take_over(point)]
    while waiting or queue.running:
      while waiting and (max_jobs is None or len(queue.running) < max_jobs):
        queue.submit(waiting.pop(0))
      time.sleep(_POLL_SECONDS[cluster])
      gone = queue.drop_ended()
      waiting += [point for point in unfinished if point.name in gone]
  return {
    point.name: queue.explain(point)
    for point in unfinished
    if not completion.is_finished(point, workdir)
  }


class _Queue:
  """The jobs of a sweep; `running` maps runs to ids of jobs that go on."""

  def __init__(self, workdir, cluster, options, data_dir):
    self.running: dict[str, str] = {}
    self._workdir, self._data_dir = workdir, data_dir
    self._folder = os.path.join(workdir, _FOLDER)
    run_folder.create(self._folder)
    self._cluster = cluster
    self._executor = _executor(self._folder, cluster, options)
    path = os.path.join(self._folder, _IDS)
    ids = by_products.read(path, lambda x: by_products.mapping(x, str))
    self._ids: dict[str, str] = ids or {}
    self._jobs: dict[str, Any] = {}  # Run -> job that this process submitted.
    self._num_unknown: dict[str, int] = {}  # Run -> polls without its state.

  def take_over(self, point: Point) -> bool:
    """Take over an earlier process's job, if any; return whether it goes on."""
    job_id = self._ids.get(point.name)
    if job_id is None or not self._goes_on(point.name, job_id):
      return False
    self.running[point.name] = job_id
    say(f'waiting for job {job_id}: {point.name}')
    return True

  def submit(self, point: Point) -> None:
    """Submit the job of a run.

    Raises:
      UserError: if the cluster refuses it.
    """
    with contextlib.suppress(OSError):  # There may be none from before.
      os.remove(self._error_log(point))
    path = [os.path.abspath(folder) for folder in sys.path]
    run = _Job(point, self._workdir, self._data_dir, path)
    with signals.ctrl_c_ignored():  # Local jobs ignore it too: they go on.
      job = _submitted(self._executor, run)
    self._jobs[point.name] = job
    self.running[point.name] = self._ids[point.name] = job.job_id
    say(f'job {job.job_id}: {point.name}')
    try:
      files.write_json(os.path.join(self._folder, _IDS), self._ids)
    except OSError as error:
      logging.warning(
        'the same command would not wait for these jobs: %s', error
      )

  def drop_ended(self) -> list[str]:
    """Drop the jobs that have ended; return runs whose job the cluster lost."""
    lost = []
    for name, job_id in [*self.running.items()]:
      if not self._goes_on(name, job_id):
        del self.running[name]
        if self._num_unknown.pop(name, 0):
          lost.append(name)
          say(f'{name} is submitted again: job {job_id} is unknown')
        else:
          say(f'job {job_id} has ended: {name}')
    return lost

  def explain(self, point: Point) -> str:
    """Return where a job's error log is, written if it died without one."""
    log = self._error_log(point)
    if os.path.exists(log):
      return f'see {log}'
    name = f'{self._ids[point.name]}_0_log.err'
    text = f'the job ended early; see {os.path.join(self._folder, name)}'
    folder = os.path.dirname(log)
    return f'{text} ({local.write_error_log(folder, text)})'

  def _error_log(self, point: Point) -> str:
    return os.path.join(self._workdir, point.name, local.ERROR_LOG)

  def _goes_on(self, name, job_id) -> bool:
    job = self._jobs.get(name)
    if job is None and self._cluster == 'slurm':
      # An earlier process submitted it; the accounting may have forgotten it.
      job = _submitit().SlurmJob(folder=self._folder, job_id=job_id)
      if job.state == 'UNKNOWN':
        self._num_unknown[name] = self._num_unknown.get(name, 0) + 1
        return self._num_unknown[name] < _MAX_UNKNOWN
      self._num_unknown.pop(name, None)
    if job is not None:
      return not job.done()
    # A local job's id is a process id, which another process may have by now.
    return _MODULE in _command_line(job_id)


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
  """Return options of submitit from texts like 'timeout_min=60'.

  Raises:
    UserError: if one has no name or no value.
  """
  options = {}
  for text in texts:
    name, equals, value = text.partition('=')
    if not (name and equals and value):
      raise UserError(
        f'--job_options must be like timeout_min=60,gpus_per_node=1, got {text}'
      )
    try:
      options[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      options[name] = value
  return options


def _submitit() -> Any:
  try:
    import submitit  # Heavy and for this executor alone.
  except ImportError as error:
    raise UserError(
      "--executor=slurm needs submitit: pip install 'geco_jax[slurm]'"
    ) from error
  return submitit


def _submitted(executor, run):
  """Return the job of a run; raise UserError if the cluster refuses it."""
  try:
    return executor.submit(run)
  except _submitit().core.utils.FailedJobError as error:
    lines = str(error).strip().splitlines() or ['no reason given']
    raise UserError(f'--executor=slurm: {lines[-1]}') from error


def _command_line(process_id: str) -> str:
  """Return a process's command line, '' if there is no such process here."""
  try:
    with open(f'/proc/{process_id}/cmdline') as file:
      return file.read()
  except OSError:
    return ''


def _executor(folder, cluster, options):
  submitit = _submitit()
  try:
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**options)
  except (RuntimeError, NameError, ValueError, AssertionError) as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(f'--executor=slurm: {reason}') from error
  return executor
