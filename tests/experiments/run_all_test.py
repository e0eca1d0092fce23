"""Rows are run in order, each by its command, until the hours are over."""

import collections
import json
import os
import signal
import threading

from ml_collections.config_dict import ConfigDict
import pytest

from experiments import run_all
from experiments.shared.planning import Command
from experiments.shared.planning import Row
from geco_jax.errors import UserError
from geco_jax.io import lock
from geco_jax.sweep.grid import Point
from tests import cli_test
from tests.experiments.shared.watched_test import wait_for


def row(figure, name='', num_commands=1, by_row=False):
  commands = [
    Command(f'.{figure}', [f'--only={name}', f'--part={i}'])
    for i in range(num_commands)
  ]
  numbers = {f'{figure}.json': f'{figure}.json'}
  return Row(figure, name, commands, numbers=numbers, by_row=by_row)


ROWS = [
  row('figure_4', 'mnist', by_row=True),
  row('figure_4', 'cifar10', by_row=True),
  row('arithmetic', num_commands=2),
  row('figure_6'),
]


class Machine:
  """Takes half an hour for a command, and writes its file of numbers."""

  def __init__(self, workdir):
    self.workdir = workdir
    self.now = 1_000.0
    self.started = []
    self.codes = {}  # Exit codes by the first words of a command line.

  def start(self, words, seconds, stopping, log):
    assert seconds > 0 and not stopping.is_set() and log is None
    module, only, *_ = words
    self.started.append(f'{module.rpartition(".")[2]} {only[7:]}'.strip())
    stopped = seconds < 1_800
    self.now += min(seconds, 1_800)
    if not stopped:
      self.write(words)
    code = self.codes.get(self.started[-1], 0)
    return (143 if stopped else code), stopped

  def write(self, words):
    path = self.workdir / f'{words[0].rpartition(".")[2]}.json'
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | {words[1][7:]: {'kl': 1}}))


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


def ask(monkeypatch, workdir, at_once):
  """Give the command flags: two hours for `ROWS`, in a folder."""
  monkeypatch.setattr(run_all.cli, 'workdir', lambda: str(workdir))
  monkeypatch.setattr(run_all.plan, 'asked', lambda workdir: (2.0, ROWS))
  monkeypatch.setattr(
    run_all.cli, 'DATA_DIR', type('Flag', (), {'value': None})
  )
  values = {'results': None, 'at_once': at_once}
  monkeypatch.setattr(run_all.flags, 'FLAGS', type('Flags', (), values))


def session(machine, hours, rows=ROWS, results='results'):
  """Return a session that has run the rows."""
  started = run_all.Session(
    str(machine.workdir),
    str(machine.workdir / results),
    hours,
    start=machine.start,
    clock=lambda: machine.now,
  )
  started.run(rows)
  return started


def read(machine, name, results='results'):
  return json.loads((machine.workdir / results / name).read_text())


def test_rows_are_run_in_order_with_a_line_before_and_behind(machine, capsys):
  done = session(machine, hours=4)
  assert machine.started == [
    *('figure_4 mnist', 'figure_4 cifar10', 'arithmetic', 'arithmetic'),
    'figure_6',
  ]
  assert not (done.failed or done.left or done.left_out)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2 * len(ROWS)
  assert lines[2].startswith('[2 of 4] figure_4 cifar10: ')
  assert lines[2].endswith('0.50 of 4 h used, 3.50 left')
  assert lines[3].startswith('[2 of 4] figure_4 cifar10: done')
  assert run_all.summary(done, 4) == '4 of 4 rows are done'


def test_numbers_are_in_the_results_as_they_come(machine):
  results = machine.workdir / 'results'
  results.mkdir()
  (results / 'figure_4.json').write_text('{"celeb_a": {"kl": 2}}')
  seen = []
  write = machine.write

  def spy(words):
    seen.append(read(machine, 'figure_4.json'))
    write(words)

  machine.write = spy
  session(machine, hours=4, rows=ROWS[:2])
  # Rows that were there stay; those of a whole figure are replaced.
  assert [sorted(each) for each in seen] == [['celeb_a'], ['celeb_a', 'mnist']]
  assert [*read(machine, 'figure_4.json')] == ['celeb_a', 'mnist', 'cifar10']


