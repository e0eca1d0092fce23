"""The loop: it stops, resumes and refuses as it should."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import threading
import types

import jax
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax.base_config import group
from geco_jax.build import build
from geco_jax.build import run_inputs
from geco_jax.config_tree import without_sweep
from geco_jax.datasets import ahead
from geco_jax.errors import UserError
from geco_jax.evaluation import checkpoints
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import data_sha256
from geco_jax.io import manifest
from geco_jax.io import provenance
from geco_jax.io import run_folder
from geco_jax.io.files import UnwritableError
from geco_jax.io.logs import read_metrics
from geco_jax.signals import STOP_SIGNALS
from geco_jax.step import dispatch
from geco_jax.step import init_state
from geco_jax.step import train_steps
from geco_jax.training import loop
from geco_jax.training.recorder import Recorder

pytestmark = pytest.mark.usefixtures('draw_once')


@pytest.fixture
def train(build_once, make_dataset, monkeypatch):
  """Return (config, workdir) -> final state, on the small data set."""
  monkeypatch.setattr(loop, 'build_dataset', lambda *_: make_dataset())
  monkeypatch.setattr(loop, 'build', lambda config, _: build_once(config))

  def run(config, workdir, experiment=None):
    return loop.train(
      config, str(workdir), experiment=experiment, show_progress=False
    )

  return run


def assert_equal_bit_for_bit(one, other):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_run_leaves_its_config_metrics_pictures_and_checkpoints(
  train, tiny_config, tmp_path, count_builds, monkeypatch
):
  monkeypatch.setattr(loop, 'build', build)
  state = train(tiny_config(), tmp_path)
  assert len(count_builds) == 1
  assert state.step == 20
  assert {
    'config.json',
    'metrics.jsonl',
    'progress.png',
    'checkpoints',
    'tensorboard',
  } <= set(os.listdir(tmp_path))
  logged = read_metrics(str(tmp_path))
  trained = np.isfinite(logged['loss'])
  np.testing.assert_array_equal(logged['step'][trained], range(5, 21, 5))
  np.testing.assert_array_equal(logged['step'][~trained], [10, 20])
  assert 'validation/re/value' in logged


def test_a_finished_run_is_not_trained_again(train, tiny_config, tmp_path):
  first = train(tiny_config(), tmp_path)
  again = train(tiny_config(), tmp_path)
  assert_equal_bit_for_bit(first, again)
  assert len(read_metrics(str(tmp_path))['step']) == 6


def lines(workdir):
  """Return the log's lines without what depends on the machine."""
  with open(os.path.join(workdir, 'metrics.jsonl')) as file:
    logged = [json.loads(line) for line in file]
  return [
    {k: v for k, v in line.items() if k != 'steps_per_second'}
    for line in logged
  ]


@pytest.fixture
def signal_at(monkeypatch):
  """Return (step, number) -> a context in which the signal comes then."""
  note = Recorder.note

  @contextlib.contextmanager
  def patched(step, number):
    def note_and_signal(self, at, *args):
      if at == step:
        os.kill(os.getpid(), number)
      return note(self, at, *args)

    with monkeypatch.context() as patch:
      patch.setattr(Recorder, 'note', note_and_signal)
      yield

  return patched


@pytest.mark.parametrize(
  ('steps', 'number', 'seconds_per_call'),
  [
    ([5], signal.SIGTERM, 4.0),
    # Each call takes one step, so that signals come between two lines.
    ([7], signal.SIGINT, 0.0),
    ([1, 4, 8], signal.SIGHUP, 0.0),
  ],
)
def test_a_signal_saves_and_the_run_continues_bit_for_bit(
  steps,
  number,
  seconds_per_call,
  train,
  tiny_config,
  tmp_path,
  monkeypatch,
  signal_at,
  build_once,
):
  config = tiny_config()
  experiment = build_once(config)
  whole = train(config, tmp_path / 'whole', experiment)
  parts = tmp_path / 'parts'
  monkeypatch.setattr(loop, '_SECONDS_PER_CALL', seconds_per_call)
  for step in steps:
    with (
      signal_at(step, number),
      pytest.raises(loop.Interrupted, match=number.name) as stopped,
    ):
      train(config, parts, experiment)
    assert stopped.value.signal_number == number
    saved = restore_state(str(parts), experiment)
    assert step <= saved.step < 20
    assert f'saved at step {saved.step}' in str(stopped.value)
    if not seconds_per_call:
      assert saved.step <= step + 2
  assert_equal_bit_for_bit(train(config, parts, experiment), whole)
  assert lines(parts) == lines(tmp_path / 'whole')


