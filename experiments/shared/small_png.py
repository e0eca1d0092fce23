"""Pictures of few colors, small enough to keep in a repository."""

from collections.abc import Mapping
from types import MappingProxyType

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def write_small_png(
  path: str, figure: Figure, texts: Mapping[str, str] = MappingProxyType({})
) -> None:
  """Write the figure in 48 colors: a third of the bytes for the same looks.

  Args:
    path: the file's path.
    figure: any.
    texts: what the file says besides, by keyword.
  """
  info = PngInfo()
  for keyword, text in texts.items():
    info.add_text(keyword, text)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
  image.quantize(48, dither=Image.Dither.NONE).save(
    path, optimize=True, pnginfo=info
  )
