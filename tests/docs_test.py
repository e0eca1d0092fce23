"""The pages under docs/ do what they say."""

import glob
import importlib
import importlib.util
import json
import math
import os
import re
from unittest import mock

import jax
from matplotlib import pyplot
import numpy as np
import pytest

from benchmarks import gpu_table
from experiments.shared import multiplier_comparison
from experiments.shared.runs import Run
from geco_jax import config_files
from geco_jax.build import build
from geco_jax.constraints import CONSTRAINTS
from geco_jax.errors import UserError
from geco_jax.sweep import local
from geco_jax.sweep import results as sweep_results
from geco_jax.sweep.grid import points
from tests.pages import check_command
from tests.pages import commands_of
from tests.pages import python_blocks
from tests.pages import read

pytestmark = pytest.mark.usefixtures('draw_once')
DOCS = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'docs')


def pages():
  """Yield the text of every page."""
  for path in glob.glob(os.path.join(DOCS, '*.md')):
    with open(path) as file:
      yield file.read()


@pytest.fixture
def blocks():
  """Return the code of the page on constraints; undo what it enters."""
  with open(os.path.join(DOCS, 'constraints.md')) as file:
    code = re.findall(r'```python\n(.*?)```', file.read(), re.DOTALL)
  with mock.patch.dict(CONSTRAINTS):
    yield code


def test_a_constraint_of_ones_own_is_trained_with(
  blocks, tmp_path, monkeypatch
):
  """The page's blocks in order, the training shortened."""
  monkeypatch.chdir(tmp_path)
  assert len(blocks) == 3
  steps = 'config.num_steps = 2_000'
  assert steps in blocks[2]
  scope = {}
  for block in blocks:
    code = block.replace(steps, 'config.num_steps = 600')
    exec(code, scope)  # noqa: S102
  with open('runs/edges/evaluation.json') as file:
    reports = json.load(file)['constraints']
  assert set(reports) == {'re', 'edges'}
  assert reports['edges']['unit'] == 'RMSE of differences'
  assert all(report['holds'] for report in reports.values())


def test_the_notebook_runs_and_shows_no_error(tmp_path, monkeypatch):
  """Its cells in order, the training shortened."""
  monkeypatch.chdir(tmp_path)
  with open(os.path.join(DOCS, 'use_a_run.ipynb')) as file:
    cells = [x for x in json.load(file)['cells'] if x['cell_type'] == 'code']
  assert [x['execution_count'] for x in cells] == [*range(1, len(cells) + 1)]
  steps = 'config.num_steps = 2_000'
  assert sum(steps in ''.join(cell['source']) for cell in cells) == 1
  scope = {}
  for cell in cells:
    assert all(x['output_type'] != 'error' for x in cell['outputs'])
    code = ''.join(cell['source']).replace(steps, 'config.num_steps = 200')
    exec(code, scope)  # noqa: S102
    pyplot.close('all')
  assert scope['run'].step == 200


def test_one_function_and_one_entry_are_all_that_a_constraint_needs(
  blocks, tiny_config, make_dataset, tmp_path, monkeypatch
):
  """Its variants, title, refusals and a sweep of it: trained and evaluated."""
  scope = {}
  for block in blocks[:2]:
    exec(block, scope)  # noqa: S102
  run = Run('digits', 'geco', {'edges': 0.3}, 'vae')
  assert run.title == r'GECO+edges $\kappa$=0.3'
  assert run.config().constraints.to_dict() == {'edges': {'kappa': 0.3}}
  monkeypatch.setattr(local, 'build_dataset', lambda *_: make_dataset())
  config = tiny_config('geco+edges')
  assert config.constraints.edges.kappa == 0.15
  config.sweep = ({'constraints.edges.kappa': [0.2, 0.3]},)
  grid = points(config)
  assert not local.run_here(grid, str(tmp_path), show_progress=False)
  results = sweep_results.read(grid, str(tmp_path))
  assert [line.name for line in sweep_results.lines(results)] == ['']
  for result, kappa in zip(results, (0.2, 0.3), strict=True):
    report = result.evaluation['constraints']['edges']
    assert report['kappa'] == kappa
    assert report['value'] == pytest.approx(
      kappa * math.sqrt(1 + report['violation']), rel=1e-5
    )
    assert np.isfinite(result.logged['edges/value']).any()
  config.constraints.edges.kappa = -1.0
  with pytest.raises(UserError, match='constraints.edges: kappa must be > 0'):
    build(config, make_dataset())


def test_arrays_of_the_page_on_data_are_a_data_set():
  (block,) = python_blocks(read('docs', 'data.md'))
  scope = {}
  exec(block, scope)  # noqa: S102
  assert build(config_files.load('own_images'), scope['dataset'])
  assert len(scope['dataset'].splits['test'].label) == 10


def test_the_die_of_the_page_on_multipliers_is_jaynes():
  block, _ = python_blocks(read('docs', 'multipliers.md'))
  scope = {}
  exec(block, scope)  # noqa: S102
  (printed,) = re.findall(r'print\(p\)  # (.*)', block)
  np.testing.assert_allclose(
    scope['p'], [float(x) for x in printed.split()], atol=5e-5
  )


def test_a_constraint_without_a_gradient_is_met_through_its_proxy():
  _, block = python_blocks(read('docs', 'multipliers.md'))
  scope = {}
  exec(block, scope)  # noqa: S102
  below = np.mean(scope['scores'] < scope['params'][0])
  assert below == pytest.approx(scope['share'], rel=0.01)