def test_when_the_hours_are_over_nothing_is_begun(machine, capsys):
  done = session(machine, hours=0.75)
  assert machine.started == ['figure_4 mnist', 'figure_4 cifar10']
  assert machine.now == 1_000 + 0.75 * 3600
  assert done.left == ['figure_4 cifar10', 'arithmetic', 'figure_6']
  assert not done.failed
  err = capsys.readouterr().err
  assert '[2 of 4] figure_4 cifar10: stopped and saved' in err
  text = run_all.summary(done, 4)
  assert text.splitlines()[0] == '1 of 4 rows are done'
  assert 'left when the hours were over: figure_4 cifar10, ' in text


def test_a_row_of_two_commands_may_end_between_them(machine):
  done = session(machine, hours=1.5)
  assert machine.started.count('arithmetic') == 1
  assert done.left == ['arithmetic', 'figure_6']


def test_the_next_session_goes_on(machine, capsys):
  session(machine, hours=1)
  assert len(machine.started) == 2
  machine.started.clear()
  done = session(machine, hours=4)
  assert machine.started == ['arithmetic', 'arithmetic', 'figure_6']
  assert run_all.summary(done, 4) == '4 of 4 rows are done'
  assert '[1 of 4] figure_4 mnist: done before' in capsys.readouterr().err


def test_other_commands_or_lost_numbers_run_a_row_again(machine):
  session(machine, hours=4)
  machine.started.clear()
  (machine.workdir / 'figure_6.json').unlink()
  longer = Command('.figure_4', ['--only=mnist', '--num_steps=9'])
  session(machine, 4, [ROWS[0]._replace(commands=[longer]), *ROWS[1:]])
  assert machine.started == ['figure_4 mnist', 'figure_6']


@pytest.mark.parametrize('by_row', [True, False])
def test_rows_that_share_a_lost_file_are_all_run_again(machine, by_row):
  rows = [row('figure_4', name, by_row=by_row) for name in ('a', 'b', 'c')]
  everything = dict.fromkeys('abc', {'kl': 1})
  session(machine, 4, rows)
  (machine.workdir / 'figure_4.json').unlink()
  machine.started.clear()
  session(machine, 0.5, rows)
  assert read(machine, 'figure_4.json').keys() >= {'a'}
  session(machine, 4, rows)  # It goes on where the hours were over.
  assert machine.started == ['figure_4 a', 'figure_4 b', 'figure_4 c']
  assert read(machine, 'figure_4.json') == everything
  assert read(machine, 'figure_4.json', '.') == everything


def test_a_row_that_its_file_lacks_is_run_again(machine):
  session(machine, 4, ROWS[:2])
  machine.started.clear()
  (machine.workdir / 'figure_4.json').write_text('{"mnist": {"kl": 2}}')
  session(machine, 4, ROWS[:2])
  assert machine.started == ['figure_4 cifar10']
  assert read(machine, 'figure_4.json')['mnist'] == {'kl': 2}


def test_rows_of_a_damaged_file_are_not_done(machine):
  session(machine, 4, ROWS[:2])
  machine.started.clear()
  (machine.workdir / 'figure_4.json').write_text('{"mnist"')
  machine.write = lambda _: None
  names = ['figure_4 mnist', 'figure_4 cifar10']
  machine.codes = dict.fromkeys(names, 2)  # Their command refuses to go on.
  assert [*session(machine, 4, ROWS[:2]).failed] == machine.started == names


def test_other_rows_of_a_file_may_be_another_presets(machine):
  path = machine.workdir / 'figure_4.json'
  path.write_text('{"celeb_a": {"preset": "quick"}, "mnist, seed 1": {}}')
  session(machine, 4, ROWS[:1])
  assert [*read(machine, 'figure_4.json')] == ['mnist, seed 1', 'mnist']


