"""How every command starts, reads its config and reports bad input."""

from collections.abc import Callable, Sequence
import contextlib
import io
import logging as python_logging
import os
import sys
import tempfile

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections.config_dict import ConfigDict

from geco_jax import config_files
from geco_jax import config_flag
from geco_jax import config_schema
from geco_jax import signals
from geco_jax.console import say
from geco_jax.errors import Interrupted
from geco_jax.errors import UserError
from geco_jax.io import trackers
from geco_jax.io.encodings import PATHS_AS_THEY_ARE
from geco_jax.io.files import cache_folder
from geco_jax.io.paths import local_path
from geco_jax.own_parts import search_here

EXIT_BAD_INPUT = 2
NO_CACHE = 'off'
_CACHE_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
_LEAST_VARIABLE = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'
# Seconds of compilation from which a program is kept. JAX's own second leaves
# out most of a small model's, which together take as long as one large.
_LEAST_KEPT = 0.1
_MAX_SHOWN = 200  # Characters of a message that may be long.


class _PathParser(flags.ArgumentParser):
  """A parser of local paths that expands `~`."""

  def parse(self, argument):
    """Return the path."""
    return local_path(argument) if argument else argument

  def flag_type(self):
    """Return the name of the type, for --help."""
    return 'path'


def define_path(
  name: str, default: str | None, help_text: str
) -> flags.FlagHolder:
  """Define a flag that is a local path."""
  return flags.DEFINE(_PathParser(), name, default, help_text)


WORKDIR = define_path('workdir', None, "Folder of the run's files.")
DATA_DIR = define_path(
  'data_dir', None, "TFDS's folder; else TFDS_DATA_DIR or TFDS's own default."
)
COMPILATION_CACHE = define_path(
  'compilation_cache',
  None,
  f'Folder that keeps compiled programs for later commands, or {NO_CACHE}; '
  'else JAX_COMPILATION_CACHE_DIR or compiled in the cache of data sets.',
)


def run(
  main: Callable[[Sequence[str]], int | None],
  define_flags: Callable[[], None] | None = None,
  *,
  takes_config: bool = False,
  default_config: str | None = None,
  compilation_cache: str | None = None,
) -> None:
  """Run `main` under absl; a `UserError` becomes one line and exit code 2.

  So does a signal, whose exit code is 128 plus its number.

  Args:
    main: takes argv, returns the exit code or None.
    define_flags: defines the command's own flags; not at import, so that one
      program can import several commands.
    takes_config: whether the command has --config, read by `config`.
    default_config: path of the config where --config is not given.
    compilation_cache: default of --compilation_cache.
  """
  flags.set_default(COMPILATION_CACHE, compilation_cache)
  if define_flags is not None:
    define_flags()
  if takes_config:
    config_flag.define()
  _show_own_flags()
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      with contextlib.suppress(OSError):  # A pipe in the place of a file.
        stream.reconfigure(errors=PATHS_AS_THEY_ARE)
  search_here()  # For config files, which may import anything.

  def reporting_main(argv):
    if not flags.FLAGS['verbosity'].present:
      # Orbax and TFDS log every step of theirs at INFO.
      logging.set_verbosity(logging.WARNING)
      # Errors of Orbax about damaged checkpoints are reported in a sentence.
      python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
    try:
      if len(argv) > 1:
        raise UserError(f'unexpected arguments: {" ".join(argv[1:])}')
      if takes_config and flags.FLAGS.print_config:
        config_schema.check_leaves('config', config())
        print(config_files.as_text(config()))
        return None
      _use_compilation_cache()
      return main(argv)
    except UserError as error:
      return _report(error)
    except (RuntimeError, MemoryError, AssertionError) as error:
      return _report(_shortage(error))
    except Interrupted as interrupted:
      say(f'{interrupted}; the same command goes on from there')
      return 128 + interrupted.signal_number

  with signals.raised():
    app.run(
      reporting_main,
      flags_parser=lambda argv: _parse_flags(argv, default_config),
    )


def define_seed(help_text: str) -> None:
  """Define --seed, of a random key: beyond 32 bits seeds would repeat."""
  flags.DEFINE_integer(
    'seed', 0, help_text, lower_bound=0, upper_bound=2**32 - 1
  )


