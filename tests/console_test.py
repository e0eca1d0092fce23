"""What a command shows while it works."""

import io
import sys

import pytest

from geco_jax import console


@pytest.mark.parametrize(('at_terminal', 'most'), [(True, 200), (False, 4)])
def test_a_log_file_has_few_drawings_of_a_bar(at_terminal, most, monkeypatch):
  stream = io.StringIO()
  stream.isatty = lambda: at_terminal
  monkeypatch.setattr(sys, 'stderr', stream)
  with console.bar(desc='Decoding', total=100) as bar:
    for _ in range(100):
      bar.last_print_t -= 0.6  # As if so many seconds had gone by.
      bar.update(1)
  drawn = stream.getvalue().split('\r')[1:]
  assert 'Decoding: 100%' in drawn[-1]
  assert len(drawn) <= most
  assert at_terminal == (len(drawn) > 20)


def test_a_part_moves_the_bar_from_where_it_stands(monkeypatch):
  progress = console.Progress(100, 20, show=False)
  moves = []
  monkeypatch.setattr(progress, 'update', lambda *move: moves.append(move))
  part = progress.part('evaluating')
  part(5)
  assert moves == [(25, 'evaluating')]
  progress.close()
