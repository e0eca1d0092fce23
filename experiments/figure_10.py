"""Figure 10: ConvDRAW on Color-MNIST under the ELBO, annealed beta and RE.

  python -m experiments.figure_10 --preset=quick --workdir=runs/figures

The quick preset is of 8x8 digits.
"""

from collections.abc import Sequence

from geco_jax import cli

from .shared import panels
from .shared.runs import Run

PANELS = (
  Run('color_mnist', 'elbo'),
  Run('color_mnist', 'annealed_beta'),
  Run('color_mnist', 'geco', {'re': 0.08}),
  Run('color_mnist', 'geco', {'re': 0.06}),
  Run('color_mnist', 'geco', {'re': 0.1}),
)


def main(argv: Sequence[str]) -> None:
  """Train what is missing and draw the figure."""
  del argv
  panels.main('figure_10', PANELS)


if __name__ == '__main__':
  cli.run(main, panels.define_flags)
