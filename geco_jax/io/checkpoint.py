"""Checkpoints: written in the background, verified when read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import glob
import hashlib
import os
import shutil
import sys
import tempfile
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from geco_jax import parallel
from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import lock
from geco_jax.io import manifest
from geco_jax.io import paths
from geco_jax.io import run_folder
from geco_jax.io.system_errors import reason
from geco_jax.io.system_errors import refusal
from geco_jax.io.system_errors import refusal_of_files

_LATEST_KEPT = 3
_SECONDS_BEFORE_READS = (0.0, 0.1, 1.0)


class Restored(NamedTuple):
  """A checkpoint that was read and verified."""

  step: int
  state: Any  # NumPy arrays, structured like what was saved.
  unlogged: dict[str, list[float]]  # Metrics of the steps since the last line.


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
  """The policy that keeps the last few checkpoints and the best of all.

  Those off schedule are not among the last few: they are kept until the next
  one on schedule, so that interruptions leave no trace.
  """

  def __init__(self, is_scheduled: Callable[[int], bool]):
    self.best_step: int | None = None
    self._is_scheduled = is_scheduled

  def should_preserve(self, checkpoints, *, context):
    """Return a flag per checkpoint."""
    del context
    steps = [info.step for info in checkpoints]
    kept = self.kept(steps)
    return [step in kept for step in steps]

  def kept(self, steps: Sequence[int]) -> set[int | None]:
    """Return which of the steps, oldest first, are kept."""
    scheduled = [step for step in steps if self._is_scheduled(step)]
    newest = max(scheduled, default=-1)
    return {
      *scheduled[-_LATEST_KEPT:],
      *(step for step in steps if step > newest),
      self.best_step,
    }


class Checkpointer:
  """Keeps a run's latest checkpoints and its best one.

  The best one's step and score stand in best.json beside the checkpoints'
  folder. A checkpoint carries a digest of its arrays: one that cannot be read
  or does not match its digest is skipped in favor of the one before. It is set
  aside, and removed once a newer one is whole.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    read_only: bool = False,
    is_scheduled: Callable[[int], bool] = lambda step: True,
    runs_at_once: int = 1,
    claim: Callable[[], None] = lambda: None,
  ):
    """Open the checkpoints folder of a run.

    Args:
      workdir: the run's directory.
      read_only: whether to leave the folder as it is, for a run that another
        process may be training; otherwise it is created, locked and swept.
      is_scheduled: step -> whether an uninterrupted run saves it.
      runs_at_once: how many runs are trained together, for the manifests: the
        rounding of numbers depends on it.
      claim: makes the folder the run's, called once it is locked.

    Raises:
      UserError: if another process has the folder open to write, or it cannot
        be read or written.
    """
    self._workdir = os.path.abspath(paths.check_path(workdir))
    self._directory = os.path.join(self._workdir, manifest.FOLDER)
    self._best_path = os.path.join(self._workdir, 'best.json')
    self._aside = os.path.join(self._workdir, manifest.SET_ASIDE)
    self._read_only = read_only
    self._widths = {runs_at_once}
    self._lock: lock.Lock | None = None
    self._policy = _LatestAndBest(is_scheduled)
    self._saved: tuple[int, Any] | None = None
    manifest.steps(self._workdir)  # Refuses anything but a folder.
    with contextlib.ExitStack() as opened:
      if not read_only:
        with parallel.failing_together():
          if parallel.is_main_process():
            paths.check_for_checkpoints(self._workdir)
            self._lock = lock.Lock(self._workdir)
            opened.callback(self._lock.close)
            claim()
      self._run = {} if read_only else run_folder.identity(self._workdir)
      _quiet_orbax()
      with files.writing(self._directory):
        self._manager = ocp.CheckpointManager(
          self._plain_path(opened),
          options=ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            # Orbax's own read_only warns at every start.
            create=not read_only,
            cleanup_tmp_directories=not read_only,
          ),
        )
      self._opened = opened.pop_all()

  def save(
    self,
    step: int,
    state: Any,
    score: float | None,
    unlogged: Mapping[str, Sequence[float]] | None = None,
  ) -> None:
    """Start writing a checkpoint; wait for the first one only.

    Args:
      step: of the state.
      state: pytree of NumPy arrays, which must not change any more.
      score: the run's lowest is kept as its best; None for a save off schedule.
      unlogged: metrics of the steps since the last line of the log.

    Raises:
      UserError: if this or the one before cannot be written, or read back.
    """
    if self._lock is not None:
      self._lock.keep()
    best = self.best()
    if score is not None and (best is None or score <= best['score']):
      best = {'step': step, 'score': score}
      if parallel.is_main_process():
        files.write_json(self._best_path, best)
    self._policy.best_step = None if best is None else best['step']
    run = {**self._run, 'runs_at_once': sorted(self._widths)}
    content = manifest.seal(_digest(state), run, unlogged or {})
    with self._reporting_writes():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          manifest=ocp.args.JsonSave(content),
        ),
        force=True,
      )
    is_first, self._saved = self._saved is None, (step, state)
    if is_first:  # If every save would fail, find out at the first.
      self.finish()

  def finish(self) -> None:
    """Wait until the latest save is on the disk, and read it back.

    Raises:
      UserError: if it cannot be written, or reads back differently.
    """
    with self._reporting_writes():
      self._manager.wait_until_finished()
    if self._saved is None:
      return
    step, state = self._saved
    try:
      self._read(state, step)
    except Exception as error:
      raise UserError(
        f'the checkpoint of step {step} in {self._directory} was written but '
        f'cannot be read back: {reason(error)}'
      ) from error
    if parallel.is_main_process():
      self._remove_set_aside(step)

  def steps(self) -> list[int]:
    """Return the steps of the checkpoints on the disk, oldest first."""
    return sorted(self._manager.all_steps())

  def best(self) -> dict[str, Any] | None:
    """Return the best checkpoint's step and score, None without checkpoints."""
    best = by_products.read(
      self._best_path,
      lambda x: {'step': x['step'], 'score': float(x['score'])},
    )
    return best if best and best['step'] in self.steps() else None

  def restore(self, like: Any, step: int | None = None) -> Restored | None:
    """Return a checkpoint, or None if there is none at all.

    Args:
      like: pytree with the structure, shapes and types of the saved state.
      step: checkpoint to load; None is the latest that is intact.

    Raises:
      UserError: if checkpoints are there but none could be read, or the system
        fails to read one, which says nothing about what it holds.
    """
    candidates = self.steps() if step is None else [step]
    refused = {}
    for candidate in reversed(candidates):
      try:
        restored = Restored(candidate, *self._read_patiently(like, candidate))
      except _UnusableError as error:
        refused[candidate] = error
        if error.is_of_other_form:  # So are those before it.
          break
        logging.warning(
          'checkpoint of step %d in %s %s; trying the one before',
          candidate,
          self._directory,
          error,
        )
      else:
        self._widths |= {*manifest.runs_at_once(self._workdir, candidate)}
        self._set_aside(refused)
        self._remove_superseded()
        return restored
    if refused:
      newest = refused[max(refused)]
      raise UserError(
        f'no checkpoint in {self._directory} could be read (tried steps '
        f'{", ".join(map(str, sorted(refused)))}; the newest {newest}); '
        + (
          'go on with the version and the config that wrote them, or choose '
          'another workdir'
          if newest.is_of_other_form
          else 'delete the folder to start again'
        )
      )
    return None

  def close(self) -> None:
    """Wait until everything is on the disk.

    Raises:
      UserError: if something cannot be written.
    """
    with self._opened, self._reporting_writes():
      self._manager.wait_until_finished()
      self._manager.close()

  def _set_aside(self, steps):
    """Move checkpoints that were passed over out of the way of newer ones."""
    if self._read_only or not steps:
      return
    if parallel.is_main_process():
      for step in steps:
        target = os.path.join(self._aside, str(step))
        with files.writing(self._aside):
          os.makedirs(self._aside, exist_ok=True)
          if os.path.lexists(target):  # Damaged at an earlier start.
            files.set_aside(target)
          os.rename(os.path.join(self._directory, str(step)), target)
    parallel.any_process(False)  # The others wait for that.
    self._manager.reload()

  def _remove_superseded(self):
    """Remove what a killed process had no time to remove."""
    if self._read_only:
      return
    best = self.best()
    self._policy.best_step = None if best is None else best['step']
    with self._reporting_writes():
      for step in sorted({*self.steps()} - self._policy.kept(self.steps())):
        self._manager.delete(step)

  def _remove_set_aside(self, newest):
    """Remove the checkpoints set aside up to the step of a whole one."""
    with contextlib.suppress(OSError, ValueError):  # None there, or not ours.
      for name in os.listdir(self._aside):
        if int(name.partition('.')[0]) <= newest:
          shutil.rmtree(os.path.join(self._aside, name), ignore_errors=True)
      os.rmdir(self._aside)

  def _plain_path(self, opened):
    """Return the checkpoints' folder by a path that any library can take.

    Orbax looks for files with `glob`, to which the [1] of "exp [1]" is a
    pattern; and its names are UTF-8, which the locale's need not be.
    """
    if not self._read_only:
      os.makedirs(self._workdir, exist_ok=True)
    if self._workdir.isascii() and glob.escape(self._workdir) == self._workdir:
      return self._directory
    folder = opened.enter_context(tempfile.TemporaryDirectory())
    link = os.path.join(folder, 'workdir')
    os.symlink(self._workdir, link)
    return os.path.join(link, manifest.FOLDER)

  def _read_patiently(self, like, step):
    """Return a state and its unlogged metrics; retry a read that fails once.

    Raises:
      _UnusableError: if it stays damaged, or has another form.
      UserError: if the system does not let it be read.
    """
    folder = os.path.join(self._directory, str(step))
    answer, num_damaged, failure = None, 0, Exception()
    for pause in _SECONDS_BEFORE_READS:
      time.sleep(pause)
      try:
        return self._read(like, step)
      except Exception as error:  # noqa: BLE001 pylint: disable=broad-except
        failure = error  # A damaged file makes its reader raise anything.
      answer = refusal(failure) or refusal_of_files(folder)
      num_damaged += answer is None
      if num_damaged == 2:
        difference = self._difference(like, step)
        if difference:
          raise _UnusableError(f'is of another form ({difference})', True)
        raise _UnusableError(f'is damaged ({reason(failure)})')
    raise UserError(
      f'the checkpoint of step {step} in {self._directory} cannot be read: '
      f'{answer or reason(failure)}; nothing was changed, so try again when it '
      'can be'
    ) from failure

  def _read(self, like, step):
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(jax.tree.map(np.asarray, like)),
        manifest=ocp.args.JsonRestore(),
      ),
    )
    manifest.check(restored['manifest'])
    state = restored['state']
    if _digest(state) != restored['manifest']['sha256']:
      raise ValueError('its arrays do not match their digest')
    if _shapes(state) != _shapes(like):
      raise ValueError('its arrays have other shapes')
    if int(getattr(state, 'step', step)) != step:
      raise ValueError(f'it is that of step {int(state.step)}')
    return state, restored['manifest'].get('unlogged', {})

  def _difference(self, like, step):
    """Return how a state's format or tree differs from the expected one."""
    if other := manifest.other_format(self._workdir, step):
      return other
    try:
      metadata = self._manager.item_metadata(step)['state'].tree
      there, expected = _shapes(metadata), _shapes(like)
    except Exception:  # noqa: BLE001 pylint: disable=broad-except
      return ''  # Damaged too.
    differences = [
      f'{name} is {there.get(name, "missing")}, not '
      f'{expected.get(name, "expected")}'
      for name in sorted(there.keys() | expected.keys())
      if there.get(name) != expected.get(name)
    ]
    more = f' and {len(differences) - 1} more' if len(differences) > 1 else ''
    return ''.join(differences[:1]) + more

  @contextlib.contextmanager
  def _reporting_writes(self) -> Iterator[None]:
    """Turn the error of a checkpoint's writer into a sentence."""
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # Its type depends on the disk.
      left = latest_step(self._workdir)
      raise UserError(
        f'{self._directory} cannot be written: {reason(error)}; '
        + (
          'there was no checkpoint yet'
          if left is None
          else f'the checkpoint of step {left} is intact'
        )
      ) from error


