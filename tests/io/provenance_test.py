"""run.json says by what a run was trained, and adds to it when it goes on."""

import json
import os
import sys

import jax
import jaxlib
import numpy as np
import pytest

import geco_jax
from geco_jax.io import provenance

PARAMS = {'a': {'w': np.zeros((3, 2)), 'b': np.zeros(2)}}


def content(workdir):
  return json.loads((workdir / 'run.json').read_text())


def test_it_says_what_numbers_depend_on(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'orig_argv', ['geco-jax', '--workdir=my runs'])
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_enable_fast_math=false')
  (tmp_path / 'data.json').write_text('{"sha256": "abc"}')
  provenance.Session(str(tmp_path), 0, PARAMS, ['json']).note(20)
  run = content(tmp_path)
  assert run['num_parameters'] == 8 and run['data_sha256'] == 'abc'
  (session,) = run['sessions']
  assert (session['first_step'], session['last_step']) == (0, 20)
  assert session['version'] == geco_jax.__version__
  assert session['command'] == "geco-jax '--workdir=my runs'"
  assert session['folder'] == os.getcwd()
  assert session['jax'] == jax.__version__
  assert session['jaxlib'] == jaxlib.__version__
  assert session['device'] == f'{jax.device_count()} x cpu'
  assert session['settings']['jax_enable_x64'] is False
  assert session['variables']['XLA_FLAGS'].endswith('fast_math=false')
  assert session['imports'] == {'json': json.__file__}
  assert session['started'].endswith('+00:00')


def test_a_session_is_added_where_the_run_goes_on(tmp_path):
  for step in (0, 20, 40):
    session = provenance.Session(str(tmp_path), step, PARAMS)
    session.note(step + 20)
  run = content(tmp_path)
  steps = [(s['first_step'], s['last_step']) for s in run['sessions']]
  assert steps == [(0, 20), (20, 40), (40, 60)]
  total = sum(s['seconds'] for s in run['sessions'])
  assert run['seconds'] == pytest.approx(total, abs=1e-3)
  assert provenance.read(str(tmp_path)) == run['sessions']


@pytest.mark.parametrize(
  'damage', ['', '[]', '3', '{"sessions": 3}', '{"sessions": [{}]}', '\x00']
)
def test_a_damaged_record_begins_anew_with_a_word(damage, tmp_path, caplog):
  (tmp_path / 'run.json').write_text(damage)
  provenance.Session(str(tmp_path), 20, PARAMS)
  assert 'run.json is damaged' in caplog.text
  assert len(content(tmp_path)['sessions']) == 1


def test_a_record_that_cannot_be_written_costs_a_warning(
  tmp_path, caplog, monkeypatch
):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.replace', fail)
  provenance.Session(str(tmp_path), 0, PARAMS).note(20)
  assert 'Going on without run.json' in caplog.text


def test_a_commit_is_that_of_the_package_s_own_checkout(tmp_path, monkeypatch):
  commit = provenance._commit.__wrapped__
  root = os.path.dirname(os.path.dirname(geco_jax.__file__))
  if os.path.exists(os.path.join(root, '.git')):
    assert len(commit().removesuffix('-dirty')) == 40
  package = tmp_path / 'geco_jax' / '__init__.py'
  monkeypatch.setattr(geco_jax, '__file__', str(package))
  assert commit() is None  # Whatever checkout is around it.
  (tmp_path / '.git').write_text('damaged')
  assert commit() is None


@pytest.mark.parametrize('name', ['LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE'])
def test_variables_of_devices_that_change_numbers_are_recorded(
  name, monkeypatch
):
  monkeypatch.setenv(name, '0')
  assert provenance.environment()['variables'][name] == '0'
  monkeypatch.delenv(name)
  assert name not in provenance.environment()['variables']
