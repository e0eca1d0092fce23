"""What asks a process to stop, from its first import to its end.

A command answers at once and ends in one line, with the exit code that shells
give to a signal, 128 and its number. Imported into another program, this
touches nothing of it.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import os
import re
import select
import signal
import sys
import threading
import time
from typing import Any, NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PACKAGES = ('geco_jax', 'experiments')
_SCRIPT = 'geco-jax'
# Python handles a signal when it gets its turn, which XLA's compiler does not
# give for minutes.
_SECONDS_OF_GRACE = 0.3
_SECONDS_TO_UNWIND = 3.0
# Within this time SIGTERM or SIGHUP counts once: a shell that ends sends it
# again.
_SECONDS_OF_ONE = 1.0
_OVER = 0  # No signal has this number.


class Stopped(KeyboardInterrupt):
  """A signal asked a command to stop where no run was training."""

  def __init__(self, signal_number: int):
    super().__init__(f'stopped by {signal.Signals(signal_number).name}')
    self.signal_number = signal_number


class Memory:
  """What `remembered` remembers.

  Attributes:
    number: number of the first signal, None before it.
    keeps: whether there are steps to finish. A command whose training has not
      taken any yet, as it compiles them, is stopped at once.
  """

  def __init__(self):
    self.number: int | None = None
    self.keeps = False


@dataclasses.dataclass
class _State:
  """State that exists once in a process, as its signals do.

  Attributes:
    memory: of the training in progress.
    watched: whether a command's `_watch` answers.
    kept: whether a signal came that a training remembers.
    raised: number of the signal that `Stopped` was raised for.
    outlook: what is added to an answer.
    num_bars: progress bars that are open.
    printed: whether the last line has been printed.
    unfinished: files that are being written, under temporary names.
  """

  memory: Memory | None = None
  watched: bool = False
  kept: bool = False
  raised: int | None = None
  outlook: str = ''
  num_bars: int = 0
  printed: bool = False
  unfinished: set[str] = dataclasses.field(default_factory=set)


_state = _State()
_ending = threading.Lock()


@contextlib.contextmanager
def handled_by(
  handler: Callable[[int, Any], None],
) -> Iterator[dict[int, Any]]:
  """Handle signals by `handler`, then as before; yield the former handlers.

  Outside of the main thread, which gets the signals, nothing changes. A SIGHUP
  that nohup ignores stays ignored.
  """
  previous = {}
  if threading.current_thread() is threading.main_thread():
    for number in STOP_SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:
        previous[number] = signal.signal(number, handler)
  try:
    yield previous
  finally:
    for number, before in previous.items():
      signal.signal(number, before)


@contextlib.contextmanager
def remembered(speak: bool = True) -> Iterator[Memory]:
  """Remember signals for a training, which ends after the steps it takes.

  A second one ends a command at once. In another program it acts as it would
  have before.

  Args:
    speak: whether to answer in another program; a command always does.
  """
  memory = Memory()

  def remember(number, frame):
    if _state.watched and not memory.keeps:
      previous[number](number, frame)  # Raises `Stopped`.
      return
    _state.kept = True
    memory.number = memory.number or number
    if _state.watched:  # `_watch` answers, and ends it at a second one.
      return
    for other, before in previous.items():
      signal.signal(other, before)
    if speak:
      _write(_answer(number))

  before, _state.memory = _state.memory, memory
  try:
    with handled_by(remember) as previous:
      yield memory
  finally:
    _state.memory = before


@contextlib.contextmanager
def raised() -> Iterator[None]:
  """Raise a command's signals as `Stopped`, and end it by a line.

  The command has some seconds to stop, and none where Python does not get its
  turn or at a second signal. A training is `remembered`.
  """

  def raise_stopped(number, frame):
    # JAX's callback of the garbage collector would lose it; `_watch` will not.
    if frame is not None and frame.f_code.co_name == '_xla_gc_callback':
      return
    _state.raised = number
    raise Stopped(number)

  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  hook = sys.unraisablehook
  with handled_by(raise_stopped):
    signal.set_wakeup_fd(writer)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    sys.unraisablehook = own = functools.partial(_end_if_lost, hook=hook)
    _state.watched, _state.kept = True, False
    try:
      yield
    except BaseException:
      if _state.raised is not None:  # Even if it became another error.
        end(_state.raised)
      raise
    finally:
      _state.watched = False
      if sys.unraisablehook is own:  # A hook set over it stays.
        sys.unraisablehook = hook
      signal.set_wakeup_fd(-1)
      os.close(writer)


def _end_if_lost(lost, hook) -> None:
  """End the process if `Stopped` was raised where no exception gets out."""
  if isinstance(lost.exc_value, Stopped):
    end(lost.exc_value.signal_number)
  hook(lost)


def _watch(reader: int) -> None:
  """Answer a command's signals at once, whatever Python is doing."""
  number = _next(reader, None)
  came = time.monotonic()
  if _state.kept or (_state.memory is not None and _state.memory.keeps):
    if number:
      _write(_answer(number))
    while number:
      number = _next(reader, None)
      is_another = time.monotonic() - came > _SECONDS_OF_ONE
      if number == signal.SIGINT or (number and is_another):
        end(number, at_once=True)
  elif number:
    again = _next(reader, _SECONDS_OF_GRACE)
    if again is None and _state.raised is not None:
      again = _next(reader, _SECONDS_TO_UNWIND)
    if again != _OVER:
      end(number)
  os.close(reader)


