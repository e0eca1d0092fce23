"""Figures as PNG files, whole or not at all.

Some are of few colors, small enough to keep in a repository.
"""

from collections.abc import Mapping
import io
import os
from types import MappingProxyType

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from geco_jax.io.files import write_bytes


def write_png(path: str | os.PathLike, figure: Figure, dpi: int) -> None:
  """Write the figure.

  Args:
    path: the file's path; anything else in its place is set aside.
    figure: any.
    dpi: pixels of an inch of the figure.

  Raises:
    UnwritableError: if it cannot be written.
  """
  content = io.BytesIO()
  figure.savefig(content, dpi=dpi)
  write_bytes(path, content.getvalue())


def write_small_png(
  path: str | os.PathLike,
  figure: Figure,
  texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
  """Write the figure in 48 colors: a third of the bytes for the same looks.

  Args:
    path: see `write_png`.
    figure: any.
    texts: what the file says besides, by keyword.

  Raises:
    UnwritableError: if it cannot be written.
  """
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
  write_in_few_colors(path, image, 48, texts)


def write_in_few_colors(
  path: str | os.PathLike,
  image: Image.Image,
  num_colors: int,
  texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
  """Write the image in so many colors.

  Args:
    path: see `write_png`.
    image: of mode RGB.
    num_colors: at most 256.
    texts: what the file says besides, by keyword.

  Raises:
    UnwritableError: if it cannot be written.
  """
  info = PngInfo()
  for keyword, text in texts.items():
    info.add_text(keyword, text)
  content = io.BytesIO()
  image.quantize(num_colors, dither=Image.Dither.NONE).save(
    content, 'PNG', optimize=True, pnginfo=info
  )
  write_bytes(path, content.getvalue())
