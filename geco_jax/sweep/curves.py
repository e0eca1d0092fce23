"""The rates of a linear model on the data sets of a sweep."""

from collections.abc import Mapping, Sequence
import math
import os
from typing import Any

from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.build import build_dataset
from geco_jax.console import say
from geco_jax.evaluation.gaussian_rate import Curve
from geco_jax.evaluation.gaussian_rate import curve
from geco_jax.io import by_products
from geco_jax.io.files import write_json
from geco_jax.sweep.grid import Point

_FILE = 'gaussian_rate.json'
_MAX_DIMS = 4096  # Dimensions of an image; the covariance has their square.


def curves(
  grid: Sequence[Point], workdir: str, data_dir: str | None = None
) -> dict[str, Curve]:
  """Return `gaussian_rate.curve` over the kappas of RE, by data set.

  Curves are computed once and kept in the sweep's folder. Data sets of large
  images have none.
  """
  kappas: dict[str, list[float]] = {}
  configs: dict[str, ConfigDict] = {}
  for point in grid:
    if 're' in point.config.constraints:
      name = _name(point.config)
      configs[name] = point.config
      kappas.setdefault(name, []).append(point.config.constraints.re.kappa)
  stored = _read(workdir)
  results = {}
  for name, config in configs.items():
    curve_kappas = _curve_kappas(sorted(set(kappas[name])))
    result = stored.get(name)
    if result is not None and np.array_equal(result.kappas, curve_kappas):
      results[name] = result
      continue
    dataset = build_dataset(config, data_dir)
    if math.prod(dataset.image_shape) > _MAX_DIMS:
      say(f'{name}: its covariance is too large to draw a linear model')
    else:
      results[name] = curve(dataset, curve_kappas)
  _write(workdir, results)
  return results


def _name(config: ConfigDict) -> str:
  kwargs = ', '.join(f'{k}={v}' for k, v in config.dataset.kwargs.items())
  return f'{config.dataset.name}({kwargs})' if kwargs else config.dataset.name


def _curve_kappas(kappas: Sequence[float]) -> list[float]:
  """Return rising kappas from which a curve can be drawn."""
  if len(kappas) > 2:
    return [*kappas]
  lowest, highest = kappas[0], kappas[-1]
  if lowest == highest:
    lowest, highest = lowest / 1.25, highest * 1.25
  return np.geomspace(lowest, highest, 4).tolist()


def _read(workdir: str) -> dict[str, Curve]:
  return by_products.read(os.path.join(workdir, _FILE), _curves) or {}


def _curves(content: Any) -> dict[str, Curve]:
  """Return what a file of curves holds; raise a ValueError if it is none."""
  results = {}
  for name, lists in by_products.mapping(content, list).items():
    results[name] = Curve(*np.array(lists, float))
  return results


def _write(workdir: str, results: Mapping[str, Curve]) -> None:
  stored = {name: [x.tolist() for x in xs] for name, xs in results.items()}
  write_json(os.path.join(workdir, _FILE), stored)
