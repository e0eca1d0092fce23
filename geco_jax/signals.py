"""What asks a process to stop, from its first import to its end.

A command ends in one line and the exit code that shells give to a signal, 128
and its number. Imported into another program, this touches nothing of it.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PACKAGES = ('geco_jax', 'experiments')
_SECONDS_OF_GRACE = 5.0

_seen = set()  # Signals whose handler ran.
_waits_for_calls = False  # Whether a training waits for the end of its calls.


class Stopped(KeyboardInterrupt):
  """A signal asked a command to stop where no run was training."""

  def __init__(self, signal_number: int):
    super().__init__(f'stopped by {signal.Signals(signal_number).name}')
    self.signal_number = signal_number


@contextlib.contextmanager
def handled_by(
  handler: Callable[[int, Any], None],
) -> Iterator[dict[int, Any]]:
  """Handle signals so, and as before afterwards; yield the handlers before.

  Outside of the main thread, whose the signals are, nothing changes. A SIGHUP
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
def remembered() -> Iterator[Callable[[], int | None]]:
  """Remember signals; yield () -> the first that came, or None.

  A second one acts as it would have before.
  """
  caught = []

  def remember(number, frame):
    del frame
    _seen.add(number)
    caught.append(number)
    for other, before in previous.items():
      signal.signal(other, before)

  with handled_by(remember) as previous:
    yield lambda: caught[0] if caught else None


@contextlib.contextmanager
def raised() -> Iterator[None]:
  """Raise a command's signals as `Stopped`.

  Python handles a signal when it gets its turn, which XLA's compiler does not
  give for minutes: then the process ends by a line after some seconds, unless
  `waiting_for_calls`.

  Raises:
    Stopped: where a signal comes.
  """

  def raise_stopped(number, frame):
    # JAX's callback of the garbage collector would lose it; `_watch` will not.
    if frame is not None and frame.f_code.co_name == '_xla_gc_callback':
      return
    _seen.add(number)
    raise Stopped(number)

  with handled_by(raise_stopped):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
      yield
    finally:
      signal.set_wakeup_fd(-1)


@contextlib.contextmanager
def waiting_for_calls() -> Iterator[None]:
  """Let signals wait for the end of a compiled program, whose state counts."""
  global _waits_for_calls
  before, _waits_for_calls = _waits_for_calls, True
  try:
    yield
  finally:
    _waits_for_calls = before


def _watch(reader: int) -> None:
  """End the process if a signal that comes is not handled."""
  while True:
    number = os.read(reader, 1)[0]
    time.sleep(_SECONDS_OF_GRACE)
    if number in STOP_SIGNALS and number not in _seen and not _waits_for_calls:
      end(number)


def end(number: int, frame: object = None) -> NoReturn:
  """End the process by a line, without Python's own end.

  XLA may be compiling in threads that do not survive it.
  """
  del frame
  with contextlib.suppress(Exception):  # It may be what was interrupted.
    sys.stdout.flush()
  os.write(2, f'{Stopped(number)}\n'.encode())
  os._exit(128 + number)


def _is_command() -> bool:
  """Return whether Python is about to run a module of these packages."""
  arguments = sys.orig_argv
  if sys.argv[:1] != ['-m'] or '-m' not in arguments:
    return False
  module = arguments[arguments.index('-m') + 1]
  return module.partition('.')[0] in _PACKAGES


if _is_command():  # Until `raised`, for its imports.
  for _number in STOP_SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
      signal.signal(_number, end)
