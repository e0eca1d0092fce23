"""Imports go one way, and nothing has outgrown its file."""

import ast
import functools
import glob
import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAX_FLOORS = 12
MAX_FILE_LINES = 450
MAX_BODY_LINES = 60
LONG_BODIES = {('geco_jax.multipliers', 'geco')}


def trees():
  """Return the syntax trees by name of module; a package is its __init__."""
  parsed = {}
  for package in ('geco_jax', 'experiments'):
    pattern = os.path.join(ROOT, package, '**', '*.py')
    for path in glob.glob(pattern, recursive=True):
      name = os.path.relpath(path, ROOT).removesuffix('.py')
      name = name.replace(os.sep, '.').removesuffix('.__init__')
      with open(path) as file:
        parsed[name] = ast.parse(file.read())
  return parsed


TREES = trees()
PACKAGES = {name.rpartition('.')[0] for name in TREES}


def imported(name):
  """Yield the modules that a module imports, whosever they are.

  A package runs before what is in it, so it is imported as well, but not by
  its own modules: these it may import itself.
  """
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.Import):
      targets = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{name}: a relative import'
      inner = [f'{node.module}.{alias.name}' for alias in node.names]
      targets = [i if i in TREES else node.module for i in inner]
    else:
      continue
    for target in targets:
      yield target
      while '.' in target:
        target = target.rpartition('.')[0]
        if target in TREES and not f'{name}.'.startswith(f'{target}.'):
          yield target


def folder(name):
  """Return a module's package; what lies at the top is a floor of its own."""
  package = name if name in PACKAGES else name.rpartition('.')[0]
  return package if '.' in package else name


GRAPH = {name: {i for i in imported(name) if i in TREES} for name in TREES}
FOLDERS = {}
for _name, _targets in GRAPH.items():
  FOLDERS.setdefault(folder(_name), set()).update(
    folder(target) for target in _targets if folder(target) != folder(_name)
  )


def cycle(graph):
  """Return names that import each other in a circle, or none."""
  done, path = set(), []

  def visit(name):
    if name in path:
      return [*path[path.index(name) :], name]
    if name in done:
      return []
    path.append(name)
    for target in sorted(graph[name]):
      if found := visit(target):
        return found
    path.pop()
    done.add(name)
    return []

  return next((found for name in sorted(graph) if (found := visit(name))), [])


@functools.cache
def floors(name):
  """Return the longest chain of imports below a module, itself included.

  The __init__ of a package is no floor.
  """
  longest = max((floors(t) for t in sorted(GRAPH[name])), key=len, default=())
  return longest if name in PACKAGES else (name, *longest)


@pytest.mark.parametrize('graph', [GRAPH, FOLDERS], ids=['modules', 'folders'])
def test_no_circle_of_imports(graph):
  assert not cycle(graph), ' -> '.join(cycle(graph))


def test_the_package_imports_nothing_that_is_built_on_it():
  above = {'experiments', 'configs', 'benchmarks', 'tests'}
  for name in TREES:
    if name.startswith('geco_jax'):
      assert not {i.partition('.')[0] for i in imported(name)} & above, name


@pytest.mark.parametrize('name', ['multipliers', 'lagrangian'])
def test_the_method_stands_alone(name):
  assert not GRAPH[f'geco_jax.{name}']


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
  assert long.keys() <= LONG_BODIES, long
