"""Devices are counted in one place, and what lies on them comes back."""

import glob
import os
import re

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