def test_a_run_goes_on_bit_for_bit_where_its_images_are_placed_otherwise(
  train,
  tiny_config,
  tmp_path,
  make_dataset,
  monkeypatch,
  signal_at,
  compile_well,
):
  config = tiny_config()
  on_device = build(config, make_dataset())
  dataset = make_dataset()._replace(placement='host')
  on_host = build(config, dataset)
  whole = train(config, tmp_path / 'whole', on_device)
  monkeypatch.setattr(loop, '_SECONDS_PER_CALL', 0.0)
  parts = tmp_path / 'parts'
  for step, experiment in ((3, on_host), (8, on_device), (13, on_host)):
    with signal_at(step, signal.SIGTERM), pytest.raises(loop.Interrupted):
      train(config, parts, experiment)
  assert_equal_bit_for_bit(train(config, parts, on_host), whole)
  assert lines(parts) == lines(tmp_path / 'whole')
  pictures = [
    (tmp_path / x / 'progress.png').read_bytes() for x in ('whole', 'parts')
  ]
  assert pictures[0] == pictures[1]


def test_images_that_cannot_be_read_end_a_run_in_a_sentence(
  train, tiny_config, tmp_path, make_dataset, monkeypatch
):
  experiment = build(tiny_config(), make_dataset()._replace(placement='host'))
  gather, calls = ahead.gather, []

  def fail(*args):
    calls.append(args)
    if len(calls) == 4:
      raise OSError(5, 'EIO')
    return gather(*args)

  monkeypatch.setattr(ahead, 'gather', fail)
  with pytest.raises(UserError) as raised:
    train(tiny_config(), tmp_path, experiment)
  assert str(raised.value) == (
    'the images of prototypes cannot be read: Input/output error'
  )
  assert not [t for t in threading.enumerate() if 'images' in t.name]


def test_runs_together_that_were_left_at_other_steps_log_the_same_lines(
  tiny_config, tmp_path, monkeypatch, signal_at, build_once
):
  experiment = build_once(tiny_config())

  def train_together(name, kappas=(0.2, 0.3)):
    configs = {
      str(tmp_path / name / str(kappa)): tiny_config(kappa=kappa)
      for kappa in kappas
    }
    failures = loop.train_together(configs, experiment, show_progress=False)
    assert not any(failures.values())
    return [*configs]

  whole = train_together('whole')
  monkeypatch.setattr(loop, '_SECONDS_PER_CALL', 0.0)
  with signal_at(2, signal.SIGTERM), pytest.raises(loop.Interrupted):
    train_together('parts', kappas=(0.2,))
  for one, other in zip(whole, train_together('parts'), strict=True):
    assert [x['step'] for x in lines(one)] == [x['step'] for x in lines(other)]
    for a, b in zip(lines(one), lines(other), strict=True):
      assert a == pytest.approx(b, rel=1e-4)


def test_parts_of_a_dispatch_are_steps_of_the_whole_bit_for_bit(
  tiny_config, make_dataset, compile_well
):
  config = tiny_config()
  experiment = build(config, make_dataset())
  inputs = run_inputs(config, experiment)
  first = jax.tree.map(np.asarray, init_state(experiment, inputs))
  place, fetch, *_ = parallel.SHARED
  args = (
    place([inputs.step_inputs()]),
    place([experiment.dataset.splits['train']]),
  )
  whole = train_steps(experiment, 5)(place([first]), *args)
  take_steps = dispatch(experiment, parallel.SHARED)
  state, parts = place([first]), []
  for num_steps in (1, 3, 1):
    state, metrics = take_steps(state, *args, num_steps=num_steps)
    (metrics,) = fetch(metrics, 1)
    parts.append({k: v[:num_steps] for k, v in metrics.items()})
  assert_equal_bit_for_bit(fetch(state, 1), fetch(whole[0], 1))
  (expected,) = fetch(whole[1], 1)
  for name, values in expected.items():
    together = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(together, values)


