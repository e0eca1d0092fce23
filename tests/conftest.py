"""What every test shares."""

import gc
import os
import signal

import jax
import numpy as np
import pytest

from geco_jax.base_config import get_base_config
from geco_jax.base_config import group
from geco_jax.base_config import likelihood_of
from geco_jax.build import build
from geco_jax.build import experiment_key
from geco_jax.build import MODELS
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.evaluation import measures

# Where the tests run in the background these are ignored, by their children too
# unless something here handles them.
for _number, _handler in (
  (signal.SIGINT, signal.default_int_handler),
  (signal.SIGHUP, lambda number, frame: None),
):
  if signal.getsignal(_number) is signal.SIG_IGN:
    signal.signal(_number, _handler)


# Most of a test's time goes to compilation: of XLA's two emitters of loops for
# CPUs the older one takes half as long, and code that is not optimized is made
# sooner than it costs later, here and in the processes that tests start. A flag
# that XLA does not know ends the process, so that a later JAX, which may not
# have it, does without.
if jax.__version_info__ < (0, 11):
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_parallel_codegen_split_count=1',
  )
_UNOPTIMIZED = 'jax_disable_most_optimizations'
if _UNOPTIMIZED.upper() not in os.environ:
  os.environ[_UNOPTIMIZED.upper()] = '1'
  jax.config.update(_UNOPTIMIZED, True)

# What JAX traces leaves little garbage but much to look through.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _raise_on_rank_promotion():
  """Implicit broadcasting between ranks is an error in tests."""
  with jax.numpy_rank_promotion('raise'):
    yield


@pytest.fixture
def compile_well():
  """For a test that compares programs to the bit or computes for seconds."""
  unoptimized = jax.config.read(_UNOPTIMIZED)
  jax.config.update(_UNOPTIMIZED, False)
  yield
  jax.config.update(_UNOPTIMIZED, unoptimized)


@pytest.fixture
def draw_once(monkeypatch):
  """Let evaluations draw each latent once."""
  monkeypatch.setattr(measures, 'MIN_DRAWS', 1)


@pytest.fixture
def make_images():
  """Return (n, shape) -> random images of n // 4 prototypes."""

  def make(num_examples, shape, seed=0):
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 256, (max(num_examples // 4, 1), *shape))
    label = rng.integers(0, len(prototypes), num_examples)
    return Images(
      image=prototypes[label].astype(np.uint8), label=label.astype(np.int32)
    )

  return make


@pytest.fixture
def make_dataset(make_images):
  """Return shape -> a data set with splits that no batch size divides."""

  def make(shape=(4, 4, 1)):
    sizes = {'train': 45, 'validation': 11, 'test': 13}
    splits = {
      name: make_images(size, shape, seed)
      for seed, (name, size) in enumerate(sizes.items())
    }
    return as_dataset(ImageSet('prototypes', splits))

  return make


@pytest.fixture(scope='session')
def experiments():
  """Return the experiments that tests share."""
  return {}


@pytest.fixture
def build_once(experiments, make_dataset):
  """Return config -> its experiment on the small data set, compiled once."""

  def make(config):
    is_fast = jax.config.read(_UNOPTIMIZED)
    key = experiment_key(config), is_fast
    if key not in experiments:
      experiments[key] = build(config, make_dataset())
    return experiments[key]

  return make


@pytest.fixture
def tiny_config():
  """Return objective -> the config of a run that takes a second."""

  def make(objective='geco', kappa=0.2):
    config = get_base_config(objective, kappa=kappa, num_steps=20)
    config.batch_size = 8
    config.steps_per_dispatch = 5
    config.checkpoint_every = 10
    config.dataset = group('digits')
    config.model = group(
      'mlp_vae',
      latent_size=3,
      hidden_sizes=(16,),
      **likelihood_of(objective),
    )
    return config.lock()

  return make


@pytest.fixture
def count_builds(monkeypatch):
  """Return a list that grows with every experiment that is built."""
  builds = []
  for name, constructor in [*MODELS.items()]:

    def counted(*args, constructor=constructor, **kwargs):
      builds.append(args)
      return constructor(*args, **kwargs)

    monkeypatch.delitem(MODELS, name)  # Existing entries are not replaced.
    monkeypatch.setitem(MODELS, name, counted)
  return builds
