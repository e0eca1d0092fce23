"""Checkpoints: written in the background, verified when read."""

from collections.abc import Mapping, Sequence
import contextlib
import glob
import hashlib
import json
import os
import tempfile
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from geco_jax import parallel
from geco_jax.errors import UserError
from geco_jax.io.files import write_json

_LATEST_KEPT = 3


class Restored(NamedTuple):
  """A checkpoint that was read and verified."""

  step: int
  state: Any  # NumPy arrays, structured like what was saved.
  unlogged: dict[str, list[float]]  # Metrics of the steps since the last line.


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
  """The policy that keeps the last few checkpoints and the best of all."""

  def __init__(self):
    self.best_step: int | None = None

  def should_preserve(self, checkpoints, *, context):
    """Return a flag per checkpoint."""
    del context
    latest = {info.step for info in checkpoints[-_LATEST_KEPT:]}
    return [
      info.step in latest or info.step == self.best_step for info in checkpoints
    ]


class Checkpointer:
  """Keeps a run's latest checkpoints and its best one.

  The best one's step and score stand in best.json beside the checkpoints'
  folder. A checkpoint carries a digest of its arrays: one that cannot be read
  or does not match its digest is passed over for the one before.
  """

  def __init__(self, workdir: str | os.PathLike, *, read_only: bool = False):
    """Open the checkpoints folder of a run.

    Args:
      workdir: of the run.
      read_only: whether to leave the folder as it is, for a run that another
        process may be training; otherwise it is created and swept.
    """
    self._directory = os.path.join(os.path.abspath(workdir), 'checkpoints')
    self._links = contextlib.ExitStack()
    self._best_path = os.path.join(os.path.abspath(workdir), 'best.json')
    self._policy = _LatestAndBest()
    self._manager = ocp.CheckpointManager(
      self._without_patterns(workdir, create=not read_only),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._policy,
        # Orbax's own read_only warns at every start.
        create=not read_only,
        cleanup_tmp_directories=not read_only,
      ),
    )

  def save(
    self,
    step: int,
    state: Any,
    score: float | None,
    unlogged: Mapping[str, Sequence[float]] | None = None,
  ) -> None:
    """Start to write a checkpoint; return before it is on the disk.

    Args:
      step: of the state.
      state: pytree of NumPy arrays, which must not change any more.
      score: the run's lowest is kept as its best; None is off schedule, and has
        none.
      unlogged: metrics of the steps since the last line of the log.
    """
    best = self.best()
    if score is not None and (best is None or score <= best['score']):
      best = {'step': step, 'score': score}
      if parallel.is_main_process():
        write_json(self._best_path, best)
    self._policy.best_step = None if best is None else best['step']
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        manifest=ocp.args.JsonSave(
          {'sha256': _digest(state), 'unlogged': dict(unlogged or {})}
        ),
      ),
      force=True,
    )

  def steps(self) -> list[int]:
    """Return the steps of the checkpoints on the disk, oldest first."""
    return sorted(self._manager.all_steps())

  def best(self) -> dict[str, Any] | None:
    """Return the best checkpoint's step and score, None without checkpoints."""
    try:
      with open(self._best_path) as file:
        best = json.load(file)
    except (OSError, ValueError):
      return None
    return best if best['step'] in self.steps() else None

  def restore(self, like: Any, step: int | None = None) -> Restored | None:
    """Return a checkpoint, or None if there is none at all.

    Args:
      like: pytree with the structure, shapes and types of the saved state.
      step: of the checkpoint; None is the latest that is intact.

    Raises:
      UserError: if checkpoints are there but none could be read.
    """
    candidates = self.steps() if step is None else [step]
    for candidate in reversed(candidates):
      try:
        return Restored(candidate, *self._read(like, candidate))
      except Exception as error:  # noqa: BLE001 pylint: disable=broad-except
        # A damaged file makes its reader raise anything.
        reason = str(error).split('\n')[0][:200]
        logging.warning(
          'checkpoint of step %d in %s is damaged (%s); trying the one before',
          candidate,
          self._directory,
          reason,
        )
    if candidates:
      raise UserError(
        f'no checkpoint in {self._directory} could be read (tried steps '
        f'{", ".join(map(str, candidates))}); delete the folder to start again'
      )
    return None

  def delete_after(self, step: int) -> None:
    """Remove checkpoints later than `step`, which were passed over."""
    for later in self.steps():
      if later > step:
        self._manager.delete(later)

  def close(self) -> None:
    """Wait until everything is on the disk."""
    with self._links:
      self._manager.wait_until_finished()
      self._manager.close()

  def _without_patterns(self, workdir, create):
    """Return the checkpoints' folder by a path that is not read as a pattern.

    Orbax looks for files with `glob`, to which the [1] of "exp [1]" is one.
    """
    workdir = os.path.abspath(workdir)
    if glob.escape(workdir) == workdir:
      return self._directory
    folder = self._links.enter_context(tempfile.TemporaryDirectory())
    link = os.path.join(folder, 'workdir')
    if create:
      os.makedirs(workdir, exist_ok=True)
    os.symlink(workdir, link)
    return os.path.join(link, 'checkpoints')

  def _read(self, like, step):
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(jax.tree.map(np.asarray, like)),
        manifest=ocp.args.JsonRestore(),
      ),
    )
    if _digest(restored['state']) != restored['manifest']['sha256']:
      raise ValueError('its arrays do not match their digest')
    return restored['state'], restored['manifest'].get('unlogged', {})


def latest_step(workdir: str) -> int | None:
  """Return the step of a run's latest checkpoint, which may be damaged."""
  folder = os.path.join(workdir, 'checkpoints')
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return max((int(name) for name in names if name.isdigit()), default=None)


def score(kl_nats: float, violations: Mapping[str, float], tolerance: float):
  """Return the rank of a checkpoint, the lower the better.

  Among checkpoints whose constraints all hold the lowest KL wins, and any of
  them before one that violates a constraint.

  Args:
    kl_nats: mean KL, of held-out data.
    violations: relative ones by constraint, of the training data, which is
      what the constraints speak of.
    tolerance: up to which a violation counts as none.
  """
  worst = max(violations.values())
  return kl_nats if worst <= tolerance else 1e9 * (1 + worst)


def _digest(state: Any) -> str:
  """Return a hash of every array's name, type, shape and bytes."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    array = np.ascontiguousarray(leaf)
    digest.update(f'{path}{array.dtype}{array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
