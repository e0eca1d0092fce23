"""The package's config files, by name, wherever they are installed."""

import glob
import os
import runpy

from absl import flags
from ml_collections import config_flags
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
      configs/ before and .py behind; then maybe a colon and a variant. A file
      comes before a config of the package.

  Raises:
    UserError: if there is neither.
  """
  path, colon, variant = reference.partition(':')
  if not os.path.isfile(path):
    name = path.removeprefix('configs/').removesuffix(_SUFFIX)
    if name not in names():
      raise UserError(
        f'{path} could not be loaded: it is no config file and none of the '
        f"package's configs, {', '.join(names())}"
      )
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


def define_flags(default: str | None) -> None:
  """Define --config and --print_config.

  Args:
    default: what `find` takes, where --config is not given.
  """
  config_flags.DEFINE_config_file(
    'config',
    default and find(default),
    f'A config by name, NAME or NAME:VARIANT ({", ".join(names())}), or the '
    'path of a config file. Every leaf can be overridden: '
    '--config.constraints.re.kappa=0.1',
  )
  flags.FLAGS['config'].parser = _Parser('config')
  flags.DEFINE_bool(
    'print_config', False, "Print the config's leaves and do no more."
  )


def as_text(config: ConfigDict) -> str:
  """Return the leaves by dotted name, one a line."""
  leaves = config_tree.flatten(config)
  return '\n'.join(f'{name} = {value!r}' for name, value in leaves.items())


class _Parser(config_flags.config_flags.ConfigFileFlagParser):
  """Finds configs by name before it reads them."""

  def parse(self, path: str) -> ConfigDict:
    """Return the config, locked.

    Raises:
      ValueError: if there is none.
    """
    try:
      path = find(path)
    except UserError as error:
      raise ValueError(str(error)) from error
    return super().parse(path)