def define_trackers() -> None:
  """Define --trackers, of commands that train."""
  flags.DEFINE_list(
    'trackers',
    None,
    'Where numbers go besides metrics.jsonl, any of '
    f'{", ".join((trackers.TENSORBOARD, *trackers.TRACKERS))}; by default '
    f'{trackers.TENSORBOARD} alone.',
  )


def use_trackers() -> None:
  """Use what --trackers names, if it is given.

  Raises:
    UserError: if one is unknown or not installed.
  """
  if flags.FLAGS.trackers is not None:
    trackers.use(flags.FLAGS.trackers)


def config() -> ConfigDict:
  """Return the config that the command line asked for.

  Raises:
    UserError: if there is none.
  """
  value = flags.FLAGS.config
  if value is None:
    raise UserError('--config is missing, e.g. --config=configs/digits_vae.py')
  return value


def workdir() -> str:
  """Return --workdir.

  Raises:
    UserError: if it is missing.
  """
  if not WORKDIR.value:
    raise UserError('--workdir is missing, e.g. --workdir=runs/digits')
  return WORKDIR.value


def _use_compilation_cache() -> None:
  """Let JAX keep what it compiles, as --compilation_cache says.

  A folder that cannot be written to costs a warning and the cache.
  """
  folder = COMPILATION_CACHE.value
  if folder == NO_CACHE:
    _set_in_jax('jax_enable_compilation_cache', False)
    return
  if folder is None and (given := os.environ.get(_CACHE_VARIABLE)):
    if given.startswith('~'):  # JAX would take it literally.
      _set_in_jax('jax_compilation_cache_dir', local_path(given))
    return
  try:
    folder = os.path.abspath(folder or cache_folder() / 'compiled')
    os.makedirs(folder, exist_ok=True)
    # Checked once: JAX would warn about every program.
    with tempfile.TemporaryFile(dir=folder):
      pass
  except (OSError, UserError) as error:
    logging.warning('Going on without a cache of compiled programs: %s', error)
    _set_in_jax('jax_enable_compilation_cache', False)
    return
  _set_in_jax('jax_compilation_cache_dir', folder)
  if _LEAST_VARIABLE not in os.environ:
    _set_in_jax(_LEAST_VARIABLE.lower(), _LEAST_KEPT)


def _set_in_jax(option, value) -> None:
  """Set an option here and in processes started here: a sweep's local jobs."""
  jax.config.update(option, value)
  os.environ[option.upper()] = str(value)


def _show_own_flags() -> None:
  """Let --help show all flags that this package's modules define."""
  for module, defined in flags.FLAGS.flags_by_module_dict().items():
    if module.partition('.')[0] in ('geco_jax', 'experiments'):
      for flag in defined:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _name_commands_as_installed() -> None:
  """Make a wheel's command show the name that it has there."""
  module = sys.modules['__main__']
  if (module.__package__ or '').startswith('geco_jax.experiments'):
    module.__doc__ = (module.__doc__ or '').replace(
      'python -m experiments.', 'python -m geco_jax.experiments.'
    )


def _parse_flags(argv, default_config):
  """Parse flags; errors of the config file become one line too."""
  if '--help' in argv:  # Asked for: absl would exit with 1.
    _name_commands_as_installed()
    app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
  try:
    if default_config is not None:
      flags.FLAGS.set_default('config', default_config)
    return flags.FLAGS(argv)
  except (UserError, flags.Error) as error:
    sys.exit(_report(error))
  except (LookupError, AttributeError, ValueError, TypeError) as error:
    sys.exit(_report(f'--config: {type(error).__name__}: {error}'))


def _shortage(error: Exception) -> str:
  """Return what the machine lacks; raise any other error."""
  text = str(error)
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text:
    return (
      'out of memory; a smaller config.batch_size or model may fit: '
      f'{text[:_MAX_SHOWN]}'
    )
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as missing:
    platforms = os.environ.get('JAX_PLATFORMS')
    reason = str(missing) or 'what they need is not installed'
    return f'JAX has no devices of JAX_PLATFORMS={platforms}: {reason}'
  raise error


def _report(error) -> int:
  print('error:', ' '.join(str(error).split()), file=sys.stderr)
  return EXIT_BAD_INPUT
