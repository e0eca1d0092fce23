"""What was measured to be fastest is chosen, and said."""

import contextlib
import json
import re
import types

import jax
import pytest

from geco_jax.sweep import throughput


def test_only_what_can_win_is_measured():
  assert throughput._widths(10, num_devices=1, accelerated=False) == [1]
  assert throughput._widths(10, num_devices=4, accelerated=False) == [1, 4]
  assert throughput._widths(3, num_devices=4, accelerated=False) == [1, 3]
  assert throughput._widths(10, num_devices=1, accelerated=True) == [
    1,
    3,
    5,
    10,
  ]
  assert throughput._widths(2, num_devices=1, accelerated=True) == [1, 2]
  assert throughput._widths(9, num_devices=4, accelerated=True) == [
    1,
    3,
    4,
    5,
    9,
  ]


@pytest.mark.parametrize(
  ('rates', 'best', 'message'),
  [
    ({1: 50.0, 10: 40.0}, 1, 'one run after another: .*are 50 .*40 with 10'),
    ({1: 50.0, 10: 60.0}, 10, '10 runs at once: .*are 50 .*60 with 10'),
    # Ten runs are three times four: as slow as twelve.
    ({1: 50.0, 4: 59.0}, 1, 'one run after another: .*are 50 .*59 with 4'),
    ({1: 50.0, 4: 61.0}, 4, '4 runs at once: .*are 50 .*61 with 4'),
    ({1: 50.0}, 1, '10 runs at once cannot be: RESOURCE_EXHAUSTED'),
    ({}, 1, 'one run after another cannot be: RESOURCE_EXHAUSTED'),
  ],
)
def test_the_fastest_that_fits_is_chosen_and_its_rates_are_said(
  rates, best, message, monkeypatch, capsys
):
  def measured(experiment, points):
    del experiment
    if len(points) not in rates:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
    return throughput.Speed(1.0, rates[len(points)])

  widths = sorted({*rates} | ({10} if 4 not in rates else set()) | {1})
  monkeypatch.setattr(throughput, '_widths', lambda *_: widths)
  monkeypatch.setattr(throughput, 'speed', measured)
  config = types.SimpleNamespace(
    model=types.SimpleNamespace(name='mlp_vae'), num_steps=4_000
  )
  experiment = types.SimpleNamespace(dataset=types.SimpleNamespace(name='set'))
  points = [types.SimpleNamespace(config=config)] * 10
  assert throughput.fastest_width(experiment, points) == best
  printed = capsys.readouterr().err
  assert printed.startswith('10 runs of mlp_vae on set, 4,000 steps each')
  assert re.search(message, printed)


def test_a_choice_is_made_once_per_sweep(monkeypatch, tmp_path):
  choices = iter([2, 3])
  monkeypatch.setattr(throughput, 'fastest_width', lambda *_: next(choices))
  experiment = types.SimpleNamespace(key='{"batch_size": 8}')
  workdir = str(tmp_path / 'sweep')
  for _ in range(2):
    assert throughput.remembered_width(workdir)(experiment, [None] * 3) == 2
  experiment.key = '{"batch_size": 16}'
  assert throughput.remembered_width(workdir)(experiment, [None] * 3) == 3


@pytest.fixture
def chosen(monkeypatch, tmp_path):
  """Return how to choose again, the file of choices and the key in it."""
  monkeypatch.setattr(throughput, 'fastest_width', lambda *_: 2)
  experiment = types.SimpleNamespace(key='{"batch_size": 8}')
  choose = throughput.remembered_width(str(tmp_path))
  assert choose(experiment, [None] * 3) == 2
  path = tmp_path / 'runs_at_once.json'
  (key,) = json.loads(path.read_text())
  return lambda: choose(experiment, [None] * 3), path, key


def test_no_more_runs_at_once_than_there_are(chosen, caplog):
  choose_again, path, key = chosen
  path.write_text(json.dumps({key: 10**9}))
  assert choose_again() == 2
  assert 'says 1000000000 at once of 3 runs' in caplog.text
  assert json.loads(path.read_text()) == {key: 2}


@pytest.mark.parametrize(
  'content', ['', '[]', '"2"', '{"KEY": -1}', '{"KEY": "2"}', '{"KEY": [2]}']
)
def test_a_choice_of_another_form_is_made_anew(content, chosen, caplog):
  choose_again, path, key = chosen
  path.write_text(content.replace('KEY', key))
  assert choose_again() == 2
  assert f'{path} is damaged' in caplog.text
  assert json.loads(path.read_text()) == {key: 2}


