"""Jobs are submitted once, waited for, and explained where they die."""

import json
import os
import signal

import pytest

from geco_jax.errors import UserError
from geco_jax.io import lock
from geco_jax.sweep import completion
from geco_jax.sweep import local
from geco_jax.sweep import slurm
from geco_jax.sweep.grid import points

# Imported in a test it would keep that test's stderr for its log.
submitit = pytest.importorskip('submitit')


@pytest.fixture
def grid(tiny_config):
  config = tiny_config()
  config.sweep = ({'seed': [0, 1]},)
  return points(config)


class FakeJob:
  """A job that ends when it is polled for the second time."""

  def __init__(self, job_id, function):
    self.job_id, self._function, self._num_polls = job_id, function, 0

  def done(self):
    self._num_polls += 1
    if self._num_polls == 2:
      self._function()
    return self._num_polls >= 2


class FakeExecutor:
  """Gives out jobs and counts those that run at a time."""

  def __init__(self):
    self.jobs = []

  def submit(self, function):
    self.jobs.append(FakeJob(str(len(self.jobs)), function))
    return self.jobs[-1]


@pytest.fixture
def executor(monkeypatch):
  fake = FakeExecutor()
  monkeypatch.setattr(slurm, '_executor', lambda *_: fake)
  monkeypatch.setattr(slurm, '_POLL_SECONDS', {'slurm': 0.0, 'local': 0.0})
  return fake


def test_every_run_is_a_job_and_those_that_die_are_named(
  grid, executor, tmp_path, monkeypatch
):
  finished = set()

  def run_here(points, workdir, **kwargs):
    (point,) = points
    if point.config.seed == 0:
      finished.add(point.name)

  monkeypatch.setattr(local, 'run_here', run_here)
  monkeypatch.setattr(
    completion, 'is_finished', lambda p, *_: p.name in finished
  )
  failed = slurm.run_jobs(grid, str(tmp_path), 'local')
  assert len(executor.jobs) == 2
  assert [*failed] == ['seed_1']
  assert str(tmp_path / 'seed_1' / local.ERROR_LOG) in failed['seed_1']
  log = (tmp_path / 'seed_1' / local.ERROR_LOG).read_text()
  assert os.path.join(str(tmp_path), 'jobs', '1_0_log.err') in log

  # The finished one is not submitted again, the other one is.
  slurm.run_jobs(grid, str(tmp_path), 'local')
  assert len(executor.jobs) == 3


def test_a_job_trains_its_run_on_the_data_it_is_given(
  grid, tmp_path, monkeypatch
):
  calls = []
  monkeypatch.setattr(
    local, 'run_here', lambda *args, **kwargs: calls.append((args, kwargs))
  )
  slurm._Job(grid[1], str(tmp_path), 'data')()
  (((points, workdir), kwargs),) = calls
  assert (points, workdir) == ([grid[1]], str(tmp_path))
  assert kwargs['data_dir'] == 'data'


def test_a_job_that_dies_is_not_explained_by_an_earlier_one(
  grid, executor, tmp_path, monkeypatch
):
  monkeypatch.setattr(local, 'run_here', lambda *_, **__: None)
  for attempt in range(2):
    failed = slurm.run_jobs(grid, str(tmp_path), 'local')
    name = f'{2 * attempt + 1}_0_log.err'
    assert f'see {tmp_path / "jobs" / name}' in failed['seed_1']
    log = tmp_path / 'seed_1' / local.ERROR_LOG
    assert name in log.read_text()
    log.write_text('Traceback of the first')


def test_jobs_that_die_on_a_full_disk_are_named(
  grid, executor, tmp_path, monkeypatch, caplog
):
  def fail(path, content):
    del content
    raise OSError(f'No space left on device: {path}')

  monkeypatch.setattr(local, 'run_here', lambda *_, **__: None)
  monkeypatch.setattr('geco_jax.io.files.write_bytes', fail)
  failed = slurm.run_jobs(grid, str(tmp_path), 'local')
  assert len(executor.jobs) == 2
  assert [*failed] == ['seed_0', 'seed_1']
  assert 'no error.log: No space left on device' in failed['seed_1']
  assert 'ids.json' in caplog.text


def test_no_more_jobs_than_asked_run_at_a_time(
  grid, executor, tmp_path, monkeypatch
):
  at_a_time = []
  submit = slurm._Queue.submit

  def counting(self, point):
    submit(self, point)
    at_a_time.append(len(self.running))

  monkeypatch.setattr(slurm._Queue, 'submit', counting)
  monkeypatch.setattr(local, 'run_here', lambda *_, **__: None)
  slurm.run_jobs(grid, str(tmp_path), 'local', max_jobs=1)
  assert at_a_time == [1, 1]


