"""The plan has every figure, and its runs are those that the commands train."""

import ast
import collections
import functools
import os
import pkgutil
import types

import pytest

import experiments
from experiments import constraint_table
from experiments import figure_4
from experiments import figure_5
from experiments import figure_8
from experiments import multiplier_rules
from experiments import plan
from experiments import table_2
from experiments.plan import Options
from experiments.results.claims import CLAIMS
from experiments.shared import runs
from geco_jax import __main__ as commands
from geco_jax import cli
from geco_jax import config_files
from geco_jax.config_tree import without_sweep
from geco_jax.errors import UserError
from geco_jax.sweep import local
from tests import pages
from tests.import_graph import GRAPH
from tests.import_graph import TREES


def options(preset='quick', workdir='runs/all', **changes):
  return Options(preset, workdir, **changes)


@functools.cache
def all_rows(preset):
  """Return all rows, asked for with every flag that there is."""
  return plan.rows(options(preset, num_steps=700, data_dir='d', max_steps=900))


def rows_of(figure, *args, **kwargs):
  return plan.rows(options(*args, **kwargs), [figure])


def test_every_command_is_in_the_plan_or_has_a_reason_not_to_be():
  modules = {m.name for m in pkgutil.iter_modules(experiments.__path__)}
  names = {name for name in modules if name in commands.commands()}
  assert names == set(plan.WORTH) | set(plan.NOT_PLANNED)
  assert not set(plan.WORTH) & set(plan.NOT_PLANNED)
  assert all(plan.NOT_PLANNED.values())


def test_the_papers_claims_come_first():
  assert [*plan.WORTH][:3] == ['figure_4', 'table_2', 'figure_5']
  assert [row.name for row in rows_of('figure_4')] == [*figure_4.ROWS]
  figures = [row.figure for row in all_rows('quick')]
  assert [*dict.fromkeys(figures)] == [*plan.WORTH]


@pytest.mark.parametrize('preset', plan.PRESETS)
def test_rows_are_told_apart_and_their_commands_exist(preset):
  rows = all_rows(preset)
  assert len({row.title for row in rows}) == len(rows)
  for row in rows:
    for command in row.commands:
      module, *arguments = command.words()
      names = [flag.partition('=')[0].removeprefix('--') for flag in arguments]
      own = {name for name in names if not name.startswith('config')}
      assert own <= strings_below(module), module
      pages.check_command(
        ['geco-jax', module.rpartition('.')[2]]
        + [a for a, n in zip(arguments, names, strict=True) if n not in own]
      )


@functools.cache
def strings_in(module):
  """Return what stands in quotes in a module."""
  return {
    node.value
    for node in ast.walk(TREES[module])
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  }


@functools.cache
def strings_below(module):
  """Return what stands in quotes in a module and in those that it imports."""
  below = {module}
  for _ in range(3):
    below |= {target for name in below for target in GRAPH[name]}
  return set().union(*map(strings_in, below))


def test_results_are_the_files_that_the_page_of_claims_reads():
  read = {claim.file for claim in CLAIMS}
  written = {
    name
    for preset in plan.PRESETS
    for row in all_rows(preset)
    for name in row.numbers.values()
  }
  # It is put together by hand from runs of `geco_jax.train`.
  assert read - written == {'conv_draw.json'}
  # No claim reads the others.
  assert written - read == {
    'conceptual_compression.json',
    'multiplier_rules.json',
  }


@pytest.mark.parametrize('figure', ['figure_4', 'table_2'])
@pytest.mark.parametrize(
  ('preset', 'suffix'),
  [('quick', ''), ('full', ''), ('medium', '_medium'), ('paper', '_paper')],
)
def test_presets_have_files_of_results_of_their_own(figure, preset, suffix):
  file = f'{figure}{suffix}.json'
  claimed = [claim.command for claim in CLAIMS if claim.file == file]
  for row in rows_of(figure, preset):
    assert row.numbers == {f'{figure}.json': file}
    (preset_flag,) = [
      flag for flag in row.commands[0].flags if flag.startswith('--preset=')
    ]
    assert claimed and all(preset_flag in command for command in claimed)


class _Asked(Exception):
  pass


