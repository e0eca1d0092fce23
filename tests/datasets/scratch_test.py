"""Large arrays lie in a file, small ones in memory."""

import mmap
import pathlib

import numpy as np
import pytest

from geco_jax.datasets import scratch


def is_mapped(array):
  while isinstance(array, np.ndarray):
    array = array.base
  return isinstance(array, mmap.mmap)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  monkeypatch.setattr(scratch, '_MOST_IN_MEMORY', 100)


def test_large_arrays_lie_in_a_file_without_a_name(tmp_path):
  assert not is_mapped(scratch.empty((101,), np.uint8))
  with scratch.in_folder(lambda: tmp_path / 'new'):
    assert not is_mapped(scratch.empty((100,), np.uint8))
    array = scratch.empty((3, 10, 2), np.int32)
    assert is_mapped(array)
  assert (array.shape, array.dtype) == ((3, 10, 2), np.int32)
  assert not list((tmp_path / 'new').iterdir())
  assert not is_mapped(scratch.empty((101,), np.uint8))


def test_what_is_taken_is_what_indexing_gives(tmp_path):
  rng = np.random.default_rng(0)
  array = rng.integers(0, 256, (3_000, 2), np.uint8)
  indices = rng.permutation(3_000)[:2_500]
  with scratch.in_folder(lambda: tmp_path):
    taken = scratch.take(array, indices)
  assert is_mapped(taken)
  np.testing.assert_array_equal(taken, array[indices])


def test_a_full_disk_costs_a_warning(tmp_path, monkeypatch, caplog):
  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(scratch.os, 'posix_fallocate', full, raising=False)
  with scratch.in_folder(lambda: tmp_path):
    assert not is_mapped(scratch.empty((101,), np.uint8))
  (record,) = caplog.records
  assert 'No space left' in record.getMessage()


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
  (tmp_path / 'file').touch()
  with scratch.in_folder(lambda: pathlib.Path(tmp_path / 'file' / 'cache')):
    assert not is_mapped(scratch.empty((101,), np.uint8))
  assert 'held in memory' in caplog.text
