"""The commands as a person types them: exit codes and one-line errors."""

import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.evaluation.restored import restore_state
from geco_jax.io import run_folder
from tests import processes

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = os.path.join(ROOT, 'configs', 'digits_vae.py')
QUICK = (
  f'--config={CONFIG}',
  '--config.num_steps=40',
  '--config.steps_per_dispatch=10',
  '--config.checkpoint_every=20',
  '--config.model.kwargs.hidden_sizes=(16,)',
)


def start(module, *arguments, num_devices=1):
  """Start a command in a new process."""
  environment = os.environ | {
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} '
    f'--xla_force_host_platform_device_count={num_devices}',
    'JAX_PLATFORMS': 'cpu',
  }
  return subprocess.Popen(
    [sys.executable, '-m', module, *arguments],
    env=environment,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(module, *arguments, **kwargs):
  """Run a command to its end; return exit code, stdout, stderr."""
  process = start(module, *arguments, **kwargs)
  out, err = process.communicate()
  return process.returncode, out, err


def final_state(workdir):
  """Return the latest state of a run."""
  config = run_folder.read_config(str(workdir))
  experiment = build(config, build_dataset(config))
  return restore_state(str(workdir), experiment)


def test_train_then_evaluate(tmp_path):
  code, _, err = run('geco_jax.train', *QUICK, f'--workdir={tmp_path}')
  assert code == 0, err
  assert 'KL' in err and 're ' in err and 'lambda' in err  # The progress bar.
  code, out, err = run('geco_jax.evaluate', f'--workdir={tmp_path}')
  assert code == 0, err
  assert 'train' in out and 'test' in out
  for name in ('evaluation.json', 'reconstructions_train.png'):
    assert (tmp_path / name).exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.constraints.re.kapa=1'], 'no such key.*kappa'),
    (['--config.dataset.name=mnistt'], "unknown data set 'mnistt'"),
    (['--config.constraints.re.kappa=0'], 'kappa must be > 0'),
    (['--config.num_steps=x'], 'config.num_steps'),
    (['extra'], 'unexpected arguments: extra'),
    (['--distributed'], 'no cluster .* give --coordinator=HOST:PORT'),
    (['--process_id=1'], '--process_id is for --distributed, which is missing'),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
  workdir = tmp_path / 'run'
  code, out, err = processes.run(
    'geco_jax.train', f'--config={CONFIG}', f'--workdir={workdir}', *arguments
  )
  assert code != 0
  assert 'Traceback' not in err + out
  (line,) = [x for x in err.splitlines() if 'rror' in x]
  assert re.search(message, line)
  assert not workdir.exists()


COMPILE = """
import os, jax
from geco_jax import cli
cli.run(lambda argv: print(
  jax.jit(lambda x: x + 1)(1), os.environ.get('JAX_COMPILATION_CACHE_DIR'),
  jax.config.jax_persistent_cache_min_compile_time_secs
))
"""


@pytest.mark.parametrize(
  ('stop', 'code', 'message'),
  [
    (
      'raise errors.Interrupted(15, 40)',
      143,
      'stopped by SIGTERM, saved at step 40',
    ),
    ('os.kill(os.getpid(), signal.SIGTERM)', 143, 'stopped by SIGTERM'),
    ('os.kill(os.getpid(), signal.SIGINT)', 130, 'stopped by SIGINT'),
    ('os.kill(os.getpid(), signal.SIGHUP)', 129, 'stopped by SIGHUP'),
  ],
)
def test_every_command_ends_by_a_signal_with_a_line(stop, code, message):
  script = f"""
import os, signal
from geco_jax import cli, errors
def main(argv):
  {stop}
cli.run(main)
"""
  ended, _, err = processes.execute(script)
  assert ended == code
  (line,) = err.splitlines()
  assert line.startswith(message)


@pytest.mark.parametrize('platforms', ['cuda', 'no_such_platform'])
def test_devices_that_are_not_there_are_one_line(platforms):
  process = subprocess.run(
    [sys.executable, '-c', COMPILE, '--compilation_cache=off'],
    env=os.environ | {'JAX_PLATFORMS': platforms},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert process.returncode == 2
  (line,) = process.stderr.splitlines()
  assert line.startswith('error: ') and platforms in line


def test_compiled_programs_are_kept_unless_there_is_no_place_for_them(tmp_path):
  (tmp_path / 'file').write_text('')
  variable = 'JAX_COMPILATION_CACHE_DIR'
  cases = {
    'kept': ({}, []),
    'least': ({}, [f'--compilation_cache={tmp_path / "least"}']),
    'off': ({variable: str(tmp_path / 'off')}, ['--compilation_cache=off']),
    'chosen': ({variable: str(tmp_path / 'chosen' / 'jax')}, []),
    'nowhere': ({}, [f'--compilation_cache={tmp_path / "file" / "x"}']),
  }
  environment = {k: v for k, v in os.environ.items() if k != variable}
  least = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'
  environment.pop(least, None)
  cases['kept'][0][least] = '0'
  processes = {
    name: subprocess.Popen(
      [sys.executable, '-c', COMPILE, *arguments],
      env=environment | changes | {'GECO_JAX_CACHE': str(tmp_path / name)},
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for name, (changes, arguments) in cases.items()
  }
  printed = {}
  for name, process in processes.items():
    printed[name], err = process.communicate()
    assert process.returncode == 0, err
    warned = 'Going on without a cache of compiled programs' in err
    assert warned == (name == 'nowhere')
  # Processes that a command starts read the variable.
  compiled = tmp_path / 'kept' / 'compiled'
  assert printed['kept'] == f'2 {compiled} 0.0\n'
  assert printed['nowhere'] == '2 None 1.0\n'
  assert printed['least'] == f'2 {tmp_path / "least"} 0.1\n'
  assert os.listdir(compiled)
  assert os.listdir(tmp_path / 'chosen') == ['jax']
  folders = {p.name for p in tmp_path.iterdir() if p.name != 'file'}
  assert folders == {'kept', 'least', 'chosen'}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([f'--config={CONFIG}:elbow'], "unknown variant 'elbow'.*elbo"),
    (['--config=nowhere.py'], 'nowhere.py: no such file; in configs there are'),
    ([], '--config is missing'),
    ([f'--config={CONFIG}', '--workdir='], '--workdir is missing'),
  ],
)
def test_a_missing_or_unknown_config_is_one_line(tmp_path, arguments, message):
  code, _, err = run('geco_jax.train', f'--workdir={tmp_path}', *arguments)
  assert code != 0
  assert re.search(message, err)
  assert 'Traceback' not in err
  assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_evaluating_an_empty_folder_is_one_line(tmp_path):
  code, _, err = run('geco_jax.evaluate', f'--workdir={tmp_path}')
  assert code == 2
  assert err.startswith('error: ') and 'holds no run' in err


@pytest.mark.slow
def test_killed_at_random_moments_the_run_ends_bit_for_bit_the_same(tmp_path):
  steps = (
    '--config.num_steps=600',
    '--config.checkpoint_every=20',
    '--config.batch_size=32',
  )
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  code, _, err = run('geco_jax.train', *QUICK, *steps, f'--workdir={whole}')
  assert code == 0, err
  rng = np.random.default_rng()
  kills = 0
  for _ in range(3):
    process = start('geco_jax.train', *QUICK, *steps, f'--workdir={parts}')
    deadline = time.monotonic() + 120
    before = newest_checkpoint(parts)
    while newest_checkpoint(parts) == before and time.monotonic() < deadline:
      if process.poll() is not None:
        break
      time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kills += process.returncode == -signal.SIGKILL
  assert kills > 0
  code, _, err = run('geco_jax.train', *QUICK, *steps, f'--workdir={parts}')
  assert code == 0, err
  for a, b in zip(
    jax.tree.leaves(final_state(whole)),
    jax.tree.leaves(final_state(parts)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def newest_checkpoint(workdir):
  """Return the largest step with a folder among a run's checkpoints."""
  folder = workdir / 'checkpoints'
  names = os.listdir(folder) if folder.exists() else []
  return max((int(name) for name in names if name.isdigit()), default=0)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_devices(tmp_path):
  together, alone = tmp_path / 'together', tmp_path / 'alone'
  port = 20_000 + os.getpid() % 20_000
  steps = (*QUICK, '--config.batch_size=32', '--noprogress')
  processes = [
    start(
      'geco_jax.train',
      *steps,
      f'--workdir={together}',
      '--distributed',
      f'--coordinator=localhost:{port}',
      '--num_processes=2',
      f'--process_id={index}',
      num_devices=2,
    )
    for index in range(2)
  ]
  for process in processes:
    _, err = process.communicate()
    assert process.returncode == 0, err
  code, _, err = run(
    'geco_jax.train', *steps, f'--workdir={alone}', num_devices=4
  )
  assert code == 0, err
  for a, b in zip(
    jax.tree.leaves(final_state(together)),
    jax.tree.leaves(final_state(alone)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_one_of_two_processes_refuses_ends_both_in_a_sentence(tmp_path):
  code, _, err = run(
    'geco_jax.train', *QUICK, '--config.seed=1', f'--workdir={tmp_path}'
  )
  assert code == 0, err
  port = 20_000 + os.getpid() % 20_000
  processes = [
    start(
      *('geco_jax.train', *QUICK, f'--workdir={tmp_path}', '--distributed'),
      *(f'--coordinator=localhost:{port}', '--num_processes=2'),
      f'--process_id={index}',
    )
    for index in range(2)
  ]
  for process, words in zip(
    processes, ('seed was 1, is 0', 'another process of this run'), strict=True
  ):
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert words in err and 'Traceback' not in err


@pytest.mark.slow
def test_sigterm_saves_and_says_so(tmp_path):
  process = start(
    'geco_jax.train',
    *QUICK,
    '--config.num_steps=1000000',
    f'--workdir={tmp_path}',
  )
  while newest_checkpoint(tmp_path) == 0:
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate()
  assert process.returncode == 128 + signal.SIGTERM
  assert 'stopped by SIGTERM, saved at step' in err
  assert final_state(tmp_path).step % 10 == 0


@pytest.mark.slow
def test_an_unwritable_workdir_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  code, _, err = run(
    'geco_jax.train', *QUICK, f'--workdir={tmp_path / "file" / "run"}'
  )
  assert code == 2
  assert 'cannot be written' in err and 'Traceback' not in err
