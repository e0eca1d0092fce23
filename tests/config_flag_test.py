"""Config files and command lines: what is wrong is one line, and no folder."""

from itertools import product
import os

from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import FrozenConfigDict
import pytest

from geco_jax import config_flag
from tests import processes

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIGITS = '--config=configs/digits_vae.py'

# A process that imports once and then is each of the commands in turn.
COMMANDS = """
import os, sys
from geco_jax import choose_kappa, cli, train
from geco_jax.sweep import __main__ as sweep
mains = {'train': train, 'sweep': sweep, 'choose_kappa': choose_kappa}
for command, arguments, output in jobs:
  child = os.fork()
  if child == 0:
    descriptor = os.open(output, os.O_CREAT | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [command, *arguments]
    module = mains[command]
    try:
      cli.run(module.main, module.define_flags, takes_config=True)
    except SystemExit as stop:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(stop.code)  # Nothing is to be cleaned up.
  _, status = os.waitpid(child, 0)
  # Flushed, or the next child would inherit it and write it once more.
  print(os.waitstatus_to_exitcode(status), flush=True)
"""
BASE = """
from configs import digits_vae
def get_config(variant=None):
  config = digits_vae.get_config()
  config.unlock()
  with config.ignore_type():
    {change}
  return config
"""
# Config files by name, or changes of the digits' config, and what is answered.
FILES = {
  'no_python': ('def get_config(:', 'SyntaxError: invalid syntax'),
  'raises_at_import': ('1 / 0', 'ZeroDivisionError: division by zero (line 1)'),
  'imports_what_is_not': ('import nothing', 'ModuleNotFoundError: No module'),
  'exits': ('raise SystemExit(0)', 'SystemExit: 0'),
  'empty': ('', 'the file has no get_config()'),
  'not_a_function': ('get_config = 3', 'the file has no get_config()'),
  'raises': ('def get_config():\n  return {}["x"]', "KeyError: 'x' (line 2)"),
  'takes_two': (
    'def get_config(a, b): pass',
    'TypeError: get_config() miss',
  ),
  'nothing': ('def get_config(): pass', 'return a ConfigDict, got NoneType'),
  'plain': ('def get_config(): return {}', 'return a ConfigDict, got dict'),
  'binary': ('\0', 'source code string cannot contain null bytes'),
  'no_keys': (
    'from ml_collections.config_dict import ConfigDict\n'
    'def get_config(): return ConfigDict()',
    'config.batch_size is missing',
  ),
  'function': ('config.seed = len', 'config.seed must be an integer, got'),
  'array': (
    'import numpy; config.model.kwargs.latent_size = numpy.int64(3)',
    'latent_size must be a number, a string, true or false, None or a list',
  ),
  'number_for_a_group': ('config.model = 3', 'config.model must be a group of'),
  'list_for_a_name': (
    "config.optimizer.name = ['adam']",
    "config.optimizer.name must be a string, got ['adam']",
  ),
  'no_kwargs': (
    'del config.dataset["kwargs"]',
    'config.dataset.kwargs is miss',
  ),
  'no_tolerance': ('del config.tolerance', 'config.tolerance is missing'),
  'floats_for_sizes': (
    'config.model.kwargs.hidden_sizes = (64.0, 32.0)',
    'hidden_sizes must be a list of values, each an integer',
  ),
  'type_of_a_value': (
    'from configs import digits_vae\n'
    'def get_config():\n'
    '  config = digits_vae.get_config()\n'
    '  config.num_steps = 100.0\n',
    'config.num_steps must be of type int, got 100.0 (float) (line 4)',
  ),
  'text_for_a_group': (
    'from configs import digits_vae\n'
    'def get_config():\n'
    '  digits_vae.get_config().dataset = "digits"\n',
    'config.dataset must be of type group, base_config.group(name, ...), got '
    'digits (str)',
  ),
  'computed_of_text': (
    'config.num_steps = "x"',
    "could not convert string to float: 'x'",
  ),
}
LINES = {
  '--config=configs/nope.py': 'no such file; in configs there are celeb_a_',
  '--config=configs/digit_vae.py': 'did you mean digits_vae',
  '--config=nowhere/nope.py': 'no such file; in configs there are celeb_a_',
  '--config=configs': 'no such file',
  '--config=~no_such_user/x.py': 'there is no home folder ~no_such_user',
  '--config=gs://bucket/x.py': 'gs://bucket/x.py is no path of this machine',
  f'{DIGITS}:elbow': "unknown variant 'elbow' of the config; choose from geco",
  f'{DIGITS} --config.constraints.re.kapa=0.1': (
    '--config.constraints.re.kapa: the config has no such key (did you mean '
    'constraints.re.kappa?)'
  ),
  f'{DIGITS} --config.kappa=0.1': 'did you mean constraints.re.kappa?',
  f'{DIGITS} --config.seed.x=1': 'no such key',
  f'{DIGITS} --config.num_steps=x': 'invalid literal for int()',
  f'{DIGITS} --config.num_steps={10**400}': 'config.num_steps must be within',
  f'{DIGITS} --config.num_steps=None': 'config.num_steps must be an integer',
  f'{DIGITS} --config.max_gradient_norm=None --config.seed=-1': 'seed must',
  f'{DIGITS} --config.model=3': "Failed to parse '3' as a ConfigDict",
  f'{DIGITS} --config.model.kwargs.hidden_sizes=(64.0,32.0)': 'each an integer',
  f'{DIGITS} --config.constraints.re.kappa=1e30': 'kappa must be within 1e+06',
  f'{DIGITS} --config.max_gradient_norm=nan': 'must be a finite number',
  f'{DIGITS} --config.multipliers.kwargs.initial=1e9': 'initial must be',
  f'{DIGITS} --workdir=s3://bucket/run': 's3://bucket/run is no path of this',
  f'{DIGITS} --data_dir=gs://bucket': 'gs://bucket is no path of this machine',
}