def test_the_table_of_multiplier_rules_is_that_of_the_result_file():
  path = os.path.join(os.path.dirname(DOCS), 'results', 'multiplier_rules.json')
  with open(path) as file:
    content = json.load(file)
  page = read('docs', 'multipliers.md')
  assert multiplier_comparison.table(content) in page
  assert multiplier_comparison.against(content) in ' '.join(page.split())


def test_speeds_on_a_gpu_are_those_of_the_result_files():
  page = read('docs', 'benchmarks.md')
  reports, tables = {}, {}
  for name in ('gpu_speed', 'gpu_variants'):
    reports[name] = json.loads(read('results', f'{name}.json'))
    tables[name] = gpu_table.table(reports[name])
    assert tables[name] in page
  for table in tables.values():
    page = page.replace(table, '')
  text = ' '.join(page.split())
  speed = {
    (row['model'], row['precision'], row['program']): row['per_second']
    for row in reports['gpu_speed']['programs']
  }
  conv_draw, mlp = 'ConvDRAW, gpu preset', 'MLP VAE'
  tf32, bf16 = (speed[conv_draw, p, 'geco_jax'] for p in ('tf32', 'bf16'))
  assert f'takes {tf32:.0f} steps per second in tf32 and {bf16:.0f} in' in text
  elbo = speed[conv_draw, 'bf16', 'geco_jax, ELBO']
  assert f'ConvDRAW takes {bf16:.0f} and {elbo:.0f}' in text
  one, elbo, ten = (
    speed[mlp, 'tf32', f'geco_jax{which}']
    for which in ('', ', ELBO', ', 10 runs at once')
  )
  assert f'takes {one:,.0f} steps per second under GECO and {elbo:,.0f}' in text
  assert f'ten runs at once take {ten / one:.2f} times as many steps' in text
  quick = 'ConvDRAW, quick preset', 'tf32'
  five = speed[*quick, 'geco_jax, 5 runs at once'] / speed[*quick, 'geco_jax']
  assert f'take only {five:.2f} times as many as one' in text
  rows = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in tables['gpu_speed'].splitlines()[2:]
  ]
  for model, _, program, _, _, share, ratio in rows:
    match model, program:
      case 'ConvDRAW, gpu preset', 'geco_jax':
        assert share in text
      case 'ConvDRAW, gpu preset', 'torch.compile, CUDA graphs':
        assert f'{ratio} times as many' in text
      case _, 'torch.compile, CUDA graphs' if 'VAE' in model:
        assert ratio in text
  for line in tables['gpu_variants'].splitlines():
    if '| geco_jax |' in line or '| geco_jax, none |' in line:
      assert line.split('|')[4].strip() in text


def test_theory_and_other_pages_link_to_what_exists():
  links = re.findall(r'\[`(\w+)\.(\w+)`\]\((\S+?)\.py\)', ''.join(pages()))
  assert ('fixed_points', 'transition') in {link[:2] for link in links}
  for name, attribute, path in links:
    path = os.path.relpath(os.path.join(DOCS, path), os.path.dirname(DOCS))
    assert os.path.basename(path) == name, path
    module = importlib.import_module(path.replace(os.sep, '.'))
    assert hasattr(module, attribute), f'{path} has no {attribute}'


def test_theory_and_other_pages_name_modules_that_exist():
  modules = set(re.findall(r'python -m ([\w.]+)', ''.join(pages())))
  assert 'experiments.figure_2' in modules
  for module in modules:
    assert importlib.util.find_spec(module), module


def test_commands_of_the_pages_exist_with_their_flags():
  lines = [w for page in pages() for w in commands_of(page)]
  assert len([words for words in lines if words[0] == 'geco-jax']) > 10
  for words in lines:
    if words[0] == 'geco-jax':
      check_command(words)
    else:
      assert words[0] in ('make', 'pip', 'python'), words


def test_links_of_the_pages_lead_somewhere():
  for path in glob.glob(os.path.join(DOCS, '*.md')):
    with open(path) as file:
      page = file.read()
    for link in re.findall(r'\]\(([^)#\s]+)', page):
      if not link.startswith('http'):
        assert os.path.exists(os.path.join(DOCS, link)), (path, link)


def test_every_page_is_on_the_site():
  index = read('docs', 'index.md')
  for path in glob.glob(os.path.join(DOCS, '*.md')):
    name = os.path.basename(path).removesuffix('.md')
    if name != 'index':
      assert re.search(rf'^{name}$', index, re.MULTILINE), name


@pytest.mark.parametrize(
  ('library', 'number'),
  [pytest.param('flax', 0, marks=pytest.mark.slow), ('equinox', 1)],
)
def test_geco_meets_a_constraint_in_other_libraries(library, number):
  pytest.importorskip(library)
  blocks = python_blocks(read('docs', 'other_libraries.md'))
  assert len(blocks) == 2 and library in blocks[number]
  scope = {}
  with jax.numpy_rank_promotion('allow'):  # The libraries' layers need it.
    exec(blocks[number], scope)  # noqa: S102
  assert scope['rmse'] == pytest.approx(scope['kappa'], rel=1e-3)


@pytest.mark.slow
def test_the_tutorial_ends_with_a_met_constraint(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  scope = {}
  for block in python_blocks(read('docs', 'tutorial.md')):
    exec(block, scope)  # noqa: S102
  assert 'met' in capsys.readouterr().out.splitlines()


def test_pictures_of_the_pages_exist():
  for path in re.findall(r'!\[[^\]]*\]\(([^)]+)\)', ''.join(pages())):
    assert os.path.exists(os.path.join(DOCS, path)), path