@pytest.fixture
def asked(monkeypatch):
  """Return action -> the configs that it would train, by folder."""

  def ask(action):
    def run_here(grid, workdir, *args, **kwargs):
      del args, kwargs
      seen.update({os.path.join(workdir, p.name): p.config for p in grid})
      raise _Asked

    seen = {}
    monkeypatch.setattr(local, 'build_experiments', lambda *_: {})
    monkeypatch.setattr(local, 'run_here', run_here)
    with pytest.raises(_Asked):
      action()
    return {folder: config.to_json() for folder, config in seen.items()}

  return ask


def planned(row):
  return {f'runs/all/{p.name}': p.config.to_json() for p in row.points}


def flags_of(command):
  """Return the values of a command's flags by name."""
  pairs = (flag.removeprefix('--').partition('=') for flag in command.flags)
  return {name: value for name, _, value in pairs}


@pytest.fixture
def give(monkeypatch):
  """Return (num_steps, data_dir, values) -> None, which gives flags."""

  def give(num_steps, data_dir=None, /, **values):
    for owner, name, flag in (
      (plan.flags, 'FLAGS', types.SimpleNamespace(**values)),
      (runs, 'NUM_STEPS', types.SimpleNamespace(value=num_steps)),
      (cli, 'DATA_DIR', types.SimpleNamespace(value=data_dir)),
    ):
      monkeypatch.setattr(owner, name, flag)

  return give


@pytest.mark.parametrize('preset', ['quick', 'full', 'gpu'])
@pytest.mark.parametrize('name', ['mnist_sum', 'cifar10', 'cifar10_nvp'])
def test_a_row_of_figure_4_is_what_its_command_trains(name, preset, asked):
  row = figure_4.ROWS[name]
  sizes = plan.PRESETS[preset]
  (listed,) = [r for r in rows_of('figure_4', preset) if r.name == name]
  assert planned(listed) == asked(
    lambda: figure_4.run_row(
      *(name, 'runs/all', sizes.variant, row.runs(), None),
      short=sizes.short and figure_4.is_short(row, sizes.variant),
    )
  )


def test_a_row_of_table_2_is_what_its_command_trains(asked):
  for listed in rows_of('table_2', num_steps=300):
    assert planned(listed) == asked(
      lambda listed=listed: table_2.row(
        listed.name, 'runs/all', 'quick', 2, 300
      )
    )


def test_a_row_of_figure_5_knows_kappa_when_the_elbo_has_ended(
  asked, monkeypatch
):
  first, second = rows_of('figure_5')[0].points
  assert second.name == f'{first.name}, then GECO'
  elbo = asked(lambda: figure_5.run_row('cifar10', 'runs/all', 'quick'))
  assert planned(rows_of('figure_5')[0])[f'runs/all/{first.name}'] == elbo.get(
    f'runs/all/{first.name}'
  )
  monkeypatch.setattr(
    plan.completion, 'read_evaluation', lambda *_: {'rmse': 0.031416}
  )
  first, second = rows_of('figure_5')[0].points
  assert second.name.endswith('geco_re_0.03142')
  assert second.config.constraints.re.kappa == 0.03142


def test_figure_5_until_rest_is_planned_up_to_the_cap(monkeypatch):
  row = rows_of('figure_5', until_rest=True, num_steps=100, max_steps=400)[0]
  *elbos, geco = row.points
  assert [p.config.num_steps for p in elbos] == [100, 200, 400]
  assert geco.config.num_steps == 400
  assert geco.name == 'steps_400/cifar10_conv_draw_elbo, then GECO'
  assert row.name == 'cifar10 until rest'
  wanted = {'--data=cifar10', '--until_rest=True', '--max_steps=400'}
  assert wanted <= {*row.commands[0].flags}
  monkeypatch.setattr(
    plan.completion, 'read_evaluation', lambda *_: {'rmse': 0.031416}
  )
  again = rows_of('figure_5', until_rest=True, num_steps=100, max_steps=400)
  name = again[0].points[-1].name
  assert name == 'steps_400/cifar10_conv_draw_geco_re_0.03142'


@pytest.mark.parametrize('module', [figure_8, constraint_table])
def test_a_row_of_a_table_is_what_its_command_trains(
  module, asked, give, monkeypatch
):
  monkeypatch.setattr(cli, 'workdir', lambda: 'runs/all')
  figure = module.__name__.rpartition('.')[2]
  for listed in rows_of(figure, 'full', num_steps=300):
    (command,) = listed.commands
    give(300, **{'only': [*constraint_table.ROWS], **flags_of(command)})
    assert planned(listed) == asked(lambda: module.main([]))


