"""The sweep as a person types it: killed, wrong, listed, reported."""

import json
import os
import re
import signal
import time
import types

from cli_test import CONFIG
from cli_test import newest_checkpoint
from cli_test import QUICK
from cli_test import run
from cli_test import start
import pytest
from report_test import read_only
from report_test import write_run

from geco_jax.errors import UserError
from geco_jax.io import run_folder
from geco_jax.sweep import __main__ as sweep_command
from geco_jax.sweep import completion
from geco_jax.sweep import curves
from geco_jax.sweep import report
from geco_jax.sweep.grid import points
from tests import processes

GRID = "--config.sweep=[{'constraints.re.kappa': [0.1, 0.2, 0.3]}]"
STEPS = (
  '--config.num_steps=600',
  '--config.checkpoint_every=20',
  '--config.batch_size=32',
)
RUNS = ('kappa_0.1', 'kappa_0.2', 'kappa_0.3')


def sweep(*arguments, **kwargs):
  return run('geco_jax.sweep', *QUICK, *STEPS, GRID, *arguments, **kwargs)


def page_of(workdir):
  """Return the report without its footer, which has date and command."""
  page, footer = (workdir / 'report.html').read_text().split('<footer>')
  assert str(workdir) in footer
  return page


@pytest.mark.slow
def test_killed_half_way_it_loses_an_interval_and_its_report_is_the_same(
  tmp_path,
):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  arguments = ('--executor=local', '--noprogress')
  code, out, err = sweep(*arguments, f'--workdir={whole}')
  assert code == 0, err
  command = (*QUICK, *STEPS, GRID, *arguments, f'--workdir={parts}')
  process = start('geco_jax.sweep', *command)
  while newest_checkpoint(parts / RUNS[1]) < 100:
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  reached = newest_checkpoint(parts / RUNS[1])
  code, again, err = sweep(*arguments, f'--workdir={parts}')
  assert code == 0, err
  steps = re.findall(rf'continuing from step (\d+) in .*{RUNS[1]}', err)
  assert [int(step) for step in steps] == [reached]
  assert again.replace(str(parts), '') == out.replace(str(whole), '')
  assert page_of(parts) == page_of(whole)
  for name in ('sweep.csv', 'plane.png', 'multipliers.png', 'strip_0.png'):
    assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
  command = (*QUICK, *STEPS, GRID, f'--workdir={tmp_path}', '--executor=local')
  process = start('geco_jax.sweep', *command)
  while newest_checkpoint(tmp_path / RUNS[0]) == 0:
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate()
  assert process.returncode == 128 + signal.SIGTERM
  assert 'the same command goes on from there' in err
  assert not (tmp_path / RUNS[1]).exists()


def test_a_report_that_cannot_be_written_is_said_at_the_end(
  tiny_config, tmp_path, monkeypatch, capsys
):
  config = tiny_config()
  config.sweep = ({'seed': [0, 1]},)

  def fail(*_):
    raise OSError(28, 'No space left on device')

  for name, value in {
    'cli.config': lambda: config,
    'cli.workdir': lambda: str(tmp_path),
    'cli.use_trackers': lambda: None,
    'flags.FLAGS': types.SimpleNamespace(dry_run=False),
    '_run': lambda *_: {'seed_1': 'why'},
    '_report': fail,
  }.items():
    monkeypatch.setattr(f'geco_jax.sweep.__main__.{name}', value)
  assert sweep_command.main([]) == 1
  failed, unreported = capsys.readouterr().out.splitlines()
  assert failed == 'failed: seed_1: why'
  assert unreported.startswith('the report could not be written whole: ')
  assert 'No space left' in unreported


@pytest.fixture
def make_grid(tiny_config):
  """Return changed keys -> the config of a sweep."""

  def make(**changes):
    config = tiny_config()
    config.sweep = ({'constraints.re.kappa': [0.2, 0.3]},)
    config.update(changes)
    return config

  return make


@pytest.fixture
def run_main(make_grid, make_dataset, tmp_path, monkeypatch):
  """Return changed keys -> the command's exit code; nothing is trained."""
  monkeypatch.setattr(curves, 'build_dataset', lambda *_: make_dataset())
  monkeypatch.setattr(report, '_figures', lambda *_: {})

  def run_command(dry_run=False, **changes):
    for name, value in {
      'cli.config': lambda: make_grid(**changes),
      'cli.workdir': lambda: str(tmp_path),
      'cli.use_trackers': lambda: None,
      'cli.DATA_DIR': types.SimpleNamespace(value=None),
      'flags.FLAGS': types.SimpleNamespace(dry_run=dry_run),
      '_run': lambda *_: {},
    }.items():
      monkeypatch.setattr(f'geco_jax.sweep.__main__.{name}', value)
    return sweep_command.main([])

  return run_command


@pytest.fixture
def finished(make_grid, tmp_path):
  """Return the points of a sweep that is finished."""
  grid = points(make_grid())
  for point in grid:
    write_run(tmp_path / point.name, point)
    run_folder.claim(str(tmp_path / point.name), point.config)
  return grid


