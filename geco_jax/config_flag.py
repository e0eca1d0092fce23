"""The flag --config: a config file, and overrides of its leaves.

`ml_collections` reads both. This module adds what it lacks: which files there
are, where a file failed, which key was meant, and None.
"""

from collections.abc import Sequence
import importlib.machinery
import importlib.util
import re
import sys
import traceback
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import FrozenConfigDict
from ml_collections.config_flags import tuple_parser

from geco_jax import config_files
from geco_jax.config_schema import hint
from geco_jax.errors import UserError
from geco_jax.io.paths import local_path
from geco_jax.io.run_folder import FORMER
from geco_jax.own_parts import import_all

_NAME = 'config'
_OVERRIDE = re.compile(rf'--?(?:no)?{_NAME}\.([\w.]+)(?:=(.*)|\Z)', re.DOTALL)


def define() -> None:
  """Define --config, whose overrides may be None, and --print_config."""
  for kind, parser in (
    (float, flags.FloatParser()),
    (bool, flags.BooleanParser()),
    (int, flags.IntegerParser()),
    (str, flags.ArgumentParser()),
  ):
    config_flags.register_flag_parser_for_type(kind, _OrNone(parser))
  config_flags.DEFINE_config_file(
    _NAME,
    None,
    'A config by name, NAME or NAME:VARIANT '
    f'({", ".join(config_files.names())}), or the path of a config file. Every '
    'leaf can be overridden: --config.constraints.re.kappa=0.1',
    lock_config=True,
  )
  flag: Any = flags.FLAGS[_NAME]
  flag.parser = _ConfigParser()
  flags.DEFINE_bool(
    'print_config', False, "Print the config's leaves and do no more."
  )


class _OrNone(flags.ArgumentParser):
  """A parser that takes None, or whatever another parser takes."""

  def __init__(self, parser: flags.ArgumentParser):
    self._parser = parser
    self.syntactic_help = parser.syntactic_help

  def parse(self, argument):
    """Return the value of an argument."""
    is_none = isinstance(argument, str) and argument == 'None'
    return None if is_none else self._parser.parse(argument)

  def flag_type(self):
    """Return the name of the type, for --help."""
    return self._parser.flag_type()


class _ConfigParser(flags.ArgumentParser):
  """A parser that loads a config file and checks which keys are overridden."""

  def parse(self, argument):
    """Return the config that `config_files.find` finds."""
    try:
      path, *variant = config_files.find(local_path(argument)).split(':', 1)
    except UserError as error:
      raise UserError(f'--config={error}') from error
    # First, since the file's variant may name the parts that they enter.
    import_all(_imports(sys.argv))
    config = _load(argument, path, variant)
    if not isinstance(config, ConfigDict):
      raise UserError(
        f'--config={argument}: get_config() must return a ConfigDict, got '
        f'{type(config).__name__}'
      )
    for name, _ in _overrides(sys.argv):
      _check_is_there(config, name)
    return config

  def flag_type(self):
    """Return the name of the type, for --help."""
    return 'config file'


def _load(argument: str, path: str, variant: Sequence[str]) -> Any:
  """Return what the file's `get_config` returns, locked."""
  loader = importlib.machinery.SourceFileLoader('config_config', path)
  spec = importlib.util.spec_from_loader(loader.name, loader)
  assert spec is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[loader.name] = module  # Dataclasses look their module up.
  try:
    loader.exec_module(module)
    if not callable(getattr(module, 'get_config', None)):
      raise UserError(f'--config={argument}: the file has no get_config()')
    config = module.get_config(*variant)
    if isinstance(config, FrozenConfigDict):
      config = ConfigDict(config)
    if isinstance(config, ConfigDict):
      _complete(config)
      config.lock()  # Computes its values.
    return config
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame.lineno for frame in frames if frame.filename == path]
    where = f' (line {places[-1]})' if places else ''
    raise UserError(
      f'--config={argument}: {_in_words(error)}{where}'
    ) from error


def _in_words(error: BaseException) -> str:
  """Return what went wrong in a config file."""
  match = re.search(  # How a ConfigDict refuses a value of another type.
    r"field '(?P<key>.*?)'.*\. (?P<value>.*) is of original type <class "
    r"'(?P<type>.*?)'> .* to type <class '(?P<wanted>.*?)'>",
    str(error),
    re.DOTALL,
  )
  if match and type(error) is TypeError:
    wanted = match['wanted'].rpartition('.')[2]
    if wanted == 'ConfigDict':
      wanted = 'group, base_config.group(name, ...)'
    return (
      f'config.{match["key"]} must be of type {wanted}, got {match["value"]} '
      f'({match["type"].rpartition(".")[2]})'
    )
  # A ValueError is how our own configs refuse a variant.
  kind = '' if type(error) is ValueError else f'{type(error).__name__}: '
  return f'{kind}{error}'


def _complete(config: ConfigDict) -> None:
  """Add the optional key to a config, so that it can be overridden."""
  if isinstance(dataset := config.get('dataset'), ConfigDict):
    with dataset.unlocked():
      dataset.placement = dataset.get('placement', FORMER['dataset.placement'])


def _overrides(argv: Sequence[str]) -> list[tuple[str, str]]:
  """Return the dotted names that a command line overrides, and their values.

  A value that is an argument of its own is the next argument.
  """
  argv = argv[: argv.index('--')] if '--' in argv else argv
  matches = map(_OVERRIDE.match, argv)
  return [
    (match[1], following if match[2] is None else match[2])
    for match, following in zip(matches, [*argv[1:], ''], strict=True)
    if match
  ]


def _imports(argv: Sequence[str]) -> list[str]:
  """Return the modules that a command line's config.imports names."""
  parse = tuple_parser.TupleParser().parse
  try:
    values = [parse(v) for name, v in _overrides(argv) if name == 'imports']
  except ValueError as error:
    raise UserError(f'--{_NAME}.imports: {error}') from error
  return [module for value in values for module in value]


def _check_is_there(config: ConfigDict, name: str) -> None:
  """Refuse an override of a key that the config does not have."""
  value = config
  for part in name.split('.'):
    if not isinstance(value, ConfigDict) or part not in value:
      raise UserError(
        f'--config.{name}: the config has no such key'
        f'{hint(name, [*_dotted(config)])}'
      )
    value = value[part]


def _dotted(config: ConfigDict, prefix: str = ''):
  """Yield the dotted names of a config's groups and leaves."""
  for name in config:
    yield f'{prefix}{name}'
    value = config[name]
    if isinstance(value, ConfigDict):
      yield from _dotted(value, f'{prefix}{name}.')
