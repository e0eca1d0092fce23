"""What a linear model would pay on the data sets of a sweep."""

from collections.abc import Mapping, Sequence
import json
import math
import os

from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.build import build_dataset
from geco_jax.gaussian_rate import Curve
from geco_jax.gaussian_rate import curve
from geco_jax.grid import Point
from geco_jax.metrics import say
from geco_jax.workdir import write_json

_FILE = 'gaussian_rate.json'
_MOST_DIMS = 4096  # Of an image; the covariance has the square of it.


def curves(
  grid: Sequence[Point], workdir: str, data_dir: str | None = None
) -> dict[str, Curve]:
  """Returns `gaussian_rate.curve` over the kappas of RE, by data set.

  What was computed once is kept in the sweep's folder. Data sets of large
  images are left out.
  """
  kappas: dict[str, list[float]] = {}
  configs: dict[str, ConfigDict] = {}
  for point in grid:
    if 're' in point.config.constraints:
      name = _name(point.config)
      configs[name] = point.config
      kappas.setdefault(name, []).append(point.config.constraints.re.kappa)
  known = _read(workdir)
  found = {}
  for name, config in configs.items():
    wanted = _enough(sorted(set(kappas[name])))
    kept = known.get(name)
    if kept is not None and np.array_equal(kept.kappas, wanted):
      found[name] = kept
      continue
    dataset = build_dataset(config, data_dir)
    if math.prod(dataset.image_shape) > _MOST_DIMS:
      say(f'{name}: its covariance is too large to draw a linear model')
    else:
      found[name] = curve(dataset, wanted)
  _write(workdir, found)
  return found


def _name(config: ConfigDict) -> str:
  kwargs = ', '.join(f'{k}={v}' for k, v in config.dataset.kwargs.items())
  return f'{config.dataset.name}({kwargs})' if kwargs else config.dataset.name


def _enough(kappas: Sequence[float]) -> list[float]:
  """Returns rising kappas from which a curve can be drawn."""
  if len(kappas) > 2:
    return [*kappas]
  lowest, highest = kappas[0], kappas[-1]
  if lowest == highest:
    lowest, highest = lowest / 1.25, highest * 1.25
  return np.geomspace(lowest, highest, 4).tolist()


def _read(workdir: str) -> dict[str, Curve]:
  try:
    with open(os.path.join(workdir, _FILE)) as file:
      stored = json.load(file)
  except (OSError, ValueError):
    return {}
  return {name: Curve(*map(np.array, kept)) for name, kept in stored.items()}


def _write(workdir: str, found: Mapping[str, Curve]) -> None:
  stored = {name: [x.tolist() for x in of] for name, of in found.items()}
  write_json(os.path.join(workdir, _FILE), stored)
