"""What rows of figures cost here and now, and which fit into some hours.

A row is what one command line trains and measures. A few steps are timed of
programs that differ in more than kappa, seed, steps or multipliers; those that
differ in steps or multipliers take as long but are compiled each.
"""

from collections.abc import Mapping, Sequence
import contextlib
import importlib.util
import json
import os
from typing import NamedTuple

import jax
from ml_collections.config_dict import ConfigDict

from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import experiment_key
from geco_jax.classifiers import pretrained
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import latest_step
from geco_jax.sweep import throughput
from geco_jax.sweep.completion import is_finished
from geco_jax.sweep.grid import Point
from geco_jax.sweep.throughput import Speed

_NO_FILES: Mapping[str, str] = {}

YES, IN_PART, NO, DONE, LEFT_OUT = 'yes', 'in part', 'no', 'done', 'left out'


class Command(NamedTuple):
  """A command line."""

  module: str  # Relative to experiments if it begins with a dot.
  flags: Sequence[str]

  def words(self) -> list[str]:
    """Return module and flags."""
    package = __name__.rsplit('.', 2)[0]
    return [importlib.util.resolve_name(self.module, package), *self.flags]


class Row(NamedTuple):
  """A figure, or a part of one that can be run by itself."""

  figure: str  # Its module in experiments.
  name: str  # The part's name; empty for the whole figure.
  commands: Sequence[Command]
  points: Sequence[Point] = ()  # What it trains, named below the workdir.
  splits: Sequence[str] = ('train',)  # Evaluated splits, if any.
  numbers: Mapping[str, str] = _NO_FILES  # Files below the workdir -> results.
  by_row: bool = False  # Whether these files hold, and keep, rows by name.
  seconds: float = 0.0  # Time besides training, as its docstring says.

  @property
  def title(self) -> str:
    """Figure and name."""
    return f'{self.figure} {self.name}'.rstrip()


class Cost(NamedTuple):
  """What is left to do of a row."""

  row: Row
  num_finished: int = 0  # Runs that are in the workdir.
  num_shared: int = 0  # Unfinished runs that an earlier row trains.
  steps: int = 0  # Training steps that are left.
  compile_seconds: float = 0.0  # For programs new to this row.
  train_seconds: float = 0.0
  missing: str = ''  # Why it cannot be run here.

  @property
  def hours(self) -> float:
    """Hours that it takes, evaluations and pictures aside."""
    return (self.compile_seconds + self.train_seconds + self.row.seconds) / 3600


def measure(config: ConfigDict, dataset: Dataset) -> Speed:
  """Return how fast a config trains here: one run, shared by all devices.

  Args:
    config: the run's config.
    dataset: of the config.

  Raises:
    UserError: if the config is refused, or does not fit into the memory.
  """
  experiment = build(config, dataset)
  try:
    return throughput.speed(experiment, [Point('', {}, config)])
  except jax.errors.JaxRuntimeError as error:
    raise UserError(f'it cannot be: {str(error).splitlines()[0]}') from error


class Planner:
  """Finds out what rows cost, one after another."""

  def __init__(self, workdir: str, data_dir: str | None = None):
    """Begin with nothing measured.

    Args:
      workdir: folder whose finished runs count as done.
      data_dir: TFDS data directory.
    """
    self._workdir = workdir
    self._data_dir = data_dir
    self._planned: set[str] = set()  # Runs of the rows so far.
    self._datasets: dict[str, Dataset | UserError] = {}
    self._speeds: dict[str, Speed] = {}
    self._compiled: set[str] = set()  # Programs that rows so far compile.

  def cost(self, row: Row) -> Cost:
    """Return what is left to do of a row when those before it are done.

    It is `missing` where something is not at hand, or a folder is another
    run's.
    """
    num_steps, compile_seconds, train_seconds = 0, 0.0, 0.0
    compiled = {*self._compiled}
    try:
      unfinished = [point for point in row.points if self._is_left(point, row)]
      todo = [p for p in unfinished if p.name not in self._planned]
      for point in todo:
        speed = self.speed(point.config)
        steps = point.config.num_steps - steps_taken(point, self._workdir)
        num_steps += steps
        train_seconds += steps / speed.steps_per_second
        if (key := experiment_key(point.config)) not in compiled:
          compiled.add(key)
          compile_seconds += speed.compile_seconds
    except UserError as error:
      return Cost(row, missing=' '.join(str(error).split()))
    self._planned |= {point.name for point in row.points}
    self._compiled = compiled
    return Cost(
      row,
      num_finished=len(row.points) - len(unfinished),
      num_shared=len(unfinished) - len(todo),
      steps=num_steps,
      compile_seconds=compile_seconds,
      train_seconds=train_seconds,
    )

  def _is_left(self, point: Point, row: Row) -> bool:
    folder = os.path.join(self._workdir, point.name)
    if run_folder.holds_run(folder):
      run_folder.check_same(folder, point.config)
    return not is_done(point, self._workdir, row.splits)

  def speed(self, config: ConfigDict) -> Speed:
    """Return how fast a config trains, measured once for all that are as fast.

    Raises:
      UserError: if its data set or a classifier is not at hand.
    """
    key = _program(config)
    if key not in self._speeds:
      self._speeds[key] = measure(config, self._dataset(config))
    return self._speeds[key]

  def _dataset(self, config: ConfigDict) -> Dataset:
    name = config.dataset.to_json(sort_keys=True)
    if name not in self._datasets:
      try:
        self._datasets[name] = build_dataset(config, self._data_dir)
      except UserError as error:  # Kept, so as not to look for it again.
        self._datasets[name] = error
    dataset = self._datasets[name]
    if isinstance(dataset, UserError):
      raise dataset
    return dataset


