"""Contenders take as many steps as they say."""

import sys

import jax
import pytest

from benchmarks import contenders
from benchmarks import marginal_kl
from geco_jax.errors import UserError


def test_the_steps_of_all_runs_count(tiny_config, monkeypatch):
  ends = []
  block = jax.block_until_ready
  monkeypatch.setattr('jax.block_until_ready', lambda x: ends.append(block(x)))
  dataset = contenders.random_images((8, 8, 1), 20)
  contender = contenders.ours(tiny_config(), dataset, 3, num_runs=2)
  contender.run()
  ((state, metrics),) = ends
  assert contender.num_steps == 3 * 2 == metrics['loss'].size
  assert state.step.ravel().tolist() == [3, 3]


@pytest.mark.parametrize(
  'make',
  [
    lambda: contenders.torchs(None, None, 1, 1),
    lambda: marginal_kl.torch_tiles(marginal_kl.Sizes(2, 1, 1, 1, 1), 1),
  ],
)
def test_pytorch_that_is_missing_is_refused(make, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match='PyTorch is missing'):
    make()
