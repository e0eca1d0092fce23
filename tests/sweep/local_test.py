"""A sweep's runs are ordinary runs, whatever fails or is interrupted."""

import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from geco_jax.base_config import group
from geco_jax.build import build
from geco_jax.build import experiment_key
from geco_jax.errors import Interrupted
from geco_jax.errors import UserError
from geco_jax.evaluation.checkpoints import evaluate
from geco_jax.evaluation.measures import split_means
from geco_jax.evaluation.pictures import row_programs
from geco_jax.evaluation.restored import restore_state
from geco_jax.io import lock
from geco_jax.io.checkpoint import Checkpointer
from geco_jax.io.files import write_text
from geco_jax.signals import STOP_SIGNALS
from geco_jax.step import train_steps
from geco_jax.sweep import completion
from geco_jax.sweep import local
from geco_jax.sweep.completion import is_finished
from geco_jax.sweep.grid import points
from geco_jax.training import loop
from geco_jax.training.recorder import Recorder


@pytest.fixture
def sweep(tiny_config, build_once, make_dataset, monkeypatch, draw_once):
  """Return (workdir, *groups, changed keys) -> points, those that failed."""
  monkeypatch.setattr(
    'geco_jax.sweep.local.build_dataset', lambda *_: make_dataset()
  )
  monkeypatch.setattr(local, 'build', lambda config, _: build_once(config))

  def run(workdir, *groups, width=1, alone=False, **changes):
    config = tiny_config()
    config.sweep = groups
    with config.unlocked():
      config.dataset.placement = changes.pop('placement', 'device')
    config.update(changes)
    grid = points(config)
    failed = local.run_here(
      *(grid, str(workdir), lambda *_: width),
      alone=alone,
      show_progress=False,
    )
    return grid, [*failed]

  return run


def files(folder):
  """Return what a run has written but for its speed: (state, JSON)."""
  with open(os.path.join(folder, 'config.json')) as file:
    written = {'config': json.load(file)}
  with open(os.path.join(folder, 'evaluation.json')) as file:
    written['evaluation'] = json.load(file)
  with open(os.path.join(folder, 'metrics.jsonl')) as file:
    written['metrics'] = [json.loads(line) for line in file]
  for line in written['metrics']:
    line.pop('steps_per_second', None)
  return written


def final_leaves(folder, config, dataset):
  return jax.tree.leaves(restore_state(str(folder), build(config, dataset)))


@pytest.mark.slow
def test_one_after_another_equals_separate_runs_bit_for_bit(
  sweep, make_dataset, tmp_path, monkeypatch, compile_well
):
  monkeypatch.setattr(local, 'build', build)
  grid, failed = sweep(
    tmp_path / 'sweep',
    {
      'constraints.re.kappa': [0.2, 0.3],
      'seed': [0, 1],
      'learning_rate.kwargs.init_value': [1e-3, 3e-3],
      'multipliers.kwargs.step_size': [1e-2, 2e-2],
      'multipliers.kwargs.initial': [1.0, 2.0],
    },
  )
  assert not failed
  for point in grid:
    alone, swept = tmp_path / 'alone' / point.name, tmp_path / 'sweep'
    experiment = build(point.config, make_dataset())
    loop.train(
      point.config, str(alone), experiment=experiment, show_progress=False
    )
    evaluate(str(alone), experiment=experiment)
    assert files(alone) == files(swept / point.name)
    for name in ('progress.png', 'reconstructions_test.png'):
      picture = (swept / point.name / name).read_bytes()
      assert (alone / name).read_bytes() == picture
    for a, b in zip(
      final_leaves(alone, point.config, make_dataset()),
      final_leaves(swept / point.name, point.config, make_dataset()),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)


