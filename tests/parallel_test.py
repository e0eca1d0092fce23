"""Devices are counted in one place, and what lies on them comes back."""

import glob
import os
import re
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax.errors import UserError

ROOT = os.path.dirname(os.path.dirname(parallel.__file__))


def test_nothing_else_knows_how_many_devices_and_processes_there_are():
  knows = re.compile(r'jax\.(\w*device_count|local_devices|process_|pmap)')
  knowing = []
  for folder in ('geco_jax', 'experiments', 'benchmarks', 'configs'):
    pattern = os.path.join(ROOT, folder, '**', '*.py')
    for path in glob.glob(pattern, recursive=True):
      with open(path) as file:
        if knows.search(file.read()):
          knowing.append(os.path.relpath(path, ROOT))
  assert knowing == [os.path.join('geco_jax', 'parallel.py')]


@pytest.mark.parametrize(
  ('layout', 'num_runs'),
  [(parallel.SHARED, 1), (parallel.SPREAD, 1), (parallel.SPREAD, 3)],
)
def test_what_a_layout_places_it_fetches(layout, num_runs):
  trees = [
    {'a': np.float32(run), 'b': np.full((2, 3), run)} for run in range(num_runs)
  ]
  fetched = layout.fetch(layout.place(trees), num_runs)
  assert len(fetched) == num_runs
  for tree, back in zip(trees, fetched, strict=True):
    assert tree.keys() == back.keys()
    for name, leaf in tree.items():
      np.testing.assert_array_equal(back[name], leaf)


def test_devices_share_a_batch_equally_or_not_at_all(monkeypatch):
  monkeypatch.setattr('jax.device_count', lambda: 3)
  parallel.check_batch_size(9)
  assert parallel.local_batch_size(9) == 3
  with pytest.raises(UserError, match='batch_size=8 .* by the 3 devices'):
    parallel.check_batch_size(8)


def over_devices(function, monkeypatch):
  """Return a function of one device's share as one of the shares of four."""
  monkeypatch.setattr('jax.device_count', lambda: 4)
  return jax.vmap(function, axis_name='devices')


def test_devices_have_each_example_of_a_batch_once(monkeypatch):
  places = over_devices(lambda _: parallel.local_places(12), monkeypatch)
  expected = np.arange(12).reshape(4, 3)
  np.testing.assert_array_equal(places(jnp.arange(4)), expected)
  monkeypatch.setattr('jax.devices', lambda: [*'abcd'])
  monkeypatch.setattr('jax.local_devices', lambda: [*'cd'])
  np.testing.assert_array_equal(parallel.host_places(12), range(6, 12))


@pytest.mark.parametrize(
  ('function', 'expected'), [(parallel.mean, 3.0), (parallel.total, 12.0)]
)
def test_devices_agree_on_a_mean_and_a_sum(function, expected, monkeypatch):
  share = jnp.array([1.0, 2.0, 3.0, 6.0])
  together = over_devices(function, monkeypatch)(share)
  np.testing.assert_allclose(together, np.full(4, expected))


@pytest.mark.parametrize('highest', [0.0, -1e4, 1e4, -np.inf])
def test_a_sum_of_exponentials_over_devices_neither_over_nor_underflows(
  highest, monkeypatch
):
  x = highest + np.array([0.0, -1.0, -2.0, -np.inf])
  together = over_devices(parallel.log_total, monkeypatch)(jnp.float32(x))
  expected = highest + np.log(1 + np.exp(-1) + np.exp(-2))
  np.testing.assert_allclose(together, np.full(4, expected), rtol=1e-6)


def test_what_fails_in_one_process_fails_in_all(monkeypatch):
  """Each process asks the others as often, whether it failed or not."""
  asked = []

  def any_process(flag):
    asked.append(flag)
    return True

  monkeypatch.setattr(parallel, 'any_process', any_process)
  with pytest.raises(UserError, match='another process of this run failed'):
    with parallel.failing_together():
      pass
  own = ValueError('its own')
  with pytest.raises(ValueError, match='its own'):
    with parallel.failing_together():
      raise own
  other, same = parallel.failures_of_all([None, own])
  assert 'another process' in str(other) and same is own
  assert asked == [False, True, False, True]


def test_the_highest_value_is_that_of_all_processes(monkeypatch):
  monkeypatch.setattr('jax.process_count', lambda: 2)
  monkeypatch.setattr(
    parallel.multihost_utils,
    'process_allgather',
    lambda value: np.stack([value, np.full_like(value, 1)]),
  )
  assert [parallel.highest(x) for x in (0.5, 2.0)] == [1.0, 2.0]
  assert parallel.any_process(False)


@pytest.mark.parametrize(
  ('cluster', 'message'),
  [
    (('localhost', 2, 0), "coordinator must be HOST:PORT, got 'localhost'"),
    (('localhost:x', 2, 0), 'coordinator must be HOST:PORT'),
    (('localhost:99999', 2, 0), 'coordinator must be HOST:PORT'),
    (('nohost.invalid:1234', 2, 1), 'coordinator=nohost.invalid:1234: nohost'),
    (('localhost:1234', 0, 0), 'num_processes must be >= 1, got 0'),
    (('localhost:1234', 2, 2), r'process_id must be in .*, got 2 of 2'),
    (('localhost:1234', 2, -1), r'process_id must be in .*, got -1 of 2'),
  ],
)
def test_a_cluster_that_cannot_be_is_refused_at_once(cluster, message):
  with pytest.raises(UserError, match=message):
    parallel.initialize_distributed(*cluster)


def test_a_coordinator_that_nobody_is_costs_a_sentence(monkeypatch):
  """JAX would abort the process."""
  monkeypatch.setattr(parallel, '_SECONDS_TO_JOIN', 0.1)
  with socket.create_server(('localhost', 0)) as server:
    port = server.getsockname()[1]
  with pytest.raises(UserError, match=f'localhost:{port}: nobody listened'):
    parallel.initialize_distributed(f'localhost:{port}', 2, 1)
