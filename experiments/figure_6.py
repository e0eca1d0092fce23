"""Figure 6: ConvDRAW on CelebA and Color-MNIST under the ELBO, RE and FRE.

  python -m experiments.figure_6 --preset=quick --workdir=runs/figures

The paper's FRE has kappa 1.0 in a unit that it does not say; ours is 0.5
standard deviations of the features. FRE's network must have been trained:
`python -m geco_jax.train_classifier`. Its first two panels are
figure_6_celeb_a.png too.
"""

from collections.abc import Sequence

from geco_jax import cli

from .shared import panels
from .shared.runs import Run

PANELS = (
  Run('celeb_a', 'elbo'),
  Run('celeb_a', 'geco', {'re': 0.1}),
  Run('celeb_a', 'geco', {'fre': 0.5}),
  Run('color_mnist', 'elbo'),
  Run('color_mnist', 'geco', {'re': 0.06}),
)


def main(argv: Sequence[str]) -> None:
  """Train what is missing and draw the figure."""
  del argv
  panels.main('figure_6', PANELS, first=2)


if __name__ == '__main__':
  cli.run(main, panels.define_flags)