def test_nothing_is_built_or_compiled_after_the_first_of_runs_that_are_alike(
  sweep, tmp_path, monkeypatch, caplog, count_builds
):
  monkeypatch.setattr(local, 'build', build)
  marks = []
  opened = Recorder.__init__

  def mark(self, *args, **kwargs):
    marks.append(len(caplog.records))
    opened(self, *args, **kwargs)

  monkeypatch.setattr(Recorder, '__init__', mark)
  groups = {'constraints.re.kappa': [0.2, 0.3, 0.4], 'seed': [0, 1, 2]}
  with jax.log_compiles():
    sweep(tmp_path, groups)
  compiled = [
    [r for r in caplog.records[a:b] if 'Finished XLA' in r.getMessage()]
    for a, b in zip(marks, [*marks[1:], None], strict=True)
  ]
  assert len(count_builds) == 1
  assert len(compiled[0]) > 5
  assert [r.getMessage() for r in compiled[1] + compiled[2]] == []


@pytest.mark.parametrize(
  ('swept', 'is_shared'),
  [
    ({'num_steps': [20, 40]}, True),
    ({'optimizer.kwargs.b2': [0.99, 0.999]}, True),
    ({'multipliers.kwargs.damping': [0.0, 10.0]}, True),
    ({'batch_size': [8, 4]}, False),
    ({'model.kwargs.latent_size': [2, 3]}, False),
  ],
)
def test_runs_evaluated_by_the_same_programs_share_them(
  swept, is_shared, tiny_config, make_dataset, monkeypatch
):
  monkeypatch.setattr(local, 'build_dataset', lambda *_: make_dataset())
  config = tiny_config()
  config.sweep = (swept,)
  first, other = local.build_experiments(points(config)).values()
  for programs in (lambda e: split_means(e, likelihood=True), row_programs):
    assert (programs(first) is programs(other)) == is_shared
  assert train_steps(first, 1) is not train_steps(other, 1)


@pytest.mark.slow
def test_together_equals_one_after_another_but_for_rounding(
  sweep, make_dataset, tmp_path
):
  groups = {'constraints.re.kappa': [0.2, 0.3], 'seed': [0, 1]}
  grid, _ = sweep(tmp_path / 'in_turn', groups)
  _, failed = sweep(tmp_path / 'together', groups, width=2)
  assert not failed
  for point in grid:
    for way, width in (('in_turn', 1), ('together', 2)):
      folder = tmp_path / way / point.name
      assert files(folder)['evaluation']['runs_at_once'] == width
      # The command for a single run keeps it.
      experiment = build(point.config, make_dataset())
      again = evaluate(str(folder), experiment=experiment)
      assert again['runs_at_once'] == width
    for a, b in zip(
      final_leaves(
        tmp_path / 'in_turn' / point.name, point.config, make_dataset()
      ),
      final_leaves(
        tmp_path / 'together' / point.name, point.config, make_dataset()
      ),
      strict=True,
    ):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    logged = [
      [line['step'] for line in files(tmp_path / way / point.name)['metrics']]
      for way in ('in_turn', 'together')
    ]
    assert logged[0] == logged[1]


@pytest.mark.slow
@pytest.mark.parametrize('width', [1, 3])
def test_one_failure_leaves_the_others_alone_and_is_started_again(
  width, sweep, tmp_path, monkeypatch
):
  groups = {'seed': [0, 1, 2]}
  save = Recorder.save

  def fail(self, state):
    if self.config.seed == 1:
      raise OSError('No space left on device')
    save(self, state)

  with monkeypatch.context() as patch:
    patch.setattr(Recorder, 'save', fail)
    _, failed = sweep(tmp_path, groups, width=width)
  assert failed == ['seed_1']
  log = (tmp_path / 'seed_1' / local.ERROR_LOG).read_text()
  assert 'Traceback' in log and 'No space left on device' in log
  before = files(tmp_path / 'seed_0')
  grid, failed = sweep(tmp_path, groups, width=width)
  assert not failed
  assert not (tmp_path / 'seed_1' / local.ERROR_LOG).exists()
  assert files(tmp_path / 'seed_0') == before
  assert all(is_finished(point, str(tmp_path)) for point in grid)


