"""What is imported is declared, and the core needs no more than it says."""

import ast
import importlib.metadata
import re
import subprocess
import sys

from tests.import_graph import TREES
from tests.pages import read
from tests.pages import ROOT

CORE = {'jax', 'numpy', 'optax'}
# Modules of extras, asked for where they are missing.
OPTIONAL = {'submitit', 'tensorflow', 'importlib_resources', 'wandb', 'mlflow'}


def declared(name):
  """Return the distributions of a list in setup.py."""
  tree = ast.parse(read('setup.py'))
  lists = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      lists[node.targets[0].id] = node.value
    if isinstance(node, ast.keyword):
      lists[node.arg] = node.value
  return {
    re.match(r'[\w-]+', requirement)[0].lower().replace('_', '-')
    for requirement in ast.literal_eval(lists[name])
  }


def test_every_import_is_declared():
  distributions = importlib.metadata.packages_distributions()
  allowed = declared('install_requires') | declared('_TRAIN')
  undeclared = {}
  for module, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
      else:
        continue
      for name in names:
        top = name.partition('.')[0]
        if top in sys.stdlib_module_names | OPTIONAL | {'geco_jax'}:
          continue
        sources = {d.lower().replace('_', '-') for d in distributions[top]}
        if not sources & allowed:
          undeclared[module] = top
  assert not undeclared


def test_the_core_takes_jax_numpy_and_optax_alone():
  assert declared('install_requires') == CORE
  train = declared('_TRAIN')
  distributions = importlib.metadata.packages_distributions()
  hidden = {
    name
    for name, sources in distributions.items()
    if {s.lower().replace('_', '-') for s in sources} & train
  } - {'absl', 'scipy'}  # optax's and jax's.
  assert {'haiku', 'ml_collections', 'orbax', 'sklearn'} <= hidden
  code = (
    'import sys\n'
    f'sys.modules.update(dict.fromkeys({sorted(hidden)!r}))\n'
    'import geco_jax, geco_jax.__main__\n'
    'geco_jax.geco(0.1), geco_jax.lagrangian(0.0, 1.0, 0.0)\n'
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
