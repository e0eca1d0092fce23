"""The figures of the theory, and the table of propositions, small."""

import itertools
import json

import numpy as np
from PIL import Image
import pytest

from experiments import figure_1
from experiments import figure_2
from experiments import figure_7
from experiments import propositions
from tests import processes


def read(path):
  return json.loads(path.read_text())


def test_figure_1_is_computed(tmp_path):
  numbers = figure_1.run(str(tmp_path), 16)
  assert read(tmp_path / 'figure_1.json') == numbers
  assert Image.open(tmp_path / 'figure_1.png').size[0] > 300
  weights = np.array(numbers['overlap_weights'])
  np.testing.assert_allclose(
    numbers['overlap_reconstruction'], weights @ figure_1.DATA[:2]
  )
  # The narrower support weighs more.
  assert numbers['masses'][0] > numbers['masses'][1]
  assert weights[1] > weights[0]
  assert numbers['hole_mass'] > 0
  assert numbers['hole_gradient'] == 0
  assert numbers['average_kl_nats'] < numbers['least_kl_nats'] + 0.2


def test_figure_2_finds_the_planted_levels(tmp_path, capsys, compile_well):
  numbers = figure_2.run(
    str(tmp_path),
    num_betas=60,
    num_data=48,
    tiles_per_side=10,
    max_steps=300,
    seed=0,
  )
  assert (
    read(tmp_path / 'figure_2.json')['transitions'] == (numbers['transitions'])
  )
  assert Image.open(tmp_path / 'figure_2.png').size[0] > 600
  assert 'largest eigenvalue' in capsys.readouterr().out
  assert len(numbers['transitions']) == len(figure_2.HALF_DISTANCES)
  counts = [row['distinct_fixed_points'] for row in numbers['panels']]
  assert counts == [8, 4, 2, 1]


@pytest.mark.slow
def test_figure_7_keeps_its_slopes(tmp_path):
  numbers = figure_7.run(
    str(tmp_path), num_data=60, tiles_per_side=8, max_steps=100, seed=0
  )
  assert read(tmp_path / 'figure_7.json')['panels'] == numbers['panels']
  assert Image.open(tmp_path / 'figure_7.png').size[0] > 600
  assert len(numbers['panels']) == 18
  for row in numbers['panels']:
    if row['lipschitz']:
      assert row['largest_slope'] <= 1.05 * row['lipschitz'] + 1e-9
    else:
      assert row['largest_slope'] > 2
  assert numbers['same_lipschitz']['rms_distance'] < 0.05


@pytest.mark.slow
def test_every_proposition_has_its_numbers(tmp_path, capsys):
  rows = propositions.run(str(tmp_path))
  assert {row.proposition for row in rows} == set(range(1, 7))
  assert len(read(tmp_path / 'propositions.json')['claims']) == len(rows)
  assert [row for row in rows if not row.holds] == []
  assert '<= 1.01 L' in capsys.readouterr().out


@pytest.mark.parametrize('factor', [1.0, 1.05, -1.0, 0.0])
def test_proposition_1_holds_for_the_optimal_encoder_alone(monkeypatch, factor):
  optimal = propositions.propositions.optimal_logits
  monkeypatch.setattr(
    propositions.propositions, 'optimal_logits', lambda *a: factor * optimal(*a)
  )
  # The first two are of the start, where the decoder's is not 0.
  encoder, decoder, *stationary = itertools.islice(propositions.claims(), 4)
  assert decoder.holds
  for claim in (encoder, *stationary):
    assert claim.proposition == 1
    assert claim.holds == (factor == 1.0), claim


@pytest.mark.parametrize(
  ('least', 'most', 'measured'),
  [(0.0, 1.0, 1.0), (2.0, None, 1e9), (0.0, 1.0, 1.1), (2.0, None, 1.9)],
)
def test_proposition_holds_between_its_limits(least, most, measured):
  claim = propositions.Claim(6, 'slope', measured, '', least, most)
  assert claim.holds == (measured in (1.0, 1e9))


@pytest.mark.parametrize(
  ('name', 'flag', 'shown'),
  [
    ('figure_2', '--num_betas=3', '>= 10, got 3'),
    pytest.param(
      *('figure_7', '--max_iterations=0', '>= 1, got 0'),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_bad_flags_are_answered_in_one_line(tmp_path, name, flag, shown):
  code, _, err = processes.run(
    f'experiments.{name}', f'--workdir={tmp_path}', flag
  )
  assert code == 2
  assert err.strip().endswith(shown)
