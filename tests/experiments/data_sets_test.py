"""Contact sheets show every composed data set, with its labels."""

from absl import flags
import numpy as np
from PIL import Image
import pytest

from experiments import data_sets
from geco_jax.choices import COMPOSITIONS
from geco_jax.datasets import sources
from geco_jax.errors import UserError
from geco_jax.evaluation.pictures import shown_batch


@pytest.fixture
def flag_values():
  """Yield flags that a test may set; they are undefined again afterward."""
  data_sets.define_flags()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  yield flags.FLAGS
  for name in ('base', 'output'):
    delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
  'names',
  [
    ['micro_mnist', 'mnist_sum_hard'],
    pytest.param([*COMPOSITIONS], marks=pytest.mark.slow),
  ],
)
def test_command_draws_a_sheet_of_each_and_an_overview(
  names, flag_values, tmp_path, capsys, monkeypatch
):
  chosen = {name: COMPOSITIONS[name] for name in names}
  monkeypatch.setattr(data_sets, 'COMPOSITIONS', chosen)
  flag_values.base = 'digits'
  flag_values.output = str(tmp_path / 'sheets')
  data_sets.main([])
  paths = {path.stem: path for path in (tmp_path / 'sheets').iterdir()}
  assert set(paths) == {*names, 'data_sets'}
  for name, path in paths.items():
    limit = 150_000 if name == 'data_sets' else 60_000
    assert path.stat().st_size < limit, name
    # Neither blank nor without a white ground.
    picture = np.asarray(Image.open(path))
    assert 0.1 < (picture < 128).mean() < 0.9, name
  assert 'data_sets.png' in capsys.readouterr().out


def test_output_must_be_named(flag_values):
  flag_values.output = None
  with pytest.raises(UserError, match='--output is missing'):
    data_sets.main([])


@pytest.mark.parametrize(
  ('name', 'first'),
  [
    ('color_mnist', lambda b: b.label[0].tolist()),
    ('micro_mnist', lambda b: [b.label[0].item()]),
    ('mnist_sum', lambda b: [*b.context_label[0].tolist(), b.label[0].item()]),
  ],
)
def test_labels_are_the_examples_contexts_first(name, first):
  dataset = COMPOSITIONS[name](sources.digits())
  batch = shown_batch(dataset, dataset.splits['test'], 4)
  text = data_sets.labels_text(batch, 0)
  assert [int(c) for c in text if c.isdigit()] == first(batch)
  assert ('->' in text) == (batch.context is not None)
