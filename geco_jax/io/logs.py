"""Where a run's numbers go: metrics.jsonl and TensorBoard."""

from collections.abc import Iterator, Mapping
import json
import os
from typing import Any

import numpy as np
import tensorboardX

from geco_jax.io.files import write_bytes

_FILE = 'metrics.jsonl'


class MetricsWriter:
  """Writes scalars, pictures and hyperparameters of a run."""

  def __init__(self, workdir: str, first_step: int):
    """Open the run's logs and cut off their entries after `first_step`."""
    path = os.path.join(workdir, _FILE)
    kept = [line for line in _lines(path) if line['step'] <= first_step]
    text = ''.join(f'{json.dumps(line)}\n' for line in kept)
    write_bytes(path, text.encode())
    self._file = open(path, 'a', buffering=1)
    self._tensorboard = tensorboardX.SummaryWriter(
      os.path.join(workdir, 'tensorboard'), purge_step=first_step + 1
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Write one line of scalars by name."""
    line = {'step': step, **{k: float(v) for k, v in values.items()}}
    self._file.write(json.dumps(line) + '\n')
    for name, value in values.items():
      self._tensorboard.add_scalar(name, value, step)

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Write a picture, uint8 [height, width, channels]."""
    self._tensorboard.add_image(name, image, step, dataformats='HWC')

  def hyperparameters(
    self, config: Mapping[str, Any], results: Mapping[str, float]
  ) -> None:
    """Write the run's row of TensorBoard's HPARAMS table."""
    _add_hyperparameters(self._tensorboard, config, results)

  def close(self) -> None:
    """Flush and close the logs."""
    self._file.close()
    self._tensorboard.close()


def write_hyperparameters(
  folder: str, values: Mapping[str, Any], results: Mapping[str, float]
) -> None:
  """Write one row of TensorBoard's HPARAMS table to a folder of its own."""
  with tensorboardX.SummaryWriter(folder) as writer:
    _add_hyperparameters(writer, values, results)


def read_metrics(workdir: str) -> dict[str, np.ndarray]:
  """Return the scalars of a run by name, each [lines], `step` among them."""
  lines = list(_lines(os.path.join(workdir, _FILE)))
  names = {name: None for line in lines for name in line}
  return {
    name: np.array([line.get(name, np.nan) for line in lines]) for name in names
  }


def _lines(path: str) -> Iterator[dict[str, float]]:
  """Yield the lines of a log; a last one that was cut off is left out."""
  if not os.path.exists(path):
    return
  with open(path) as file:
    for line in file:
      if line.endswith('\n'):
        yield json.loads(line)


def _add_hyperparameters(writer, values, results) -> None:
  summaries = tensorboardX.summary.hparams(
    {k: _tensorboard_value(v) for k, v in values.items()}, dict(results)
  )
  for summary in summaries:
    writer.file_writer.add_summary(summary)
  for name, value in results.items():
    writer.add_scalar(name, value)


def _tensorboard_value(value):
  if isinstance(value, (bool, int, float, str)):
    return value
  return str(value)
