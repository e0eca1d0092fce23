r"""Run the paper's figures in the order of their worth, as hours allow.

  python -m experiments.run_all --hours=2 --preset=quick --workdir=runs/all

Each row of `plan` is its own command, in a process of its own. Its numbers are
in --results, WORKDIR/results by default, as soon as it has them;
`python -m experiments.results_page --results=runs/all/results` makes a page of
them. When the hours are over, the rows under way are saved and ended, and the
same command goes on from there: rows that are done are not run again. A row
that fails is named, the others go on, and the exit code is 1.

With --at_once=8 up to eight rows that share no run go on side by side, and
their output is in WORKDIR/logs: on an accelerator some compile, which takes a
core each, while others train.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent import futures
import contextlib
import os
import signal
import threading
import time
from typing import Any

from absl import flags

from geco_jax import cli
from geco_jax import signals
from geco_jax.console import say
from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import lock
from geco_jax.io import run_folder

from . import plan
from .shared import planning
from .shared import runs
from .shared import watched
from .shared.planning import Row

EXIT_FAILED = 1
_DONE = 'run_all.json'  # The commands of rows that are done, in the workdir.
_LOGS = 'logs'  # Output of rows that run side by side, in the workdir.
# Share of an accelerator's memory that the rows take together; by default each
# process would take three quarters.
_MEMORY = 0.9
_SECONDS = 0.5  # Time between two checks for a signal.

# `watched.run`, or a function of the same arguments.
Start = Callable[..., tuple[int, bool]]


class Session:
  """The rows that are run until the hours are over.

  Attributes:
    failed: titles of rows that failed, and why.
    left: titles of rows that there was no time for, the one under way first.
    left_out: titles of rows whose data are not at hand, and why.
    stopped_by: the signal that ended it, if one did.
  """

  def __init__(
    self,
    workdir: str,
    results: str,
    hours: float,
    data_dir: str | None = None,
    at_once: int = 1,
    start: Start = watched.run,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Begin now.

    Args:
      workdir: directory of the runs.
      results: folder of the files of numbers.
      hours: time after which nothing is begun and running rows are stopped.
      data_dir: TFDS data directory.
      at_once: rows that are run side by side, at most.
      start: runs a command line, like `watched.run`.
      clock: () -> seconds, from any start.
    """
    self._workdir = workdir
    self._results = results
    self._hours = hours
    self._data_dir = data_dir
    self._at_once = at_once
    self._start = start
    self._clock = clock
    self._begun = clock()
    self._done = _read_done(workdir)
    self._stopping = threading.Event()
    self.failed: dict[str, str] = {}
    self.left: list[str] = []
    self.left_out: dict[str, str] = {}
    self.stopped_by: int | None = None

  def run(self, rows: Sequence[Row]) -> None:
    """Run the rows, in turn or side by side.

    After a signal the rows under way save what they have, and nothing is begun.
    """
    # Decided before any row begins: several share a file, and the first of them
    # makes a lost one anew.
    undone = {row.title for row in rows if not self._is_done(row)}
    self._done = {
      title: commands
      for title, commands in self._done.items()
      if title not in undone
    }
    waiting = [*enumerate(rows, 1)]
    running: dict[futures.Future[None], Row] = {}
    with (
      signals.remembered() as memory,
      futures.ThreadPoolExecutor(self._at_once) as pool,
    ):
      memory.keeps = True  # A row may take its time to save.
      try:
        while waiting or running:
          for number, row in self._next(waiting, running.values()):
            place = f'[{number} of {len(rows)}] {row.title}'
            running[pool.submit(self._run, row, place)] = row
          ended, _ = futures.wait(running, _SECONDS, futures.FIRST_COMPLETED)
          for future in ended:
            del running[future]
            future.result()
          if memory.number is not None:
            waiting.clear()
            self._stopping.set()
      except BaseException:
        self._stopping.set()
        raise
    self.stopped_by = memory.number

  def _next(
    self, waiting: list[tuple[int, Row]], running: Collection[Row]
  ) -> Iterator[tuple[int, Row]]:
    """Yield the rows that can begin, taken from those that wait."""
    for number, row in [*waiting]:
      if len(running) == self._at_once:
        return
      if not any(_share_runs(row, other) for other in running):
        waiting.remove((number, row))
        yield number, row

  def _run(self, row: Row, place: str) -> None:
    """Run a row unless it is done, time is up or its data are missing."""
    if row.title in self._done:
      self._try(row, self._collect)  # The results may be in a new folder.
      before = '' if row.title in self.failed else ' before'
      say(f'{place}: {self._outcome(row)}{before}')
    elif self._seconds_left() <= 0:
      self.left.append(row.title)
    elif self._is_at_hand(row, place):
      say(f'{place}: {self._state(row)}; {self._time()}')
      self._try(row, self._run_row)
      say(f'{place}: {self._outcome(row)}; {self._time()}')

  def _try(self, row: Row, action: Callable[[Row], None]) -> None:
    try:
      action(row)
    except UserError as error:  # A damaged file of results, a full disk.
      reasons = [self.failed.get(row.title), ' '.join(str(error).split())]
      self.failed[row.title] = '; '.join(filter(None, reasons))

  def _run_row(self, row: Row) -> None:
    """Run a row's commands; copy its numbers into the results."""
    for command in row.commands:
      if (seconds := self._seconds_left()) <= 0:
        self.left.append(row.title)
        break
      code, stopped = self._start(
        command.words(), seconds, self._stopping, self._log(row)
      )
      if code and stopped:
        self.left.append(row.title)
        break
      if code:
        how = f'exit code {code}' if code > 0 else f'ended by signal {-code}'
        self.failed[row.title] = f'{how}: python -m {" ".join(command.words())}'
        break
    self._collect(row)
    if row.title not in {*self.left, *self.failed}:
      for source in row.numbers:
        if self._numbers(row, source) is None:
          raise UserError(f'it ended well but left no numbers in {source}')
      with lock.taking_turns(self._workdir):
        self._done[row.title] = _commands(row)
        files.write_json(os.path.join(self._workdir, _DONE), self._done)

  def _log(self, row: Row) -> str | None:
    """Return the file of a row's output; None if rows run one by one."""
    if self._at_once == 1:
      return None
    folder = os.path.join(self._workdir, _LOGS)
    run_folder.create(folder)
    return os.path.join(folder, f'{row.title.replace(" ", "_")}.log')

  def _is_at_hand(self, row: Row, place: str) -> bool:
    try:
      planning.check_at_hand(row, self._data_dir)
    except UserError as error:
      self.left_out[row.title] = ' '.join(str(error).split())
      say(f'{place}: left out: {self.left_out[row.title]}')
      return False
    return True

  def _is_done(self, row: Row) -> bool:
    """Return whether these commands have done it, and its numbers are there."""
    return self._done.get(row.title) == _commands(row) and all(
      self._numbers(row, source) for source in row.numbers
    )

  def _numbers(self, row: Row, source: str) -> Any:
    """Return the row's part of a file below the workdir, None if not there."""
    path = os.path.join(self._workdir, source)
    if not row.by_row:
      return by_products.read(path, lambda content: content)
    rows = by_products.read(path, lambda x: by_products.mapping(x, dict)) or {}
    # Seeds of a row are rows beside it, 'NAME, seed 1'.
    own = {k: v for k, v in rows.items() if k.partition(',')[0] == row.name}
    return own or None

  def _collect(self, row: Row) -> None:
    """Copy the row's numbers, as far as there are any, into the results."""
    for source, name in row.numbers.items():
      numbers = self._numbers(row, source)
      target = os.path.join(self._results, name)
      if numbers is not None:
        run_folder.create(self._results)
        with lock.taking_turns(self._results):
          if row.by_row:
            numbers = {**runs.written(target), **numbers}
          files.write_json(target, numbers)

  def _seconds_left(self) -> float:
    return 3600 * self._hours - (self._clock() - self._begun)

  def _time(self) -> str:
    left = max(self._seconds_left(), 0.0) / 3600
    return (
      f'{self._hours - left:.2f} of {self._hours:g} h used, {left:.2f} left'
    )

  def _state(self, row: Row) -> str:
    """Return how many of a row's runs are finished, for people."""
    if not row.points:
      return 'computed, no runs'
    num_done = sum(
      planning.is_done(point, self._workdir, row.splits) for point in row.points
    )
    return f'{num_done} of {len(row.points)} runs finished'

  def _outcome(self, row: Row) -> str:
    if row.title in self.failed:
      return f'failed, {self.failed[row.title]}; the others go on'
    if row.title in self.left:
      return f'stopped and saved, {self._state(row)}'
    return 'done'