@pytest.mark.parametrize(
  ('seeds', 'width'),
  [([0], 1), pytest.param([0, 1, 2], 3, marks=pytest.mark.slow)],
)
def test_a_run_of_another_process_is_left_as_it_is(
  seeds, width, sweep, tmp_path, capsys
):
  folder = tmp_path / 'seed_0'
  live = lock.Lock(str(folder))
  grid, failed = sweep(tmp_path, {'seed': seeds}, width=width)
  assert failed == ['seed_0']
  assert 'failed: seed_0: --workdir=' in capsys.readouterr().err
  assert os.listdir(folder) == ['.lock']
  live.close()
  assert all(is_finished(point, str(tmp_path)) for point in grid[1:])


def test_a_second_sweep_in_a_folder_is_refused(sweep, tmp_path):
  first = lock.Lock(str(tmp_path))
  with pytest.raises(UserError, match='in use by process'):
    sweep(tmp_path, {'seed': [0]}, alone=True)
  assert {path.name for path in tmp_path.iterdir()} == {'.lock'}
  first.close()


def test_a_damaged_evaluation_is_made_again(
  sweep, tmp_path, monkeypatch, caplog
):
  sweep(tmp_path, {'seed': [0]})
  before = files(tmp_path / 'seed_0')
  (tmp_path / 'seed_0' / 'evaluation.json').write_text('{}')
  monkeypatch.setattr(Recorder, 'save', None)  # Nothing is trained again.
  assert sweep(tmp_path, {'seed': [0]})[1] == []
  assert files(tmp_path / 'seed_0') == before
  assert 'evaluation.json is damaged' in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize('width', [1, 4])
def test_whatever_fails_of_a_run_the_others_are_finished(
  width, sweep, tmp_path, monkeypatch, capsys
):
  """A background write, an evaluation, and the writing of why it failed."""
  close = Checkpointer.close

  def fail_to_close(self):
    close(self)
    if 'seed_1' in str(self._directory):
      raise OSError('No space left on device')

  def fail_to_evaluate(folder, *args, **kwargs):
    if 'seed_2' in folder:
      raise KeyError('image')
    return evaluate(folder, *args, **kwargs)

  def fail_to_write(path, text):
    if 'seed_2' in path:
      raise OSError('No space left on device')
    write_text(path, text)

  monkeypatch.setattr(Checkpointer, 'close', fail_to_close)
  monkeypatch.setattr(local, 'evaluate', fail_to_evaluate)
  monkeypatch.setattr(local.files, 'write_text', fail_to_write)
  grid, failed = sweep(tmp_path, {'seed': [0, 1, 2, 3]}, width=width)
  assert failed == ['seed_1', 'seed_2']
  finished = [is_finished(point, str(tmp_path)) for point in grid]
  assert finished == [True, False, False, True]
  log = tmp_path / 'seed_1' / local.ERROR_LOG
  assert 'Traceback' in log.read_text()
  printed = capsys.readouterr().err
  assert f'seed_1: OSError: No space left on device (see {log})' in printed
  assert "seed_2: KeyError: 'image' (no error.log: " in printed


def test_what_fails_of_all_runs_that_are_together_leaves_the_next_alone(
  sweep, tmp_path, monkeypatch
):
  trained = []

  def train_together(configs, **kwargs):
    del kwargs
    trained.append([os.path.basename(folder) for folder in configs])
    if len(trained) == 1:
      raise RuntimeError('RESOURCE_EXHAUSTED: out of memory')
    return dict.fromkeys(configs)

  monkeypatch.setattr(loop, 'train_together', train_together)
  monkeypatch.setattr(local, 'evaluate', lambda *_, **__: None)
  _, failed = sweep(tmp_path, {'seed': [0, 1, 2]}, width=2)
  assert trained == [['seed_0', 'seed_1'], ['seed_2']]
  assert failed == ['seed_0', 'seed_1']


