r"""Draw images of a trained run, or a line between two images.

  python -m geco_jax.sample --workdir=runs/digits --output=samples.png
  python -m geco_jax.sample --workdir=runs/digits --output=line.png \
      --interpolate=first.png,last.png

It needs the run's folder alone, no data set. In Python: `geco_jax.load`.
"""

from collections.abc import Sequence
import math

from absl import flags
import numpy as np

from geco_jax import cli
from geco_jax.datasets import picture_files
from geco_jax.datasets import pixels
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.io.paths import local_path
from geco_jax.io.paths import output_path
from geco_jax.keys import key_of
from geco_jax.trained import load
from geco_jax.trained import TrainedRun


def define_flags() -> None:
  """Define the command's flags."""
  cli.define_path('output', 'samples.png', 'Picture to write.')
  flags.DEFINE_integer('num', 64, 'Images to draw.', lower_bound=2)
  cli.define_seed('Seed of the samples.')
  flags.DEFINE_integer(
    'step', None, "Checkpoint's step; else the latest that is intact."
  )
  flags.DEFINE_list(
    'interpolate', [], 'Two image files, to draw what lies between them.'
  )


def read_image(path: str, run: TrainedRun) -> np.ndarray:
  """Return the image of a file as a run takes it.

  Where the run's images were resized pictures of files, so is this one.

  Raises:
    UserError: if it is no image, or none of this size.
  """
  shape = run.experiment.dataset.image_shape
  dataset = run.config.get('dataset')  # None of a data set of one's own.
  if shape[-1] not in (1, 3):
    raise UserError(
      f'images of this run have {shape[-1]} channels, which no file has; use '
      'geco_jax.load'
    )
  path = local_path(path)
  image = picture_files.read(path, shape[-1])
  if dataset is not None and dataset.name in ('image_folder', 'npz'):
    white = dataset.kwargs.get('white', pixels.WHITE)
    image_size = shape[0] if dataset.kwargs.get('image_size') else None
    image = picture_files.crop_and_resize(
      None, image_size, pixels.scale(path, image, white)
    )
  if image.shape != shape:
    raise UserError(
      f'{path} is {image.shape[0]}x{image.shape[1]}, images of this run are '
      f'{shape[0]}x{shape[1]}'
    )
  return image


def draw(run: TrainedRun, num: int, seed: int, ends: Sequence[str]):
  """Return images of the prior, or between two files [num, ...].

  Raises:
    UserError: if the files are not two images, or the model is conditional.
  """
  if run.experiment.model.conditional:
    raise UserError(
      f'{run.workdir} is a conditional run, whose contexts a command cannot '
      'give; use geco_jax.load'
    )
  if not ends:
    return run.sample(num, key=key_of(seed))
  if len(ends) != 2:
    raise UserError(f'--interpolate must name two images, got {len(ends)}')
  first, last = (read_image(path, run) for path in ends)
  return run.interpolate(first, last, num)


def main(argv: Sequence[str]) -> None:
  """Draw what the flags ask for."""
  del argv
  values = flags.FLAGS
  if not values.output.lower().endswith('.png'):
    raise UserError(
      f'--output must be the path of a .png, got {values.output!r}'
    )
  output = output_path(values.output)  # Fails here, not after a minute.
  run = load(cli.workdir(), step=values.step, data_dir=cli.DATA_DIR.value)
  images = draw(run, values.num, values.seed, values.interpolate)
  num_columns = min(math.ceil(math.sqrt(len(images))), 16)
  picture = pictures.tiles(run.experiment.dataset, images, num_columns)
  pictures.save_png(output, picture)
  print(f'{len(images)} images of step {run.step}: {output}')


if __name__ == '__main__':
  cli.run(main, define_flags)