def test_a_choice_that_cannot_be_kept_is_warned_of(
  monkeypatch, tmp_path, caplog
):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.replace', fail)
  monkeypatch.setattr(throughput, 'fastest_width', lambda *_: 2)
  experiment = types.SimpleNamespace(key='{"batch_size": 8}')
  choose = throughput.remembered_width(str(tmp_path))
  assert choose(experiment, [None] * 3) == 2
  assert 'not kept' in caplog.text


@pytest.fixture
def paced(monkeypatch):
  """Return which numbers of steps were taken: the first compiles for 30 s."""
  taken = []

  @contextlib.contextmanager
  def timed(experiment, points):
    del experiment

    def take(num_steps):
      taken.append(num_steps)
      seconds = (30 if len(taken) == 1 else 0) + 0.5 * num_steps * len(points)
      now[0] += seconds
      return seconds

    now[0] += 5  # The first state is compiled too.
    yield take

  now = [0.0]
  monkeypatch.setattr(throughput, 'timed', timed)
  monkeypatch.setattr(throughput.time, 'monotonic', lambda: now[0])
  return taken


EXPERIMENT = types.SimpleNamespace(steps_per_dispatch=5)


def test_a_few_steps_are_timed_and_compilation_apart(paced):
  speed = throughput.speed(EXPERIMENT, [None], seconds=6.0)
  assert paced == [1, 1, 4, 4, 4]
  assert speed == throughput.Speed(35.0, 2.0)


def test_the_steps_of_all_runs_count(paced):
  speed = throughput.speed(EXPERIMENT, [None] * 3, seconds=9.0)
  assert paced == [1, 1, 2, 2, 2]
  assert speed == throughput.Speed(35.0, 2.0)


def test_no_more_than_three_dispatches_are_timed(paced):
  throughput.speed(EXPERIMENT, [None], seconds=60.0)
  assert paced == [1, 1, 5, 5, 5]


def test_an_accelerator_takes_whole_dispatches(paced, monkeypatch):
  monkeypatch.setattr(throughput.parallel, 'on_accelerator', lambda: True)
  throughput.speed(EXPERIMENT, [None], seconds=0.1)
  assert paced == [5, 5, 5, 5, 5]


def test_all_runs_at_once_stay_all_when_a_sweep_goes_on(monkeypatch, tmp_path):
  choices = iter([3, 1])
  monkeypatch.setattr(throughput, 'fastest_width', lambda *_: next(choices))
  experiment = types.SimpleNamespace(key='{"batch_size": 8}')
  for _ in range(2):
    choose = throughput.remembered_width(str(tmp_path))
    assert choose(experiment, [None] * 3) == 3


def test_choices_of_others_are_kept_also_those_made_meanwhile(
  monkeypatch, tmp_path
):
  """Figures that run side by side share a folder."""
  ours, others, before = (types.SimpleNamespace(key=k) for k in 'abc')

  def width(experiment, points):
    if experiment is ours:  # While this measures, another process has chosen.
      throughput.remembered_width(str(tmp_path))(others, points)
    return {'a': 1, 'b': 2, 'c': 3}[experiment.key]

  monkeypatch.setattr(throughput, 'fastest_width', width)
  expected = {before.key: 3, ours.key: 1, others.key: 2}
  for experiment in (before, ours):
    throughput.remembered_width(str(tmp_path))(experiment, [None] * 3)
  monkeypatch.setattr(throughput, 'fastest_width', None)  # Is not called again.
  for experiment in (before, ours, others):
    choose = throughput.remembered_width(str(tmp_path))
    assert choose(experiment, [None] * 3) == expected[experiment.key]


def test_another_number_of_devices_has_a_choice_of_its_own(
  monkeypatch, tmp_path
):
  experiment = types.SimpleNamespace(key='{"batch_size": 8}')
  monkeypatch.setattr(
    throughput, 'fastest_width', lambda *_: throughput.parallel.num_devices()
  )
  for num_devices in (1, 2, 1):
    monkeypatch.setattr(
      throughput.parallel, 'num_devices', lambda num=num_devices: num
    )
    choose = throughput.remembered_width(str(tmp_path))
    assert choose(experiment, [None] * 3) == num_devices


def test_no_runs_at_once_is_no_choice(chosen, caplog):
  choose_again, path, key = chosen
  path.write_text(json.dumps({key: 0}))
  assert choose_again() == 2
  assert f'{path} is damaged' in caplog.text
