"""Contenders take as many steps as they say."""

import jax

from benchmarks import contenders


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
