"""Settings that every test shares."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _raise_on_rank_promotion():
  """Implicit broadcasting between ranks is an error in tests."""
  with jax.numpy_rank_promotion('raise'):
    yield