@pytest.mark.parametrize(
  ('width', 'moment', 'number'),
  [
    (1, 'save', signal.SIGTERM),
    pytest.param(1, 'log', signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(1, 'close', signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(2, 'save', signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(2, 'close', signal.SIGINT, marks=pytest.mark.slow),
  ],
)
def test_a_signal_at_the_end_of_a_run_stops_the_sweep(
  width, moment, number, sweep, tmp_path, monkeypatch
):
  method, sent = getattr(Recorder, moment), []

  def interrupt(self, *args):
    if self.step == self.config.num_steps and not sent:
      sent.append(number)
      os.kill(os.getpid(), number)
    return method(self, *args)

  monkeypatch.setattr(Recorder, moment, interrupt)
  groups = {'seed': [0, 1, 2]}
  with pytest.raises(Interrupted, match='saved at step 20') as stopped:
    sweep(tmp_path, groups, width=width)
  assert stopped.value.signal_number == number
  assert sorted(os.listdir(tmp_path)) == ['seed_0', 'seed_1'][:width]
  monkeypatch.setattr(local, 'evaluate', lambda *_, **__: None)
  assert sweep(tmp_path, groups, width=width)[1] == []


def test_a_failure_does_not_hide_a_signal(sweep, tmp_path, monkeypatch):
  def fail(self, state):
    del self, state
    os.kill(os.getpid(), signal.SIGTERM)
    raise OSError('No space left on device')

  monkeypatch.setattr(Recorder, 'save', fail)
  with pytest.raises(Interrupted, match='SIGTERM, saved at step 0'):
    sweep(tmp_path, {'seed': [0, 1]})


def test_outside_of_the_main_thread_a_sweep_touches_no_signal(sweep, tmp_path):
  handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
  seen = []

  def work():
    seen.append(sweep(tmp_path, {'seed': [0]})[1])
    seen.append([signal.getsignal(number) for number in STOP_SIGNALS])

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [[], handlers]  # None failed: it was evaluated too.


@pytest.mark.slow
def test_killed_together_they_end_as_if_they_had_not_been(
  sweep, make_dataset, tmp_path, monkeypatch
):
  groups = {'seed': [0, 1]}
  grid, _ = sweep(tmp_path / 'whole', groups, width=2)
  save = Recorder.save

  def kill(self, state):
    if (self.config.seed, self.step) == (1, 20):
      raise KeyboardInterrupt
    save(self, state)

  with monkeypatch.context() as patch:
    patch.setattr(Recorder, 'save', kill)
    with pytest.raises(KeyboardInterrupt):
      sweep(tmp_path / 'parts', groups, width=2)
  sweep(tmp_path / 'parts', groups, width=2)
  for point in grid:
    whole, parts = (tmp_path / name / point.name for name in ('whole', 'parts'))
    assert files(whole) == files(parts)
    for a, b in zip(
      final_leaves(whole, point.config, make_dataset()),
      final_leaves(parts, point.config, make_dataset()),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_what_is_left_of_runs_together_ends_as_if_nothing_had_stopped(
  sweep, make_dataset, tmp_path
):
  groups = {'seed': [0, 1, 2, 3]}
  grid, _ = sweep(tmp_path / 'whole', groups, width=3)  # 0 to 2, then 3.
  parts = tmp_path / 'parts'
  shutil.copytree(tmp_path / 'whole', parts)
  for point in grid[1:3]:  # Killed while the first three were evaluated.
    (parts / point.name / 'evaluation.json').unlink()
  shutil.rmtree(parts / grid[3].name)
  _, failed = sweep(parts, groups, width=3)
  assert not failed
  shutil.rmtree(parts / grid[1].name)  # Lost: its neighbors are finished.
  _, failed = sweep(parts, groups, width=3)
  assert not failed
  for point in grid:
    folders = (tmp_path / name / point.name for name in ('whole', 'parts'))
    whole, again = (
      final_leaves(folder, point.config, make_dataset()) for folder in folders
    )
    for a, b in zip(whole, again, strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ('groups', 'message'),
  [
    (
      {'constraints.re.kappa': [0.2, -1.0]},
      'kappa must be > 0 and finite, got -1',
    ),
    ({'model.name': ['mlp_vae', 'mlp']}, "config.model: unknown name 'mlp'"),
  ],
)
def test_a_wrong_value_is_refused_before_anything_is_trained(
  groups, message, sweep, tmp_path
):
  with pytest.raises(UserError, match=message):
    sweep(tmp_path / 'sweep', groups)
  assert not (tmp_path / 'sweep').exists()


def test_a_folder_of_another_run_is_refused_before_anything_is_trained(
  sweep, tiny_config, tmp_path, build_once
):
  config = tiny_config(kappa=0.9)
  loop.train(
    config,
    str(tmp_path / 'seed_1'),
    experiment=build_once(config),
    show_progress=False,
  )
  with pytest.raises(UserError, match=r'kappa was 0.9, is 0.2'):
    sweep(tmp_path, {'seed': [0, 1]})
  assert os.listdir(tmp_path) == ['seed_1']


def test_what_no_number_depends_on_may_change_but_not_the_tolerance(
  sweep, tmp_path, monkeypatch
):
  def changed(seeds, **changes):
    grid, failed = sweep(tmp_path, {'seed': seeds}, **changes)
    assert not failed
    return grid

  (point,) = changed([0])
  before = files(tmp_path / 'seed_0')
  # The rest of the sweep, and a run that goes on as `train` lets it.
  free = {'placement': 'host', 'checkpoint_every': 20}
  grid = changed([0, 1], **free)
  assert files(tmp_path / 'seed_0') == before
  loop.train(
    grid[0].config,
    str(tmp_path / 'seed_0'),
    experiment=build(grid[0].config, local.build_dataset()),
    show_progress=False,
  )
  assert files(tmp_path / 'seed_0')['config']['dataset']['placement'] == 'host'
  monkeypatch.setattr(Recorder, 'save', None)  # Nothing is trained again.
  changed([0, 1])
  assert completion.check_same(point, str(tmp_path))
  with pytest.raises(UserError, match='tolerance was 0.02, is 0.1'):
    sweep(tmp_path, {'seed': [0, 1]}, tolerance=0.1)


@pytest.mark.parametrize(
  'swept',
  [
    {'constraints.pncc.patch_size': [2, 3]},
    {'policy': ['float32', 'bfloat16']},
  ],
)
def test_runs_of_other_constraints_or_policies_are_evaluated_by_their_own(
  swept, tiny_config, make_dataset, monkeypatch
):
  """Else the second would be judged by the first one's constraint."""
  monkeypatch.setattr(local, 'build_dataset', lambda *_: make_dataset())
  config = tiny_config()
  with config.unlocked():
    config.constraints = {'pncc': dict(kappa=0.5, patch_size=2, stride=1)}
  config.sweep = (swept,)
  first, other = local.build_experiments(points(config)).values()
  for programs in (lambda e: split_means(e, likelihood=True), row_programs):
    assert programs(first) is not programs(other)


def test_runs_on_other_options_of_a_data_set_have_its_images(
  tiny_config, make_dataset, monkeypatch
):
  def build_dataset(config, data_dir):
    del data_dir
    read.append(config.dataset.kwargs.path)
    return make_dataset()._replace(name=read[-1])

  read = []
  monkeypatch.setattr(local, 'build_dataset', build_dataset)
  config = tiny_config()
  with config.unlocked():
    config.dataset = group('npz', path='')
  config.sweep = ({'dataset.kwargs.path': ['a', 'b']}, {'seed': [0, 1]})
  grid = points(config)
  experiments = local.build_experiments(grid)
  for point in grid:
    experiment = experiments[experiment_key(point.config)]
    assert experiment.dataset.name == point.config.dataset.kwargs.path
  assert read == ['a', 'b']  # Each once.


@pytest.mark.parametrize('num_finished', [0, 1])
def test_runs_that_began_together_go_on_together(
  num_finished, sweep, tmp_path, monkeypatch
):
  """Finished ones keep their places: the rounding depends on how many."""
  together = []

  def train_together(configs, *, width, **kwargs):
    del kwargs
    together.append(([os.path.basename(folder) for folder in configs], width))
    return dict.fromkeys(configs)

  monkeypatch.setattr(local, 'latest_step', lambda _: 10)  # Half of them.
  monkeypatch.setattr(
    completion, 'unfinished', lambda grid, *_: grid[num_finished:]
  )
  monkeypatch.setattr(loop, 'train_together', train_together)
  monkeypatch.setattr(local, 'evaluate', lambda *_, **__: None)
  assert sweep(tmp_path, {'seed': [0, 1]}, width=2)[1] == []
  assert together == [(['seed_0', 'seed_1'], 2)]
