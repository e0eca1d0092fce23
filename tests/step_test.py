"""The training step: one for all objectives, any number of devices."""

import dataclasses
import functools
import os
from unittest import mock

import jax
from jax.flatten_util import ravel_pytree
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax import step
from geco_jax.base_config import group
from geco_jax.base_config import OBJECTIVES
from geco_jax.build import build
from geco_jax.build import run_inputs
from geco_jax.choices import COMPOSITIONS
from geco_jax.datasets import sources
from geco_jax.distributions import gaussian_nll
from geco_jax.errors import UserError
from geco_jax.feed import fixed_examples
from geco_jax.io import manifest
from tests import processes
from tests.small_networks import two_steps_of_conv_draw


def take_steps(config, dataset, num_steps, num_calls=1):
  """Return the unreplicated state after, and each step's metrics."""
  experiment = build(config, dataset)
  inputs = run_inputs(config, experiment)
  state = parallel.replicate(step.init_state(experiment, inputs))
  placed = parallel.replicate(inputs.step_inputs())
  images = parallel.replicate(dataset.splits['train'])
  run = step.train_steps(experiment, num_steps)
  collected = []
  for _ in range(num_calls):
    state, metrics = run(state, placed, images)
    collected.append(parallel.unreplicate(metrics))
  metrics = jax.tree.map(lambda *m: np.concatenate(m), *collected)
  return parallel.unreplicate(state), metrics


def errors_at_start_and_end(config, dataset):
  """Return the squared errors per pixel of a run on few prototypes."""
  config.num_steps = 2_000
  config.learning_rate.kwargs.init_value = 1e-2
  state, metrics = take_steps(config, dataset, 2_000)
  assert state.step == 2_000
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.params))
  for values in metrics.values():
    assert values.shape == (2_000,)
    assert np.all(np.isfinite(values))
  return metrics['mse'][:30].mean(), metrics['mse'][-30:].mean()


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_a_state_without_values_is_shaped_like_the_first(
  objective, tiny_config, make_dataset
):
  config = tiny_config(objective)
  experiment = build(config, make_dataset())
  first = step.init_state(experiment, run_inputs(config, experiment))
  like = step.state_like(experiment)
  assert jax.tree.structure(like) == jax.tree.structure(first)
  for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(first), strict=True):
    assert isinstance(a, np.ndarray)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)


_GECO = (
  '.multiplier_state.count',
  ".multiplier_state.moving_average['re']",
  ".multiplier_state.residual['re']",
)


@pytest.mark.parametrize(
  ('objective', 'expected'),
  [
    ('geco', (".log_multipliers['re']", *_GECO)),
    ('geco_literal', (".log_multipliers['re']", *_GECO)),
    ('elbo', (".log_multipliers['nll']",)),
    ('annealed_beta', (".log_multipliers['nll']", '.multiplier_state.count')),
  ],
)
def test_the_tree_of_a_state_is_that_of_its_format(
  objective, expected, tiny_config, make_dataset
):
  like = step.state_like(build(tiny_config(objective), make_dataset()))
  # Models and optimizers have trees of their own: these are ours.
  ours = like._replace(params=None, optimizer_state=None)
  names = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(ours)
  ]
  # Who changes the list raises the number.
  assert (manifest.FORMAT, names) == (3, ['.step', *expected])


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_every_objective_learns_with_finite_metrics(
  objective, tiny_config, make_dataset
):
  first, last = errors_at_start_and_end(
    tiny_config(objective, kappa=0.1), make_dataset()
  )
  # A beta of 4 buys the least.
  assert last < (0.95 if objective == 'beta_vae' else 0.7) * first


def test_elbo_is_kl_plus_nll_at_multiplier_one(tiny_config, make_dataset):
  config = tiny_config('elbo')
  experiment = build(config, make_dataset())
  inputs = run_inputs(config, experiment)
  state = step.init_state(experiment, inputs)
  keys = jax.random.split(jax.random.key(0), 6)
  examples = fixed_examples(experiment.dataset)
  batch = examples(experiment.dataset.splits['train'], np.arange(6))
  loss, _ = jax.jit(functools.partial(step.loss_and_metrics, experiment))(
    state.params, state.log_multipliers, inputs.kappas, keys, batch
  )

  @jax.jit
  def expected(params):
    output = experiment.model.apply(params, keys, batch.image)
    nll = gaussian_nll(
      batch.image, output.reconstruction, output.likelihood_stddev
    )
    return (output.kl + nll).mean()

  assert loss == pytest.approx(float(expected(state.params)), rel=1e-5)


def test_geco_multiplier_follows_algorithm_1(tiny_config, make_dataset):
  config = tiny_config('geco_literal')
  state, metrics = take_steps(config, make_dataset(), 30)
  log_multiplier, average = 0.0, metrics['re/violation'][0]
  for violation in metrics['re/violation']:
    average = 0.99 * average + 0.01 * violation
    log_multiplier += config.multipliers.kwargs.step_size * average
  assert state.log_multipliers['re'] == pytest.approx(log_multiplier, rel=1e-4)


