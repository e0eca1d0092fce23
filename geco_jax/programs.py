"""What runs compile, once for all that differ in their inputs alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections.config_dict import ConfigDict

from geco_jax import parallel
from geco_jax.build import build
from geco_jax.build import compiled_leaves
from geco_jax.build import Experiment
from geco_jax.datasets.batches import Dataset
from geco_jax.evaluation import evaluation_programs
from geco_jax.evaluation import EvaluationPrograms
from geco_jax.update import train_steps
from geco_jax.update import train_steps_together


class Programs(NamedTuple):
  """The compiled programs of runs that agree in `key`."""

  key: dict[str, Any]  # Their configs' `compiled_leaves`.
  experiment: Experiment  # Of one of the runs.
  steps_per_dispatch: int
  train_steps: Callable  # Of one run, on all devices.
  train_steps_together: Callable  # Of several runs.
  evaluation: EvaluationPrograms

  def take_steps(self, layout: parallel.Layout) -> Callable:
    """Returns the program that trains runs which lie so on the devices."""
    is_shared = layout is parallel.SHARED
    return self.train_steps if is_shared else self.train_steps_together


def build_programs(config: ConfigDict, dataset: Dataset) -> Programs:
  """Returns the programs of a run and others like it, not compiled yet.

  Args:
    config: of the run.
    dataset: of `build_dataset(config)`.

  Raises:
    UserError: if a name is unknown or a value out of its range.
  """
  experiment = build(config, dataset)
  num_steps = config.steps_per_dispatch
  return Programs(
    key=compiled_leaves(config),
    experiment=experiment,
    steps_per_dispatch=num_steps,
    train_steps=train_steps(experiment, num_steps),
    train_steps_together=train_steps_together(experiment, num_steps),
    evaluation=evaluation_programs(experiment),
  )
