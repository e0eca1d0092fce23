"""Commands in processes of their own, without the seconds of their imports."""

from collections.abc import Callable, Sequence
import multiprocessing
from multiprocessing.process import BaseProcess
import os
import pathlib
import runpy
import sys
import tempfile
from typing import Any
from unittest import mock

ROOT = str(pathlib.Path(__file__).parents[1])
# A process that has imported what takes seconds to import, but has started no
# device: its forks are as good as new processes.
_PROCESSES = multiprocessing.get_context('forkserver')
_IMPORTED = [
  'geco_jax.training.loop',
  'geco_jax.sweep.report',
  'geco_jax.sweep.local',
  'sklearn.datasets',
  'tensorflow_datasets',
  'tests.processes',
]


def run(module: str, *arguments: str) -> tuple[int | None, str, str]:
  """Run a command as `python -m` would; return exit code, stdout, stderr."""
  return _run(_be_command, module, arguments)


def execute(script: str, *arguments: str) -> tuple[int | None, str, str]:
  """Run a script as `python -c` would; return exit code, stdout, stderr."""
  return _run(_be_script, script, arguments)


def _run(target, *arguments):
  with tempfile.TemporaryDirectory() as folder:
    out, err = printed = [pathlib.Path(folder, name) for name in ('out', 'err')]
    process = start(target, printed, *arguments)
    process.join()
    return process.exitcode, out.read_text(), err.read_text()


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
  """Start a process in `ROOT` with this one's environment; return it."""
  _PROCESSES.set_forkserver_preload(_IMPORTED)
  environment = {'PYTHONPATH': ROOT, 'JAX_PLATFORMS': 'cpu'}
  with mock.patch.dict(os.environ, environment):
    process = _PROCESSES.Process(
      target=_begin, args=(dict(os.environ), target, arguments)
    )
    process.start()
  return process


def _begin(environment, target, arguments):
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(ROOT)
  target(*arguments)


def be_command(module: str, arguments: Sequence[str]) -> None:
  """Let this process be a command, as `python -m` would."""
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


def _print_into(printed):
  for descriptor, path in enumerate(printed, start=1):
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)


def _be_command(printed, module, arguments):
  _print_into(printed)
  be_command(module, arguments)


def _be_script(printed, script, arguments):
  _print_into(printed)
  sys.argv = ['-c', *arguments]
  exec(script, {'__name__': '__main__'})