def test_fixed_multiplier_stays_and_annealed_beta_follows_its_schedule(
  tiny_config, make_dataset
):
  config = tiny_config('beta_vae')
  state, _ = take_steps(config, make_dataset(), 5)
  assert state.log_multipliers['nll'] == pytest.approx(-np.log(4))

  config = tiny_config('annealed_beta')
  config.multipliers.kwargs.transition_steps = 10
  _, metrics = take_steps(config, make_dataset(), 15)
  beta = np.exp(-metrics['nll/log_multiplier'])
  expected = np.maximum(0.7 + 1.3 * (1 - np.arange(15) / 10), 0.7)
  np.testing.assert_allclose(beta, expected, rtol=1e-5)


def test_metrics_say_the_rate_and_the_gradient_s_norm_before_its_clip(
  tiny_config, make_dataset
):
  """With SGD a step moves the parameters by the rate times the gradient."""
  config, dataset = tiny_config(), make_dataset()
  with config.unlocked():
    config.optimizer = group('sgd')
  config.learning_rate.kwargs.init_value = 1.0
  experiment = build(config, dataset)
  first = step.init_state(experiment, run_inputs(config, experiment))
  for clip in (None, 0.1):
    config.max_gradient_norm = clip
    state, metrics = take_steps(config, dataset, num_steps=1)
    moved = np.linalg.norm(
      ravel_pytree(state.params)[0] - ravel_pytree(first.params)[0]
    )
    rate, norm = metrics['learning_rate'][0], metrics['gradient_norm'][0]
    assert rate == pytest.approx(config.learning_rate.kwargs.init_value)
    expected = rate * min(norm, clip or np.inf)
    assert moved == pytest.approx(expected, rel=1e-3)


def test_calls_of_k_steps_compose(tiny_config, make_dataset):
  whole, whole_metrics = take_steps(tiny_config(), make_dataset(), 12)
  parts, part_metrics = take_steps(
    tiny_config(), make_dataset(), 4, num_calls=3
  )
  np.testing.assert_allclose(
    whole_metrics['loss'], part_metrics['loss'], rtol=1e-4
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), whole, parts
  )


def test_seed_and_kappa_are_inputs_of_one_compiled_program(
  tiny_config, make_dataset
):
  config = tiny_config()
  experiment = build(config, make_dataset())
  run = step.train_steps(experiment, 3)
  images = parallel.replicate(experiment.dataset.splits['train'])
  results = []
  for seed, kappa in ((0, 0.2), (1, 0.2), (0, 0.1)):
    inputs = run_inputs(config, experiment)._replace(
      seed=seed, kappas={'re': kappa}
    )
    state = parallel.replicate(step.init_state(experiment, inputs))
    _, metrics = run(state, parallel.replicate(inputs.step_inputs()), images)
    results.append(parallel.unreplicate(metrics))
  assert results[0]['loss'][0] != results[1]['loss'][0]
  np.testing.assert_allclose(results[0]['mse'][0], results[2]['mse'][0])
  assert results[0]['re/violation'][0] < results[2]['re/violation'][0]


def test_bfloat16_trains(tiny_config, make_dataset):
  config = tiny_config(kappa=0.1)
  config.policy = 'params=float32,compute=bfloat16,output=float32'
  first, last = errors_at_start_and_end(config, make_dataset())
  assert last < 0.7 * first


_DEVICES_SCRIPT = """
import sys
import jax
import numpy as np
from tests import conftest, step_test

make_images = conftest.make_images.__wrapped__()
state, metrics = step_test.take_steps(
  conftest.tiny_config.__wrapped__()(),
  conftest.make_dataset.__wrapped__(make_images)(),
  6,
)
leaves = {f'state{i}': x for i, x in enumerate(jax.tree.leaves(state))}
np.savez(sys.argv[1], devices=jax.device_count(), **leaves, **metrics)
"""


def run_on(num_devices, path):
  """Return state and metrics of a few steps on forced CPU devices."""
  flags = (
    f'{os.environ.get("XLA_FLAGS", "")} '
    f'--xla_force_host_platform_device_count={num_devices}'
  )
  with mock.patch.dict(os.environ, XLA_FLAGS=flags):
    code, _, err = processes.execute(_DEVICES_SCRIPT, str(path))
  assert code == 0, err
  return dict(np.load(path))


def test_eight_devices_equal_one(tmp_path):
  """Same batches, same noise; only sums are taken in another order."""
  one, eight = (run_on(n, tmp_path / f'{n}.npz') for n in (1, 8))
  assert (one.pop('devices'), eight.pop('devices')) == (1, 8)
  assert one.keys() == eight.keys()
  for name, values in one.items():
    np.testing.assert_allclose(values, eight[name], rtol=2e-4, atol=2e-5)


