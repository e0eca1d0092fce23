"""The training state and the one step that every objective shares.

ELBO, beta-VAE, annealed ELBO and GECO differ in their constraints and in the
transformation that moves the multipliers, not in this file.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from geco_jax import feed
from geco_jax import parallel
from geco_jax.constraints import squared_error
from geco_jax.datasets import batches
from geco_jax.errors import UserError
from geco_jax.experiment import Experiment
from geco_jax.experiment import once_per_experiment
from geco_jax.experiment import RunInputs
from geco_jax.experiment import StepInputs
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.lagrangian import lagrangian
from geco_jax.scan import dispatcher
from geco_jax.scan import scan

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
  """All that a run remembers: with the config it determines the rest."""

  step: jax.Array  # int32 [], steps taken.
  params: hk.Params
  optimizer_state: optax.OptState
  log_multipliers: dict[str, jax.Array]  # float32 [] by constraint.
  multiplier_state: optax.OptState


def init_state(experiment: Experiment, inputs: RunInputs) -> TrainState:
  """Return the state before the first step."""
  return _init(experiment)(inputs.step_inputs(), inputs.initial_log_multipliers)


@once_per_experiment
def _init(experiment: Experiment) -> Callable[..., TrainState]:
  """Return the compiled `_first_state`."""
  # It runs once, so only its compilation time counts: on CPUs, ConvDRAW's was
  # measured to take a fifth of the time with these options.
  options = {'xla_backend_optimization_level': 0}
  return jax.jit(
    functools.partial(_first_state, experiment),
    compiler_options=None if parallel.on_accelerator() else options,
  )


def state_like(experiment: Experiment) -> TrainState:
  """Return NumPy arrays of a state's shapes and types, without its values."""
  return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), _shapes(experiment))


@once_per_experiment
def _shapes(experiment: Experiment) -> TrainState:
  """Return a state's shapes and types, without compiling anything."""
  scalars = dict.fromkeys(experiment.constraints, np.float32(0))
  # The experiment has step sizes.
  inputs = StepInputs(seed=np.uint32(0), kappas=scalars, step_sizes={})
  first_state = functools.partial(_first_state, experiment)
  return jax.eval_shape(first_state, inputs, scalars)


def _first_state(
  experiment: Experiment,
  inputs: StepInputs,
  initial_log_multipliers: dict[str, Any],
) -> TrainState:
  """Return the state before the first step; to be traced."""
  params_key, sample_key = jax.random.split(_key(inputs.seed, 'params'))
  shapes = experiment.dataset.image_shape, experiment.dataset.context_shape
  image, context = (s and jnp.zeros((1, *s), jnp.float32) for s in shapes)
  sample_keys = jax.random.split(sample_key, 1)
  params = experiment.model.init(params_key, sample_keys, image, context)
  log_multipliers = {
    name: jnp.float32(x) for name, x in initial_log_multipliers.items()
  }
  return TrainState(
    step=jnp.int32(0),
    params=params,
    optimizer_state=experiment.optimizer(inputs.step_sizes).init(params),
    log_multipliers=log_multipliers,
    multiplier_state=experiment.multiplier_update(
      inputs.step_sizes, inputs.kappas
    ).init(log_multipliers),
  )


def loss_and_metrics(
  experiment: Experiment,
  params: hk.Params,
  log_multipliers: dict[str, jax.Array],
  kappas: dict[str, jax.Array],
  keys: jax.Array,
  batch: batches.Batch,
):
  """Return the Lagrangian of a batch (Eq. 2), and its metrics.

  Args:
    experiment: model and constraints.
    params: the model's parameters.
    log_multipliers: [] by constraint.
    kappas: [] by constraint.
    keys: PRNG keys [batch].
    batch: examples.

  Returns:
    (loss [], (mean violations C [] by name, metrics [] by name)).
  """
  output = experiment.model.apply(params, keys, batch.image, batch.context)
  per_example = {
    name: constraint.violation(batch, output, kappas[name])
    for name, constraint in experiment.constraints.items()
  }
  _check_shapes(batch, output, per_example)
  violations = {name: x.mean() for name, x in per_example.items()}
  kl = output.kl.mean()
  loss = lagrangian(kl, violations, log_multipliers)
  num_dims = batch.image[0].size
  metrics = {
    'loss': loss,
    'kl_nats': kl,
    'mse': squared_error(batch, output).mean() / num_dims,
    'likelihood_stddev': output.likelihood_stddev,
  }
  if output.kl_by_step.shape[1] > 1:
    for t, value in enumerate(output.kl_by_step.mean(axis=0)):
      metrics[f'kl_nats_by_step/{t:02d}'] = value
  return loss, (violations, metrics)


