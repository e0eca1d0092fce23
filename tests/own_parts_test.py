"""Own parts: found from any process, refused in a sentence, never silent."""

import contextlib
import functools
import os
import re
import subprocess
import sys
from unittest import mock

import numpy as np
import optax
import pytest

import geco_jax
from geco_jax import base_config
from geco_jax import choices
from geco_jax import config_flag
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import build_optimizer
from geco_jax.build import check_config
from geco_jax.build import MODELS
from geco_jax.classifiers import networks
from geco_jax.classifiers import pretrained
from geco_jax.constraints import CONSTRAINTS
from geco_jax.constraints import Entry
from geco_jax.constraints import reconstruction_error
from geco_jax.datasets import sources
from geco_jax.errors import UserError
from geco_jax.evaluation import evaluate
from geco_jax.io import run_folder
from geco_jax.own_parts import import_all
from geco_jax.own_parts import search
from geco_jax.rules import MULTIPLIERS
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep import slurm
from geco_jax.sweep.grid import points
from geco_jax.training import train
from tests.pages import commands_of
from tests.pages import python_blocks
from tests.pages import read
from tests.pages import ROOT

PAGE = read('docs', 'own_parts.md')
REGISTRIES = (
  MODELS,
  CONSTRAINTS,
  MULTIPLIERS,
  networks.CLASSIFIERS,
  choices.COMPOSITIONS,
  choices.IMAGE_SETS,
  choices.OPTIMIZERS,
  choices.SCHEDULES,
)


