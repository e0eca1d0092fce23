"""Commands in processes of their own, without the seconds of their imports."""

import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile
from unittest import mock

ROOT = str(pathlib.Path(__file__).parents[1])
# A process that has imported what takes seconds to import, but has started no
# device: its forks are as good as new processes.
_PROCESSES = multiprocessing.get_context('forkserver')
_IMPORTED = [
  'geco_jax.training.loop',
  'geco_jax.sweep.report',
  'geco_jax.sweep.local',
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
  _PROCESSES.set_forkserver_preload(_IMPORTED)
  environment = {'PYTHONPATH': ROOT, 'JAX_PLATFORMS': 'cpu'}
  with tempfile.TemporaryDirectory() as folder:
    out, err = printed = [pathlib.Path(folder, name) for name in ('out', 'err')]
    with mock.patch.dict(os.environ, environment):
      process = _PROCESSES.Process(
        target=target, args=(printed, dict(os.environ), *arguments)
      )
      process.start()
    process.join()
    return process.exitcode, out.read_text(), err.read_text()


def _become(printed, environment):
  """Let this process print into files and have its parent's environment."""
  for descriptor, path in enumerate(printed, start=1):
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
  os.environ.clear()
  os.environ.update(environment)
  os.chdir(ROOT)


def _be_command(printed, environment, module, arguments):
  _become(printed, environment)
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


def _be_script(printed, environment, script, arguments):
  _become(printed, environment)
  sys.argv = ['-c', *arguments]
  exec(script, {'__name__': '__main__'})
