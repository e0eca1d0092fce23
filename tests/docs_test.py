"""The pages under docs/ do what they say."""

import os
import re

from geco_jax.build import CONSTRAINTS
from geco_jax.evaluation import evaluate

DOCS = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'docs')


def test_a_constraint_of_ones_own_is_trained_with(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('geco_jax.build.CONSTRAINTS', dict(CONSTRAINTS))
  with open(os.path.join(DOCS, 'constraints.md')) as file:
    blocks = re.findall(r'```python\n(.*?)```', file.read(), re.DOTALL)
  assert len(blocks) == 3
  scope = {}
  for block in blocks:
    exec(block, scope)  # noqa: S102
  reports = evaluate('runs/edges')['constraints']
  assert set(reports) == {'re', 'edges'}
  assert reports['edges']['unit'] == 'RMSE of differences'
  assert all(report['holds'] for report in reports.values())
