"""Programs in processes of their own: compiled side by side, timed alone.

Compilation takes most of a benchmark's time on an accelerator, and one process
compiles one program at a time. Here every program has a process, which builds
and warms it and then waits until it is asked to run: the parent asks one at a
time, so that what is timed has the machine to itself.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import multiprocessing
from multiprocessing import connection
import time
from typing import Any, NamedTuple

NUM_WARMUPS = 3  # CUDA graphs are recorded in the second call.


class _Ready(NamedTuple):
  """A process's first answer: its program can run."""

  seconds: float  # Time to build, compile and warm it.
  flops: float | None


class _Failure(NamedTuple):
  """An answer in place of the one that was asked for."""

  error: str


class Worker:
  """One program's process; its results stay when the process is gone."""

  def __init__(self, build: Callable[[], Any]):
    """Prepare the worker without starting it.

    Args:
      build: () -> the `side_by_side.Contender`; called in the process, so it
        can be pickled.
    """
    self._build = build
    self._process: Any = None
    self.connection: Any = None  # None unless the process runs.
    self.ready_seconds: float | None = None  # From its start to the first run.
    self.flops: float | None = None  # Operations of a step, if counted.
    self.rates: list[float] = []  # Steps per second of every round.
    self.error: str | None = None  # Why it was given up.

  def start(self) -> None:
    """Start to build the program."""
    context = multiprocessing.get_context('spawn')
    self.connection, other = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(other, self._build), daemon=False
    )
    self._process.start()
    other.close()  # So that the process's end is seen.

  def become_ready(self) -> None:
    """Read the process's first answer, which must have arrived.

    It sets `ready_seconds` and `flops`, or `error` if the program failed.
    """
    answer = self._receive(timeout_s=0)
    if answer is not None:
      self.ready_seconds, self.flops = answer

  def ask(self, question: Callable[[Any], Any], timeout_s: float) -> Any:
    """Return `question(contender)`, called in the process; None if it failed.

    Args:
      question: can be pickled, and so can its answer.
      timeout_s: seconds after which the process is killed.
    """
    try:
      self.connection.send(question)
    except OSError:
      return self.fail(self._death())
    return self._receive(timeout_s)

  def fail(self, error: str) -> None:
    """Kill the process, if it runs, and keep the reason."""
    self.error = error
    self.hang_up()
    self.end(grace_s=0)

  def hang_up(self) -> None:
    """Let the process end by itself."""
    if self.connection is not None:
      self.connection.close()
    self.connection = None

  def end(self, grace_s: float) -> None:
    """Wait until the process has ended; kill it after a while."""
    if self._process is None:
      return
    self._process.join(grace_s)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()

  def _receive(self, timeout_s):
    if not self.connection.poll(timeout_s):
      return self.fail(f'no answer within {timeout_s:.0f} s')
    try:
      answer = self.connection.recv()
    except (EOFError, OSError):
      return self.fail(self._death())
    if isinstance(answer, _Failure):
      return self.fail(answer.error)
    return answer

  def _death(self):
    self._process.join(10)
    return f'its process ended with exit code {self._process.exitcode}'


def prepare(
  workers: Mapping[str, Worker],
  at_once: int,
  timeout_s: float,
  report: Callable[[str], None] = print,
) -> None:
  """Start all workers, a number at a time, and wait until they are ready.

  Args:
    workers: by name, started in this order.
    at_once: how many build their programs side by side.
    timeout_s: seconds after which those that are not ready are given up.
    report: takes a line for each.
  """
  start = time.monotonic()
  waiting, building = [*workers], {}
  while waiting or building:
    while waiting and len(building) < at_once:
      name = waiting.pop(0)
      workers[name].start()
      building[workers[name].connection] = name
    left = start + timeout_s - time.monotonic()
    answered: Sequence[Any] = connection.wait([*building], timeout=max(left, 0))
    for one in answered:
      name = building.pop(one)
      workers[name].become_ready()
      report(f'{name}: {_state(workers[name])}')
    if not answered:
      for name in [*building.values(), *waiting]:
        workers[name].fail(f'not compiled within {timeout_s:.0f} s')
        report(f'{name}: {_state(workers[name])}')
      return


def measure(
  workers: Sequence[Worker],
  rounds: int,
  round_seconds: float,
  deadline: float,
) -> None:
  """Time the programs in turn, each alone; add to the workers' rates.

  A round before the others says how many calls fill `round_seconds`.

  Args:
    workers: those that failed are passed over.
    rounds: how often each is timed.
    round_seconds: how long, about; a call at least.
    deadline: on `time.monotonic`'s clock, after which no round begins.
  """
  calls = {}
  for number in range(-1, rounds):
    for worker in workers:
      left = deadline - time.monotonic()
      if left < 0:
        return
      if worker.error is not None:
        continue
      num_calls = calls.get(worker, 1)
      timing = worker.ask(functools.partial(_timing, num_calls), left + 10)
      if timing is None:
        continue
      seconds, num_steps = timing
      if number < 0:
        calls[worker] = max(1, round(round_seconds / seconds))
      else:
        worker.rates.append(num_calls * num_steps / seconds)


def stop(workers: Sequence[Worker], grace_s: float = 5) -> None:
  """End all processes, by force those that take longer than that together."""
  for worker in workers:
    worker.hang_up()
  deadline = time.monotonic() + grace_s
  for worker in workers:
    worker.end(max(deadline - time.monotonic(), 0))


def _timing(calls, contender):
  """Return the seconds that so many calls take, and the steps of one call."""
  start = time.perf_counter()
  for _ in range(calls):
    contender.run()
  return time.perf_counter() - start, contender.num_steps


def _state(worker):
  return worker.error or f'ready after {worker.ready_seconds:.0f} s'


def _serve(pipe, build):
  """Build a program and answer questions about it until there are no more."""
  start = time.perf_counter()
  try:
    contender = build()
    for _ in range(NUM_WARMUPS):
      contender.run()
    pipe.send(_Ready(time.perf_counter() - start, contender.flops))
    while True:
      pipe.send(pipe.recv()(contender))
  except (EOFError, BrokenPipeError):
    pass  # The parent has no more questions.
  except Exception as error:
    pipe.send(_Failure(_sentence(error)))


def _sentence(error):
  """Return an exception's type and the first line of its text."""
  first, *_ = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {first}'.removesuffix(': ')
