"""Runs restored from their folders: what was trained, and its state."""

from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.errors import UserError
from geco_jax.experiment import data_sha256
from geco_jax.experiment import Experiment
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import Checkpointer
from geco_jax.step import state_like
from geco_jax.step import TrainState


def open_run(
  workdir: str, data_dir: str | None, experiment: Experiment | None = None
) -> tuple[ConfigDict, Experiment]:
  """Return a run's config and its experiment, whose data are checked.

  Args:
    workdir: the run's directory.
    data_dir: TFDS data directory.
    experiment: the run's, for callers that have built it; None builds it.

  Raises:
    UserError: if there is no such run, or it was trained on other data.
  """
  config = run_folder.read_config(workdir)
  if experiment is None:
    experiment = build(config, build_dataset(config, data_dir))
  sha256 = data_sha256(experiment)
  run_folder.check_data(workdir, experiment.dataset.name, sha256)
  return config, experiment


def restore_state(
  workdir: str, experiment: Experiment, step: int | None = None
) -> TrainState:
  """Return the state of a run's checkpoint, as NumPy arrays.

  Raises:
    UserError: if there is no such checkpoint, or `step` is no integer.
  """
  is_number = isinstance(step, (int, np.integer))
  if step is not None and (not is_number or isinstance(step, bool)):
    raise UserError(f'step must be an integer or None, got {step!r}')
  checkpointer = Checkpointer(workdir, read_only=True)
  try:
    steps = checkpointer.steps()
    if step is not None and step not in steps:
      raise UserError(
        f'--workdir={workdir} has no checkpoint of step {step}; it has {steps}'
      )
    restored = checkpointer.restore(state_like(experiment), step)
  finally:
    checkpointer.close()
  if restored is None:
    raise UserError(f'--workdir={workdir} has no checkpoint yet')
  return restored.state
