"""Programs are timed one at a time; one that fails stops no other."""

import os
import time
import types

import pytest

from benchmarks import workers
from benchmarks.workers import Worker

NUM_STEPS = 4
SECONDS = 0.01  # The shortest time of a call.
ROUNDS = 2


def program():
  """Return a program that remembers when it ran."""
  calls = []

  def run():
    start = time.monotonic()
    time.sleep(SECONDS)
    calls.append((start, time.monotonic()))

  return types.SimpleNamespace(
    run=run, num_steps=NUM_STEPS, flops=6.0, calls=calls
  )


def refused():
  raise ValueError('no such model\nand a second line')


def killed():
  os._exit(3)


def calls_of(contender):
  return contender.calls


def die(contender):
  os._exit(4)


def hang(contender):
  time.sleep(60)


@pytest.fixture(scope='module')
def measured():
  """Return workers after their rounds, by name, and what was reported."""
  builds = dict(a=program, refused=refused, killed=killed, b=program)
  crew = {name: Worker(build) for name, build in builds.items()}
  lines = []
  workers.prepare(crew, 4, 300, lines.append)
  workers.measure([*crew.values()], ROUNDS, 5 * SECONDS, time.monotonic() + 300)
  yield crew, lines
  workers.stop([*crew.values()])


def test_rates_are_the_steps_per_second_of_every_round(measured):
  crew, _ = measured
  for name in ('a', 'b'):
    assert crew[name].error is None
    assert crew[name].flops == 6.0
    assert len(crew[name].rates) == ROUNDS
    assert all(0 < rate <= NUM_STEPS / SECONDS for rate in crew[name].rates)


def test_no_program_runs_while_another_is_timed(measured):
  crew, _ = measured
  intervals = []
  for name in ('a', 'b'):
    calls = crew[name].ask(calls_of, 300)
    # Warm-up calls may meet the other program's.
    intervals += calls[workers.NUM_WARMUPS :]
  assert len(intervals) > 2 * ROUNDS
  intervals.sort()
  for (_, end), (start, _) in zip(intervals, intervals[1:], strict=False):
    assert end <= start


def test_a_program_that_fails_says_why_in_a_line_and_stops_no_other(measured):
  crew, lines = measured
  assert crew['refused'].error == 'ValueError: no such model'
  assert crew['killed'].error == 'its process ended with exit code 3'
  assert crew['refused'].rates == crew['killed'].rates == []
  assert 'refused: ValueError: no such model' in lines
  assert sum('ready after' in line for line in lines) == 2


def test_what_is_not_ready_in_time_is_given_up():
  crew = {'slow': Worker(program), 'never started': Worker(program)}
  workers.prepare(crew, 1, 0.0, lambda line: None)
  for worker in crew.values():
    assert worker.error == 'not compiled within 0 s'
  workers.measure([*crew.values()], 1, SECONDS, time.monotonic() + 300)
  assert all(worker.rates == [] for worker in crew.values())


def test_a_process_that_dies_or_does_not_answer_is_an_error(measured):
  crew, _ = measured
  assert crew['a'].ask(die, 300) is None
  assert crew['a'].error == 'its process ended with exit code 4'
  assert crew['b'].ask(hang, 0) is None
  assert crew['b'].error == 'no answer within 0 s'


def test_no_round_begins_after_the_deadline():
  worker = Worker(program)
  workers.measure([worker], 1, SECONDS, time.monotonic() - 1)
  assert worker.rates == []
  assert worker.error is None