class _UnusableError(Exception):
  """Why a checkpoint is passed over, as a predicate."""

  def __init__(self, predicate: str, is_of_other_form: bool = False):
    super().__init__(predicate)
    self.is_of_other_form = is_of_other_form


def latest_step(workdir: str) -> int | None:
  """Return the step of a run's latest checkpoint, which may be damaged."""
  return max(manifest.steps(workdir), default=None)


@functools.cache
def _quiet_orbax() -> None:
  """Keep Orbax from also writing the tracebacks of what it raises."""

  def is_news(record):
    return record.levelno < logging.ERROR or 'orbax' not in record.pathname

  logging.get_absl_logger().addFilter(is_news)
  hook = sys.unraisablehook

  def pass_on_news(unraisable):
    # TensorStore's comment on a failed write.
    if str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  sys.unraisablehook = pass_on_news


def _shapes(tree: Any) -> dict[str, str]:
  """Return types and shapes of a tree's arrays, by names as Orbax has them."""
  return {
    '.'.join(str(jax.tree_util.keystr((key,), simple=True)) for key in path): (
      f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if hasattr(leaf, 'shape')
  }


def _digest(state: Any) -> str:
  """Return a hash of every array's name, type, shape and bytes."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    array = np.ascontiguousarray(leaf)
    digest.update(f'{path}{array.dtype}{array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