def test_every_step_draws_noise_of_its_own(tiny_config, make_dataset):
  """With equal images and parameters at rest only noise moves the error."""
  config, dataset = tiny_config(), make_dataset()
  config.learning_rate.kwargs.init_value = 0.0
  equal = {
    name: images._replace(image=images.image[[0] * len(images.image)])
    for name, images in dataset.splits.items()
  }
  _, metrics = take_steps(config, dataset._replace(splits=equal), 6)
  assert len(np.unique(metrics['mse'])) == 6


def test_examples_are_composed_anew_in_every_epoch(tiny_config):
  dataset = COMPOSITIONS['color_mnist'](sources.digits())
  experiment = build(tiny_config(), dataset)
  label = jax.numpy.asarray(dataset.splits['train'].label)
  positions = np.arange(2 * len(label), dtype=np.int32)
  chosen = jax.jit(functools.partial(step.examples_at, experiment))(
    label, np.uint32(0), positions
  )
  first, second = (
    epoch[np.argsort(epoch[:, 0])] for epoch in np.split(np.asarray(chosen), 2)
  )
  np.testing.assert_array_equal(first[:, 0], second[:, 0])
  assert (first[:, 1:] != second[:, 1:]).mean() > 0.99


def test_multipliers_are_fed_violations_in_units_of_the_budget(
  tiny_config, make_dataset
):
  """With a single patch pNCC has the scale 1 and the budget 1 - kappa."""
  config = tiny_config()
  with config.unlocked():
    config.constraints = {'pncc': {'kappa': 0.9, 'patch_size': 4}}
    config.multipliers = group('algorithm_1', step_size=0.01)
  state, metrics = take_steps(config, make_dataset(), 1)
  moved = 0.01 * metrics['pncc/violation'][0] / (1 - 0.9)
  assert state.log_multipliers['pncc'] == pytest.approx(moved, rel=1e-4)


def test_violations_are_shown_in_units_of_the_scale(tiny_config, make_dataset):
  """With a single patch C / scale is kappa less a correlation."""
  config = tiny_config()
  with config.unlocked():
    config.constraints = {'pncc': {'kappa': 0.99, 'patch_size': 4}}
  _, metrics = take_steps(config, make_dataset(), 5)
  assert np.abs(0.99 - metrics['pncc/violation']).max() <= 1
  assert np.ptp(metrics['pncc/violation']) > 0


def test_the_kl_of_each_of_several_steps_is_shown(tiny_config, make_dataset):
  config = tiny_config()
  with config.unlocked():
    config.model = two_steps_of_conv_draw()
  _, metrics = take_steps(config, make_dataset(), 1)
  by_step = metrics['kl_nats_by_step/00'] + metrics['kl_nats_by_step/01']
  np.testing.assert_allclose(by_step, metrics['kl_nats'], rtol=1e-5)
  _, metrics = take_steps(tiny_config(), make_dataset(), 1)
  assert not any('by_step' in name for name in metrics)  # There is one.


def test_seeds_see_the_examples_in_orders_of_their_own(
  tiny_config, make_dataset
):
  dataset = make_dataset()
  label = jax.numpy.asarray(dataset.splits['train'].label)
  examples = functools.partial(
    step.examples_at, build(tiny_config(), dataset), label
  )
  one, other = (
    jax.jit(examples)(np.uint32(seed), np.arange(45)) for seed in (0, 1)
  )
  np.testing.assert_array_equal(np.sort(one), np.sort(other))
  assert (one != other).mean() > 0.5


def test_seeds_start_at_parameters_of_their_own(tiny_config, make_dataset):
  config = tiny_config()
  experiment = build(config, make_dataset())
  inputs = run_inputs(config, experiment)
  one, other = (
    step.init_state(experiment, inputs._replace(seed=seed)).params
    for seed in (0, 1)
  )
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert np.array_equal(a, b) == (a.ndim == 1)  # Biases are 0.


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    ('kl', r'the kl of config.model must be \(6,\), got \(1,\)'),
    ('reconstruction', r'must be \(6, 4, 4, 1\), got \(1, 4, 4, 1\)'),
  ],
)
def test_outputs_that_would_be_broadcast_are_refused(
  field, message, tiny_config, make_dataset
):
  config = tiny_config()
  experiment = build(config, make_dataset())
  inputs = run_inputs(config, experiment)
  state = step.state_like(experiment)
  model = experiment.model

  def apply(*args):
    output = model.apply(*args)
    return output._replace(**{field: getattr(output, field)[:1]})

  other = dataclasses.replace(experiment, model=model._replace(apply=apply))
  examples = fixed_examples(experiment.dataset)
  batch = examples(experiment.dataset.splits['train'], np.arange(6))
  keys = jax.random.split(jax.random.key(0), 6)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(
      functools.partial(step.loss_and_metrics, other),
      *(state.params, state.log_multipliers, inputs.kappas, keys, batch),
    )
