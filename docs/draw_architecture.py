"""Draw the rooms of the code, each above those that it imports.

  python -m docs.draw_architecture

writes docs/figures/architecture.png from the import graph that
tests/layers_test.py checks.
"""

from collections.abc import Mapping
import json
import os

from matplotlib.figure import Figure

from experiments.shared.small_png import write_small_png
from tests.import_graph import FOLDERS
from tests.import_graph import ROOT

_COMMANDS = 'experiments/*.py'
_WIDTH = 2.4  # Width of a room, in units of the axes.
_COLORS = {'experiments': 'tab:green', 'geco_jax': 'tab:blue'}


def rooms() -> dict[str, set[str]]:
  """Return, for each room, the rooms that it imports.

  The commands in experiments/ are one room together.
  """

  def room(name):
    package, _, inner = name.partition('.')
    if package == 'geco_jax':
      return inner.replace('.', '/') or 'geco_jax'
    if inner in ('shared', 'results'):
      return f'experiments/{inner}'
    return _COMMANDS if inner else None

  graph: dict[str, set[str]] = {}
  for name, targets in FOLDERS.items():
    if (source := room(name)) is not None:
      named = {room(target) for target in targets} - {None, source}
      graph.setdefault(source, set()).update(named)
  return graph


def as_text(graph: Mapping[str, set[str]]) -> str:
  """Return the graph in one line, which the picture's file keeps."""
  return json.dumps({k: sorted(v) for k, v in graph.items()}, sort_keys=True)


def level(graph: Mapping[str, set[str]], name: str) -> int:
  """Return the longest chain of imports below a room."""
  return max((1 + level(graph, target) for target in graph[name]), default=0)


def reachable(graph: Mapping[str, set[str]], name: str) -> set[str]:
  """Return the rooms that a room imports, through others as well."""
  return graph[name].union(*(reachable(graph, t) for t in graph[name]))


def draw(graph: Mapping[str, set[str]]) -> Figure:
  """Return the picture; an import that goes through another room is no line."""
  floors: dict[int, list[str]] = {}
  for name in sorted(graph):
    floors.setdefault(level(graph, name), []).append(name)
  places = {
    name: (_WIDTH * 1.12 * (i - (len(names) - 1) / 2), floor)
    for floor, names in floors.items()
    for i, name in enumerate(names)
  }
  figure = Figure(figsize=(13, 8), layout='constrained')
  axes = figure.subplots()
  for name, targets in graph.items():
    for target in targets:
      if not any(target in reachable(graph, t) for t in targets - {target}):
        ends = zip(places[name], places[target], strict=True)
        axes.plot(*ends, color='0.75', linewidth=1, zorder=0)
  for name, (x, y) in places.items():
    package = 'experiments' if name.startswith('experiments') else 'geco_jax'
    axes.text(
      x,
      y,
      name,
      ha='center',
      va='center',
      fontsize=9,
      bbox={
        'boxstyle': 'round,pad=0.4',
        'facecolor': 'white',
        'edgecolor': _COLORS[package],
      },
    )
  width = max(abs(x) for x, _ in places.values()) + _WIDTH
  axes.set(xlim=(-width, width), ylim=(-0.6, max(floors) + 0.6))
  axes.axis('off')
  return figure


if __name__ == '__main__':
  path = os.path.join(ROOT, 'docs', 'figures', 'architecture.png')
  graph = rooms()
  write_small_png(path, draw(graph), {'rooms': as_text(graph)})
  print(path)
