"""Where a run's numbers go besides its own log: W&B and MLflow.

Each is imported when it is asked for. A failure of one, such as a server that
is down or a full disk, costs a warning and that tracker, never the run.
"""

from collections.abc import Mapping, Sequence
import importlib.util
import os
import time
from typing import Any
import uuid

from absl import logging
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import config_tree
from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io.encodings import in_unicode

TENSORBOARD = 'tensorboard'
_VARIABLE = 'GECO_JAX_TRACKERS'  # Read here and by processes started here.
_PROJECT = 'geco_jax'
_IDS = 'trackers.json'  # In a run's folder: tracker -> its id of the run.


class Tracker:
  """Takes a run's scalars and pictures; `Wandb` and `Mlflow` are two."""

  def __init__(self, workdir: str, run_id: str | None):
    """Open the run, new or the one of an earlier `run_id`."""
    self.run_id = run_id or uuid.uuid4().hex
    self._name = in_unicode(os.path.basename(os.path.abspath(workdir)))
    config = by_products.read(os.path.join(workdir, 'config.json'), ConfigDict)
    self._config = config_tree.flatten(config) if config else {}

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Take scalars by name."""

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Take a picture, uint8 [height, width, channels]."""

  def close(self) -> None:
    """Send what is left."""


class Wandb(Tracker):
  """Weights & Biases; WANDB_MODE=offline writes in the run's folder alone."""

  def __init__(self, workdir: str, run_id: str | None):
    """Open the run, also beside others of this process."""
    super().__init__(workdir, run_id)
    import wandb  # Heavy and for this tracker alone.

    self._wandb = wandb
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', _PROJECT),
      name=self._name,
      id=self.run_id,
      resume='allow',
      reinit='create_new',
      dir=workdir,
      config=self._config,
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Take scalars by name."""
    self._run.log(dict(values), step=step)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Take a picture, uint8 [height, width, channels]."""
    self._run.log({name: self._wandb.Image(image)}, step=step)

  def close(self) -> None:
    """Send what is left."""
    self._run.finish()


class Mlflow(Tracker):
  """MLflow, at MLFLOW_TRACKING_URI or where MLflow writes without it."""

  def __init__(self, workdir: str, run_id: str | None):
    """Open the run in the experiment MLFLOW_EXPERIMENT_NAME, or geco_jax."""
    super().__init__(workdir, run_id)
    import mlflow  # Heavy and for this tracker alone.

    if mlflow.get_tracking_uri().startswith('file:'):  # It was asked for.
      os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
    self._entities = mlflow.entities
    self._client = mlflow.MlflowClient()
    if run_id is None:
      name = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
      experiment = self._client.get_experiment_by_name(name)
      experiment_id = (
        experiment.experiment_id
        if experiment
        else self._client.create_experiment(name)
      )
      run = self._client.create_run(experiment_id, run_name=self._name)
      self.run_id = run.info.run_id
      params = [
        self._entities.Param(key, str(value)[:500])
        for key, value in self._config.items()
      ]
      self._client.log_batch(self.run_id, params=params)
    else:
      self._client.update_run(run_id, status='RUNNING')

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Take scalars by name."""
    now = int(1_000 * time.time())
    metrics = [
      self._entities.Metric(key, float(value), now, step)
      for key, value in values.items()
    ]
    self._client.log_batch(self.run_id, metrics=metrics)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Take a picture, uint8 [height, width, channels]."""
    self._client.log_image(self.run_id, image, key=name, step=step)

  def close(self) -> None:
    """Send what is left."""
    self._client.set_terminated(self.run_id)


TRACKERS = {'wandb': Wandb, 'mlflow': Mlflow}


def use(names: Sequence[str]) -> None:
  """Choose the trackers of the runs of this process and of those it starts.

  Args:
    names: any of tensorboard, wandb, mlflow; may be empty.

  Raises:
    UserError: if one is unknown or not installed.
  """
  choices = (TENSORBOARD, *TRACKERS)
  for name in names:
    if name not in choices:
      raise UserError(
        f'--trackers must be any of {", ".join(choices)}, got {name!r}'
      )
    if name in TRACKERS and importlib.util.find_spec(name) is None:
      raise UserError(
        f"--trackers={name} needs {name}: pip install 'geco_jax[{name}]'"
      )
  os.environ[_VARIABLE] = ','.join(names)


def chosen() -> list[str]:
  """Return the trackers in use; TensorBoard where nobody chose."""
  text = os.environ.get(_VARIABLE, TENSORBOARD)
  return [name for name in text.split(',') if name]


class Trackers:
  """The trackers of a run that are not TensorBoard."""

  def __init__(self, workdir: str):
    """Open those that are in use."""
    path = os.path.join(workdir, _IDS)
    known = by_products.read(path, lambda x: by_products.mapping(x, str)) or {}
    self._open: dict[str, Tracker] = {}
    for name in chosen():
      if name in TRACKERS:
        self._try(name, lambda n=name: self._start(n, workdir, known.get(n)))
    if self._open:
      known |= {name: tracker.run_id for name, tracker in self._open.items()}
      try:
        files.write_json(path, known)
      except OSError as error:  # There, a resumed run will be a new one.
        logging.warning('Going on without %s: %s', _IDS, error)

  def _start(self, name, workdir, run_id) -> None:
    self._open[name] = TRACKERS[name](workdir, run_id)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Hand scalars on."""
    for name, tracker in [*self._open.items()]:
      self._try(name, lambda t=tracker: t.scalars(step, values))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Hand a picture on."""
    for key, tracker in [*self._open.items()]:
      self._try(key, lambda t=tracker: t.image(step, name, image))

  def close(self) -> None:
    """Close them all."""
    for name, tracker in [*self._open.items()]:
      self._try(name, lambda t=tracker: t.close())

  def _try(self, name: str, action: Any) -> None:
    try:
      action()
    except Exception as error:  # A server, disk or version may fail.
      self._open.pop(name, None)
      reason = ' '.join(str(error).split())[:200]
      logging.warning(
        'Going on without %s: %s: %s', name, type(error).__name__, reason
      )
