"""The wheel works in an empty folder, without a checkout."""

import os
import subprocess
import sys
import zipfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TINY = (
  '--config.num_steps=20',
  '--config.steps_per_dispatch=10',
  '--config.checkpoint_every=20',
  '--config.model.kwargs.hidden_sizes=(8,)',
)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Return the path of a wheel; building it needs no network."""
  folder = tmp_path_factory.mktemp('dist')
  # Not in the checkout, where an earlier build may have left what is gone.
  options = tmp_path_factory.mktemp('build') / 'options.cfg'
  options.write_text(f'[build]\nbuild_base = {options.parent}\n')
  command = f'-m pip wheel -q --no-deps --no-build-isolation -w {folder} {ROOT}'
  subprocess.run(
    [sys.executable, *command.split()],
    check=True,
    env=os.environ | {'DIST_EXTRA_CONFIG': str(options)},
  )
  (path,) = folder.iterdir()
  return path


@pytest.fixture(scope='module')
def run(wheel, tmp_path_factory):
  """Return arguments -> stdout of the wheel's command, in an empty folder.

  Beside the wheel there are the test environment's packages.
  """
  site = tmp_path_factory.mktemp('site')
  command = f'-m pip install -q --no-deps --target {site} {wheel}'
  subprocess.run([sys.executable, *command.split()], check=True)
  folder = tmp_path_factory.mktemp('empty')

  def run(*arguments, program=(site / 'bin' / 'geco-jax',), code=0):
    done = subprocess.run(
      [*program, *arguments],
      cwd=folder,
      env=os.environ | {'PYTHONPATH': str(site), 'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr

  run.folder, run.site = folder, site
  return run


def module(name):
  """Return what runs a module of the wheel."""
  return (sys.executable, '-m', name)


@pytest.mark.slow
def test_the_package_is_the_only_name_at_the_top(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
  top = {name.partition('/')[0] for name in names}
  assert {n for n in top if not n.endswith('.dist-info')} == {'geco_jax'}
  for shipped in (
    'py.typed',
    'configs/digits_vae.py',
    'configs/classifiers/digits_cnn.py',
    'experiments/figure_4.py',
    'experiments/shared/runs.py',
  ):
    assert f'geco_jax/{shipped}' in names
  assert not [name for name in names if 'pycache' in name or 'test' in name]
  assert any(name.endswith('LICENSE') for name in names)


@pytest.mark.slow
def test_it_trains_evaluates_and_sweeps_in_an_empty_folder(run):
  run('train', '--config=digits_vae', *TINY, '--workdir=a')
  assert 'train' in run('evaluate', '--workdir=a')
  written = os.listdir(run.folder / 'a')
  assert {'evaluation.json', 'reconstructions_train.png'} <= set(written)
  run(
    *('--config=configs/digits_vae.py:elbo', *TINY, '--workdir=b'),
    program=module('geco_jax.train'),
  )
  grid = run('sweep', '--config=digits_vae', '--dry_run', '--workdir=c')
  assert 'kappa_0.175' in grid
  printed = run(
    *('information_plane', '--config=digits_vae', *TINY, '--kappas=0.1'),
    '--workdir=d',
  )
  assert 'kappa' in printed


@pytest.mark.slow
def test_configs_are_found_by_name_and_as_files(run):
  (run.folder / 'digits_vae.py').write_text(
    'from geco_jax import config_files\n'
    'def get_config():\n'
    '  config = config_files.load("digits_vae:elbo")\n'
    '  config.num_steps = 77\n'
    '  return config\n'
  )
  try:
    printed = run('train', '--config=digits_vae.py', '--print_config')
  finally:
    (run.folder / 'digits_vae.py').unlink()
  assert 'num_steps = 77' in printed.splitlines()
  printed = run('train', '--config', 'digits_vae.py:geco', '--print_config')
  assert 'num_steps = 4000' in printed.splitlines()
  printed = run(
    'train_classifier', '--config=classifiers/digits_cnn', '--print_config'
  )
  assert 'fade = True' in printed.splitlines()
  message = run('train', '--config=digitz', '--workdir=e', code=2)
  assert 'digits_vae' in message and 'Traceback' not in message


@pytest.mark.slow
def test_every_experiment_of_the_wheel_starts(run):
  """One process imports and defines them all, as `--help` does each."""
  assert 'figure_4' in run('--help')
  code = (
    'import pkgutil, importlib, geco_jax.experiments as e\n'
    'for m in pkgutil.walk_packages(e.__path__, e.__name__ + "."):\n'
    '  module = importlib.import_module(m.name)\n'
    f'  assert module.__file__.startswith({str(run.site)!r})\n'
    'import sys; assert "experiments" not in sys.modules\n'
  )
  run('-c', code, program=(sys.executable,))
  printed = run('figure_5', '--help')
  for flag in ('--preset', '--workdir', '--num_steps'):
    assert flag in printed
  assert 'python -m geco_jax.experiments.figure_5 ' in printed
