"""The paper's numbers."""

from typing import NamedTuple


class Paper(NamedTuple):
  """The paper's marginal KLs, in nats."""

  elbo: float
  geco: float


PAPER = {
  'color_mnist': Paper(elbo=182.5, geco=10.3),
  'cifar10': Paper(elbo=725.2, geco=45.3),
}