def _share_runs(row: Row, other: Row) -> bool:
  names = [{point.name for point in side.points} for side in (row, other)]
  return not names[0].isdisjoint(names[1])


def _commands(row: Row) -> list[str]:
  return [' '.join(command.words()) for command in row.commands]


def _read_done(workdir: str) -> dict[str, Any]:
  """Return the commands of the rows that are done, by title."""
  path = os.path.join(workdir, _DONE)
  return by_products.read(path, lambda x: by_products.mapping(x, list)) or {}


def summary(session: Session, num_rows: int) -> str:
  """Return how the rows ended, as text."""
  lost = {'failed': session.failed, 'left out': session.left_out}
  undone = {*session.left, *session.failed, *session.left_out}
  lines = [f'{num_rows - len(undone)} of {num_rows} rows are done']
  lines += [
    f'{word}: {title}: {reason}'
    for word, rows in lost.items()
    for title, reason in rows.items()
  ]
  if session.left:
    lines.append(f'left when the hours were over: {", ".join(session.left)}')
  return '\n'.join(lines)


def define_flags() -> None:
  """Define the command's flags."""
  plan.define_flags()
  cli.define_path(
    'results', None, 'Folder of the numbers; else WORKDIR/results.'
  )
  flags.DEFINE_integer(
    'at_once',
    1,
    'Rows that are run side by side, if they share no run.',
    lower_bound=1,
  )


def main(argv: Sequence[str]) -> int:
  """Run what the flags ask for."""
  del argv
  workdir = cli.workdir()
  hours, rows = plan.asked(workdir)
  results = flags.FLAGS.results or os.path.join(workdir, 'results')
  at_once = flags.FLAGS.at_once
  if at_once > 1:
    share = f'{_MEMORY / at_once:.3f}'
    os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', share)
  run_folder.create(workdir)
  with contextlib.closing(lock.Lock(workdir)):
    session = Session(workdir, results, hours, cli.DATA_DIR.value, at_once)
    session.run(rows)
  if session.stopped_by is not None:
    name = signal.Signals(session.stopped_by).name
    say(f'stopped by {name}; the same command goes on from there')
    return 128 + session.stopped_by
  print(summary(session, len(rows)))
  print(f'\nnumbers: {results}')
  return EXIT_FAILED if session.failed else 0


if __name__ == '__main__':
  cli.run(main, define_flags)
