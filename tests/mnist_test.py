"""The main job on real MNIST, where TFDS_DATA_DIR says that it is at hand."""

import importlib.util
import os

import pytest

from geco_jax.evaluation.checkpoints import evaluate
from geco_jax.training.loop import train

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.slow
def test_geco_meets_its_tolerance_on_real_mnist(tmp_path):
  if 'TFDS_DATA_DIR' not in os.environ:
    pytest.skip('TFDS_DATA_DIR is not set: no prepared MNIST to train on')
  path = os.path.join(ROOT, 'configs', 'mnist_vae.py')
  spec = importlib.util.spec_from_file_location('mnist_vae', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.num_steps = config.checkpoint_every = 5_000
  train(config, str(tmp_path), show_progress=False)
  constraint = evaluate(str(tmp_path))['constraints']['re']
  assert constraint['kappa'] == 0.1
  assert abs(constraint['violation']) < 0.02
