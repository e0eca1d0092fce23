"""A signal ends a command in a line, wherever it comes; a library in no way."""

import os
import signal
import subprocess
import sys

import pytest

from geco_jax import signals

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
each_number = pytest.mark.parametrize('number', NUMBERS, ids=lambda n: n.name)


def assert_ended_by(number, process):
  assert process.returncode == 128 + number, process.stderr
  assert process.stderr.startswith(f'stopped by {number.name}')
  assert process.stderr.count('\n') == 1


def run(*arguments, **kwargs):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    **kwargs,
  )


@pytest.mark.parametrize(
  'module', ['geco_jax.train', 'geco_jax.sweep', 'experiments.figure_3']
)
@each_number
def test_a_command_ends_in_a_line_while_it_imports(module, number, tmp_path):
  kill = f'import os; os.kill(os.getpid(), {int(number)})'
  (tmp_path / 'jax.py').write_text(kill)
  process = run(
    '-m', module, env=os.environ | {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
  )
  assert_ended_by(number, process)


def test_an_import_handles_no_signal_of_another_program():
  code = 'import signal, geco_jax; print(signal.getsignal(signal.SIGTERM) == 0)'
  process = run('-c', code)
  assert process.stdout == 'True\n', process.stderr


# Like XLA's compiler, it gives Python no turn, but lets other threads run.
LONG_CALL = """
import hashlib, os, signal, threading
from geco_jax import cli, signals
signals._SECONDS_OF_GRACE = 0.1
def main(argv):
  kill = lambda: os.kill(os.getpid(), {number})
  threading.Timer(0.1, kill).start()
  {call}
cli.run(main)
"""


@each_number
def test_a_command_ends_in_a_line_within_a_call_of_minutes(number):
  call = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
  process = run('-c', LONG_CALL.format(number=int(number), call=call))
  assert_ended_by(number, process)


def test_a_training_waits_for_the_end_of_its_calls():
  call = """
  with signals.remembered() as stopped, signals.waiting_for_calls():
    while not stopped():
      hashlib.pbkdf2_hmac('sha256', b'', b'', 10**6)
  print(stopped())
"""
  process = run('-c', LONG_CALL.format(number=15, call=call))
  assert (process.returncode, process.stdout) == (0, '15\n'), process.stderr


def test_a_hangup_that_nohup_ignores_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with signals.remembered() as stopped:
      os.kill(os.getpid(), signal.SIGHUP)
      assert stopped() is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_second_signal_acts_as_it_would_have_before():
  with signals.remembered() as stopped:
    os.kill(os.getpid(), signal.SIGINT)
    assert stopped() == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
