"""Every config trains, evaluates and draws on accelerators, as lowered text.

Lowering takes shapes alone: nothing is initialized, compiled or run.
"""

import collections
import re

from configs_test import CONV_DRAW
from configs_test import load
from configs_test import NVP
from configs_test import VARIANTS
import jax
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax import step as steps
from geco_jax.build import build
from geco_jax.build import COMPOSITIONS
from geco_jax.build import run_inputs
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.datasets.images import SPLITS
from geco_jax.evaluation import aggregate_posterior
from geco_jax.evaluation import measures
from geco_jax.evaluation import pictures
from geco_jax.keys import per_example_keys
from geco_jax.sizes import SIZES

SHAPES = {
  'celeb_a': (64, 64, 3),
  'cifar10': (32, 32, 3),
  'digits': (8, 8, 1),
  'mnist': (28, 28, 1),
}
PRESETS = {
  **VARIANTS,
  'micro_mnist_nvp': [*VARIANTS['micro_mnist_nvp'], 'mnist'],
  **{name: [*SIZES, 'quick,elbo'] for name in [*CONV_DRAW, *NVP]},
}
FAST = [
  ('digits_vae', 'geco'),
  ('micro_mnist_nvp', 'digits'),
  ('mnist_rotate_conv_draw', 'quick'),
  ('own_images', 'npz'),
]
FAST_CONV_DRAW = [
  ('cifar10_conv_draw', 'gpu'),
  ('mnist_sum_hard_conv_draw', 'gpu'),
]


@pytest.fixture(autouse=True)
def _on_accelerator(monkeypatch):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: True)


def build_without_data(name, variant, **model_kwargs):
  """Return a config's experiment on plain images, and its inputs' arrays."""
  config = load(name).get_config(variant)
  config.model.kwargs.update(model_kwargs)
  make = COMPOSITIONS.get(config.dataset.name, as_dataset)
  source = config.dataset.kwargs.get('base') or config.dataset.name
  if source not in SHAPES:  # Compositions are of MNIST if they do not say.
    source = 'mnist'
  labels = np.arange(40, dtype=np.int32) % 10
  image = np.zeros((40, *SHAPES[source]), np.uint8)
  image[:, 0] = 255  # All black ones would be refused.
  images = Images(image, labels)
  splits = dict.fromkeys(SPLITS, images)
  experiment = build(config, make(ImageSet(source, splits)))
  return experiment, run_inputs(config, experiment).step_inputs()


def on_one_device(*trees):
  """Return the shapes of trees that are replicated on one device."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), trees
  )


def choices(variants, fast):
  """Return the parameters of a test, marked as slow where not `fast`."""
  return [
    pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in fast))
    for name in variants
    for pair in [(name, variant) for variant in variants[name]]
  ]


@pytest.mark.parametrize(('name', 'variant'), choices(PRESETS, FAST))
def test_every_program_can_be_lowered(name, variant, monkeypatch):
  experiment, inputs = build_without_data(name, variant)
  state = steps.state_like(experiment)
  images = experiment.dataset.splits['train']
  pmapped, pmap = [], parallel.pmap

  def remember(*args, **kwargs):
    pmapped.append(pmap(*args, **kwargs))

  monkeypatch.setattr(parallel, 'pmap', remember)
  steps.train_steps(experiment, 2)
  steps.train_steps_together(experiment, 2)
  measures.split_means(experiment, likelihood=True)
  take_steps, take_steps_together, sum_up = pmapped
  batch = jax.eval_shape(
    lambda i: fixed_batch(experiment.dataset, images, i), np.arange(12)
  )
  _, draw_rows = pictures.row_programs(experiment)
  starts, most = np.arange(2, dtype=np.int32), np.int32(2)
  stddev = np.float32(1)
  two = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), (state, inputs)
  )
  programs = [
    (take_steps, on_one_device(state, inputs, images)),
    (take_steps_together, on_one_device(*two, images)),
    (sum_up, on_one_device(state.params, images, starts, most, stddev)),
    (draw_rows, (state.params, batch)),
  ]
  if posterior := experiment.model.posterior:
    tiles = aggregate_posterior.Tiles(samples=12, data=2, data_per_call=3)
    aggregate_posterior.accumulator(posterior, experiment.dataset, 40, tiles)
    z = jax.eval_shape(
      lambda params, image: posterior.sample(
        params,
        per_example_keys(jax.random.key(0), np.arange(12)),
        posterior.condition(params, image),
      ),
      *(state.params, batch.image),
    )
    log_sums = jax.ShapeDtypeStruct((1, 12), np.float32)
    z = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), z)
    args = state.params, images, z, log_sums, np.int32(0)
    programs.append((pmapped[-1], on_one_device(*args)))
  for program, args in programs:
    exported = jax.export.export(
      jax.jit(lambda *args, program=program: program(*args)),
      platforms=['cuda', 'tpu'],
    )(*args)
    assert exported.platforms == ('cuda', 'tpu')


def lowered_step(name, variant, **model_kwargs):
  """Return the text of one training step as lowered for a GPU."""
  experiment, inputs = build_without_data(name, variant, **model_kwargs)
  args = on_one_device(
    steps.state_like(experiment),
    inputs,
    experiment.dataset.splits['train'],
  )
  step = jax.jit(lambda *args: steps.train_steps(experiment, 1)(*args))
  return step.trace(*args).lower(lowering_platforms=('cuda',)).as_text()


@pytest.mark.parametrize(
  ('name', 'variant'),
  choices(dict.fromkeys(CONV_DRAW, SIZES), FAST_CONV_DRAW),
)
def test_conv_draw_has_no_loop_no_odd_channels_and_few_gradients(name, variant):
  text = lowered_step(name, variant)
  # Loops over training steps and in the choice of the batch are left.
  without_time = lowered_step(name, variant, num_steps=1)
  assert text.count('stablehlo.while') == without_time.count('stablehlo.while')
  convolutions = [
    [[*map(int, shape.split('x'))] for shape in shapes]
    for shapes in re.findall(
      r'stablehlo\.convolution.*: \(tensor<(.*?)xb?f\d+>, '
      r'tensor<(.*?)xb?f\d+>\)',
      text,
    )
  ]
  assert len(convolutions) == text.count('stablehlo.convolution')
  config = load(name).get_config(variant)
  sizes, batch_size = config.model.kwargs, config.batch_size
  # A kernel's gradient is a convolution with kernels as large as the grid. Its
  # channels are what it sums over: the examples, times the steps.
  gradients = collections.Counter(
    channels
    for _, (rows, _, channels, _) in convolutions
    if rows != sizes.kernel_size
  )
  networks = ['encoder_gates', 'decoder_gates', 'posterior', 'write']
  expected = collections.Counter()
  expected[batch_size] += len([*networks, 'image_gates'])  # The first step.
  expected[(sizes.num_steps - 1) * batch_size] += len(networks)
  expected[sizes.num_steps * batch_size] += len(['prior'])
  assert gradients >= expected
  # The context's own network is outside of the steps.
  assert sizes.conditional or gradients == expected
  for (batch, *_, channels), (*_, channels_out) in convolutions:
    # Channels play the batch where a kernel's gradient is computed.
    assert not any(n % 8 for n in (batch, channels, channels_out))
