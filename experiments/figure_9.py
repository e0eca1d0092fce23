"""Figure 9: ConvDRAW on CelebA under the ELBO, annealed beta, RE and FRE.

  python -m experiments.figure_9 --preset=quick --workdir=runs/figures

The paper's FRE has kappa 0.0625 in a unit that it does not say; ours is 0.5
standard deviations of the features. FRE's network must have been trained:
`python -m geco_jax.train_classifier`.
"""

from collections.abc import Sequence

from geco_jax import cli

from .shared import panels
from .shared.runs import Run

PANELS = (
  Run('celeb_a', 'elbo'),
  Run('celeb_a', 'annealed_beta'),
  Run('celeb_a', 'geco', {'re': 0.08}),
  Run('celeb_a', 'geco', {'re': 0.06}),
  Run('celeb_a', 'geco', {'re': 0.1}),
  Run('celeb_a', 'geco', {'fre': 0.5}),
)


def main(argv: Sequence[str]) -> None:
  """Train what is missing and draw the figure."""
  del argv
  panels.main('figure_9', PANELS)


if __name__ == '__main__':
  cli.run(main, panels.define_flags)
