"""Small TFDS sets, made on the fly without a network and TensorFlow."""

import pytest

from tests import tfds_sets


@pytest.fixture
def write_tfds_set():
  """Return a function that writes a set of examples as array_record."""
  return tfds_sets.write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  """No test reads or fills the user's cache."""
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path / 'default_cache'))