def check_at_hand(row: Row, data_dir: str | None = None) -> None:
  """Check that what a row's runs read is there; start no device.

  Args:
    row: any.
    data_dir: TFDS data directory.

  Raises:
    UserError: if a data set or a classifier is not at hand.
  """
  configs = [point.config for point in row.points]
  constraints = [group for c in configs for group in c.constraints.values()]
  for network in dict.fromkeys(
    c.network for c in constraints if 'network' in c
  ):
    pretrained.load(network)
  by_dataset = {c.dataset.to_json(sort_keys=True): c for c in configs}
  for config in by_dataset.values():
    build_dataset(config, data_dir)


def is_done(point: Point, workdir: str, splits: Sequence[str]) -> bool:
  """Return whether a run is trained and, where splits are given, evaluated."""
  if not splits:
    return steps_taken(point, workdir) >= point.config.num_steps
  return is_finished(point, workdir, splits)


def steps_taken(point: Point, workdir: str) -> int:
  """Return the step of a run's latest checkpoint, 0 if it has none."""
  with contextlib.suppress(OSError, UserError):
    step = latest_step(os.path.join(workdir, point.name)) or 0
    return min(step, point.config.num_steps)
  return 0


def _program(config: ConfigDict) -> str:
  """Return all that speed depends on: not how the multipliers move."""
  leaves = json.loads(experiment_key(config))
  return json.dumps(
    {k: v for k, v in leaves.items() if not k.startswith('multipliers.')}
  )


def fits(costs: Sequence[Cost], hours: float) -> list[str]:
  """Return, for each row in turn, whether it fits into the hours."""
  answers, used = [], 0.0
  for cost in costs:
    begun, used = used, used + cost.hours
    if cost.missing:
      answers.append(LEFT_OUT)
    elif cost.row.points and cost.num_finished == len(cost.row.points):
      answers.append(DONE)
    elif used <= hours:
      answers.append(YES)
    else:
      answers.append(IN_PART if begun < hours else NO)
  return answers


_HEADS = (
  *('runs', 'finished', 'above', 'steps left', 'steps/s', 'compile/s'),
  'hours',
)
_WIDTHS = [max(len(head), 5) for head in _HEADS]


def table(costs: Sequence[Cost], hours: float) -> str:
  """Return the rows as text, and below them what they need in all."""
  width = max(len(cost.row.title) for cost in costs)
  lines = [_line('row', width, _HEADS, f'fits into {hours:g}')]
  for cost, answer in zip(costs, fits(costs, hours), strict=True):
    title, num_runs = cost.row.title, len(cost.row.points) or ''
    if cost.missing:
      text = f'{answer}: {cost.missing}'
      lines.append(_line(title, width, [f'{num_runs}'], text))
      continue
    cells = ['', '', '', '', '', '', f'{cost.hours:.2f}']
    if cost.row.points:
      cells[:3] = [str(num_runs), str(cost.num_finished), str(cost.num_shared)]
    if cost.steps:
      rate = cost.steps / cost.train_seconds
      cells[3:6] = [
        str(cost.steps),
        f'{rate:.3g}',
        f'{cost.compile_seconds:.0f}',
      ]
    lines.append(_line(title, width, cells, answer))
  needed = sum(cost.hours for cost in costs)
  lines.append(_line('all', width, [*[''] * 6, f'{needed:.2f}'], ''))
  return '\n'.join(lines)


def _line(title: str, width: int, cells: Sequence[str], text: str) -> str:
  padded = [
    f'{cell:>{size}}' for cell, size in zip(cells, _WIDTHS, strict=False)
  ]
  return '  '.join([f'{title:<{width}}', *padded, text]).rstrip()
