"""The public workflow runs what .ci/run runs, on what setup.py allows."""

import re

import yaml

from tests.pages import read

WORKFLOW = read('.github', 'workflows', 'ci.yml')


def targets(text):
  """Return the make targets that a script names."""
  return set(re.findall(r'^(?: *- run: )?make ([\w-]+)', text, re.MULTILINE))


def test_it_runs_every_target_of_our_own_ci_and_all_exist():
  ours = targets(read('.ci', 'run'))
  assert {'test', 'wheel', 'docs'} <= ours <= targets(WORKFLOW)
  for target in targets(WORKFLOW):
    assert re.search(rf'^{target}:', read('Makefile'), re.MULTILINE), target


def test_it_tries_the_pythons_and_the_oldest_and_newest_jax_allowed():
  jobs = yaml.safe_load(WORKFLOW)['jobs']
  matrix = jobs['test']['strategy']['matrix']
  setup = read('setup.py')
  (oldest_python,) = re.findall(r"python_requires='>=([\d.]+)'", setup)
  assert matrix['python'] == [oldest_python, '3.12', '3.13']
  (oldest_jax,) = re.findall(r"'jax>=([\d.]+)'", setup)
  versions = [entry['jax'] for entry in matrix['include']]
  assert versions == [f'jax=={oldest_jax}.0', 'jax']
