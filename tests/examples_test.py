"""The examples do what they say, with nothing of ours but the core."""

import ast
import os
import runpy

import numpy as np
import pytest

from tests.pages import read
from tests.pages import ROOT

MAX_LINES = 150


def test_the_vae_takes_the_core_alone_and_is_short():
  text = read('examples', 'vae.py')
  assert len(text.splitlines()) <= MAX_LINES
  tree = ast.parse(text)
  used = {
    node.attr
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute)
    and isinstance(node.value, ast.Name)
    and node.value.id == 'geco_jax'
  }
  assert used == {'geco', 'lagrangian'}
  imported = {
    node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
  }
  assert imported == {'typing'}


def run(num_steps):
  """Return the metrics of the example."""
  vae = runpy.run_path(os.path.join(ROOT, 'examples', 'vae.py'))
  return vae['main'](num_steps)


def test_the_vae_trains(capsys):
  metrics = run(20)
  assert all(np.isfinite(value) for value in metrics.values())
  assert 'kl_nats' in capsys.readouterr().out


@pytest.mark.slow
def test_the_vae_meets_its_constraint():
  metrics = run(1_000)
  assert metrics['rmse'] == pytest.approx(0.1, rel=0.01)
  assert 10 < metrics['kl_nats'] < 30