SWEEP = ('sweep', 'number_for_a_group', 'config.model must be a group of')
CHOOSE = ('choose_kappa', 'no_kwargs', 'config.dataset.kwargs is missing')


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """Return (command, file or line) -> exit code and output, and a workdir."""
  folder = tmp_path_factory.mktemp('files')
  for name, (text, _) in FILES.items():
    is_change = 'config.' in text and 'def ' not in text
    text = BASE.format(change=text) if is_change else text
    (folder / f'{name}.py').write_text(text)
  cases = [*product(['train'], [*FILES, *LINES]), SWEEP[:2], CHOOSE[:2]]
  jobs = []
  for number, (command, case) in enumerate(cases):
    line = f'--config={folder}/{case}.py' if case in FILES else case
    arguments = [f'--workdir={folder}/run', '--compilation_cache=off']
    output = str(folder / f'{number}.txt')
    jobs.append((command, [*arguments, *line.split()], output))
  _, out, _ = processes.execute(f'jobs = {jobs!r}\n{COMMANDS}')
  codes = [int(code) for code in out.split()]
  texts = [(folder / f'{n}.txt').read_text() for n in range(len(cases))]
  answered = dict(zip(cases, zip(codes, texts, strict=True), strict=True))
  return answered, folder / 'run'


@pytest.mark.parametrize(
  ('command', 'case', 'answer'),
  [
    *[('train', name, answer) for name, (_, answer) in FILES.items()],
    *[('train', line, answer) for line, answer in LINES.items()],
    SWEEP,
    CHOOSE,
  ],
)
def test_what_is_wrong_is_one_line_and_no_folder(
  answers, command, case, answer
):
  answered, workdir = answers
  code, text = answered[command, case]
  assert code == 2, text
  assert text.startswith('error: ') and text.count('\n') == 1
  assert answer in text
  assert not workdir.exists()


def test_a_file_may_freeze_its_config_and_hold_a_dataclass(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from __future__ import annotations\n'
    'import dataclasses\n'
    'from ml_collections.config_dict import FrozenConfigDict\n'
    '@dataclasses.dataclass\n'
    'class Size:\n'
    '  number: int = 3\n'
    'def get_config():\n'
    "  dataset = {'name': 'digits', 'kwargs': {}}\n"
    "  return FrozenConfigDict({'n': Size().number, 'dataset': dataset})\n"
  )
  config = config_flag._load('mine.py', str(path), [])
  assert isinstance(config, ConfigDict)
  assert not isinstance(config, FrozenConfigDict)
  assert config.is_locked and config.n == 3
  assert config.dataset.placement == 'device'  # Can be overridden.
