"""Which modules of geco_jax and experiments import which, from their text."""

import ast
import functools
import glob
import os

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
  """Yield all modules that a module imports.

  A package runs before what is in it, so it is imported as well, but not by
  its own modules: these it may import itself.
  """
  for node in _run_nodes(TREES[name]):
    if isinstance(node, ast.Import):
      targets = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      source = _source(name, node)
      inner = [f'{source}.{alias.name}' for alias in node.names]
      targets = [i if i in TREES else source for i in inner]
    else:
      continue
    for target in targets:
      yield target
      while '.' in target:
        target = target.rpartition('.')[0]
        if target in TREES and not f'{name}.'.startswith(f'{target}.'):
          yield target


def _run_nodes(tree):
  """Yield a tree's nodes but those for type checkers alone."""
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
      continue
    yield node
    yield from _run_nodes(node)


def _source(name, node):
  """Return where a module imports from; experiments do so relatively.

  In a wheel they are geco_jax.experiments.
  """
  if not node.level:
    assert not node.module.startswith('experiments'), f'{name}: not relative'
    return node.module
  assert name.startswith('experiments'), f'{name}: a relative import'
  package = name if name in PACKAGES else name.rpartition('.')[0]
  parts = package.split('.')[: len(package.split('.')) - node.level + 1]
  return '.'.join([*parts, *([node.module] if node.module else [])])


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
      if circle := visit(target):
        return circle
    path.pop()
    done.add(name)
    return []

  return next((circle for name in sorted(graph) if (circle := visit(name))), [])


@functools.cache
def floors(name):
  """Return the longest chain of imports below a module, itself included.

  The __init__ of a package is no floor.
  """
  longest = max((floors(t) for t in sorted(GRAPH[name])), key=len, default=())
  return longest if name in PACKAGES else (name, *longest)
