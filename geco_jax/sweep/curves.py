"""The rates of a linear model on the data sets of a sweep."""

from collections.abc import Mapping, Sequence, Set
import os
import textwrap
from typing import Any

from absl import logging
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.build import build_dataset
from geco_jax.console import say
from geco_jax.datasets import shapes
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.splits import fingerprint
from geco_jax.errors import UserError
from geco_jax.evaluation.gaussian_rate import Curve
from geco_jax.evaluation.gaussian_rate import curve
from geco_jax.io import by_products
from geco_jax.io.files import write_json
from geco_jax.io.run_folder import recorded_sha256
from geco_jax.sweep.grid import Point

_FILE = 'gaussian_rate.json'
_MAX_DIMS = 4096  # Dimensions of an image; the covariance has their square.


def curves(
  grid: Sequence[Point], workdir: str, data_dir: str | None = None
) -> dict[str, Curve]:
  """Return `gaussian_rate.curve` over the kappas of RE, by data set.

  Curves are computed once and kept in the sweep's folder, each with the SHA-256
  of the data that the runs were trained on. Data sets of large images have
  none; those that cannot be read, or have changed since, cost a warning.

  Args:
    grid: the runs.
    workdir: the sweep's directory.
    data_dir: TFDS data directory.
  """
  stored = _read(workdir)
  results, kept = {}, {}
  for name, points in _by_dataset(grid).items():
    kappas = sorted({point.config.constraints.re.kappa for point in points})
    curve_kappas = _curve_kappas(kappas)
    folders = [os.path.join(workdir, point.name) for point in points]
    known = {sha256 for f in folders if (sha256 := recorded_sha256(f))}
    key = ' '.join([name, *sorted(known)])
    result = stored.get(key)
    if result is None or not np.array_equal(result.kappas, curve_kappas):
      try:
        dataset = _dataset(points[0].config, folders, known, data_dir)
        result = None if dataset is None else curve(dataset, curve_kappas)
      except Exception as error:  # A reader of someone's own raises anything.
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        logging.warning('%s: no linear model is drawn: %s', name, reason)
        continue
    if result is None:
      say(f'{name}: its covariance is too large to draw a linear model')
    else:
      results[name] = kept[key] = result
  if any(result is not stored.get(key) for key, result in kept.items()):
    _write(workdir, kept)
  return results


def _by_dataset(grid: Sequence[Point]) -> dict[str, list[Point]]:
  """Return the runs that have the RE constraint, by data set."""
  groups: dict[str, list[Point]] = {}
  for point in grid:
    if 're' in point.config.constraints:
      groups.setdefault(_name(point.config), []).append(point)
  return groups


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


def _dataset(
  config: ConfigDict,
  folders: Sequence[str],
  known: Set[str],
  data_dir: str | None,
) -> Dataset | None:
  """Return the data set of runs, None if its images are too large.

  Args:
    config: config of one of the runs.
    folders: of the runs, which may record the images' shape.
    known: SHA-256 of the data that the runs were trained on, as far as they
      record it.
    data_dir: TFDS data directory.

  Raises:
    UserError: if it cannot be built, or is not what the runs were trained on.
  """
  recorded = next(filter(None, map(shapes.read, folders)), None)
  if recorded is not None and _is_large(recorded):
    return None  # Nothing is read to learn this.
  dataset = build_dataset(config, data_dir)
  if _is_large(dataset):
    return None
  if known and known != {fingerprint(dataset.splits)}:
    raise UserError('its images or labels are not those of all of its runs')
  return dataset


def _is_large(dataset: Dataset) -> bool:
  return dataset.num_dims > _MAX_DIMS


def _read(workdir: str) -> dict[str, Curve]:
  return by_products.read(os.path.join(workdir, _FILE), _curves) or {}


def _curves(content: Any) -> dict[str, Curve]:
  """Return what a file of curves holds; raise a ValueError if it is none."""
  results = {}
  for name, lists in by_products.mapping(content, list).items():
    results[name] = Curve(*np.array(lists, float))
  return results


def _write(workdir: str, results: Mapping[str, Curve]) -> None:
  """Keep curves for the next report; a warning if that fails."""
  stored = {name: [x.tolist() for x in xs] for name, xs in results.items()}
  try:
    write_json(os.path.join(workdir, _FILE), stored)
  except OSError as error:
    logging.warning('The linear model is computed again next time: %s', error)
