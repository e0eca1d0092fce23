"""`geco-jax COMMAND`: every command by its name, with its own flags."""

import importlib.util
import pathlib
import re
import sys

import pytest

from geco_jax import __main__ as commands
from geco_jax import __version__
from tests.processes import run


def call(monkeypatch, *arguments):
  """Return the exit code of geco-jax."""
  monkeypatch.setattr(sys, 'argv', ['geco-jax', *arguments])
  return commands.main()


def test_every_command_is_a_module_with_a_line(monkeypatch, capsys):
  assert call(monkeypatch, '--help') == 0
  printed = capsys.readouterr().out
  for name, module in commands.commands().items():
    assert importlib.util.find_spec(module), module
    (line,) = re.findall(rf'^  {name} +(\S.*)$', printed, re.MULTILINE)
    assert line.endswith('.')
  assert {'train', 'prepare', 'figure_8'} <= set(commands.commands())
  assert call(monkeypatch, '--version') == 0
  assert __version__ in capsys.readouterr().out


def test_every_command_begins_and_ends_as_cli_says():
  """So all keep what they compile, and answer signals and bad input alike."""
  root = pathlib.Path(__file__).parents[1]
  files = [
    file
    for folder in ('geco_jax', 'experiments', 'benchmarks')
    for file in (root / folder).rglob('*.py')
    if "if __name__ == '__main__':" in file.read_text()
  ]
  assert len(files) > 30
  for file in files:
    text = file.read_text()
    if 'runpy.run_module(' not in text:  # Those hand on to another.
      assert '\n  cli.run(main' in text, file


def test_an_unknown_command_is_one_line(monkeypatch, capsys):
  assert call(monkeypatch, 'fit', '--workdir=a') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: unknown command 'fit'; choose from train, ")
  assert call(monkeypatch) == 2


def test_without_the_extra_a_command_says_how_to_install_it(
  monkeypatch, capsys
):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'ml_collections' else find_spec(name),
  )
  assert call(monkeypatch, 'train') == 2
  assert "pip install 'geco_jax[train]'" in capsys.readouterr().err


def test_a_command_runs_as_its_module_would(monkeypatch, tmp_path):
  seen = []
  monkeypatch.setattr(
    commands.runpy,
    'run_module',
    lambda module, **kwargs: seen.append((module, [*sys.argv[1:]], kwargs)),
  )
  assert call(monkeypatch, 'prepare', '--dataset=mnist') == 0
  ((module, arguments, kwargs),) = seen
  assert (module, arguments) == (
    'geco_jax.datasets.prepare',
    ['--dataset=mnist'],
  )
  assert kwargs == {'run_name': '__main__', 'alter_sys': True}


SHOWN = {
  'geco_jax.train': ('config', 'workdir', '[no]progress', '[no]print_config'),
  'geco_jax.evaluate': ('split', 'workdir', 'step'),
  'experiments.figure_10': ('preset', 'num_steps', 'data_dir'),
}


@pytest.mark.parametrize('module', SHOWN)
def test_help_shows_the_commands_own_flags(module):
  code, out, err = run(module, '--help')
  assert code == 0, err
  for flag in SHOWN[module]:
    assert re.search(rf'^  --{re.escape(flag)}: ', out, re.MULTILINE), flag
  own = re.findall(r'^  --(?:\[no\])?(\w+)', out, re.MULTILINE)
  assert not {'alsologtostderr', 'pdb', 'v'} & set(own)  # Flags of absl.


def test_print_config_prints_what_would_be_trained(tmp_path):
  code, out, err = run(
    *('geco_jax.train', '--config', 'digits_vae:geco+cla', '--print_config'),
    *('--config.constraints.cla.kappa=0.95', f'--workdir={tmp_path / "a"}'),
  )
  assert code == 0, err
  lines = out.splitlines()
  assert 'constraints.cla.kappa = 0.95' in lines
  assert "constraints.cla.network = 'digits_cnn'" in lines
  assert not (tmp_path / 'a').exists()
