"""The contenders of the sweep benchmark train the same runs."""

import ast

import pytest

from benchmarks import sweep as benchmark
from configs import digits_vae
from geco_jax.sweep import grid


@pytest.fixture
def commands(monkeypatch):
  """Return a list in which a contender's command lines are put."""
  calls = []
  monkeypatch.setattr(
    benchmark, '_python', lambda module, *flags: calls.append((module, flags))
  )
  return calls


def values(flags):
  """Return flags' values by name."""
  return dict(flag.removeprefix('--').split('=', 1) for flag in flags)


def test_the_grid_of_the_sweep_is_the_runs_of_the_command_lines(commands):
  steps = ['--config.num_steps=7']
  benchmark.in_one('local', steps)()
  ((module, flags),) = commands
  assert module == 'geco_jax.sweep'
  config = digits_vae.get_config()
  asked = values(flags)
  config.sweep = ast.literal_eval(asked['config.sweep'])
  swept = [point.config for point in grid.points(config)]
  assert asked['config.num_steps'] == '7'

  commands.clear()
  benchmark.one_by_one(steps)()
  trained = [values(f) for m, f in commands if m == 'geco_jax.train']
  evaluated = [values(f) for m, f in commands if m == 'geco_jax.evaluate']
  assert [t['workdir'] for t in trained] == [e['workdir'] for e in evaluated]
  assert {t['config.num_steps'] for t in trained} == {'7'}
  assert [
    (float(t['config.constraints.re.kappa']), int(t['config.seed']))
    for t in trained
  ] == [(c.constraints.re.kappa, c.seed) for c in swept]
