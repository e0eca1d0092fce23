"""Commands in processes of their own, and what they leave in their folders."""

from collections.abc import Callable, Mapping
import json
import multiprocessing
import os
import pathlib
import resource
import select
import signal
import time
from typing import Any, NamedTuple

import tensorstore as ts

from tests import processes

FOLDER = 'FOLDER'  # In arguments: the folder that a command fills.
SEED = int(os.environ.get('FAULTS_SEED', 0))  # Seed of moments and damages.
SECONDS = 300  # No command takes longer, on however busy a machine.
# These differ from run to run, or tell of troubles that were. Which compiled
# programs are kept depends on how long they took.
_BESIDE = ('.lock', 'tensorboard', 'error.log', 'run.json', 'compiled')
_TIMES = ('seconds', 'steps_per_second')


class Command(NamedTuple):
  """A command line, and the folder that it fills."""

  module: str
  arguments: tuple[str, ...]
  # Command whose finished folder it starts from; None is an empty one.
  after: str | None = None
  watched: str = '.'  # The part of its folder that matters.
  environment: Mapping[str, str] = {}


class Ended(NamedTuple):
  """How a process ended: its exit code (-9 if killed) and what it printed."""

  code: int | None
  printed: str

  @property
  def is_one_sentence(self) -> bool:
    """Whether it refused as bad input is refused."""
    errors = [x for x in self.printed.splitlines() if x.startswith('error: ')]
    return self.code == 2 and len(errors) == 1 and not self.has_traceback

  @property
  def has_traceback(self) -> bool:
    """Whether it ended by an error that nobody expected."""
    return 'Traceback' in self.printed


class Running:
  """A process that runs a command in a folder."""

  def __init__(
    self, command: Command, folder: pathlib.Path, max_bytes: int | None = None
  ):
    """Start it; no file of it can grow beyond `max_bytes`."""
    # A pipe takes what is printed where no file can be written.
    self._output, output = multiprocessing.Pipe(duplex=False)
    values = [*command.arguments, *command.environment.values()]
    values = [value.replace(FOLDER, str(folder)) for value in values]
    arguments = values[: len(command.arguments)]
    variables = dict(
      zip(command.environment, values[len(arguments) :], strict=True)
    )
    self._process = processes.start(
      _run, command.module, arguments, variables, output, max_bytes
    )
    output.close()
    self.pid = self._process.pid

  def signal(self, number: int) -> None:
    """Send it a signal."""
    os.kill(self.pid, number)

  def is_alive(self) -> bool:
    """Return whether it has not ended."""
    return self._process.is_alive()

  def wait(self) -> Ended:
    """Return how it ended; one that does not end is killed."""
    deadline = time.monotonic() + SECONDS
    content = b''
    while select.select([self._output], [], [], deadline - time.monotonic())[0]:
      part = os.read(self._output.fileno(), 1 << 16)
      content += part
      if not part:
        self._process.join()
        break
    else:
      content += f'not done in {SECONDS} s'.encode()
      self._process.kill()
      self._process.join()
    self._output.close()
    return Ended(self._process.exitcode, content.decode('utf-8', 'replace'))

  def kill(self) -> bool:
    """Kill it with -9; return whether it had not ended before."""
    self._process.kill()
    return self.wait().code == -signal.SIGKILL


def run(
  command: Command, folder: pathlib.Path, max_bytes: int | None = None
) -> Ended:
  """Run a command to its end."""
  return Running(command, folder, max_bytes).wait()


def _run(module, arguments, variables, output, max_bytes):
  """Let this process be a command that prints into a pipe."""
  for descriptor in (1, 2):
    os.dup2(output.fileno(), descriptor)
  output.close()
  os.environ.update(variables)
  if max_bytes is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
  processes.be_command(module, arguments)


def paths_in(folder: pathlib.Path) -> set[str]:
  """Return the files and folders below a folder, whatever comes and goes."""
  return {
    os.path.relpath(os.path.join(parent, name), folder)
    for parent, folders, files in os.walk(folder)
    for name in (*folders, *files)
  }


class Watch:
  """Counts the paths that are new below a folder since this was made."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._before = paths_in(folder)
    self._seen = set(self._before)

  def count(self) -> int:
    """Return how many there ever were."""
    self._seen |= paths_in(self._folder)
    return len(self._seen) - len(self._before)


def wait_until(process: Running, is_time: Callable[[], bool]) -> None:
  """Wait for a moment, or the process's end."""
  while not is_time() and process.is_alive():
    time.sleep(0.002)


def left_in(folder: pathlib.Path) -> dict[str, Any]:
  """Return what a command has left, by path, in values that compare.

  Files are bytes, JSON without its times; a checkpoint is one entry of its
  arrays, or the error that reading it is.
  """
  found_here = {}
  for parent, folders, files in os.walk(folder):
    here = pathlib.Path(parent)
    folders[:] = [
      name
      for name in folders
      if name not in _BESIDE and 'set_aside' not in name
    ]
    if here.name == 'checkpoints':
      for name in folders:
        entry = str((here / name).relative_to(folder))
        found_here[entry] = _arrays(here / name)
      folders.clear()
    for name in files:
      if name not in _BESIDE and 'set_aside' not in name:
        path = here / name
        found_here[str(path.relative_to(folder))] = _content(path)
  return found_here


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
  """Return the paths at which two of `left_in` differ."""
  return [
    path
    for path in sorted({*one, *other})
    if path not in one or path not in other or one[path] != other[path]
  ]


def _content(path):
  content = path.read_bytes()
  try:
    if path.suffix == '.jsonl':
      return [_without_times(json.loads(line)) for line in content.splitlines()]
    if path.suffix == '.json':
      return _without_times(json.loads(content))
    if path.name == 'report.html':  # Its footer has date and command.
      return content.partition(b'<footer>')[0]
  except ValueError:
    pass
  return content


def _without_times(value):
  if isinstance(value, dict):
    kept = {k: v for k, v in value.items() if k not in _TIMES}
    return {k: _without_times(v) for k, v in kept.items()}
  return (
    [_without_times(v) for v in value] if isinstance(value, list) else value
  )


def _arrays(checkpoint):
  """Return the chunks of a checkpoint's arrays, by key."""
  try:
    store = ts.KvStore.open(
      {'driver': 'ocdbt', 'base': f'file://{checkpoint}/state/'}
    ).result()
    return {
      key: store.read(key).result().value for key in store.list().result()
    }
  except Exception as error:  # A damaged file makes its reader raise anything.
    return f'unreadable: {type(error).__name__}'
