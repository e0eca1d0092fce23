"""What the tests of classifiers share."""

import pytest


@pytest.fixture(autouse=True, scope='module')
def _compile_fast(compile_fast):
  pass
