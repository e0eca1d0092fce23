"""What tests of the pages share: their code, their commands."""

import ast
import importlib.util
import os
import re
import shlex

from geco_jax import __main__ as commands
from geco_jax import config_files

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EVERYWHERE = {
  'config',
  'workdir',
  'data_dir',
  'compilation_cache',
  'print_config',
  'trackers',
  'help',
}


def read(*path):
  """Return the text of a page."""
  with open(os.path.join(ROOT, *path)) as file:
    return file.read()


def python_blocks(page):
  """Return a page's code."""
  return re.findall(r'```python\n(.*?)```', page, re.DOTALL)


def commands_of(page):
  """Yield the words of every command in a page, comments left out."""
  for block in re.findall(r'```sh\n(.*?)```', page, re.DOTALL):
    for line in block.replace('\\\n', '').splitlines():
      words = shlex.split(line, comments=True)
      while words and re.match(r'[A-Z_]+=', words[0]):
        words = words[1:]
      if words:
        yield words


def check_command(words):
  """Assert that a command, its config and its flags exist."""
  _, name, *arguments = words
  module = commands.commands()[name]
  config = None
  for argument in arguments:
    flag, _, value = argument.partition('=')
    key = flag.removeprefix('--')
    if key == 'config' and value.startswith('my_'):
      continue  # The page shows the file.
    elif key == 'config':
      config = config_files.load(value)
    elif key.startswith('config.'):
      leaf = config
      for part in key.split('.')[1:]:
        leaf = leaf[part]
    else:
      assert key in EVERYWHERE | _flags(module), f'{name} {flag}'


def _flags(module):
  """Return the names that a module's text defines flags by."""
  spec = importlib.util.find_spec(module)
  if spec.submodule_search_locations:
    spec = importlib.util.find_spec(f'{module}.__main__')
  with open(spec.origin) as file:
    tree = ast.parse(file.read())
  return {
    node.args[0].value
    for node in ast.walk(tree)
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Attribute)
    and node.func.attr.startswith(('DEFINE_', 'define_path'))
  }
