"""run.json: what a run was trained with, for whoever reads its numbers later.

A by-product: nothing reads it to train. Every time that the run begins or goes
on is a session of it, with its own command, version and device.
"""

from collections.abc import Iterable
import datetime
import functools
import importlib
from importlib import metadata
import os
import shlex
import subprocess
import sys
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from geco_jax import parallel
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import manifest
from geco_jax.io import run_folder
from geco_jax.io.encodings import in_unicode

FILE = 'run.json'
# Environment variables that count, beside JAX's settings.
_VARIABLES = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')
_PACKAGE = __name__.partition('.')[0]


class Session:
  """The record of a run while it is being trained, kept in its folder."""

  def __init__(
    self, workdir: str, step: int, params: Any, imports: Iterable[str] = ()
  ):
    """Add a session to what the folder holds of earlier ones.

    Args:
      workdir: the run's directory.
      step: where the session starts.
      params: parameters of the model, NumPy arrays.
      imports: the modules of `config.imports`.
    """
    self._path = os.path.join(workdir, FILE)
    earlier = by_products.read(self._path, _sessions)
    self._earlier = earlier or []
    self._start = time.monotonic()
    self._session = {
      'started': now(),
      'first_step': step,
      'last_step': step,
      'seconds': 0.0,
      **environment(),
      'imports': {name: _file_of(name) for name in imports},
    }
    self._run_entries = {
      'num_parameters': sum(np.size(x) for x in jax.tree.leaves(params)),
      'data_sha256': run_folder.recorded_sha256(workdir),
    }
    self.note(step)

  def note(self, step: int) -> None:
    """Write down that the run is saved at a step; a warning if that fails."""
    seconds = round(time.monotonic() - self._start, 3)
    self._session |= {'last_step': step, 'seconds': seconds}
    sessions = [*self._earlier, self._session]
    content = {
      **self._run_entries,
      'seconds': round(sum(s['seconds'] for s in sessions), 3),
      'sessions': sessions,
    }
    try:
      files.write_json(self._path, content)
    except OSError as error:
      logging.warning('Going on without %s: %s', FILE, error)


def environment() -> dict[str, Any]:
  """Return what this process runs with: versions, command, device, settings.

  `settings` and `variables` are those that change numbers.
  """
  return {
    'version': sys.modules[_PACKAGE].__version__,
    'commit': _commit(),
    'command': command(),
    'folder': _here(),
    'device': parallel.devices_in_words(),
    'jax': jax.__version__,
    'jaxlib': metadata.version('jaxlib'),  # XLA is within it.
    'runtime': ' '.join(jax.devices()[0].client.platform_version.split()),
    'settings': manifest.settings(),
    'variables': {k: os.environ[k] for k in _VARIABLES if k in os.environ},
  }


def command() -> str:
  """Return the command line of this process, as a shell takes it."""
  return in_unicode(shlex.join(sys.orig_argv))


def now() -> str:
  """Return the time in UTC, in ISO 8601."""
  now = datetime.datetime.now(datetime.UTC)
  return now.isoformat(timespec='seconds')


def read(workdir: str) -> list[dict[str, Any]]:
  """Return the sessions of a run, oldest first; none if they are not known."""
  return by_products.read(os.path.join(workdir, FILE), _sessions) or []


def trained_on(workdir: str) -> dict[str, str]:
  """Return the entry of a record that says on what a run was trained.

  There is none where the run's folder does not say.
  """
  devices = dict.fromkeys(session['device'] for session in read(workdir))
  return {'device': ', '.join(devices)} if devices else {}


def _sessions(content: Any) -> list[dict[str, Any]]:
  """Return the sessions of a file; raise ValueError if it has another form."""
  for session in content['sessions']:
    by_products.check(session['seconds'], (int, float), 'seconds')
    for name in ('device', 'version', 'command', 'started'):
      by_products.check(session[name], str, name)
  return content['sessions']


def _here() -> str | None:
  try:
    return os.getcwd()
  except FileNotFoundError:
    return None


def _file_of(name: str) -> str | None:
  return getattr(importlib.import_module(name), '__file__', None)


@functools.cache
def _commit() -> str | None:
  """Return the commit of the package's checkout, None if there is none.

  It ends in '-dirty' where files differ from the commit.
  """
  package = sys.modules[_PACKAGE].__file__
  root = os.path.dirname(os.path.dirname(os.path.abspath(package or '')))
  if not os.path.exists(os.path.join(root, '.git')):
    return None  # Installed; a checkout around it is another project's.
  command = ['git', '-C', root, 'describe', '--always', '--dirty']
  try:
    described = subprocess.run(
      [*command, '--abbrev=40', '--exclude=*'],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return described.stdout.strip()