@pytest.mark.parametrize('content', ['', '[]', '{"figure_4 mnist": 3}', '{'])
def test_a_damaged_list_of_what_is_done_costs_a_run(machine, content):
  session(machine, hours=4)
  machine.started.clear()
  (machine.workdir / 'run_all.json').write_text(content)
  done = session(machine, hours=4)
  assert len(machine.started) == 5 and not done.failed


def test_done_rows_reach_another_folder_of_results_too(machine):
  session(machine, hours=4)
  session(machine, hours=4, results='others')
  for name in ('figure_4.json', 'figure_6.json'):
    assert read(machine, name, 'others') == read(machine, name)


@pytest.mark.parametrize(
  ('code', 'words'),
  [(2, 'exit code 2: python -m exp'), (-9, 'ended by signal 9: python -m exp')],
)
def test_a_failing_row_is_named_and_the_others_go_on(
  machine, code, words, capsys
):
  machine.codes['figure_4 cifar10'] = code
  done = session(machine, hours=4)
  assert machine.started[-1] == 'figure_6'
  assert [*done.failed] == ['figure_4 cifar10']
  assert words in done.failed['figure_4 cifar10']
  text = run_all.summary(done, 4)
  assert text.splitlines()[0] == '3 of 4 rows are done'
  assert f'failed: figure_4 cifar10: {words}' in text
  assert 'failed, exit code' in capsys.readouterr().err or code < 0
  machine.started.clear()
  machine.codes.clear()
  assert not session(machine, hours=4).failed
  assert machine.started == ['figure_4 cifar10']


def test_of_two_commands_the_second_needs_the_first(machine):
  machine.codes['arithmetic'] = 2
  session(machine, hours=4)
  assert machine.started.count('arithmetic') == 1


def test_a_row_is_counted_once_and_all_its_reasons_are_named(machine, capsys):
  results = machine.workdir / 'results'
  results.mkdir()
  (results / 'figure_4.json').write_text('[')
  machine.codes['figure_4 mnist'] = 2
  failed = session(machine, hours=4, rows=ROWS[:1])
  (reason,) = failed.failed.values()
  assert reason.startswith('exit code 2: python -m experiments.figure_4 ')
  assert 'figure_4.json is damaged' in reason
  assert run_all.summary(failed, 1).startswith('0 of 1 rows are done')
  (machine.workdir / 'figure_4.json').write_text('{"mnist": {"kl": 1}}')
  stopped = session(machine, hours=0.1, rows=ROWS[:1])
  assert stopped.left and stopped.failed
  assert run_all.summary(stopped, 1).startswith('0 of 1 rows are done')
  # Done before, and now its numbers cannot be copied.
  (results / 'figure_4.json').unlink()
  machine.codes.clear()
  session(machine, hours=4, rows=ROWS[:1])
  (results / 'figure_4.json').write_text('[')
  capsys.readouterr()
  session(machine, hours=4, rows=ROWS[:1])
  assert 'the others go on before' not in capsys.readouterr().err


def test_a_command_that_leaves_no_numbers_has_failed(machine):
  machine.write = lambda words: None
  failed = session(machine, hours=4, rows=ROWS[3:])
  reason = 'it ended well but left no numbers in figure_6.json'
  assert failed.failed == {'figure_6': reason}


def test_damaged_results_are_not_overwritten(machine):
  results = machine.workdir / 'results'
  results.mkdir()
  (results / 'figure_4.json').write_text('{"celeb_a"')
  done = session(machine, hours=4)
  assert [*done.failed] == ['figure_4 mnist', 'figure_4 cifar10']
  assert 'figure_4.json is damaged' in done.failed['figure_4 mnist']
  assert (results / 'figure_4.json').read_text() == '{"celeb_a"'
  assert 'figure_6.json' in os.listdir(results)


