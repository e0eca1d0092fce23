r"""Copy a picture of runs or figures to docs/figures, in few colors.

  python -m docs.copy_picture --source=runs/medium/figure_10.png \
      --name=figure_10

Photographs among the panels keep their looks in 96 colors, thin curves need
fewer; transparent parts become white. Pictures in more colors than that take
about half the bytes.
"""

from collections.abc import Sequence
import os
import re

from absl import flags
from PIL import Image

from experiments.shared.small_png import write_in_few_colors
from geco_jax import cli
from geco_jax.errors import UserError
from tests.import_graph import ROOT

_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA')  # Eight bits at most.


def copy(source: str, path: str, num_colors: int) -> None:
  """Copy a picture, whole or not at all.

  Args:
    source: a PNG of 8 bits.
    path: of the copy.
    num_colors: of the copy, at most 256.

  Raises:
    UserError: if the source is no such picture, or the copy cannot be written.
  """
  try:
    with Image.open(source, formats=['PNG']) as picture:
      if picture.mode not in _MODES:
        raise UserError(f'{source} has more than 8 bits: mode {picture.mode}')
      colored = picture.convert('RGBA')
  except OSError as error:
    raise UserError(f'{source} cannot be read as a PNG: {error}') from error
  opaque = Image.new('RGBA', colored.size, 'white')
  opaque.alpha_composite(colored)
  write_in_few_colors(path, opaque.convert('RGB'), num_colors)


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_string('source', None, 'The picture, a PNG.', required=True)
  flags.DEFINE_string('name', None, "The copy's, without .png.", required=True)
  flags.register_validator(
    'name',
    lambda name: name is None or re.fullmatch(r'\w+', name),
    'must be of letters, digits and _',
  )
  flags.DEFINE_integer(
    'colors', 96, 'Number of colors.', lower_bound=2, upper_bound=256
  )


def main(argv: Sequence[str]) -> None:
  """Copy the picture that the flags name."""
  del argv
  values = flags.FLAGS
  path = os.path.join(ROOT, 'docs', 'figures', f'{values.name}.png')
  copy(values.source, path, values.colors)
  print(path)


if __name__ == '__main__':
  cli.run(main, define_flags)
