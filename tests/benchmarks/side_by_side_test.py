"""Contenders take turns; a ratio is the median of the rounds' ratios."""

import json

import pytest

from benchmarks import side_by_side


def test_contenders_take_turns_and_warmups_are_not_counted():
  turns = []
  contenders = {
    name: side_by_side.Contender(lambda name=name: turns.append(name), 10)
    for name in ('a', 'b')
  }
  rates = side_by_side.measure(contenders, rounds=3, warmups=2)
  assert turns == ['a', 'b'] * 5
  assert [len(rates[name]) for name in ('a', 'b')] == [3, 3]


def test_ratio_is_the_median_of_the_ratios_within_rounds():
  rates = {'a': [2.0, 6.0, 40.0], 'b': [1.0, 2.0, 10.0]}
  row = side_by_side.compare('row', rates, 'a', 'b')
  assert row.ratios == [2.0, 3.0, 4.0]
  assert row.ratio == 3.0
  assert row.steps_per_second == 6.0
  assert row.baseline_steps_per_second == 2.0


def test_table_and_json_hold_every_row(tmp_path):
  rates = {'a': [3.0], 'b': [2.0]}
  rows = [side_by_side.compare(name, rates, 'a', 'b') for name in ('x', 'y')]
  table = side_by_side.table(rows).splitlines()
  assert [line[0] for line in table[1:]] == ['x', 'y']
  assert '1.500' in table[1]
  path = tmp_path / 'report.json'
  side_by_side.write_json(str(path), rows)
  report = json.loads(path.read_text())
  assert [row['ratio'] for row in report['rows']] == [1.5, 1.5]
  assert 'jax' in report['versions']


def test_at_least_one_round_is_needed():
  with pytest.raises(ValueError, match='rounds must be >= 1, got 0'):
    side_by_side.measure({}, rounds=0)