def write_page(folder):
  """Write the page's files, each named in its first line."""
  for block in python_blocks(PAGE):
    path = folder / re.match(r'# (\S+)\n', block)[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text(block)


@contextlib.contextmanager
def new_process():
  """Forget afterwards which modules were imported here, and what they enter."""
  modules, path = {*sys.modules}, [*sys.path]
  with contextlib.ExitStack() as stack:
    for registry in REGISTRIES:
      stack.enter_context(mock.patch.dict(registry))
    yield
  sys.path[:] = path
  for name in {*sys.modules} - modules:
    if name.startswith('my_'):
      del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Return the working folder, which is empty."""
  monkeypatch.chdir(tmp_path)
  with new_process():
    yield tmp_path


def own_config():
  """Return the page's config, short, as a command reads it."""
  config = config_flag._load('my_config.py', 'my_config.py', [])
  config.num_steps = config.checkpoint_every = 20
  config.steps_per_dispatch = 10
  config.batch_size = 8
  return config


def test_own_parts_are_there_in_whatever_process_builds(folder, monkeypatch):
  """In a job as submitit calls it, in another folder, and behind `load`."""
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  write_page(folder)
  with new_process():
    grid = points(own_config())
  assert 'brightness' not in CONSTRAINTS
  (folder / 'elsewhere').mkdir()
  monkeypatch.chdir('elsewhere')
  with new_process():
    slurm._Job(grid[1], '../sweep', None, [str(folder)])()
  (result,) = sweep_results.read(grid, '../sweep')
  report = result.evaluation['constraints']['brightness']
  assert (report['unit'], report['kappa']) == ('RMSE of brightness', 0.1)
  monkeypatch.chdir(folder)
  with new_process():
    run = geco_jax.load(result.folder.removeprefix('../'))
    assert run.sample(2).shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_the_commands_of_the_page_work_in_an_empty_folder(folder):
  """Through the console script, whose folder is that of the scripts."""
  write_page(folder)
  script = folder / 'bin' / 'geco-jax'
  script.parent.mkdir()
  script.write_text('from geco_jax.__main__ import main\nmain()\n')
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ROOT}
  for words in commands_of(PAGE):
    short = (
      ['--config.num_steps=100'] if '--config=my_config.py' in words else []
    )
    done = subprocess.run(
      [sys.executable, script, *words[1:], *short],
      env=environment,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
  for path in ('own/marginal_kl.json', 'sweep/report.html', 'jobs/report.html'):
    assert (folder / 'runs' / path).exists()


FAILURES = {
  'my_parts/raises.py': 'def helper():\n  return 1 / 0\n\nhelper()\n',
  'my_parts/torn.py': 'def helper(:\n',
  'my_parts/needs.py': 'import my_other_package\n',
  'my_parts/exits.py': 'raise SystemExit(3)\n',
  'my_parts/taken.py': (
    'from geco_jax.constraints import CONSTRAINTS, Entry\n'
    'def mine(shape):\n  ...\n'
    "CONSTRAINTS['re'] = Entry(mine, title='mine', defaults={})\n"
  ),
  'my_parts/formless.py': (
    'from geco_jax.constraints import CONSTRAINTS\n'
    "CONSTRAINTS['edges'] = lambda image_shape: None\n"
  ),
  'my_file.py': '',
  'json.py': '',
}


@pytest.mark.parametrize(
  ('imports', 'message'),
  [
    ('my_parts.raises', r"tuple of names, like \('my_parts.raises',\)"),
    (('my_partz.raises',), r"no module 'my_partz'.*did you mean my_parts\?"),
    (('my_parts.raise',), r'in my_parts \(.*did you mean my_parts.raises\?'),
    (('my_file.inner',), "no module 'my_file.inner' in my_file .which is no p"),
    (
      ('my_file.inner',),
      r'which is no package\); start',  # No folder beside it is meant.
    ),
    (('absent',), "no module 'absent' in .*start the command in.*PYTHONPATH"),
    (('my_parts/raises.py',), r'did you mean my_parts.raises\?'),
    (('my_file.py',), r"got 'my_file.py' \(did you mean my_file\?"),
    (('',), "must be names of modules.*got ''"),
    ((3,), 'must be names of modules, got 3'),
    (('my_parts.raises',), r'raises.py, line 2\): ZeroDivisionError: division'),
    (('my_parts.torn',), r'torn.py, line 1\): SyntaxError: invalid syntax'),
    (('my_parts.needs',), r"needs.py, line 1\): .*'my_other_package'"),
    (('my_parts.exits',), r'exits.py, line 1\): SystemExit: 3'),
    (
      ('my_parts.taken',),
      r"line 4\): constraint 're' is there.*choose another",
    ),
    (('my_parts.formless',), "line 2.*'edges' must be a Entry, got function"),
    (('json',), r'json is .*, which hides .*json.py; rename yours'),
  ],
)
def test_what_is_wrong_with_a_module_is_one_sentence(imports, message, folder):
  for path, text in FAILURES.items():
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(text)
  with pytest.raises(UserError, match=f'config.imports.*{message}') as refusal:
    import_all(imports)
  assert '\n' not in str(refusal.value)


def test_a_run_says_that_its_module_is_not_found_and_takes_another(
  folder, monkeypatch, caplog
):
  monkeypatch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
  write_page(folder)
  with new_process():
    train(own_config(), 'run', show_progress=False)
  (folder / 'my_package').rename(folder / 'my_moved')
  with (
    new_process(),
    pytest.raises(UserError, match="'my_package', of my_pack"),
  ):
    evaluate('run')
  path = folder / 'run' / 'config.json'
  path.write_text(path.read_text().replace('my_package', 'my_moved'))
  with new_process():
    assert 'brightness' in evaluate('run')['constraints']


def test_a_run_of_an_earlier_version_goes_on(folder, tiny_config):
  config = tiny_config()
  with config.unlocked():
    del config.imports
  run_folder.claim('run', config)
  check_config(run_folder.read_config('run'))
  run_folder.claim('run', tiny_config())
  run_folder.check_same('run', tiny_config())


def test_imports_of_the_command_line_come_before_the_config_file():
  argv = ['--config.imports=my.parts', '--config.seed=1', '--config.imports']
  assert config_flag._imports([*argv, "('a', 'b')"]) == ['my.parts', 'a', 'b']
  assert config_flag._imports(['--config=x', '--', *argv]) == []


def test_a_name_is_entered_once_by_every_way_and_by_its_own_function_again():
  def again(image_shape):
    return reconstruction_error(image_shape)

  with new_process():
    for _ in range(2):
      CONSTRAINTS['again'] = Entry(again, title='again', defaults={})
    for enter in (
      lambda: CONSTRAINTS.update(re=CONSTRAINTS['again']),
      lambda: CONSTRAINTS.__ior__({'re': CONSTRAINTS['again']}),
      lambda: CONSTRAINTS.__setitem__('re', CONSTRAINTS['again']),
      lambda: MODELS.update(mlp_vae=again),
      lambda: choices.OPTIMIZERS.update(lion=again),
      lambda: choices.IMAGE_SETS.update(color_mnist=again),
      lambda: choices.COMPOSITIONS.update(digits=again),
    ):
      with pytest.raises(UserError, match='is there already'):
        enter()
    MODELS['partial'] = functools.partial(again)
    with pytest.raises(UserError, match='is there already'):
      MODELS['partial'] = functools.partial(reconstruction_error)
    for name in ('a+b', 'a.b', '', 3):
      with pytest.raises(UserError, match='letters, digits'):
        MODELS[name] = again
    for enter in (MODELS.__setitem__, MODELS.setdefault):
      with pytest.raises(UserError, match='must be a function, got int'):
        enter('number', 3)
    assert MODELS.setdefault('mlp_vae', 3) is MODELS['mlp_vae']
  assert 'again' not in CONSTRAINTS


def test_a_data_set_with_an_argument_data_dir_gets_that_of_the_command():
  seen = []

  def own(data_dir='mine'):
    seen.append(data_dir)
    return sources.digits()

  def required(data_dir):
    return own(data_dir)

  with new_process():
    choices.IMAGE_SETS.update(own=own, required=required)
    for name, data_dir in (('own', None), ('own', 'x'), ('required', 'y')):
      choices.image_sets(name, data_dir)[name]()
  assert seen == ['mine', 'x', 'y']


def test_a_folder_that_is_searched_hides_nothing_that_is_found_already():
  with new_process():
    before = [*sys.path]
    search(['/absent', before[0]])
    assert sys.path == [*before, '/absent']


def returning(value):
  return lambda *args, **kwargs: value


@pytest.mark.parametrize(
  ('part', 'message'),
  [
    (('model', MODELS, returning(3)), 'config.model: .*base.Model, got int'),
    (
      ('constraint', CONSTRAINTS, Entry(returning(3), 'x', {'kappa': 1.0})),
      'config.constraints.mine: .*constraints.Constraint, got int',
    ),
    (
      ('dataset', choices.IMAGE_SETS, returning([])),
      'config.dataset: .*images.ImageSet, got list',
    ),
  ],
)
def test_what_a_part_returns_must_be_one(
  part, message, tiny_config, make_dataset
):
  kind, registry, value = part
  config = tiny_config()
  with new_process(), pytest.raises(UserError, match=message):
    registry['mine'] = value
    with config.unlocked(), config.ignore_type():
      if kind == 'constraint':
        config.constraints = {'mine': {'kappa': 1.0}}
      else:
        config[kind] = base_config.group('mine')
    build(config, make_dataset())
    build_dataset(config)


def test_a_statistic_is_one_number_for_each_example(
  tiny_config, make_dataset, tmp_path
):
  def mean_of_all(image_shape):
    error = reconstruction_error(image_shape)
    return error._replace(statistic=lambda *args: error.statistic(*args).mean())

  config = tiny_config()
  with new_process():
    CONSTRAINTS['mine'] = Entry(mean_of_all, 'mine', {'kappa': 0.1})
    with config.unlocked():
      config.constraints = {'mine': {'kappa': 0.1}}
    experiment = build(config, make_dataset())
    with pytest.raises(UserError, match=r'mine must be \(8,\), got \(\)'):
      train(config, str(tmp_path), experiment=experiment, show_progress=False)


def test_a_network_of_a_classifier_that_is_not_entered_names_imports(
  tmp_path,
):
  pretrained.save(
    str(tmp_path),
    model={'name': 'mine', 'kwargs': {}},
    image_shape=(8, 8, 1),
    num_classes=10,
    params={},
    state={},
    feature_stddevs={},
  )
  with pytest.raises(UserError, match="model 'mine' .*config.imports"):
    pretrained.load(str(tmp_path))


@pytest.mark.parametrize('name', choices.OPTIMIZERS)
def test_every_optimizer_takes_a_schedule_and_moves(name, tiny_config):
  config = tiny_config()
  config.optimizer = base_config.group(name)
  check_config(config)
  build_optimizer(config)


def test_sgdw_adds_the_decay_to_what_momentum_sums_up():
  optimizer = choices.OPTIMIZERS['sgdw'](0.1, momentum=0.9, weight_decay=0.5)
  weight, gradient, momentum = np.float32(2), np.float32(1), 0.0
  state = optimizer.init(weight)
  for _ in range(3):
    momentum = 0.9 * momentum + gradient + 0.5 * weight
    update, state = optimizer.update(gradient, state, weight)
    np.testing.assert_allclose(update, -0.1 * momentum, rtol=1e-6)
    weight = np.float32(weight + update)


SCHEDULES = {
  'polynomial_schedule': {
    **{'init_value': 1.0, 'end_value': 0.0},
    **{'power': 2.0, 'transition_steps': 10},
  },
  'piecewise_constant_schedule': {
    'init_value': 1.0,
    'boundaries_and_scales': {'10': 0.5},
  },
  'sgdr_schedule': {
    'cosine_kwargs': [
      {
        **{'init_value': 0.0, 'peak_value': 1.0},
        **{'decay_steps': 20, 'warmup_steps': 5},
      }
    ],
  },
}


def test_schedules_of_optax_are_optax_s(tiny_config):
  expected = {
    'polynomial_schedule': optax.polynomial_schedule(1.0, 0.0, 2.0, 10),
    'piecewise_constant_schedule': optax.piecewise_constant_schedule(
      1.0, {10: 0.5}
    ),
    'sgdr_schedule': optax.sgdr_schedule(
      SCHEDULES['sgdr_schedule']['cosine_kwargs']
    ),
  }
  for name, kwargs in SCHEDULES.items():
    config = tiny_config()
    config.learning_rate = base_config.group(name, **kwargs)
    check_config(config)
    schedule = choices.SCHEDULES[name](**config.learning_rate.kwargs)
    for step in (0, 5, 11):
      np.testing.assert_allclose(schedule(step), expected[name](step))


def test_a_scale_of_zero_stops_the_learning():
  schedule = choices.SCHEDULES['piecewise_constant_schedule'](
    init_value=1.0, boundaries_and_scales={'10': 0}
  )
  assert [float(schedule(step)) for step in (9, 11)] == [1.0, 0.0]


def test_an_unknown_name_is_answered_by_near_ones_of_optax(tiny_config):
  config = tiny_config()
  config.optimizer.name = 'lionn'
  with pytest.raises(UserError, match=r'did you mean lion\?.*config.imports'):
    check_config(config)
  config.optimizer = base_config.group('lion', b1=2.0)
  with pytest.raises(UserError, match=r'b1 must be in \[0, 1\), got 2.0'):
    check_config(config)
  config.optimizer = base_config.group('lion')
  config.learning_rate = base_config.group(
    'piecewise_constant_schedule',
    init_value=1.0,
    boundaries_and_scales={'soon': 0.5},
  )
  with pytest.raises(UserError, match="must be steps, like 1000, got 'soon'"):
    build_optimizer(config)


def test_a_function_of_two_names_is_offered_under_the_shorter(tiny_config):
  config = tiny_config()
  config.learning_rate.name = 'xyz'
  with pytest.raises(UserError, match='choose from .* cosine, ') as caught:
    check_config(config)
  assert 'cosine_decay_schedule' not in str(caught.value)