def test_a_row_of_the_rules_of_multipliers_is_what_its_command_trains(
  monkeypatch,
):
  name = 'digits_re_cla'
  (listed,) = [x for x in rows_of('multiplier_rules') if x.name == name]
  no_experiments = collections.defaultdict(type(None))
  monkeypatch.setattr(local, 'build_experiments', lambda *_: no_experiments)
  jobs, _ = multiplier_rules.jobs(
    [multiplier_rules.TASKS[name]], [*multiplier_rules.RULES]
  )
  folder = flags_of(listed.commands[0])['workdir']
  assert planned(listed) == {
    f'{folder}/{job.name}': job.config.to_json() for job in jobs
  }


@pytest.mark.parametrize(
  'figure', ['arithmetic', 'conceptual_compression', 'figure_3']
)
def test_a_run_of_its_own_is_what_its_command_line_says(figure):
  (listed,) = rows_of(figure, num_steps=700)
  (point,) = listed.points
  values = flags_of(listed.commands[0])
  config = config_files.load(values['config'])
  config.update_from_flattened_dict(
    {
      name.removeprefix('config.'): ast.literal_eval(value)
      for name, value in values.items()
      if name.startswith('config.')
    }
  )
  assert point.config.to_json() == without_sweep(config).to_json()
  folder = os.path.relpath(values['workdir'], 'runs/all')
  is_below = figure == 'figure_3'  # Its command trains WORKDIR/run.
  assert point.name == (os.path.join(folder, 'run') if is_below else folder)


def test_the_kappas_of_an_information_plane_are_those_of_its_runs():
  for listed in rows_of('information_plane'):
    kappas = flags_of(listed.commands[0])['kappas'].split(',')
    runs_at = [point.config.constraints.re.kappa for point in listed.points]
    assert runs_at == [float(kappa) for kappa in kappas]


def test_flags_reach_every_command_that_trains():
  for row in all_rows('quick'):
    flags = ' '.join(' '.join(command.flags) for command in row.commands)
    assert ('num_steps=700' in flags) == bool(row.points)
    assert {point.config.num_steps for point in row.points} <= {700}
  for figure in ('figure_4', 'figure_5'):
    row = rows_of(figure, num_seeds=2)[0]
    assert '--num_seeds=2' in row.commands[0].flags
    assert {point.config.seed for point in row.points} == {0, 1}


def test_the_folder_of_data_reaches_every_command_that_reads_it():
  for row in all_rows('quick'):
    for command in row.commands:
      assert ('--data_dir=d' in command.flags) == bool(row.points), row.title


def test_until_rest_is_planned_up_to_the_cap():
  (row, *_) = rows_of('figure_4', until_rest=True, max_steps=8_000)
  steps = sorted({point.config.num_steps for point in row.points})
  assert steps == [2_000, 4_000, 8_000]
  geco = [p for p in row.points if 'geco' in p.name]
  assert {point.config.num_steps for point in geco} == {8_000}
  assert '--until_rest=True' in row.commands[0].flags
  assert '--max_steps=8000' in row.commands[0].flags


@pytest.mark.parametrize(
  ('hours', 'sentence'),
  [
    (None, '--hours is missing, e.g. --hours=2'),
    (float('nan'), '--hours must be a finite number, got nan'),
    (float('inf'), '--hours must be a finite number, got inf'),
  ],
)
def test_hours_must_be_a_number(hours, sentence, monkeypatch):
  values = types.SimpleNamespace(hours=hours, only=None)
  monkeypatch.setattr(plan.flags, 'FLAGS', values)
  with pytest.raises(UserError, match=sentence):
    plan.asked('')


def test_every_flag_of_the_plan_reaches_its_rows(give, monkeypatch):
  values = {'preset': 'full', 'num_seeds': 3, 'until_rest': True}
  give(700, 'd', hours=2.0, only=['figure_4'], max_steps=900, **values)
  monkeypatch.setattr(plan, 'rows', lambda *args: args)
  expected = Options(
    workdir='w', num_steps=700, data_dir='d', max_steps=900, **values
  )
  assert plan.asked('w') == (2.0, (expected, ['figure_4']))
