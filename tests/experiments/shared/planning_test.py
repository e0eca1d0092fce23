"""Costs are of programs measured once, less what is finished."""

import jax
import pytest

from experiments.shared import planning
from experiments.shared.planning import Command
from experiments.shared.planning import Cost
from experiments.shared.planning import Planner
from experiments.shared.planning import Row
from geco_jax.base_config import group
from geco_jax.errors import UserError
from geco_jax.io import run_folder
from geco_jax.sweep import throughput
from geco_jax.sweep.grid import Point


def row(name, *points, **changes):
  return Row(
    'figure_4', name, [Command('.figure_4', ['--only=a'])], points, **changes
  )


@pytest.fixture
def point(tiny_config):
  """Return (name, objective, changes) -> a run of 20 steps."""

  def make(name, objective='geco', **changes):
    config = tiny_config(objective).unlock()
    config.update_from_flattened_dict(changes)
    return Point(name, {}, config.lock())

  return make


@pytest.fixture
def measured(monkeypatch):
  """Return which configs were measured: 10 s to compile, 4 steps a second."""
  seen = []

  def measure(config, dataset):
    del dataset
    seen.append(config)
    return throughput.Speed(10.0, 4.0)

  def build_dataset(config, data_dir):
    if config.dataset.name != 'digits':
      looked.append(data_dir)
      raise UserError(f'{config.dataset.name} is\nnot prepared')
    return None

  looked = []
  monkeypatch.setattr(planning, 'measure', measure)
  monkeypatch.setattr(planning, 'build_dataset', build_dataset)
  seen.append(looked)
  return seen


def test_runs_that_differ_in_what_is_no_program_are_measured_once(
  point, measured, tmp_path
):
  planner = Planner(str(tmp_path))
  first = planner.cost(
    row(
      'a',
      point('kappa'),
      point('other', **{'constraints.re.kappa': 0.3}),
      point('seed', seed=3),
      point('tolerance', tolerance=0.1),
    )
  )
  assert len(measured) == 1 + 1
  assert first.steps == 4 * 20
  assert first.compile_seconds == 10
  assert first.train_seconds == 80 / 4
  assert first.hours == pytest.approx((10 + 20) / 3600)
  # How multipliers move is arithmetic of a few numbers.
  rows = [
    planner.cost(row('b', point(objective, objective)))
    for objective in ('elbo', 'annealed_beta')
  ]
  assert len(measured) == 1 + 2
  assert [cost.compile_seconds for cost in rows] == [10, 10]
  larger = planner.cost(row('c', point('larger', batch_size=16)))
  assert larger.compile_seconds == 10


def test_what_is_finished_or_in_a_row_before_is_not_counted(
  point, measured, tmp_path, monkeypatch
):
  monkeypatch.setattr(planning, 'is_finished', lambda p, *_: p.name == 'done')
  monkeypatch.setattr(
    planning, 'latest_step', lambda f: 15 if f.endswith('half') else None
  )
  planner = Planner(str(tmp_path))
  cost = planner.cost(row('a', *map(point, ('done', 'half', 'new'))))
  assert (cost.num_finished, cost.steps) == (1, 5 + 20)
  again = planner.cost(row('b', *map(point, ('new', 'done'))))
  assert (again.num_finished, again.num_shared) == (1, 1)
  assert (again.steps, again.hours) == (0, 0)
  trained = planner.cost(row('c', point('half'), splits=()))
  assert trained.steps == 0  # It is in a row before.
  only = Planner(str(tmp_path)).cost(row('c', point('half'), splits=()))
  assert only.steps == 5  # Its training alone decides.


def test_a_row_says_what_its_runs_are_to_be_evaluated_on(
  point, measured, tmp_path, monkeypatch
):
  asked = []
  monkeypatch.setattr(
    planning, 'is_finished', lambda p, w, splits: asked.append(splits)
  )
  monkeypatch.setattr(planning, 'latest_step', lambda folder: 20)
  planner, splits = Planner(str(tmp_path)), ('train', 'test')
  evaluated = planner.cost(row('a', point('x'), splits=splits))
  assert (evaluated.num_finished, evaluated.steps) == (0, 0)
  trained = planner.cost(row('b', point('y'), splits=()))
  assert trained.num_finished == 1  # It is trained to its very last step.
  assert asked == [splits]


def test_a_folder_without_readable_checkpoints_has_taken_no_steps(
  point, tmp_path
):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'checkpoints').write_text('not a folder')
  assert planning.steps_taken(point('run'), str(tmp_path)) == 0
  assert not planning.is_done(point('run'), str(tmp_path), ())


def test_a_row_that_is_left_out_compiles_nothing_for_others(
  point, measured, tmp_path
):
  planner = Planner(str(tmp_path))
  absent = point('two', **{'dataset.name': 'mnist'})
  assert planner.cost(row('a', point('one'), absent)).missing
  assert planner.cost(row('b', point('one'))).compile_seconds == 10