class TestPace:
  """Calls are bounded by time, once it is known how long a step takes."""

  def test_a_step_is_measured_after_the_one_that_compiles(self):
    pace = loop._Pace(100)
    assert (pace.num_steps, pace.is_slow) == (1, True)
    pace.add(1, 60.0)
    assert (pace.num_steps, pace.is_slow) == (1, True)
    pace.add(1, 1.5)
    assert (pace.num_steps, pace.is_slow) == (2, True)

  @pytest.mark.parametrize(
    ('seconds', 'num_steps'), [(0.0, 100), (1e-3, 100), (0.1, 40), (30.0, 1)]
  )
  def test_it_follows_the_machine(self, seconds, num_steps):
    pace = loop._Pace(100)
    for steps, step_seconds in [(1, 9.0), (1, 1.0), (50, seconds)]:
      pace.add(steps, steps * step_seconds)
    pace.add(50, 50 * seconds)
    assert pace.num_steps == num_steps

  def test_an_accelerator_takes_whole_dispatches(self, monkeypatch):
    monkeypatch.setattr(parallel, 'on_accelerator', lambda: True)
    pace = loop._Pace(100)
    for seconds in (60.0, 10.0):
      assert (pace.num_steps, pace.is_slow) == (100, False)
      pace.add(100, seconds)


class Clock:
  """Seconds that pass with each step, in place of the loop's."""

  def __init__(self, monkeypatch):
    self.now = 0.0
    own = types.SimpleNamespace(monotonic=lambda: self.now)
    monkeypatch.setattr(loop, 'time', own)

  def take_steps(self, states, num_steps):
    """Take a second for each step."""
    self.now += num_steps
    return states, {'loss': np.zeros(5)}


class Stub:
  """A run of twenty steps, saved after ten, that keeps the seconds it notes."""

  config = types.SimpleNamespace(num_steps=20, steps_per_dispatch=5)
  subject, terms, state = 'a stub', '', np.zeros(1)

  def __init__(self, workdir='run', step=0):
    self.workdir, self.step = workdir, step
    self.seconds = []

  @property
  def is_finished(self):
    return self.step >= 20

  @property
  def is_checkpoint_due(self):
    return self.step % 10 == 0

  @property
  def steps_to_line(self):
    return 5 - self.step % 5

  def note(self, step, per_step, seconds):
    del step, per_step
    self.seconds.append(seconds)
    return ''

  def save(self, state):
    pass

  def close(self):
    pass


LAYOUT = parallel.Layout(
  place=lambda trees: trees,
  fetch=lambda tree, num_trees: [tree] * num_trees,
  host_places=np.arange,
  place_batches=lambda trees: trees,
)


def train_stubs(runs, clock, shows=False):
  return loop.train_to_end(runs, clock.take_steps, LAYOUT, shows)


def test_what_a_save_takes_is_no_time_of_the_steps(monkeypatch):
  clock, run = Clock(monkeypatch), Stub()

  def save(state):
    del state
    clock.now += 100.0

  run.save = save
  assert train_stubs([run], clock) == [None]
  assert sum(run.seconds) == 20.0


def test_the_first_failure_of_a_run_is_the_one_that_is_reported(monkeypatch):
  first, later = Stub(), Stub()

  def fail(word):
    def action(*_):
      raise UserError(word)

    return action

  first.note, first.close = fail('the first'), fail('a later one')
  failure, other = train_stubs([first, later], Clock(monkeypatch))
  assert str(failure) == 'the first' and other is None


