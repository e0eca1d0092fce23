"""A module in a process of its own, which ends with the one that started it.

`run` starts this module as the command line; other modules need only `run`.
"""

from collections.abc import Sequence
import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time

_SECONDS = 0.5  # Time between two checks of the parent, or of whether to stop.


def run(
  words: Sequence[str],
  seconds: float,
  stopping: threading.Event | None = None,
  log: str | None = None,
) -> tuple[int, bool]:
  """Run `python -m WORDS...`; stop it by SIGTERM when the seconds are over.

  A signal that this process takes as an exception is passed on, and the
  exception is raised when the other has ended. In a session of its own, the
  other gets none from the terminal.

  Args:
    words: a module and its flags.
    seconds: from now on, >= 0; inf is no limit.
    stopping: stops the other process when another thread sets it.
    log: file to which its output is appended; None is this process's streams.

  Returns:
    (exit code, negative where a signal ended it, whether it was stopped).
  """
  command = [sys.executable, '-m', __name__, str(os.getpid()), *words]
  sys.stdout.flush()
  deadline = time.monotonic() + seconds
  with open(log, 'a') if log else contextlib.nullcontext() as file:
    process = subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=file,
      start_new_session=True,
    )
  try:
    while process.poll() is None:
      if time.monotonic() >= deadline or (stopping and stopping.is_set()):
        process.send_signal(signal.SIGTERM)
        return process.wait(), True
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(min(_SECONDS, max(deadline - time.monotonic(), 0)))
    return process.wait(), False
  except BaseException:
    process.send_signal(signal.SIGTERM)
    process.wait()
    raise


def _watch(parent: int) -> None:
  while os.getppid() == parent:
    time.sleep(_SECONDS)
  os.kill(os.getpid(), signal.SIGTERM)


def _main() -> None:
  parent, module, *flags = sys.argv[1:]
  threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
  sys.argv[1:] = flags
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  _main()
