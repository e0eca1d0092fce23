"""Images that stay on the host make the batches that the device makes."""

import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import feed
from geco_jax import parallel
from geco_jax import step as steps
from geco_jax.build import build
from geco_jax.choices import COMPOSITIONS
from geco_jax.datasets import sources
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import fixed_batch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@functools.cache
def dataset_of(name):
  make = {'plain': as_dataset, **COMPOSITIONS}[name]
  return make(sources.digits())._replace(placement='host')


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


SLOW = [
  pytest.param(name, marks=pytest.mark.slow)
  for name in COMPOSITIONS
  if name != 'mnist_rotate'
]


@pytest.mark.parametrize('name', ['plain', 'mnist_rotate', *SLOW])
def test_steps_read_the_batches_that_the_device_assembles(name, tiny_config):
  """From any step on, over the end of an epoch, however many are taken."""
  dataset = dataset_of(name)
  experiment = build(tiny_config(), dataset)
  images = dataset.splits['train']
  size, most = experiment.batch_size, experiment.steps_per_dispatch

  @jax.jit
  def on_device(seed, step):
    positions = step * size + jnp.arange(size)
    label = jnp.asarray(images.label)
    chosen = steps.examples_at(experiment, label, seed, positions)
    return dataset.compose(jnp.asarray(images.image)[chosen], label[chosen])

  compose, seed, step = jax.jit(dataset.compose), 2**32 - 1, 178
  with steps.training_images(
    experiment, parallel.SHARED, [seed], [step]
  ) as take:
    for count in (1, most, 2, most - 1):
      window = parallel.unreplicate(take(count))
      for number in range(step, step + count):
        own = compose(*(x[number % most] for x in window))
        assert_same(own, on_device(np.uint32(seed), number))
      step += count


@pytest.mark.parametrize(
  'name', ['plain', pytest.param('mnist_sum', marks=pytest.mark.slow)]
)
def test_fixed_examples_are_those_of_the_device(name):
  dataset = dataset_of(name)
  images = dataset.splits['test']
  numbers = np.arange(170, 190, dtype=np.int32)  # There are 180.
  expected = jax.jit(functools.partial(fixed_batch, dataset))(
    images, jnp.asarray(numbers)
  )
  assert_same(feed.fixed_examples(dataset)(images, numbers), expected)
  batches = feed.fixed_batches(dataset, 5, 2)(images, 170, 190, 1_000)
  read = [parallel.unreplicate(some) for some in batches]
  whole = [
    np.concatenate([x.reshape(10, *x.shape[2:]) for x in parts])
    for parts in zip(*read, strict=True)
  ]
  assert_same(jax.jit(dataset.compose)(*whole), expected)


_ON_BOTH = """
  import json, os, sys, tempfile
  import jax
  jax.config.update('jax_num_cpu_devices', 8)
  import numpy as np
  from geco_jax.base_config import get_base_config, group
  from geco_jax.build import build, build_dataset
  from geco_jax.evaluation import aggregate_posterior, checkpoints
  from geco_jax.evaluation import measures, restored
  from geco_jax.training import loop

  def config_of(placement, seed=0):
    config = get_base_config('geco', kappa=0.1, num_steps=20)
    config.update(steps_per_dispatch=5, checkpoint_every=10, seed=seed)
    config.batch_size = 16
    config.dataset = group('color_mnist', base='digits')
    config.dataset.placement = placement
    config.model = group('mlp_vae', latent_size=2, hidden_sizes=(8,))
    return config

  def results(placement, folder):
    config = config_of(placement)
    experiment = build(config, build_dataset(config))
    shared, left = os.path.join(folder, 'shared'), []
    loop.train(config, shared, experiment=experiment, show_progress=False)
    configs = {
      os.path.join(folder, str(seed)): config_of(placement, seed)
      for seed in range(9)  # Two on each device, but for the missing.
    }
    failures = loop.train_together(configs, experiment, show_progress=False)
    assert not any(failures.values()), failures
    for name in (shared, *configs):
      left += jax.tree.leaves(restored.restore_state(name, experiment))
      with open(os.path.join(name, 'metrics.jsonl')) as file:
        lines = [json.loads(line) for line in file]
      left += [
        x for line in lines for k, x in line.items() if k != 'steps_per_second'
      ]
    report = checkpoints.evaluate(shared, experiment=experiment)
    estimate = aggregate_posterior.estimate(
      shared, 20, split='test', experiment=experiment, show_progress=False,
      num_data=300,
    )
    return left, json.dumps([report, estimate])

  measures.MIN_DRAWS = 100
  with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as b:
    device, host = results('device', one), results('host', b)
  assert jax.device_count() == 8
  jax.tree.map(np.testing.assert_array_equal, device[0], host[0])
  assert device[1] == host[1]
  print('the same')
"""


@pytest.mark.slow
def test_eight_devices_one_run_or_nine_are_the_same_on_the_host():
  ended = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(_ON_BOTH)],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ROOT},
    stdout=subprocess.PIPE,
    check=True,
  )
  assert ended.stdout == b'the same\n'


def test_examples_come_again_after_a_period():
  dataset = dataset_of('plain')
  images = dataset.splits['test']
  batches = feed.fixed_batches(dataset, 5, 2)(images, 3, 23, 7)
  label = np.concatenate([parallel.unreplicate(b)[1].ravel() for b in batches])
  np.testing.assert_array_equal(label, images.label[np.arange(3, 23) % 7])
