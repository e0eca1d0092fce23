"""A signal ends a command in a line, wherever it comes; a library in no way."""

import os
import signal
import subprocess
import sys

import pytest

from geco_jax import signals
from tests.processes import execute

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
each_number = pytest.mark.parametrize('number', NUMBERS, ids=lambda n: n.name)


def assert_ended_by(number, code, err):
  assert code == 128 + number, err
  assert err.startswith(f'stopped by {number.name}')
  assert err.count('\n') == 1


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
  assert_ended_by(number, process.returncode, process.stderr)


def test_an_import_handles_no_signal_of_another_program():
  code = 'import signal, geco_jax; print(signal.getsignal(signal.SIGTERM) == 0)'
  process = run('-c', code)
  assert process.stdout == 'True\n', process.stderr


# Like XLA's compiler, it gives Python no turn, but lets other threads run.
LONG_CALL = """
import hashlib, os, signal, threading
from geco_jax import cli, signals
def main(argv):
  kill = lambda: os.kill(os.getpid(), {number})
  threading.Timer(0.1, kill).start()
  {call}
cli.run(main)
"""


def run_call(number, call):
  return execute(LONG_CALL.format(number=int(number), call=call))


def test_a_hook_that_a_command_was_given_outlives_it(monkeypatch):
  """Libraries' threads have something to say until the process ends."""
  hook = sys.unraisablehook
  with signals.raised():
    assert sys.unraisablehook is not hook
  assert sys.unraisablehook is hook
  with signals.raised():
    monkeypatch.setattr(sys, 'unraisablehook', quiet := lambda lost: None)
  assert sys.unraisablehook is quiet
  monkeypatch.setattr(sys, 'unraisablehook', hook)


@each_number
def test_a_command_ends_in_a_line_within_a_call_of_minutes(number):
  call = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
  code, _, err = run_call(number, call)
  assert_ended_by(number, code, err)


@pytest.mark.parametrize(
  ('arguments', 'is_command'),
  [
    (['-m', 'geco_jax.train', '--workdir=x'], True),
    (['-mgeco_jax.train'], True),
    (['-um', 'experiments.plan'], True),
    (['-X', 'dev', '-m', 'geco_jax'], True),
    (['-m', 'pytest', '-m', 'geco_jax'], False),
    (['-Wmodule', 'geco_jax'], False),
    (['-m'], False),
  ],
)
def test_a_command_is_known_before_its_imports(
  arguments, is_command, monkeypatch
):
  monkeypatch.setattr(sys, 'argv', ['-m', '--workdir=x'])
  monkeypatch.setattr(sys, 'orig_argv', ['python', *arguments])
  assert signals._is_command() is is_command


def test_a_command_has_time_to_put_things_in_order():
  call = """
  import time
  try:
    time.sleep(60)
  finally:
    time.sleep(0.6)
    print('in order', flush=True)
"""
  code, out, err = run_call(signal.SIGINT, call)
  assert out == 'in order\n'
  assert_ended_by(signal.SIGINT, code, err)


def test_a_training_that_compiles_ends_as_if_none_went_on():
  call = """
  with signals.remembered():
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
  code, _, err = run_call(signal.SIGINT, call)
  assert_ended_by(signal.SIGINT, code, err)


def test_a_training_answers_at_once_and_waits_for_the_end_of_its_calls():
  call = """
  with signals.outlook('the rest waits'), signals.remembered() as memory:
    memory.keeps = True
    while not memory.number:
      hashlib.pbkdf2_hmac('sha256', b'', b'', 10**6)
  print(memory.number)
"""
  code, out, err = run_call(signal.SIGTERM, call)
  assert (code, out) == (0, '15\n'), err
  assert err == (
    'stopping after these steps; the rest waits; SIGTERM again to stop now\n'
  )


def test_a_training_that_is_over_is_not_answered_for():
  call = """
  with signals.remembered() as memory:
    memory.keeps = True
  hashlib.pbkdf2_hmac('sha256', b'', b'', 5 * 10**6)
"""
  code, _, err = run_call(signal.SIGTERM, call)
  assert_ended_by(signal.SIGTERM, code, err)


def test_an_outlook_holds_within_its_context_alone(capfd):
  def answer():
    with signals.remembered():
      os.kill(os.getpid(), signal.SIGTERM)
    return capfd.readouterr().err

  with signals.outlook('the others wait'):
    with signals.outlook('this one is lost'):
      assert '; this one is lost; ' in answer()
    assert '; the others wait; ' in answer()
  assert answer() == 'stopping after these steps; SIGTERM again to stop now\n'


def test_a_second_signal_within_a_second_is_the_first_once_more():
  """A shell that ends sends SIGHUP behind SIGTERM, or one of them twice."""
  call = """
  import time
  hang_up = lambda: os.kill(os.getpid(), signal.SIGHUP)
  later = threading.Timer(0.3, hang_up)
  later.start()
  with signals.remembered() as memory:
    memory.keeps = True
    later.join()
    time.sleep(0.2)
  print(memory.number)
"""
  code, out, err = run_call(signal.SIGTERM, call)
  assert (code, out) == (0, '15\n'), err
  assert err.count('\n') == 1


def test_a_second_sigterm_that_comes_later_ends_a_training_at_once():
  call = """
  import time
  signals._SECONDS_OF_ONE = 0.1
  threading.Timer(0.5, kill).start()
  with signals.remembered() as memory:
    memory.keeps = True
    time.sleep(5)
"""
  code, _, err = run_call(signal.SIGTERM, call)
  assert code == 143
  assert err.splitlines()[1].startswith('stopped by SIGTERM at once')


def test_a_second_ctrl_c_ends_a_training_at_once_within_its_call(tmp_path):
  path = str(tmp_path / 'half_written')
  call = f"""
  threading.Timer(0.5, kill).start()
  with signals.remembered() as memory, signals.removed_by_end({path!r}):
    memory.keeps = True
    open({path!r}, 'w').close()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
  code, _, err = run_call(signal.SIGINT, call)
  assert code == 130
  answer, end = err.splitlines()
  assert answer == 'stopping after these steps; Ctrl-C again to stop now'
  assert end.startswith('stopped by SIGINT at once; the same command goes on')
  assert not os.listdir(tmp_path)


def test_a_signal_that_no_exception_gets_out_of_ends_a_command_in_a_line():
  call = """
  class Lost:
    def __del__(self):
      while True: pass
  Lost()
"""
  code, _, err = run_call(signal.SIGINT, call)
  assert_ended_by(signal.SIGINT, code, err)


def test_a_hangup_that_nohup_ignores_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with signals.remembered() as memory:
      os.kill(os.getpid(), signal.SIGHUP)
      assert memory.number is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize('speak', [True, False])
def test_a_second_signal_acts_as_it_would_have_before(speak, capfd):
  before = [signal.getsignal(number) for number in NUMBERS]
  with signals.remembered(speak) as memory:
    os.kill(os.getpid(), signal.SIGINT)
    assert memory.number == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  answer = 'stopping after these steps; Ctrl-C again to stop now\n'
  assert capfd.readouterr().err == (answer if speak else '')
  assert [signal.getsignal(number) for number in NUMBERS] == before


def test_processes_that_go_on_ignore_the_terminal_s_ctrl_c():
  before = signal.getsignal(signal.SIGINT)
  show = 'import signal; print(signal.getsignal(2) is signal.SIG_IGN)'
  with signals.ctrl_c_ignored():
    process = run('-c', show)
  assert process.stdout == 'True\n'
  assert signal.getsignal(signal.SIGINT) is before