def _check_shapes(batch, output, violations):
  """Refuse parts of one's own whose arrays would be broadcast."""
  size = batch.image.shape[:1]
  wanted = {
    'the reconstruction of config.model': (
      output.reconstruction,
      batch.image.shape,
    ),
    'the kl of config.model': (output.kl, size),
    **{
      f'the statistic of config.constraints.{name}': (x, size)
      for name, x in violations.items()
    },
  }
  for name, (array, shape) in wanted.items():
    if jnp.shape(array) != shape:
      raise UserError(f'{name} must be {shape}, got {jnp.shape(array)}')


def training_images(
  experiment: Experiment,
  layout: parallel.Layout,
  seeds: Sequence[int],
  steps: Sequence[int],
) -> contextlib.AbstractContextManager[feed.Feed]:
  """Return `feed.step_images` of runs that share an experiment.

  Args:
    experiment: of the runs.
    layout: how they lie on the devices.
    seeds: of the runs.
    steps: number of steps that each has taken.
  """
  runs = []
  if experiment.dataset.is_on_host:
    choose = _choose(experiment)
    chooses = [functools.partial(choose, np.uint32(seed)) for seed in seeds]
    runs = [*zip(chooses, steps, strict=True)]
  return feed.step_images(
    experiment.dataset,
    layout,
    experiment.batch_size,
    experiment.steps_per_dispatch,
    runs,
  )


@once_per_experiment
def _choose(experiment: Experiment):
  """Return the program (seed, positions) -> which images, on the host."""
  label = parallel.put_on_host(experiment.dataset.splits['train'].label)
  choose = parallel.on_host(functools.partial(examples_at, experiment))
  return functools.partial(choose, label)


