"""What a sweep stands for, and what is refused before anything is trained."""

import re

import pytest

from geco_jax import base_config
from geco_jax.errors import UserError
from geco_jax.sweep import grid


@pytest.fixture
def points(tiny_config):
  """Return groups -> the points of a sweep over them."""

  def make(*groups):
    config = tiny_config()
    config.sweep = groups
    return grid.points(config)

  return make


@pytest.fixture
def own_config(tiny_config):
  """Return groups -> the config of a sweep over one's own pictures."""

  def make(*groups):
    config = tiny_config()
    with config.unlocked():
      config.dataset = base_config.own_pictures()
    config.sweep = groups
    return config

  return make


def test_groups_are_multiplied_and_the_lists_of_a_group_are_zipped(points):
  runs = points(
    {'constraints.re.kappa': [0.1, 0.2]},
    {'seed': [0, 1], 'batch_size': (8, 16)},
  )
  values = [
    (p.config.constraints.re.kappa, p.config.seed, p.config.batch_size)
    for p in runs
  ]
  assert values == [(0.1, 0, 8), (0.1, 1, 16), (0.2, 0, 8), (0.2, 1, 16)]
  assert runs[1].name == 'kappa_0.1_seed_1_batch_size_16'
  assert [*runs[1].values.values()] == [0.1, 1, 16]


def test_what_follows_a_value_follows_the_swept_one(points):
  runs = points({'num_steps': [20, 40]})
  decay = [p.config.learning_rate.kwargs.decay_steps for p in runs]
  assert decay == [20, 40]


def test_values_take_the_type_of_the_config(points):
  (point,) = points({'constraints.re.kappa': [1]})
  assert point.name == 'kappa_1.0'
  runs = points({'model.kwargs.hidden_sizes': [(8,), [16, 8]]})
  assert [p.name for p in runs] == ['hidden_sizes_8', 'hidden_sizes_16x8']
  assert runs[1].config.model.kwargs.hidden_sizes == (16, 8)


def test_names_that_end_alike_are_told_apart(points):
  (point,) = points(
    {'learning_rate.name': ['constant'], 'optimizer.name': ['sgd']},
  )
  assert point.name == 'learning_rate.name_constant_optimizer.name_sgd'


@pytest.mark.parametrize(
  'paths', [['data/a_b', 'data/a-b', 'data/c'], ['数据', '图片', 'c']]
)
def test_different_values_that_read_alike_get_a_hash(paths, own_config):
  one_each = own_config({'dataset.kwargs.path': paths}, {'seed': [0, 1]})
  names = [point.name for point in grid.points(one_each)]
  assert len({*names}) == len(names) == 6
  for name in names[:4]:
    assert re.fullmatch(r'path_(data-a-b|-)_seed_[01]_[0-9a-f]{8}', name)
  last = re.sub('[/_]', '-', paths[-1])  # Nothing reads like it.
  assert names[4:] == [f'path_{last}_seed_0', f'path_{last}_seed_1']
  # They do not depend on the order, nor on what else the grid has.
  other = own_config({'dataset.kwargs.path': paths[1::-1]}, {'seed': [1]})
  assert [point.name for point in grid.points(other)] == [names[3], names[1]]
  # Names that something else tells apart are as they were.
  zipped = own_config({'dataset.kwargs.path': paths[:2], 'seed': [0, 1]})
  assert [len(p.name.split('_')) for p in grid.points(zipped)] == [4, 4]
  with pytest.raises(UserError, match='two runs would both be path_'):
    grid.points(own_config({'dataset.kwargs.path': [*paths, paths[0]]}))


def test_runs_know_nothing_of_the_sweep(points, tiny_config):
  (point,) = points({'seed': [3]})
  assert 'sweep' not in point.config
  assert 'sweep' in tiny_config()
  assert point.config.is_locked


@pytest.mark.parametrize(
  ('groups', 'message'),
  [
    ([], 'is empty: nothing to sweep'),
    (['seed'], r"must be like \[{'seed': \[0, 1\]}\].*got 'seed'"),
    ([{'seed': 1}], 'seed needs a list of values, got 1'),
    ([{'seed': []}], 'seed needs a list of values'),
    ([{'seed': '01'}], "seed needs a list of values, got '01'"),
    (
      [{'seed': [0, 1], 'num_steps': [5]}],
      'equally long, but seed has 2, num_steps has 1',
    ),
    (
      [{'constraints.re.kapa': [1]}],
      "no value 'constraints.re.kapa' .did you mean constraints.re.kappa",
    ),
    ([{'sweep': [1]}], "no value 'sweep'"),
    ([{'model': [1]}], "no value 'model'"),
    ([{'seed': [0.5]}], 'seed must be of type int, got 0.5'),
    (
      [{'max_gradient_norm': ['big']}],
      "max_gradient_norm must be of type float or None, got 'big'",
    ),
    (
      [{'model.kwargs.hidden_sizes': [3]}],
      'hidden_sizes must be of type tuple, got 3',
    ),
    ([{'seed': [0]}, {'seed': [1]}], 'seed in more than one group'),
    ([{'seed': [0, 0]}], 'two runs would both be seed_0'),
  ],
)
def test_wrong_grids_are_refused_in_one_sentence(groups, message, points):
  with pytest.raises(UserError, match=message) as refusal:
    points(*groups)
  assert '\n' not in str(refusal.value)


def test_configs_sweep_the_papers_kappas_where_they_have_one():
  config = base_config.get_base_config('geco', kappa=0.1, num_steps=10)
  kappas = [p.config.constraints.re.kappa for p in grid.points(config)]
  assert kappas == [*base_config.PAPER_KAPPAS]
  assert base_config.get_base_config('elbo', kappa=0, num_steps=10).sweep == ()