def test_interrupted_runs_name_the_step_that_is_saved_in_all(
  monkeypatch, caplog
):
  """What went wrong besides is in warnings."""
  runs = [Stub('behind', 5), Stub('ahead', 10), Stub('failed', 15)]

  def note(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    runs[0].note = lambda *_: ''  # A second signal would end this process.
    return ''

  def close():
    raise UserError('its disk is full')

  runs[0].note, runs[2].close = note, close
  steps = {run.workdir: run.step for run in runs} | {'failed': 0}
  monkeypatch.setattr(loop, 'latest_step', steps.get)
  with (
    caplog.at_level(logging.WARNING),
    pytest.raises(loop.Interrupted, match='saved at step 5$'),
  ):
    train_stubs(runs, Clock(monkeypatch))
  assert 'its disk is full' in caplog.text


def test_outside_of_the_main_thread_a_run_touches_no_signal(
  train, tiny_config, tmp_path
):
  handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
  seen, states = [], []

  def work():
    states.append(train(tiny_config(), tmp_path))
    seen.extend(signal.getsignal(number) for number in STOP_SIGNALS)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert states[0].step == 20
  assert seen == handlers


def test_the_first_line_says_what_is_trained_and_whether_it_compiles(
  tiny_config, make_dataset, tmp_path, monkeypatch, capfd
):
  monkeypatch.setattr(loop, '_WORTH_SAYING', 0.0)
  config = tiny_config()
  experiment = build(config, make_dataset())
  first = []
  for name in ('one', 'two', 'two'):
    folder = str(tmp_path / name)
    loop.train(config, folder, experiment=experiment)
    printed = capfd.readouterr().err
    first.append(printed.partition('\n')[0])
    assert ('compiled in' in printed) == (len(first) == 1)
  start = (
    'training mlp_vae (710 parameters) on prototypes, re (kappa 0.2) by geco, '
    f'20 steps on {parallel.devices_in_words()}, in {tmp_path}/'
  )
  compiles = '; the first step compiles, which takes seconds to minutes'
  assert first[:2] == [f'{start}one{compiles}', f'{start}two']
  # It was finished.
  assert 'training' not in first[2] and 'continuing' not in first[2]
  loop.train(
    config, str(tmp_path / 'x'), experiment=experiment, show_progress=False
  )
  assert 'training' not in capfd.readouterr().err


def test_the_first_line_says_where_runs_go_on_and_how_many(monkeypatch, capfd):
  runs = [Stub('a', 10), Stub('b', 15), Stub('c', 20)]
  train_stubs(runs, Clock(monkeypatch), shows=True)
  line = capfd.readouterr().err.partition('\n')[0]
  assert line.startswith(
    'training 2 runs at once, each a stub, steps 11 to 20 on '
  )
  assert ', in a and 1 more; the first step compiles' in line


@pytest.mark.parametrize('broken', ['dispatch', 'training_images'])
def test_a_run_that_cannot_begin_leaves_its_folder_free(
  broken, train, tiny_config, tmp_path, monkeypatch
):
  def interrupt(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(loop, broken, interrupt)
    # Kept, as a notebook keeps it with all that its frames hold.
    with pytest.raises(KeyboardInterrupt) as kept:
      train(tiny_config(), tmp_path)
  assert train(tiny_config(), tmp_path).step == 20
  del kept


def test_runs_that_are_open_when_another_is_interrupted_leave_their_folders(
  train, tiny_config, make_dataset, tmp_path, monkeypatch
):
  config = without_sweep(tiny_config())
  experiment = build(config, make_dataset())
  configs = {str(tmp_path / name): config for name in 'ab'}
  open_one = loop._open

  def interrupted(config, workdir, *args, **kwargs):
    if workdir.endswith('b'):
      raise KeyboardInterrupt
    return open_one(config, workdir, *args, **kwargs)

  with monkeypatch.context() as patched:
    patched.setattr(loop, '_open', interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:
      loop.train_together(configs, experiment, show_progress=False)
  assert train(tiny_config(), tmp_path / 'a').step == 20
  del kept


def test_a_finished_run_has_compiled_nothing(tiny_config, build_once, tmp_path):
  config = without_sweep(tiny_config())
  experiment = dataclasses.replace(build_once(config), compiled_layouts=set())
  inputs = run_inputs(config, experiment)
  run = Recorder(config, str(tmp_path), experiment, inputs)
  run.step = 20
  assert loop._train_all([run], parallel.SHARED, False) == [None]
  assert not experiment.compiled_layouts


def leavings(workdir):
  """Return what a run leaves: numbers of its log, best and kept steps."""
  logged = read_metrics(str(workdir))
  del logged['steps_per_second']  # It depends on a clock.
  best = (workdir / 'best.json').read_text()
  return logged, best, sorted(os.listdir(workdir / 'checkpoints'))


def test_what_a_run_leaves_tells_nothing_of_its_interruptions(
  tiny_config, tmp_path, monkeypatch, build_once
):
  config = tiny_config()
  config.num_steps = 60
  experiment = build_once(config)  # Compiled once.

  def train(name):
    loop.train(
      config, str(tmp_path / name), experiment=experiment, show_progress=False
    )

  train('whole')
  log, waits = Recorder.log, []

  def log_and_signal(self, step, *args):
    if waits and step >= waits[0]:
      waits.clear()  # A second signal would end this process.
      os.kill(os.getpid(), signal.SIGTERM)
    return log(self, step, *args)

  monkeypatch.setattr(Recorder, 'log', log_and_signal)
  for step in (5, 15, 35):
    waits.append(step)
    with pytest.raises(loop.Interrupted):
      train('parts')
  train('parts')
  (one, *others), (one_of_parts, *others_of_parts) = (
    leavings(tmp_path / name) for name in ('whole', 'parts')
  )
  assert others == others_of_parts
  assert one.keys() == one_of_parts.keys()
  for name, values in one.items():
    np.testing.assert_array_equal(values, one_of_parts[name], name)


def test_a_run_begins_with_another_s_parameters(
  tiny_config, tmp_path, monkeypatch, build_once
):
  config = tiny_config()
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  source, run = str(tmp_path / 'source'), str(tmp_path / 'run')
  with pytest.raises(UserError, match=f'--init_from={source} has no checkpoi'):
    loop._open(config, run, experiment, source)
  sweep = tmp_path / 'sweep'
  run_folder.claim(str(sweep / 'kappa_0'), config)
  with pytest.raises(UserError, match='it holds folders of runs: kappa_0$'):
    loop._open(config, run, experiment, str(sweep))
  run_folder.claim(source, config)
  first = Recorder(config, source, experiment, inputs)
  state = jax.tree.map(lambda x: x + 1, first.state)._replace(step=np.int32(5))
  first.step = 5
  first.save(state)
  first.close()

  second = loop._open(config, run, experiment, source)
  assert_equal_bit_for_bit(second.state.params, state.params)
  assert second.step == 0
  for part in ('log_multipliers', 'optimizer_state'):
    drawn, begun = getattr(first.state, part), getattr(second.state, part)
    one = jax.tree.map(lambda x: x + 1, begun)
    assert_equal_bit_for_bit(one, drawn)
  # It was interrupted before its first checkpoint, and its origin went on.
  second.close()
  for flag in (source, None):
    again = loop._open(config, run, experiment, flag)
    assert_equal_bit_for_bit(again.state.params, state.params)
    again.close()
  again.step = 5
  with pytest.raises(UserError, match=f'begun from {source}, now --init_from'):
    loop._open(config, run, experiment, str(tmp_path / 'other'))
  with pytest.raises(UserError, match='begun without --init_from, now'):
    loop._open(config, source, experiment, run)
  (tmp_path / 'run' / 'init_from.json').write_text('[]')
  with pytest.raises(UserError, match='init_from.json is damaged'):
    loop._open(config, run, experiment, source)


def test_parameters_of_another_model_are_refused(
  tiny_config, tmp_path, build_once
):
  config = tiny_config()
  experiment = build_once(config)
  source = str(tmp_path / 'source')
  run_folder.claim(source, config)
  first = Recorder(config, source, experiment, run_inputs(config, experiment))
  first.step = 5
  first.save(first.state._replace(step=np.int32(5)))
  first.close()
  config.model.kwargs.hidden_sizes = (17,)
  other = build_once(config)
  with pytest.raises(UserError, match=r'other parameters .* is \(16,\), not'):
    loop._open(config, str(tmp_path / 'run'), other, source)
  assert not (tmp_path / 'run').exists()


def test_a_run_in_use_is_refused_until_it_ends(
  tiny_config, tmp_path, build_once
):
  config = tiny_config()
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  recorder = Recorder(config, str(tmp_path), experiment, inputs)
  with pytest.raises(UserError, match='in use by process'):
    Recorder(config, str(tmp_path), experiment, inputs)
  recorder.close()
  Recorder(config, str(tmp_path), experiment, inputs).close()


def test_a_run_that_saved_nothing_is_in_no_other_s_way(
  tiny_config, tmp_path, caplog, build_once
):
  """Unless it is in use, and of its origin nothing stays either."""
  config, run = tiny_config(), str(tmp_path / 'run')
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  origin = {'workdir': str(tmp_path / 'source'), 'step': 5}
  first = Recorder(config, run, experiment, inputs, origin)
  first._writer.scalars(5, {'loss': 1.0})
  config.seed = 1
  with pytest.raises(UserError, match='in use by process'):
    loop._open(config, run, experiment)
  first.close()
  assert not caplog.records
  second = loop._open(config, run, experiment)
  second.step = 5
  second.save(second.state._replace(step=np.int32(5)))
  second.close()
  assert f'{run} begins anew' in caplog.text
  assert 'seed was 0, is 1' in caplog.text
  saved = manifest.runs(run)[5]
  assert saved['config']['seed'] == 1 and saved['init_from'] is None
  assert len(provenance.read(run)) == 1
  assert not (tmp_path / 'run' / 'metrics.jsonl').read_bytes()
  left = tmp_path / 'run' / 'abandoned'
  assert len(read_metrics(str(left))['step']) == 1
  assert run_folder.read_config(str(left)).seed == 0
  config.seed = 2
  with pytest.raises(UserError, match='seed was 1, is 2'):
    loop._open(config, run, experiment)


def test_a_run_leaves_no_signal_handler_and_no_thread(
  train, tiny_config, tmp_path
):
  before = signal.getsignal(signal.SIGTERM)
  train(tiny_config(), tmp_path / 'one')  # Starts those that JAX keeps.
  num_threads = threading.active_count()
  train(tiny_config(), tmp_path / 'two')
  assert threading.active_count() <= num_threads
  assert signal.getsignal(signal.SIGTERM) is before


def test_damaged_latest_checkpoint_falls_back_and_ends_the_same(
  train, tiny_config, tmp_path
):
  whole = train(tiny_config(), tmp_path)
  latest = tmp_path / 'checkpoints' / '20'
  for folder, _, files in os.walk(latest):
    for file in files:
      path = os.path.join(folder, file)
      with open(path, 'r+b') as handle:
        handle.truncate(os.path.getsize(path) // 2)
  assert_equal_bit_for_bit(train(tiny_config(), tmp_path), whole)


@pytest.mark.parametrize(
  ('last_good_update', 'message'),
  [
    (13, 'at step 1[45]; the checkpoint of step 10 .*intact'),
    # The update that breaks the parameters is the last before a checkpoint.
    (9, 'at step 11; there was no checkpoint yet'),
  ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good(
  last_good_update,
  message,
  train,
  tiny_config,
  tmp_path,
  monkeypatch,
  build_once,
):
  # A config with such a rate is refused.
  monkeypatch.setattr('geco_jax.config_schema._RANGES', {})
  monkeypatch.setattr('geco_jax.build._HIGHEST_RATE', np.inf)
  config = tiny_config()
  config.learning_rate.name = 'linear'
  with config.unlocked():
    config.learning_rate.kwargs = dict(
      init_value=1e-3,
      end_value=1e38,
      transition_begin=last_good_update - 1,
      transition_steps=1,
    )
  with pytest.raises(UserError, match=message):
    train(config, tmp_path)
  checkpoints = tmp_path / 'checkpoints'
  if last_good_update < 10:
    assert not os.listdir(checkpoints)
    return
  state = restore_state(str(tmp_path), build_once(config))
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


def final_warnings(config, workdir, experiment):
  """Return the sentences with which a finished run ends."""
  inputs = run_inputs(config, experiment)
  with contextlib.closing(
    Recorder(without_sweep(config), str(workdir), experiment, inputs)
  ) as recorder:
    return [*recorder.final_warnings()]


def test_an_infeasible_kappa_is_reported_with_the_best_that_was_reached(
  train, tiny_config, tmp_path, build_once
):
  config = tiny_config(kappa=1e-4)
  config.multipliers.kwargs.log_multiplier_range = (-1.0, 0.1)
  state = train(config, tmp_path)
  (line,) = final_warnings(config, tmp_path, build_once(config))
  best = np.nanmin(read_metrics(str(tmp_path))['re/value'])
  assert 'kappa 0.0001 was asked' in line
  assert f'in its log is {best:.4g}' in line
  assert math.isclose(state.log_multipliers['re'], 0.1, rel_tol=1e-5)


def test_a_saturated_multiplier_is_infeasible_in_bar_log_and_report(
  tiny_config, tmp_path, build_once
):
  config = tiny_config(kappa=1e-3)
  config.multipliers.kwargs.initial = 3 / (2 * 1e-6)  # Three natural ones.
  config.multipliers.kwargs.log_multiplier_range = (-10.0, 20.0)
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  run_folder.claim(str(tmp_path), config)
  recorder = Recorder(config, str(tmp_path), experiment, inputs)
  (log_multiplier,) = recorder.state.log_multipliers.values()
  per_step = {
    **dict.fromkeys(('loss', 'kl_nats', 'mse'), np.ones(5)),
    're/violation': np.ones(5),
    're/log_multiplier': np.full(5, log_multiplier),
  }
  text = recorder.log(5, per_step, rate=1.0)
  recorder.close()
  assert 're 0.0014/0.001 infeasible lambda 1.5e+06' in text
  logged = read_metrics(str(tmp_path))
  np.testing.assert_allclose(logged['re/saturation'], [3.0], rtol=1e-4)
  np.testing.assert_array_equal(logged['re/verdict'], [2])
  (line,) = recorder.final_warnings()
  assert '3 times the natural one' in line and 'optimization' in line


def test_a_kappa_that_is_met_is_not_reported(
  train, tiny_config, tmp_path, build_once
):
  config = tiny_config(kappa=0.9)
  train(config, tmp_path)
  assert not final_warnings(config, tmp_path, build_once(config))


def test_another_config_is_refused_and_named(train, tiny_config, tmp_path):
  train(tiny_config(), tmp_path)
  before = (tmp_path / 'config.json').read_text()
  with pytest.raises(UserError, match=r'kappa was 0.2, is 0.3.*choose another'):
    train(tiny_config(kappa=0.3), tmp_path)
  assert (tmp_path / 'config.json').read_text() == before


def test_a_wrong_value_leaves_nothing_behind(
  train, tiny_config, tmp_path, build_once
):
  experiment = build_once(tiny_config())
  config, run = tiny_config(kappa=-1.0), tmp_path / 'run'
  with pytest.raises(UserError, match='kappa must be > 0'):
    train(config, run)
  with pytest.raises(UserError, match='kappa must be > 0'):
    loop.train(config, str(run), experiment=experiment)
  assert not run.exists()


def test_the_experiment_of_another_config_is_refused(
  tiny_config, tmp_path, make_dataset
):
  experiment = build(tiny_config('elbo'), make_dataset())
  with pytest.raises(ValueError, match='experiment of another config'):
    loop.train(tiny_config(), str(tmp_path / 'run'), experiment=experiment)
  assert not (tmp_path / 'run').exists()


def test_a_picture_that_cannot_be_written_costs_a_warning(
  train, tiny_config, tmp_path, caplog, monkeypatch
):
  def fail(path, *_):
    raise UnwritableError(f'{path} cannot be written: No space left on device')

  monkeypatch.setattr('geco_jax.evaluation.pictures.save_png', fail)
  train(tiny_config(), tmp_path)
  assert f'{tmp_path / "progress.png"} cannot be written' in caplog.text


def test_an_unwritable_workdir_is_an_error(train, tiny_config, tmp_path):
  file = tmp_path / 'file'
  file.write_text('not a folder')
  with pytest.raises(UserError, match='cannot be written: '):
    train(tiny_config(), file / 'run')


def test_saved_config_reads_back(train, tiny_config, tmp_path):
  train(tiny_config(), tmp_path)
  saved = json.loads((tmp_path / 'config.json').read_text())
  assert saved['constraints'] == {'re': {'kappa': 0.2}}
  assert saved['learning_rate']['kwargs']['decay_steps'] == 20


def test_a_run_on_data_that_moved_goes_on_from_any_folder(
  tiny_config, make_images, tmp_path, monkeypatch
):
  before, after = tmp_path / 'before', tmp_path / 'after'
  before.mkdir()
  images = make_images(40, (4, 4, 1)).image
  np.savez(before / 'mine.npz', train=images)
  config = tiny_config()
  config.dataset = group('npz', path='mine.npz')
  run = str(tmp_path / 'run')

  def train():
    return loop.train(config, run, show_progress=False)

  def evaluate():
    return checkpoints.evaluate(run, ['test'], show_progress=False)

  monkeypatch.chdir(before)
  first = train()
  monkeypatch.chdir(tmp_path)
  evaluation = evaluate()
  before.rename(after)
  with pytest.raises(UserError, match='no such path: .*, train it with their'):
    evaluate()
  saved = tmp_path / 'run' / 'config.json'
  content = saved.read_text()
  saved.write_text(content.replace(str(before), str(after)))
  assert evaluate() == evaluation
  saved.write_text(content)
  monkeypatch.chdir(after)
  assert_equal_bit_for_bit(first, train())
  monkeypatch.chdir(tmp_path)
  assert evaluate() == evaluation
  np.savez(tmp_path / 'mine.npz', train=images[::-1])
  for again in (train, evaluate):
    if again is evaluate:
      saved.write_text(content.replace(str(before), str(tmp_path)))
    with pytest.raises(UserError, match='was trained on other data'):
      again()


def test_a_run_that_begins_anew_records_its_own_data(
  tiny_config, tmp_path, build_once
):
  config, run = tiny_config(), str(tmp_path / 'run')
  experiment = build_once(config)
  loop._open(config, run, experiment).close()
  config.seed = 1
  second = loop._open(config, run, experiment)
  second.step = 5
  second.save(second.state._replace(step=np.int32(5)))
  second.close()
  sha256 = data_sha256(experiment)
  assert manifest.runs(run)[5]['data'] == sha256
  assert run_folder.recorded_sha256(run) == sha256


def test_the_last_step_is_saved_where_no_interval_ends_too(
  train, tiny_config, tmp_path, build_once
):
  config = tiny_config()
  config.checkpoint_every = 15
  final = train(config, tmp_path)
  assert manifest.steps(tmp_path) == [15, 20]
  saved = restore_state(str(tmp_path), build_once(config))
  assert_equal_bit_for_bit(saved, final)


def test_a_signal_in_the_last_save_is_not_lost(
  train, tiny_config, tmp_path, monkeypatch
):
  """What comes after the run is not begun, though the run is whole."""
  close = Recorder.close

  def close_and_signal(self):
    os.kill(os.getpid(), signal.SIGTERM)
    close(self)

  monkeypatch.setattr(Recorder, 'close', close_and_signal)
  with pytest.raises(loop.Interrupted, match='SIGTERM, saved at step 20'):
    train(tiny_config(), tmp_path)