def dispatch(
  experiment: Experiment, layout: parallel.Layout
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Return the function that takes steps of runs in a layout.

  Returns:
    (states, inputs, what `training_images` yields, num_steps=
    steps_per_dispatch) -> (states, metrics of steps_per_dispatch steps, of
    which the first num_steps count).
  """
  is_shared = layout is parallel.SHARED
  make = train_steps if is_shared else train_steps_together
  max_steps = experiment.steps_per_dispatch
  return dispatcher(make(experiment, max_steps), max_steps)


def examples_at(
  experiment: Experiment,
  label: jax.Array,
  seed: jax.Array,
  positions: jax.Array,
) -> jax.Array:
  """Return which images make the examples at positions of a run's data.

  The answer is the same on the devices and, if the images stay there, on the
  host.

  Args:
    experiment: the run's experiment.
    label: of the training images, int32 [n].
    seed: of the run, uint32 [].
    positions: int32 [batch], see `batches.indices_at`.

  Returns:
    What `Dataset.choose` returns.
  """
  indices = batches.indices_at(_key(seed, 'data'), positions, label.shape[0])
  keys = per_example_keys(_key(seed, 'assembly'), positions)
  return experiment.dataset.choose(label, indices, keys)


@once_per_experiment
def train_steps(
  experiment: Experiment, num_steps: int
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Return the compiled program that takes `num_steps` training steps.

  The returned function takes and returns replicated trees (`parallel`) and
  donates its state; its metrics are [num_devices, num_steps]. The global batch
  of a step and the noise of each of its examples depend on the seed, the step
  and the example's place in the batch, never on the number of devices.

  Args:
    experiment: what is trained.
    num_steps: steps per call, K.

  Returns:
    (state, inputs, training images, and a limit as in `scan` if not all steps
    are to be taken) -> (state, metrics of each step).
  """
  places = functools.partial(parallel.local_places, experiment.batch_size)
  run = _run_steps(experiment, num_steps, places, parallel.mean)
  return parallel.pmap(run, donate_argnums=0)


@once_per_experiment
def train_steps_together(
  experiment: Experiment, num_steps: int
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Return the compiled program that takes steps of several runs at once.

  Like `train_steps`, except for the leading axes of states, inputs and metrics,
  which are [num_devices, runs per device]; the images are replicated, or with
  the same axes where they stay on the host. Every device has the whole batches
  of its own runs.

  Args:
    experiment: what is trained, the same for all runs except their inputs.
    num_steps: steps per call, K.

  Returns:
    (states, inputs, training images, perhaps a limit) -> (states, metrics of
    each step).
  """
  places = functools.partial(jnp.arange, experiment.batch_size)
  run = _run_steps(experiment, num_steps, places, lambda tree: tree)

  def run_all(states, inputs, images, limit=None):
    is_on_host = experiment.dataset.is_on_host
    if len(states.step) > 1:
      axes = 0, 0, 0 if is_on_host else None, None
      return jax.vmap(run, axes)(states, inputs, images, limit)
    state, own_inputs = jax.tree.map(lambda x: x[0], (states, inputs))
    if is_on_host:
      images = jax.tree.map(lambda x: x[0], images)
    one = run(state, own_inputs, images, limit)
    return jax.tree.map(lambda x: x[jnp.newaxis], one)

  return parallel.pmap(run_all, donate_argnums=0)


def _run_steps(experiment, num_steps, places, mean):
  """Return the function of `num_steps` steps on one device.

  Args:
    experiment: what is trained.
    num_steps: K.
    places: () -> which of the batch's examples are this device's.
    mean: of a tree, over the devices that share the batch.
  """
  dataset = experiment.dataset

  def step(state, inputs, images):
    if dataset.is_on_host:  # The images are the batches of some steps.
      slot = state.step % images.label.shape[0]
      image, label = jax.tree.map(lambda x: x[slot], images)
    else:
      positions = state.step * experiment.batch_size + places()
      chosen = examples_at(experiment, images.label, inputs.seed, positions)
      image, label = jax.tree.map(lambda x: x[chosen], images)
    batch = dataset.compose(image, label)
    noise_key = jax.random.fold_in(_key(inputs.seed, 'noise'), state.step)
    keys = per_example_keys(noise_key, places())

    def loss(params):
      return loss_and_metrics(
        experiment, params, state.log_multipliers, inputs.kappas, keys, batch
      )

    gradients, (violations, metrics) = jax.grad(loss, has_aux=True)(
      state.params
    )
    gradients, violations, metrics = mean((gradients, violations, metrics))
    return _apply(experiment, state, inputs, gradients, violations, metrics)

  def run(state, inputs, images, limit=None):
    return scan(step, num_steps, state, (inputs, images), limit)

  return run


def _apply(experiment, state, inputs, gradients, violations, metrics):
  """Move parameters down the gradients, multipliers up the constraints."""
  optimizer = experiment.optimizer(inputs.step_sizes)
  updates, optimizer_state = optimizer.update(
    gradients, state.optimizer_state, state.params
  )
  relative = {
    name: violations[name] / constraint.slack(inputs.kappas[name])
    for name, constraint in experiment.constraints.items()
  }
  multiplier_update = experiment.multiplier_update(
    inputs.step_sizes, inputs.kappas
  )
  multiplier_updates, multiplier_state = multiplier_update.update(
    relative if experiment.relative else violations,
    state.multiplier_state,
    state.log_multipliers,
  )
  rate = experiment.learning_rate(inputs.step_sizes)(state.step)
  metrics |= {
    'gradient_norm': _norm(gradients),  # Before it is clipped.
    'learning_rate': jnp.asarray(rate, jnp.float32),
  }
  for name, constraint in experiment.constraints.items():
    metrics |= {
      f'{name}/violation': violations[name]
      / constraint.scale(inputs.kappas[name]),
      f'{name}/log_multiplier': state.log_multipliers[name],
    }
  next_state = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    optimizer_state=optimizer_state,
    log_multipliers=optax.apply_updates(
      state.log_multipliers, multiplier_updates
    ),
    multiplier_state=multiplier_state,
  )
  return next_state, metrics


def _norm(tree):
  """Return the Euclidean norm [] of all of a tree's numbers together."""
  # One reduction: those of each leaf were 31 of the 201 fused operations of a
  # small VAE's step, as compiled for a CPU.
  numbers, _ = ravel_pytree(jax.tree.map(lambda x: x.astype(jnp.float32), tree))
  return jnp.sqrt(jnp.sum(jnp.square(numbers)))


_KEY_PURPOSES = ('params', 'data', 'noise', 'assembly')


def _key(seed: ArrayLike, purpose: str) -> jax.Array:
  """Return the run's key for one purpose."""
  return jax.random.fold_in(key_of(seed), _KEY_PURPOSES.index(purpose))
