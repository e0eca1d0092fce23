"""The rows that compare our own programs run."""

from absl import flags
import pytest

from benchmarks import contenders
from benchmarks import train_step


@pytest.fixture
def one_step():
  """Define the flags, for a round of one step; undefine them afterward."""
  before = {*flags.FLAGS}
  train_step.define_flags()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  flags.FLAGS.rounds = flags.FLAGS.steps_per_round = 1
  yield
  for name in {*flags.FLAGS} - before:
    delattr(flags.FLAGS, name)


def test_a_constant_batch_is_timed_beside_assembled_ones(one_step):
  dataset = contenders.random_images((28, 28, 1), 200)
  rows = train_step._against_our_own(dataset)
  assert [row.baseline for row in rows] == ['ELBO', 'constant batch']