def test_what_is_not_at_hand_is_named_and_looked_for_once(
  point, measured, tmp_path
):
  planner = Planner(str(tmp_path), 'folder')
  away = [point(name, dataset=group('cifar10')) for name in 'ab']
  for each in away:
    cost = planner.cost(row(each.name, each))
    assert cost.missing == 'cifar10 is not prepared'
    assert cost.hours == 0
  assert measured == [['folder']]
  # Its runs are no others' either.
  assert planner.cost(row('c', point('a'))).steps == 20


def test_a_folder_of_another_run_is_named(point, measured, tmp_path):
  run_folder.claim(str(tmp_path / 'run'), point('run').config)
  (tmp_path / 'run' / 'set_aside').mkdir()  # It had a checkpoint.
  planner = Planner(str(tmp_path))
  other = point('run', num_steps=40)
  assert str(tmp_path / 'run') in planner.cost(row('a', other)).missing
  assert planner.cost(row('b', point('run'))).steps == 20


def test_rows_fit_in_their_order():
  def hours(*each):
    return [
      Cost(row(str(i)), train_seconds=3600 * h) for i, h in enumerate(each)
    ]

  assert planning.fits(hours(1, 0.5, 1, 0.1), 2) == [
    *('yes', 'yes', 'in part', 'no')
  ]
  assert planning.fits(hours(1, 1, 0.1), 2) == ['yes', 'yes', 'no']
  assert planning.fits(hours(1), 0) == ['no']
  missing = Cost(row('x'), missing='no data')
  assert planning.fits([missing, *hours(1)], 1) == ['left out', 'yes']


def test_what_is_done_is_said(point):
  done = Cost(row('a', point('run')), num_finished=1)
  computed = Cost(row('b', seconds=36.0))
  above = Cost(row('c', point('run')), num_shared=1)
  assert planning.fits([done, above, computed], 1) == ['done', 'yes', 'yes']
  assert computed.hours == 0.01


def test_the_table_has_a_line_for_each_row(point):
  runs = [point(name) for name in 'abc']
  text = planning.table(
    [
      Cost(
        row('cifar10', *runs),
        num_finished=1,
        steps=9_000,
        compile_seconds=60.0,
        train_seconds=3_000.0,
      ),
      Cost(row('celeb_a', *runs), missing='celeb_a is not prepared'),
      Cost(row('x', seconds=360.0)),
    ],
    hours=0.9,
  ).splitlines()
  heads = text[0].split()
  assert heads[:4] == ['row', 'runs', 'finished', 'above']
  assert text[0].endswith('hours  fits into 0.9')
  assert text[1].split()[2:] == [
    *('3', '1', '0', '9000', '3', '60', '0.85', 'yes')
  ]
  assert text[2].split()[2:] == [
    *('3', 'left', 'out:', 'celeb_a', 'is', 'not', 'prepared')
  ]
  assert text[3].split()[2:] == ['0.10', 'in', 'part']
  assert text[4].split() == ['all', '0.95']
  end = text[1].index('0.85') + 4
  assert end == text[3].index('0.10') + 4 == text[4].index('0.95') + 4
  assert end == text[0].index('hours') + 5


def test_what_does_not_fit_into_the_memory_is_one_sentence(
  tiny_config, make_dataset, monkeypatch
):
  def timed(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 GB\nmore lines')

  monkeypatch.setattr(throughput, 'timed', timed)
  with pytest.raises(UserError, match='^it cannot be: RESOURCE_EXH.* 9 GB$'):
    planning.measure(tiny_config(), make_dataset())


def test_a_real_program_is_measured(tiny_config, make_dataset):
  speed = planning.measure(tiny_config(), make_dataset())
  assert speed.steps_per_second > 1 and speed.compile_seconds > 0


def test_what_is_at_hand_is_found_out_without_a_device(point, monkeypatch):
  asked = []
  monkeypatch.setattr(
    planning, 'build_dataset', lambda c, d: asked.append((c.dataset.name, d))
  )
  monkeypatch.setattr(planning.pretrained, 'load', asked.append)
  fre = {**point('x').config.constraints.re, 'network': 'digits_cnn'}
  with_network = point('c')
  with with_network.config.unlocked():
    with_network.config.constraints = {'fre': fre}
  planning.check_at_hand(row('a', point('a'), point('b'), with_network), 'd')
  assert asked == ['digits_cnn', ('digits', 'd')]


def test_a_command_is_found_beside_its_package():
  assert Command('.figure_4', ['--a']).words() == [
    'experiments.figure_4',
    '--a',
  ]
  assert Command('geco_jax.train', []).words() == ['geco_jax.train']