def _next(reader: int, seconds: float | None) -> int | None:
  """Return the next signal, `_OVER` if the command is, None after seconds."""
  while select.select([reader], [], [], seconds)[0]:
    content = os.read(reader, 1)
    if not content:
      return _OVER
    if content[0] in STOP_SIGNALS:
      return content[0]
  return None


@contextlib.contextmanager
def outlook(text: str) -> Iterator[None]:
  """Say in the answer to a signal what happens to work not yet done.

  Args:
    text: added to the answer while the context lasts.
  """
  before, _state.outlook = _state.outlook, f'; {text}'
  try:
    yield
  finally:
    _state.outlook = before


@contextlib.contextmanager
def ctrl_c_ignored() -> Iterator[None]:
  """Ignore Ctrl-C, also in processes that are started here, which go on.

  A terminal sends it to all of them.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def removed_by_end(path: str) -> Iterator[None]:
  """Let `end` remove a file that is being written."""
  _state.unfinished.add(path)
  try:
    yield
  finally:
    _state.unfinished.discard(path)


def bar_is_open(is_open: bool) -> None:
  """Note that the last line on stderr is a progress bar, or no longer is."""
  _state.num_bars += 1 if is_open else -1


def _answer(number: int) -> str:
  """Return the answer to a signal that a training remembers."""
  is_typed = number == signal.SIGINT
  name = 'Ctrl-C' if is_typed else signal.Signals(number).name
  return f'stopping after these steps{_state.outlook}; {name} again to stop now'


def _write(line: str) -> None:
  """Write a line on stderr, in a handler or beside what Python writes there."""
  start = '\n' if _state.num_bars or os.isatty(2) else ''  # After bar or ^C.
  with contextlib.suppress(OSError):  # A terminal that is gone.
    os.write(2, f'{start}{line}\n'.encode())


def end(number: int, frame: object = None, at_once: bool = False) -> NoReturn:
  """End the process with a line, without Python's own shutdown.

  XLA may be compiling in threads that do not survive that.

  Args:
    number: of the signal.
    frame: for a handler of signals.
    at_once: whether a training loses its steps since the latest checkpoint.
  """
  del frame
  if not _ending.acquire(blocking=False):
    time.sleep(0.1)  # Another thread is ending it.
  if not _state.printed:
    lost = ' at once; the same command goes on from the latest checkpoint'
    _write(f'{Stopped(number)}{lost if at_once else _state.outlook}')
    _state.printed = True
  for path in [*_state.unfinished]:
    with contextlib.suppress(OSError):
      os.remove(path)
  if threading.current_thread() is threading.main_thread():
    with contextlib.suppress(Exception):  # A flush may be what was interrupted.
      sys.stdout.flush()
  os._exit(128 + number)


def _is_command() -> bool:
  """Return whether Python is about to run a module of these packages."""
  if [os.path.basename(path) for path in sys.argv[:1]] == [_SCRIPT]:
    return True
  if sys.argv[:1] != ['-m']:
    return False
  options = iter(sys.orig_argv[1:])
  for option in options:
    # '-m geco_jax.train', '-mgeco_jax.train' or '-um geco_jax.train'.
    if match := re.fullmatch('-[bBdEhiIOPqRsSuvVx]*m(.*)', option):
      module = match[1] or next(options, '')
      return module.partition('.')[0] in _PACKAGES
  return False


if _is_command():  # Until `raised`, for its imports.
  for _number in STOP_SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
      signal.signal(_number, end)
