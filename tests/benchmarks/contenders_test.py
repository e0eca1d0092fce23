"""What is timed takes the steps that it is said to take."""

import pytest

from benchmarks import contenders
from geco_jax.build import build


@pytest.mark.parametrize('num_runs', [1, 2])
@pytest.mark.usefixtures('compile_fast')
def test_the_steps_of_all_runs_count(num_runs, tiny_config, monkeypatch):
  ends = []
  block = contenders.jax.block_until_ready
  monkeypatch.setattr(
    contenders.jax, 'block_until_ready', lambda x: ends.append(block(x))
  )
  dataset = contenders.random_images((8, 8, 1), 20)
  contender = contenders.ours(build(tiny_config(), dataset), 3, num_runs)
  contender.run()
  contender.run()
  (_, first), (state, _) = ends
  assert contender.num_steps == 3 * num_runs == first['loss'].size
  assert state.step.ravel().tolist() == [6] * num_runs