def test_jobs_of_an_earlier_process_are_waited_for_not_submitted_again(
  grid, executor, tmp_path, monkeypatch
):
  (tmp_path / 'jobs').mkdir()
  (tmp_path / 'jobs' / 'ids.json').write_text('{"seed_0": "11"}')
  polled_ids = []

  def command_line(job_id):
    polled_ids.append(job_id)
    return 'python -m submitit.local._local' if len(polled_ids) < 4 else ''

  monkeypatch.setattr(slurm, '_command_line', command_line)
  monkeypatch.setattr(local, 'run_here', lambda *_, **__: None)
  slurm.run_jobs(grid, str(tmp_path), 'local')
  assert polled_ids == ['11'] * 4
  assert len(executor.jobs) == 1  # The job of seed_1.


@pytest.mark.parametrize('num_polls', [3, None])
def test_a_job_that_the_cluster_has_forgotten_is_submitted_again(
  num_polls, grid, executor, tmp_path, monkeypatch, capfd
):
  """None is for ever; accounting may also be late by some polls."""
  finished = {grid[1].name}
  monkeypatch.setattr(
    completion, 'is_finished', lambda p, *_: p.name in finished
  )
  monkeypatch.setattr(
    local, 'run_here', lambda points, *_, **__: finished.add(points[0].name)
  )

  class Forgotten:
    polls = 0

    def __init__(self, folder, job_id):
      assert job_id == '12345'

    @property
    def state(self):
      Forgotten.polls += 1
      is_late = num_polls is None or Forgotten.polls <= num_polls
      return 'UNKNOWN' if is_late else 'COMPLETED'

    def done(self):
      finished.add(grid[0].name)
      return True

  monkeypatch.setattr(submitit, 'SlurmJob', Forgotten)
  (tmp_path / 'jobs').mkdir()
  ids = json.dumps({grid[0].name: '12345'})
  (tmp_path / 'jobs' / 'ids.json').write_text(ids)
  assert not slurm.run_jobs(grid, str(tmp_path), 'slurm')
  assert len(executor.jobs) == (num_polls is None)
  err = capfd.readouterr().err
  assert f'waiting for job 12345: {grid[0].name}' in err
  assert ('is submitted again' in err) == (num_polls is None)


def test_a_job_that_the_cluster_refuses_is_one_sentence(
  grid, executor, tmp_path, monkeypatch
):
  def submit(function):
    raise submitit.core.utils.FailedJobError(
      'sbatch: error: invalid partition specified: nope\n'
    )

  monkeypatch.setattr(executor, 'submit', submit)
  with pytest.raises(UserError, match='executor=slurm: sbatch: .*: nope$'):
    slurm.run_jobs(grid, str(tmp_path), 'local')


@pytest.mark.parametrize('content', ['', '[]', '{"seed_0": 11}', '3'])
def test_damaged_ids_are_passed_over(
  content, grid, executor, tmp_path, monkeypatch
):
  (tmp_path / 'jobs').mkdir()
  (tmp_path / 'jobs' / 'ids.json').write_text(content)
  monkeypatch.setattr(local, 'run_here', lambda *_, **__: None)
  slurm.run_jobs(grid, str(tmp_path), 'local')
  assert len(executor.jobs) == 2


def test_a_job_that_is_taken_back_is_submitted_again(grid, tmp_path):
  job = slurm._Job(grid[0], str(tmp_path), None)
  assert job.checkpoint().function == job


def test_options_are_submitits_words():
  options = slurm.parse_options(['timeout_min=60', 'slurm_partition=gpu'])
  assert options == {'timeout_min': 60, 'slurm_partition': 'gpu'}
  with pytest.raises(UserError, match='like timeout_min=60.*got timeout_min'):
    slurm.parse_options(['timeout_min'])


@pytest.mark.parametrize(
  ('cluster', 'options', 'message'),
  [
    ('slurm', {}, 'slurm'),
    ('local', {'minutes': 5}, 'minutes'),
  ],
)
def test_a_missing_cluster_and_unknown_options_are_one_sentence(
  cluster, options, message, grid, tmp_path
):
  with pytest.raises(UserError, match=message) as refusal:
    slurm.run_jobs(grid, str(tmp_path), cluster, options)
  assert '\n' not in str(refusal.value)


def test_a_second_sweep_of_jobs_in_a_folder_is_refused(
  grid, executor, tmp_path
):
  first = lock.Lock(str(tmp_path))
  with pytest.raises(UserError, match='in use by process'):
    slurm.run_jobs(grid, str(tmp_path), 'local')
  first.close()
  assert not executor.jobs


def test_a_terminal_s_ctrl_c_does_not_reach_the_jobs(
  grid, executor, tmp_path, monkeypatch
):
  """Local ones are in its group, and inherit what is ignored."""
  handlers, submit = [], executor.submit

  def submit_and_look(function):
    handlers.append(signal.getsignal(signal.SIGINT))
    return submit(function)

  before = signal.getsignal(signal.SIGINT)
  monkeypatch.setattr(executor, 'submit', submit_and_look)
  monkeypatch.setattr(local, 'run_here', lambda *_, **__: None)
  slurm.run_jobs(grid, str(tmp_path), 'local')
  assert handlers == [signal.SIG_IGN] * 2
  assert signal.getsignal(signal.SIGINT) is before
