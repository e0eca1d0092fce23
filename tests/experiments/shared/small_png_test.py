"""Figures are written whole, or refused in a sentence."""

import ast
import resource

from matplotlib.figure import Figure
import numpy as np
from PIL import Image
import pytest

from docs import copy_picture
from experiments.shared.small_png import write_png
from experiments.shared.small_png import write_small_png
from geco_jax.errors import UserError
from tests.import_graph import TREES

WRITERS = {
  'whole': lambda path, figure: write_png(path, figure, dpi=50),
  'small': write_small_png,
}


@pytest.fixture
def drawn():
  figure = Figure(figsize=(2, 1))
  figure.subplots().plot([1, 2])
  return figure


@pytest.mark.parametrize('write', WRITERS.values(), ids=WRITERS)
def test_a_folder_in_a_figures_place_is_set_aside(write, drawn, tmp_path):
  path = tmp_path / 'figure.png'
  path.mkdir()
  write(path, drawn)
  assert Image.open(path).format == 'PNG'
  assert (tmp_path / 'figure.png.set_aside').is_dir()


@pytest.mark.parametrize('write', WRITERS.values(), ids=WRITERS)
def test_what_cannot_be_written_is_a_sentence_and_leaves_nothing(
  write, drawn, tmp_path
):
  path = tmp_path / 'figure.png'
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  try:
    with pytest.raises(UserError, match='figure.png cannot be written: File'):
      write(path, drawn)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not [*tmp_path.iterdir()]


def test_experiments_write_their_figures_by_no_other_function():
  by_themselves = {
    module
    for module, tree in TREES.items()
    if module.startswith('experiments.')
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and node.attr == 'savefig'
  }
  assert by_themselves == {'experiments.shared.small_png'}


def test_a_copy_for_the_docs_has_few_colors_and_white_behind(tmp_path):
  source, path = tmp_path / 'source.png', tmp_path / 'copy.png'
  pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
  pixels[:8, :, 3], pixels[8:, :, 3] = 0, 255
  Image.fromarray(pixels, 'RGBA').save(source)
  copy_picture.copy(str(source), str(path), 7)
  written = np.asarray(Image.open(path).convert('RGB'))
  assert len(np.unique(written.reshape(-1, 3), axis=0)) <= 7
  assert np.unique(written[:8]).tolist() == [255]
  assert written[8:].std() > 0


def test_what_cannot_be_copied_is_a_sentence_and_leaves_nothing(tmp_path):
  path = tmp_path / 'copy.png'
  (tmp_path / 'text.png').write_text('no picture')
  deep = np.arange(64, dtype=np.uint16).reshape(8, 8)
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  for name, reason in (
    ('absent.png', 'cannot be read as a PNG'),
    ('text.png', 'cannot be read as a PNG'),
    ('deep.png', 'has more than 8 bits'),
  ):
    with pytest.raises(UserError, match=f'{name} {reason}'):
      copy_picture.copy(str(tmp_path / name), str(path), 7)
  assert not path.exists()
