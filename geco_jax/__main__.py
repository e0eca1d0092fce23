"""Every command behind one: `geco-jax train` is `python -m geco_jax.train`.

geco-jax COMMAND [--flags]
geco-jax COMMAND --help
"""

import ast
import importlib.util
import pkgutil
import runpy
import sys

import geco_jax

_COMMANDS = {
  name.rpartition('.')[2]: f'geco_jax.{name}'
  for name in (
    'train',
    'evaluate',
    'sample',
    'sweep',
    'choose_kappa',
    'marginal_kl',
    'sample_quality',
    'train_classifier',
    'datasets.prepare',
  )
}
_EXIT_BAD_INPUT = 2


def commands() -> dict[str, str]:
  """Return the module of every command by its name, experiments last."""
  # In a wheel; in a checkout the folder stands beside the package.
  packages = ('geco_jax.experiments', 'experiments')
  for package in packages:
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
      modules = pkgutil.iter_modules(spec.submodule_search_locations)
      names = [module.name for module in modules if not module.ispkg]
      return _COMMANDS | {name: f'{package}.{name}' for name in names}
  return _COMMANDS


def overview() -> str:
  """Return what `geco-jax --help` prints: a line for each command."""
  lines = [str(__doc__)]
  for name, module in commands().items():
    lines.append(f'  {name:<23} {_first_line(module)}')
  return '\n'.join(lines)


def _first_line(module: str) -> str:
  """Return the first line of a module's docstring, without running it."""
  spec = importlib.util.find_spec(module)
  if spec is not None and spec.submodule_search_locations:
    spec = importlib.util.find_spec(f'{module}.__main__')
  assert spec is not None and spec.origin is not None, module
  with open(spec.origin) as file:
    text = ast.get_docstring(ast.parse(file.read())) or ''
  return text.partition('\n')[0]


def main() -> int:
  """Run the command that argv names; return the exit code if it returns."""
  name = sys.argv[1] if len(sys.argv) > 1 else ''
  if name in ('', '-h', '--help', 'help'):
    print(overview())
    return 0 if name else _EXIT_BAD_INPUT
  if name == '--version':
    print(f'geco_jax {geco_jax.__version__}')
    return 0
  if name not in commands():
    return _refuse(
      f'unknown command {name!r}; choose from {", ".join(commands())}'
    )
  if importlib.util.find_spec('ml_collections') is None:
    return _refuse(
      f"{name} needs more than geco_jax's core: pip install 'geco_jax[train]', "
      "in a checkout '.[train]'"
    )
  del sys.argv[1]
  runpy.run_module(commands()[name], run_name='__main__', alter_sys=True)
  return 0


def _refuse(sentence: str) -> int:
  print('error:', sentence, file=sys.stderr)
  return _EXIT_BAD_INPUT


if __name__ == '__main__':
  sys.exit(main())
