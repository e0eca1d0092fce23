"""Imports go one way, nothing has outgrown its file, words are plain."""

import ast
import os
import pathlib
import re

from PIL import Image
import pytest

from docs import draw_architecture
from docs.draw_architecture import reachable
from tests.import_graph import cycle
from tests.import_graph import floors
from tests.import_graph import FOLDERS
from tests.import_graph import GRAPH
from tests.import_graph import imported
from tests.import_graph import PACKAGES
from tests.import_graph import ROOT
from tests.import_graph import TREES

MAX_FLOORS = 12
MAX_FILE_LINES = 450
MAX_BODY_LINES = 60
# A reader has to look up what these names and comments stand for.
RIDDLE = re.compile(r'_*(of|said|told|theirs|alike|made|found)_*|_*of_.*', re.I)
GENITIVE = re.compile(
  r"(^ *|  )# (Of\b|([\w.`]+ ){0,4}\w+('s|s')( own)?([.,;:]|$))|\"{3}Of\b"
)
CODE = 'geco_jax experiments configs benchmarks examples docs tests'.split()


@pytest.mark.parametrize('graph', [GRAPH, FOLDERS], ids=['modules', 'folders'])
def test_no_circle_of_imports(graph):
  assert not cycle(graph), ' -> '.join(cycle(graph))


def test_the_package_imports_nothing_that_is_built_on_it():
  above = {'experiments', 'configs', 'benchmarks', 'tests'}
  for name in TREES:
    if name.startswith('geco_jax'):
      assert not {i.partition('.')[0] for i in imported(name)} & above, name


def test_the_page_of_results_is_written_without_what_trains():
  below = reachable(GRAPH, 'experiments.results_page')
  assert 'geco_jax.evaluation.verdicts' in below
  assert not below & {'geco_jax.build', 'geco_jax.step', 'geco_jax.models'}


@pytest.mark.parametrize('name', ['multipliers', 'lagrangian'])
def test_the_method_stands_alone_but_for_its_checks(name):
  assert GRAPH[f'geco_jax.{name}'] == {'geco_jax.multiplier_checks'}


def test_the_checks_of_the_method_stand_alone():
  assert not GRAPH['geco_jax.multiplier_checks']


def test_the_longest_chain_of_imports():
  chain = max(map(floors, sorted(GRAPH)), key=len)
  assert len(chain) <= MAX_FLOORS, ' -> '.join(chain)


def test_files_are_short():
  lines = {n: max(s.end_lineno for s in t.body) for n, t in TREES.items()}
  assert not {n: k for n, k in lines.items() if k > MAX_FILE_LINES}


def test_bodies_of_functions_are_short():
  """Their docstrings do not count."""
  long = {}
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        body = node.body[ast.get_docstring(node) is not None :] or node.body
        lines = body[-1].end_lineno - body[0].lineno + 1
        if lines > MAX_BODY_LINES:
          long[name, node.name] = lines
  assert not long


def python_files():
  yield pathlib.Path(ROOT, 'setup.py')
  for folder in CODE:
    yield from pathlib.Path(ROOT, folder).rglob('*.py')


def test_no_name_is_a_riddle():
  names = {
    (file, node.lineno, name)
    for file in python_files()
    for node in ast.walk(ast.parse(file.read_text()))
    for name in (
      getattr(node, 'id', None),
      getattr(node, 'arg', None),
      getattr(node, 'name', None),
      getattr(node, 'attr', None),
    )
    if isinstance(name, str) and RIDDLE.fullmatch(name)
  }
  assert not names


def test_the_picture_of_the_rooms_is_of_this_code():
  path = os.path.join(ROOT, 'docs', 'figures', 'architecture.png')
  with Image.open(path) as picture:
    drawn = picture.text['rooms']
  rooms = draw_architecture.as_text(draw_architecture.rooms())
  assert drawn == rooms, 'python -m docs.draw_architecture draws it anew'


def test_no_comment_or_docstring_is_a_genitive_without_its_noun():
  comments = [
    (path.name, line)
    for path in python_files()
    for line in path.read_text().splitlines()
    if GENITIVE.search(line)
  ]
  assert not comments


def test_no_text_is_a_genitive_without_its_noun():
  texts = [
    (path.name, node.lineno, node.value)
    for path in python_files()
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant)
    and isinstance(node.value, str)
    and re.match(r'\s*Of\b', node.value)
  ]
  assert not texts


def test_the_page_on_the_architecture_names_every_room():
  with open(os.path.join(ROOT, 'docs', 'architecture.md')) as file:
    page = file.read().split('```')[1]
  entries = os.listdir(os.path.join(ROOT, 'geco_jax'))
  files = {e for e in entries if e.endswith('.py') and e != '__init__.py'}
  folders = {f'{f.rpartition(".")[2]}/' for f in PACKAGES if '.' in f}
  missing = {room for room in files | folders if room not in page.split()}
  assert not missing