@pytest.mark.usefixtures('finished')
def test_a_finished_sweep_shows_its_table_where_nothing_can_be_written(
  run_main, tmp_path, monkeypatch, capsys, caplog
):
  assert run_main() == 0
  first = capsys.readouterr().out
  table = first[: first.index('the report: ')]
  assert len(table.splitlines()) == 4
  (tmp_path / 'gaussian_rate.json').unlink()
  read_only(monkeypatch)
  assert run_main() == 0
  assert capsys.readouterr().out == first
  assert len(caplog.records) == 2  # The linear model and the report.
  (tmp_path / 'report.html').unlink()
  assert run_main() == 1  # The report is not there, but the table is.
  out = capsys.readouterr().out
  assert out.startswith(table.rstrip())
  assert 'the report could not be written whole: ' in out.splitlines()[-1]


def test_without_a_finished_run_there_is_no_report(run_main, tmp_path, capsys):
  assert run_main() == 0
  assert capsys.readouterr().out == ''
  assert not [*tmp_path.iterdir()]


def test_the_listing_names_the_runs_that_the_sweep_would_refuse(
  finished, run_main, make_grid, tmp_path, capsys
):
  def states(**changes):
    assert run_main(dry_run=True, **changes) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    return [re.split(' +', line, maxsplit=1)[1] for line in lines]

  assert states() == ['finished  0.2', 'finished  0.3']
  assert states(checkpoint_every=20) == states()
  (tmp_path / 'kappa_0.3' / 'evaluation.json').unlink()
  assert states() == ['finished  0.2', '0.3']
  for changes in ({'seed': 1}, {'tolerance': 0.1}):
    assert states(**changes) == ['another config 0.2', '0.3']
    with pytest.raises(UserError, match='another config'):
      completion.mend(points(make_grid(**changes)), str(tmp_path))
  completion.mend(finished, str(tmp_path))


@pytest.mark.slow
def test_a_run_that_fails_is_named_at_the_end_with_its_log(tmp_path):
  (tmp_path / RUNS[1]).mkdir()
  (tmp_path / RUNS[1] / 'checkpoints').write_text('not a folder')
  (tmp_path / 'sweep.csv').mkdir()
  code, out, _ = sweep(f'--workdir={tmp_path}', '--executor=local')
  assert code == 1
  assert 'Traceback' not in out
  log = os.path.join(tmp_path, RUNS[1], 'error.log')
  failed = out.splitlines()[-1]
  assert failed.startswith(f'failed: {RUNS[1]}: ')
  assert failed.endswith(f'(see {log})')
  assert (tmp_path / 'sweep.csv').is_file()
  assert (tmp_path / 'sweep.csv.set_aside').is_dir()
  assert os.path.exists(log)
  page = (tmp_path / 'report.html').read_text()
  assert f'Not finished: {RUNS[1]}' in page
  _, out, _ = sweep(f'--workdir={tmp_path}', '--dry_run')
  assert [line.split()[1] for line in out.splitlines()[1:]] == [
    'finished',
    '0.2',
    'finished',
  ]


@pytest.mark.slow
def test_jobs_of_this_machine_train_the_same_runs(tmp_path):
  jobs, local = tmp_path / 'jobs', tmp_path / 'local'
  code, _, err = sweep(
    f'--workdir={jobs}',
    '--executor=slurm',
    '--cluster=local',
    '--job_options=timeout_min=30',
    '--max_jobs=1',
  )
  assert code == 0, err
  code, _, err = sweep(f'--workdir={local}', '--executor=local')
  assert code == 0, err
  assert page_of(jobs) == page_of(local)
  table = (local / 'sweep.csv').read_bytes()
  assert (jobs / 'sweep.csv').read_bytes() == table


@pytest.mark.parametrize(
  'executor', ['local', pytest.param('slurm', marks=pytest.mark.slow)]
)
def test_a_width_is_for_runs_that_are_trained_together(executor, tmp_path):
  workdir = tmp_path / 'sweep'
  arguments = (f'--executor={executor}', '--runs_at_once=2')
  code, _, err = processes.run(
    *('geco_jax.sweep', *QUICK, *STEPS, GRID),
    *(f'--workdir={workdir}', *arguments),
  )
  assert code == 2
  assert '--runs_at_once=2 is for --executor=vectorized' in err
  assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.parametrize(('given', 'width'), [(2, 2), (9, 3)])
def test_a_width_that_is_given_is_that_of_every_run(given, width, tmp_path):
  code, out, err = sweep(f'--workdir={tmp_path}', f'--runs_at_once={given}')
  assert code == 0, err
  assert 'steps per second are' not in err  # Nothing was measured.
  for name in RUNS:
    evaluation = json.loads((tmp_path / name / 'evaluation.json').read_text())
    assert evaluation['runs_at_once'] == width
  assert 'at once' in out.splitlines()[0]


def test_a_wrong_grid_is_one_line_and_leaves_nothing(tmp_path):
  workdir = tmp_path / 'sweep'
  code, out, err = processes.run(
    'geco_jax.sweep',
    f'--config={CONFIG}',
    f'--workdir={workdir}',
    "--config.sweep=[{'constraints.re.kapa': [0.1]}]",
  )
  assert code == 2
  (line,) = [x for x in err.splitlines() if 'rror' in x]
  assert re.search('did you mean constraints.re.kappa', line)
  assert 'Traceback' not in out + err
  assert not workdir.exists()
