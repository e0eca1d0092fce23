"""What stays on the host takes no memory that grows with the set."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import tfds_sets

ROOT = pathlib.Path(__file__).parents[2]
_SHAPE = 128, 128, 3
# In MiB: what the process may take once its programs are loaded.
_ROOM = 384

_CHILD = """
  import json, re, resource, sys, tempfile, threading, time
  from geco_jax.base_config import get_base_config, group
  from geco_jax.build import build_dataset
  from geco_jax.datasets import scratch
  from geco_jax.evaluation.checkpoints import evaluate
  from geco_jax.training.loop import train

  data_dir, room = sys.argv[1], int(sys.argv[2])
  scratch._MOST_IN_MEMORY = 2**22

  def mib(name):
    with open('/proc/self/status') as file:
      return int(re.search(name + r':\\s+(\\d+)', file.read())[1]) / 1024

  def config_of(name):
    config = get_base_config('geco', kappa=0.1, num_steps=40)
    config.update(steps_per_dispatch=10, checkpoint_every=20, batch_size=16)
    config.dataset = group(name)
    config.dataset.placement = 'host'
    config.model = group('mlp_vae', latent_size=2, hidden_sizes=(8,))
    return config

  def run(name, folder):
    train(config_of(name), folder, data_dir=data_dir, show_progress=False)
    # This sums the squared error of the training images too, for sigma_opt.
    evaluate(folder, ('test',), data_dir=data_dir)

  peak = 0.0

  def watch():
    global peak
    while True:
      peak = max(peak, mib('RssAnon'))
      time.sleep(0.01)

  with tempfile.TemporaryDirectory() as folder:
    run('small', folder + '/small')  # Loads what there is to load.
    loaded = mib('RssAnon')
    limit = int((mib('VmData') + room) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    threading.Thread(target=watch, daemon=True).start()
    run('large', folder + '/large')
  splits = build_dataset(config_of('large'), data_dir).splits.values()
  size = sum(split.image.nbytes for split in splits) / 2**20
  print(json.dumps({'grown': peak - loaded, 'set': size}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_set_several_times_the_limit_of_memory_is_built_and_trained(tmp_path):
  """They are 3.1 times what the process may take once it is warm."""
  rng = np.random.default_rng(0)
  squares = rng.integers(0, 256, (64, 4, 4, 3), np.uint8)
  pictures = [tfds_sets.png(x.repeat(32, 0).repeat(32, 1)) for x in squares]
  features = {'image': tfds.features.Image(shape=_SHAPE)}
  for name, count in (('small', 500), ('large', 26_000)):
    examples = [{'image': pictures[i % 64]} for i in range(count)]
    tfds_sets.write(
      tmp_path, name, features, {'train': examples}, examples_per_shard=13_000
    )
  ended = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(_CHILD), tmp_path, str(_ROOM)],
    env={
      **os.environ,
      'GECO_JAX_CACHE': str(tmp_path / 'cache'),
      'PYTHONPATH': str(ROOT),
    },
    stdout=subprocess.PIPE,
    check=True,
  )
  measured = json.loads(ended.stdout)
  print(measured)
  assert measured['set'] > 3 * _ROOM
  assert measured['grown'] < _ROOM, measured
