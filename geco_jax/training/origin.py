"""Runs that begin with the parameters of another run."""

import os
from typing import Any, NamedTuple

import jax

from geco_jax.build import build
from geco_jax.errors import UserError
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.io import manifest
from geco_jax.io import run_folder
from geco_jax.io.paths import local_path
from geco_jax.step import state_like


class Origin(NamedTuple):
  """The checkpoint whose parameters a run begins with."""

  workdir: str
  step: int


def find(
  workdir: str, init_from: str | None, is_new: bool = False
) -> Origin | None:
  """Return the origin of a run, None if it begins with parameters of its own.

  Args:
    workdir: directory of the run. If it has been begun, it knows its origin.
    init_from: the other run's workdir, whose latest checkpoint is taken; None
      is what `workdir` says.
    is_new: whether what `workdir` says is of a run that this one replaces.

  Raises:
    UserError: if the run began differently, or there is no checkpoint.
  """
  recorded = None if is_new else run_folder.origin(workdir)
  known = Origin(recorded['workdir'], recorded['step']) if recorded else None
  if init_from is None:
    return known
  source = os.path.abspath(local_path(init_from))
  if known is None and not manifest.steps(workdir):
    steps = manifest.steps(source)
    if not steps:
      raise UserError(
        f'--init_from={init_from} has no checkpoint'
        f'{run_folder.runs_within(source)}'
      )
    return Origin(source, steps[-1])
  if known is None or known.workdir != source:
    begun = f'from {known.workdir}' if known else 'without --init_from'
    raise UserError(
      f'--workdir={workdir} was begun {begun}, now --init_from={init_from}; '
      'choose another workdir'
    )
  return known


def params(origin: Origin, experiment: Experiment) -> Any:
  """Return the parameters of a run's origin, NumPy arrays.

  Raises:
    UserError: if they cannot be read, or are not what the experiment takes.
  """
  config = run_folder.read_config(origin.workdir)
  source = build(config, experiment.dataset, inference_only=True)
  restored = restore_state(origin.workdir, source, origin.step).params
  shapes, wanted = (
    {jax.tree_util.keystr(k): x.shape for k, x in _leaves(tree)}
    for tree in (restored, state_like(experiment).params)
  )
  differences = [
    f'{name} is {_words(shapes.get(name), "missing")}, not '
    f'{_words(wanted.get(name), "expected")}'
    for name in sorted(shapes.keys() | wanted.keys())
    if shapes.get(name) != wanted.get(name)
  ]
  if differences:
    raise UserError(
      f'--init_from={origin.workdir} has other parameters than this config '
      f'takes: {differences[0]}'
    )
  return restored


def _leaves(tree):
  return jax.tree_util.tree_leaves_with_path(tree)


def _words(shape: tuple[int, ...] | None, absent: str) -> str:
  """Return a shape in words, `absent` if there is none."""
  if shape is None:
    return absent
  return str(shape) if shape else 'a number'