def test_rows_without_their_data_are_named_and_no_failure(machine, monkeypatch):
  def check(row, data_dir):
    assert data_dir is None
    if row.name == 'cifar10':
      raise UserError('cifar10 is\nnot prepared')

  monkeypatch.setattr(run_all.planning, 'check_at_hand', check)
  done = session(machine, hours=4)
  assert 'figure_4 cifar10' not in machine.started
  assert done.left_out == {'figure_4 cifar10': 'cifar10 is not prepared'}
  assert not done.failed
  text = run_all.summary(done, 4).splitlines()
  assert text == [
    '3 of 4 rows are done',
    'left out: figure_4 cifar10: cifar10 is not prepared',
  ]


class Crowd:
  """Takes commands until each is told to end, or all are to stop."""

  def __init__(self):
    self.logs = {}  # Logs of the commands so far, by figure.
    self.ends = collections.defaultdict(threading.Event)

  def start(self, words, seconds, stopping, log):
    figure = words[0].rpartition('.')[2]
    self.logs[figure] = log
    while not self.ends[figure].wait(0.01):
      if stopping.is_set():
        return 143, True
    return 0, False


@pytest.fixture
def crowd(tmp_path, monkeypatch):
  """Yield a crowd, a session of two rows at once and the thread it is in."""

  def sharing(figure, *runs):
    points = [Point(name, {}, ConfigDict({'num_steps': 1})) for name in runs]
    return row(figure)._replace(points=points, splits=(), numbers={})

  rows = [
    sharing('figure_4', 'elbo', 'geco'),
    sharing('figure_6', 'elbo'),
    sharing('figure_3', 'run'),
    sharing('figure_5', 'others'),
  ]
  monkeypatch.setattr(run_all.planning, 'check_at_hand', lambda *_: None)
  # Lines of a thread are not captured between the phases of a test.
  monkeypatch.setattr(run_all, 'say', lambda _: None)
  them = Crowd()
  args = str(tmp_path), str(tmp_path / 'results'), 1.0
  started = run_all.Session(*args, at_once=2, start=them.start)
  thread = threading.Thread(target=started.run, args=(rows,), daemon=True)
  thread.start()
  yield them, started, thread
  for name in ('figure_3', 'figure_4', 'figure_5', 'figure_6'):
    them.ends[name].set()
  thread.join(60)


def test_rows_that_share_no_run_go_on_side_by_side(crowd, tmp_path):
  them, started, thread = crowd
  wait_for(lambda: len(them.logs) == 2)
  # Figure 6 waits for the run that Figure 4 trains, Figure 3 does not.
  assert {*them.logs} == {'figure_4', 'figure_3'}
  assert them.logs['figure_4'] == str(tmp_path / 'logs' / 'figure_4.log')
  them.ends['figure_3'].set()
  wait_for(lambda: len(them.logs) == 3)
  assert [*them.logs][2] == 'figure_5'
  them.ends['figure_4'].set()
  wait_for(lambda: len(them.logs) == 4)
  for name in ('figure_5', 'figure_6'):
    them.ends[name].set()
  thread.join(60)
  assert not thread.is_alive()
  assert run_all.summary(started, 4) == '4 of 4 rows are done'


def test_what_interrupts_one_row_stops_those_beside_it(tmp_path):
  them = Crowd()

  def start(words, seconds, stopping, log):
    if 'figure_3' in words[0]:
      wait_for(lambda: them.logs)
      raise KeyboardInterrupt
    return them.start(words, seconds, stopping, log)

  args = str(tmp_path), str(tmp_path / 'results'), 1.0
  started = run_all.Session(*args, at_once=2, start=start)
  with pytest.raises(KeyboardInterrupt):
    started.run([row('figure_4'), row('figure_3'), row('figure_5')])
  assert started.left == ['figure_4']
  assert 'figure_5' not in them.logs


def test_after_a_signal_rows_are_saved_and_none_is_begun(tmp_path):
  begun = []

  def start(words, seconds, stopping, log):
    begun.append(words)
    os.kill(os.getpid(), signal.SIGTERM)
    return 143, stopping.wait(60)

  args = str(tmp_path), str(tmp_path / 'results'), 1.0
  stopped = run_all.Session(*args, start=start)
  stopped.run(ROWS)
  assert stopped.stopped_by == signal.SIGTERM
  assert len(begun) == 1 and stopped.left == ['figure_4 mnist']
  assert not stopped.failed


