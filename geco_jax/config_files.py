"""The package's config files, by name, wherever they are installed."""

import difflib
import glob
import os
import runpy

from ml_collections.config_dict import ConfigDict

from geco_jax import config_tree
from geco_jax.errors import UserError

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_SUFFIX = '.py'


def folder() -> str:
  """Return the folder of the configs: in a wheel, or beside the package."""
  installed = os.path.join(_PACKAGE, 'configs')
  if os.path.isdir(installed):
    return installed
  return os.path.join(os.path.dirname(_PACKAGE), 'configs')


def names() -> list[str]:
  """Return all names, like digits_vae and classifiers/digits_cnn."""
  paths = glob.glob('**/*.py', root_dir=folder(), recursive=True)
  return sorted(
    path.removesuffix(_SUFFIX).replace(os.sep, '/') for path in paths
  )


def find(reference: str) -> str:
  """Return the path of a config file, and the variant if there is one.

  Args:
    reference: a path, or a name as `names` lists them, both with or without
      configs/ before and .py after it; then maybe a colon and a variant. A file
      comes before a config of the package.

  Raises:
    UserError: if there is neither.
  """
  path, colon, variant = reference.partition(':')
  if not os.path.isfile(path):
    name = path.removeprefix('configs/').removesuffix(_SUFFIX)
    if name not in names():
      raise UserError(f'{path}: no such file; {_files_like(path)}')
    path = os.path.join(folder(), f'{name}{_SUFFIX}')
  return f'{path}{colon}{variant}'


def load(reference: str) -> ConfigDict:
  """Return the config that `find` finds, in its variant.

  Raises:
    UserError: if there is none.
    ValueError: if it has no such variant.
  """
  path, *variant = find(reference).split(':', 1)
  return runpy.run_path(path)['get_config'](*variant)


def _files_like(path: str) -> str:
  """Return a phrase that lists the configs where one was looked for."""
  parent = os.path.dirname(path)
  beside = sorted(glob.glob('*.py', root_dir=parent)) if parent else []
  place, choices = (parent, beside) if beside else ('configs', names())
  last = os.path.basename(path) if beside else path
  close = difflib.get_close_matches(last, choices, n=1)
  guess = f' (did you mean {close[0]}?)' if close else ''
  return f'in {place} there are {", ".join(choices)}{guess}'


def as_text(config: ConfigDict) -> str:
  """Return the leaves by dotted name, one a line."""
  leaves = config_tree.flatten(config)
  return '\n'.join(f'{name} = {value!r}' for name, value in leaves.items())
