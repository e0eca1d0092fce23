"""Figure 11: ConvDRAW on CIFAR-10 under the ELBO and GECO.

  python -m experiments.figure_11 --preset=quick --workdir=runs/figures

The paper's FRE has kappa 0.0625 in a unit that it does not say, and its pNCC
none; ours are 0.5 standard deviations and a mean correlation of 0.8. FRE's
network must have been trained: `python -m geco_jax.train_classifier`.
"""

from collections.abc import Sequence

from geco_jax import cli

from .shared import panels
from .shared.runs import Run

PANELS = (
  Run('cifar10', 'elbo'),
  Run('cifar10', 'annealed_beta'),
  Run('cifar10', 'geco', {'re': 0.06}),
  Run('cifar10', 'geco', {'re': 0.0028}),
  Run('cifar10', 'geco', {'fre': 0.5}),
  Run('cifar10', 'geco', {'pncc': 0.8}),
)


def main(argv: Sequence[str]) -> None:
  """Train what is missing and draw the figure."""
  del argv
  panels.main('figure_11', PANELS)


if __name__ == '__main__':
  cli.run(main, panels.define_flags)