@pytest.mark.parametrize(('failed', 'code'), [({}, 0), ({'a': 'b'}, 1)])
def test_the_exit_code_says_whether_a_row_failed(
  tmp_path, monkeypatch, failed, code, capsys
):
  class Stub:
    def __init__(self, workdir, results, hours, data_dir, at_once):
      assert hours == 2.0 and data_dir is None and at_once == 4
      assert os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.225'
      assert (workdir, results) == (str(tmp_path), str(tmp_path / 'results'))
      self.failed, self.left, self.left_out = failed, [], {}
      self.stopped_by = None

    def run(self, rows):
      assert rows == ROWS

  monkeypatch.setattr(run_all, 'Session', Stub)
  ask(monkeypatch, tmp_path, at_once=4)
  monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
  assert run_all.main([]) == code
  assert f'numbers: {tmp_path / "results"}' in capsys.readouterr().out


def test_the_exit_code_says_which_signal_stopped_it(tmp_path, monkeypatch):
  class Stub:
    failed, left, left_out = {}, [], {}
    stopped_by = signal.SIGTERM

    def __init__(self, *_):
      # One row at a time has the whole accelerator's memory.
      assert 'XLA_PYTHON_CLIENT_MEM_FRACTION' not in os.environ

    def run(self, rows):
      pass

  monkeypatch.setattr(run_all, 'Session', Stub)
  ask(monkeypatch, tmp_path, at_once=1)
  monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
  assert run_all.main([]) == 143


@pytest.mark.slow
def test_a_signal_reaches_the_run_and_the_same_command_goes_on(tmp_path):
  arguments = (
    *('experiments.run_all', f'--workdir={tmp_path}'),
    *('--only=figure_3,propositions', '--num_steps=20000'),
  )
  process = cli_test.start(*arguments, '--hours=1')
  log = tmp_path / 'figure_3' / 'run' / 'metrics.jsonl'
  try:
    wait_for(lambda: log.exists() and log.stat().st_size)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == 143
  assert 'stopped by SIGTERM, saved at step ' in err
  assert 'Traceback' not in err
  # In a quarter of a minute nothing ends: what is under way is saved.
  code, out, err = cli_test.run(*arguments, '--hours=0.004')
  assert code == 0
  assert '[1 of 2] figure_3: stopped and saved' in err
  assert 'left when the hours were over: figure_3, propositions' in out


def test_rows_whose_names_begin_alike_have_their_own_numbers(machine):
  path = machine.workdir / 'figure_4.json'
  path.write_text('{"mnist_sum": {"kl": 2}, "mnist_sum, seed 1": {"kl": 3}}')
  machine.write = lambda _: None  # Nothing has made those of `mnist` yet.
  session(machine, 4, ROWS[:1])
  assert not (machine.workdir / 'results' / 'figure_4.json').exists()
  machine.started.clear()
  session(machine, 4, ROWS[:1])
  assert machine.started == ['figure_4 mnist']


def test_a_command_that_ends_well_as_it_is_stopped_is_done(machine):
  start = machine.start

  def end_at_once(*args):
    return 0, start(*args)[1] or True

  machine.start = end_at_once
  done = session(machine, 4, ROWS[:1])
  assert not done.left and not done.failed
  machine.started.clear()
  session(machine, 4, ROWS[:1])
  assert not machine.started


def test_a_row_that_ended_between_its_commands_goes_on_with_the_second(machine):
  session(machine, 1.5)  # Its numbers are there, of the first command alone.
  assert (machine.workdir / 'arithmetic.json').exists()
  machine.started.clear()
  session(machine, 4)
  assert machine.started == ['arithmetic', 'arithmetic', 'figure_6']


def test_a_second_session_in_a_folder_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(run_all, 'Session', None)  # It would write there.
  ask(monkeypatch, tmp_path, at_once=1)
  first = lock.Lock(str(tmp_path))
  with pytest.raises(lock.InUse, match='in use by process'):
    run_all.main([])
  first.close()
