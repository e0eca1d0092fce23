"""How every command starts, reads its config and reports bad input."""

from collections.abc import Callable, Sequence
import os
import sys
import tempfile
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict

from geco_jax import signals
from geco_jax.console import say
from geco_jax.errors import Interrupted
from geco_jax.errors import UserError
from geco_jax.io.files import cache_folder

EXIT_BAD_INPUT = 2
NO_CACHE = 'off'

WORKDIR = flags.DEFINE_string('workdir', None, "Folder of the run's files.")
DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "TFDS's folder; else TFDS_DATA_DIR or TFDS's own default."
)
COMPILATION_CACHE = flags.DEFINE_string(
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

  So does a signal: its exit code is 128 and its number.

  Args:
    main: takes argv, returns the exit code or None.
    define_flags: defines the command's own flags; not at import, so that one
      program can import several commands.
    takes_config: whether the command has --config, read by `config`.
    default_config: path of the config where --config is not given.
    compilation_cache: what --compilation_cache is where it is not given.
  """
  flags.set_default(COMPILATION_CACHE, compilation_cache)
  if define_flags is not None:
    define_flags()
  if takes_config:
    config_flags.DEFINE_config_file(
      'config',
      default_config,
      'Config file, configs/NAME.py or configs/NAME.py:VARIANT. Every leaf can '
      'be overridden: --config.constraints.re.kappa=0.1',
      lock_config=True,
    )

  def reporting_main(argv):
    if not flags.FLAGS['verbosity'].present:
      # Orbax and TFDS log every step of theirs at INFO.
      logging.set_verbosity(logging.WARNING)
    try:
      if len(argv) > 1:
        raise UserError(f'unexpected arguments: {" ".join(argv[1:])}')
      _use_compilation_cache()
      return main(argv)
    except UserError as error:
      return _report(error)
    except Interrupted as interrupted:
      say(f'{interrupted}; the same command goes on from there')
      return 128 + interrupted.signal_number
    except signals.Stopped as stopped:  # Where no run was training.
      say(str(stopped))
      return 128 + stopped.signal_number

  try:
    with signals.raised():
      app.run(reporting_main, flags_parser=_parse_flags)
  except signals.Stopped as stopped:  # While it parsed the flags.
    say(str(stopped))
    sys.exit(128 + stopped.signal_number)


def config() -> ConfigDict:
  """Return the config that the command line asked for.

  Raises:
    UserError: if there is none or the file could not be loaded.
  """
  value = flags.FLAGS.config
  if value is None:
    raise UserError('--config is missing, e.g. --config=configs/digits_vae.py')
  if not isinstance(value, ConfigDict):
    flag: Any = flags.FLAGS['config']
    raise UserError(
      f'--config={flag.config_filename} could not be loaded as a config file'
    )
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
  if folder is None and os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    return
  folder = os.path.abspath(
    os.path.expanduser(folder or cache_folder() / 'compiled')
  )
  try:
    os.makedirs(folder, exist_ok=True)
    # Once for all: JAX would warn of every program.
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    logging.warning('Going on without a cache of compiled programs: %s', error)
    _set_in_jax('jax_enable_compilation_cache', False)
    return
  _set_in_jax('jax_compilation_cache_dir', folder)


def _set_in_jax(option, value) -> None:
  """Set an option here and in processes started here: a sweep's local jobs."""
  jax.config.update(option, value)
  os.environ[option.upper()] = str(value)


def _parse_flags(argv):
  """Parse flags; errors of the config file become one line too."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(_report(_without_traceback(str(error))))
  except (AttributeError, KeyError) as error:  # The config has no such key.
    sys.exit(_report(f'the config has no such key: {error}'))
  except (ValueError, TypeError, OSError) as error:  # It refuses a value.
    sys.exit(_report(error))


def _without_traceback(text: str) -> str:
  """Return a text, but of a config's traceback only the error's message."""
  *_, last = text.strip().splitlines()
  refusal = 'ValueError: '
  if 'Traceback' in text and last.startswith(refusal):
    return last.removeprefix(refusal)
  return text


def _report(error) -> int:
  print('error:', ' '.join(str(error).split()), file=sys.stderr)
  return EXIT_BAD_INPUT
