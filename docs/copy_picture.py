r"""Copy a picture of runs or figures to docs/figures, in few colors.

  python -m docs.copy_picture --source=runs/medium/figure_10.png \
      --name=figure_10

Photographs among the panels keep their looks in 96 colors, thin curves need
fewer; transparent parts become white. A picture takes half the bytes or less.
"""

from collections.abc import Sequence
import os

from absl import flags
from PIL import Image

from experiments.shared.small_png import write_in_few_colors
from geco_jax import cli
from geco_jax.errors import UserError
from tests.import_graph import ROOT


def opaque(picture: Image.Image) -> Image.Image:
  """Return the picture on white, of mode RGB."""
  shown = Image.new('RGBA', picture.size, 'white')
  shown.alpha_composite(picture.convert('RGBA'))
  return shown.convert('RGB')


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_string('source', None, 'The picture.', required=True)
  flags.DEFINE_string('name', None, "The copy's, without .png.", required=True)
  flags.DEFINE_integer(
    'colors', 96, 'Number of colors.', lower_bound=2, upper_bound=256
  )


def main(argv: Sequence[str]) -> None:
  """Copy the picture that the flags name."""
  del argv
  values = flags.FLAGS
  path = os.path.join(ROOT, 'docs', 'figures', f'{values.name}.png')
  try:
    with Image.open(values.source) as picture:
      write_in_few_colors(path, opaque(picture), values.colors)
  except OSError as error:
    raise UserError(f'--source={values.source}: {error}') from error
  print(path)


if __name__ == '__main__':
  cli.run(main, define_flags)
