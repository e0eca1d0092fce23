"""The two parts of a run: what is compiled, and what the run adds.

Runs that differ in their `RunInputs` alone share one `Experiment`, so that
whatever is compiled for it is compiled once.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from geco_jax.constraints import Constraint
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.splits import fingerprint
from geco_jax.models.base import Model
from geco_jax.models.base import ModelOutput

_P = ParamSpec('_P')
_T = TypeVar('_T')


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """What is compiled, the same object for all runs that agree in `key`.

  Functions of step sizes and kappas take Python numbers or arrays, so that
  these can be inputs of a compiled program.

  Attributes:
    key: `experiment_key` of its config.
    dataset: what batches are assembled from.
    model: functions of parameters.
    constraints: by name.
    optimizer: step sizes -> update of the parameters; a step size that is
      missing is that of the config it was built from.
    learning_rate: step sizes -> the schedule that `optimizer` follows.
    multiplier_update: (step sizes, kappas) -> update of the log-multipliers.
    relative: whether `multiplier_update` is fed C / budget or C.
    highest_log_multiplier: its upper clip, inf if there is none.
    moved_by_constraints: whether constraint values drive the update.
    batch_size: examples per step, all devices together.
    steps_per_dispatch: training steps per call of a compiled program.
    programs: the results of functions decorated by `once_per_experiment`.
    compiled_layouts: those of `parallel` whose training steps are compiled.
  """

  key: str
  dataset: Dataset
  model: Model
  constraints: dict[str, Constraint]
  optimizer: Callable[[Mapping[str, Any]], optax.GradientTransformation]
  learning_rate: Callable[[Mapping[str, Any]], optax.Schedule]
  multiplier_update: Callable[
    [Mapping[str, Any], Mapping[str, Any]], optax.GradientTransformation
  ]
  relative: bool
  highest_log_multiplier: float
  moved_by_constraints: bool
  batch_size: int
  steps_per_dispatch: int
  programs: dict[Callable, Callable] = dataclasses.field(default_factory=dict)
  compiled_layouts: set[Any] = dataclasses.field(default_factory=set)


def _not_evaluated(batch: Batch, output: ModelOutput) -> jax.Array:
  raise NotImplementedError(
    'built with inference_only=True: constraints cannot be evaluated'
  )


# Stands for each constraint where only the model will be used.
PLACEHOLDER = Constraint(
  statistic=_not_evaluated,
  bound=lambda kappa: kappa,
  scale=lambda kappa: 1.0,
  measure=lambda mean: mean,
  unit='',
)


class StepInputs(NamedTuple):
  """What a compiled training step takes of a run; arrays []."""

  seed: ArrayLike  # uint32.
  kappas: Mapping[str, ArrayLike]  # By constraint, float32.
  step_sizes: Mapping[str, ArrayLike]  # As those of `RunInputs`, float32.


class RunInputs(NamedTuple):
  """The inputs of a run: the values for which no `Experiment` is compiled.

  Attributes:
    seed: in [0, 2**32).
    kappas: by constraint.
    step_sizes: 'learning_rate' and 'multipliers', those of the two that have
      one.
    initial_log_multipliers: by constraint, floats or arrays [].
    tolerance: largest C / scale at which a constraint is met.
  """

  seed: int
  kappas: dict[str, float]
  step_sizes: dict[str, float]
  initial_log_multipliers: dict[str, Any]
  tolerance: float

  def step_inputs(self) -> StepInputs:
    """Return the inputs of a compiled training step."""
    return StepInputs(
      seed=jnp.uint32(self.seed),
      kappas={k: jnp.float32(v) for k, v in self.kappas.items()},
      step_sizes={k: jnp.float32(v) for k, v in self.step_sizes.items()},
    )


def once_per_experiment(
  make: Callable[Concatenate[Experiment, _P], _T],
) -> Callable[Concatenate[Experiment, _P], _T]:
  """Make a function return the same object whenever an experiment asks again.

  So whoever shares an experiment shares its compiled programs.
  """

  @functools.wraps(make)
  def once(experiment, *args, **kwargs):
    if once not in experiment.programs:
      partial = functools.partial(make, experiment)
      experiment.programs[once] = functools.cache(partial)
    return experiment.programs[once](*args, **kwargs)

  return once


def with_programs_of(
  experiment: Experiment, other: Experiment, makers: Iterable[Callable]
) -> Experiment:
  """Return an experiment with its model and some programs from another.

  Args:
    experiment: gives the rest.
    other: has an equal model, and equals it in all that these programs do.
    makers: functions decorated by `once_per_experiment`.
  """
  return dataclasses.replace(
    experiment,
    model=other.model,
    programs={make: functools.partial(make, other) for make in makers},
    compiled_layouts=set(),
  )


@once_per_experiment
def data_sha256(experiment: Experiment) -> str:
  """Return `splits.fingerprint` of an experiment's data."""
  return fingerprint(experiment.dataset.splits)
