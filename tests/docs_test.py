"""The pages under docs/ do what they say."""

import glob
import importlib
import importlib.util
import json
import os
import re

import numpy as np

from experiments import multiplier_comparison
from geco_jax.build import CONSTRAINTS
from geco_jax.evaluation import evaluate

DOCS = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'docs')


def pages():
  """Yields the text of every page."""
  for path in glob.glob(os.path.join(DOCS, '*.md')):
    with open(path) as file:
      yield file.read()


def test_a_constraint_of_ones_own_is_trained_with(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('geco_jax.build.CONSTRAINTS', dict(CONSTRAINTS))
  with open(os.path.join(DOCS, 'constraints.md')) as file:
    blocks = re.findall(r'```python\n(.*?)```', file.read(), re.DOTALL)
  assert len(blocks) == 3
  scope = {}
  for block in blocks:
    exec(block, scope)  # noqa: S102
  reports = evaluate('runs/edges')['constraints']
  assert set(reports) == {'re', 'edges'}
  assert reports['edges']['unit'] == 'RMSE of differences'
  assert all(report['holds'] for report in reports.values())


def test_the_die_of_the_page_on_multipliers_is_jaynes():
  with open(os.path.join(DOCS, 'multipliers.md')) as file:
    (block,) = re.findall(r'```python\n(.*?)```', file.read(), re.DOTALL)
  scope = {}
  exec(block, scope)  # noqa: S102
  (printed,) = re.findall(r'print\(p\)  # (.*)', block)
  np.testing.assert_allclose(
    scope['p'], [float(x) for x in printed.split()], atol=5e-5
  )


def test_the_table_of_multiplier_rules_is_that_of_the_result_file():
  path = os.path.join(os.path.dirname(DOCS), 'results', 'multiplier_rules.json')
  with open(path) as file:
    expected = multiplier_comparison.table(json.load(file))
  with open(os.path.join(DOCS, 'multipliers.md')) as file:
    assert expected in file.read()


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


def test_pictures_of_the_pages_exist():
  for path in re.findall(r'!\[[^\]]*\]\(([^)]+)\)', ''.join(pages())):
    assert os.path.exists(os.path.join(DOCS, path)), path
