"""A command in a process of its own ends when it is to, and never lives on."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.shared import watched
from tests.cli_test import ROOT

INF = float('inf')


def sleeping(pid_file):
  """Return the words of a module that says its process and sleeps."""
  code = (
    f'import os, time; open({str(pid_file)!r}, "w").write(str(os.getpid()))'
  )
  return ['timeit', '-n1', '-r1', '-s', code, 'time.sleep(60)']


def wait_for(condition):
  deadline = time.monotonic() + 300
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def is_alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  with open(f'/proc/{pid}/stat') as file:
    return file.read().rpartition(')')[2].split()[0] != 'Z'


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_it_runs_to_its_end_with_its_flags(tmp_path, capfd):
  path = tmp_path / 'a.json'
  path.write_text('{"a": 1}')
  words = ['json.tool', '--compact', str(path)]
  assert watched.run(words, INF) == (0, False)
  assert capfd.readouterr().out == '{"a":1}\n'
  code, stopped = watched.run(['json.tool', str(tmp_path / 'b')], INF)
  assert code and not stopped


def test_it_is_stopped_when_the_seconds_are_over(tmp_path):
  start = time.monotonic()
  code, stopped = watched.run(sleeping(tmp_path / 'pid'), 0.5)
  assert stopped and code in (-signal.SIGTERM, 128 + signal.SIGTERM)
  assert time.monotonic() - start < 30


def test_it_is_stopped_from_another_thread_and_prints_into_its_log(tmp_path):
  stopping, log, pid = threading.Event(), tmp_path / 'log', tmp_path / 'pid'
  code = f'{sleeping(pid)[4]}; print("begun", flush=True)'
  words = [*sleeping(pid)[:4], code, 'time.sleep(60)']

  def stop():
    wait_for(lambda: pid.exists() and log.read_text())
    stopping.set()

  threading.Thread(target=stop).start()
  _, stopped = watched.run(words, INF, stopping, str(log))
  assert stopped and log.read_text().startswith('begun\n')
  assert not is_alive(int(pid.read_text()))


def test_a_signal_is_handed_on_and_raised(tmp_path):
  def interrupt(number, frame):
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGALRM, interrupt)
  pid = tmp_path / 'pid'
  try:
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    with pytest.raises(KeyboardInterrupt):
      watched.run(sleeping(pid), INF)
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
  assert not pid.exists() or not is_alive(int(pid.read_text()))


@pytest.mark.skipif(not os.path.isdir('/proc'), reason='reads /proc')
def test_it_ends_with_a_parent_that_was_killed(tmp_path):
  pid = tmp_path / 'pid'
  code = (
    'from experiments.shared import watched\n'
    f'watched.run({sleeping(pid)!r}, 60.0)'
  )
  parent = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT)
  wait_for(lambda: pid.exists() and pid.read_text())
  child = int(pid.read_text())
  assert is_alive(child)
  parent.kill()
  parent.wait()
  wait_for(lambda: not is_alive(child))


def test_a_log_keeps_the_output_of_the_commands_before(tmp_path):
  log = tmp_path / 'log'
  for content in ('1', '2'):
    path = tmp_path / f'{content}.json'
    path.write_text(content)
    words = ['json.tool', str(path)]
    assert watched.run(words, INF, log=str(log)) == (0, False)
  assert log.read_text() == '1\n2\n'
