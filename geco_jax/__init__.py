"""Training latent-variable models by constraints: GECO in JAX.

The public list is short; everything else is imported from its module. `load`
(of a trained run) and `dataset_from_arrays` need what training needs.
"""

import importlib
from typing import Any, TYPE_CHECKING

from geco_jax import signals as signals  # First, for signals during imports.
from geco_jax.lagrangian import lagrangian
from geco_jax.multipliers import algorithm_1
from geco_jax.multipliers import annealed_beta
from geco_jax.multipliers import fixed
from geco_jax.multipliers import geco
from geco_jax.multipliers import GecoState
from geco_jax.multipliers import scheduled

__all__ = [
  'GecoState',
  'algorithm_1',
  'annealed_beta',
  'fixed',
  'geco',
  'lagrangian',
  'scheduled',
]

__version__ = '0.1.0'

if TYPE_CHECKING:
  from geco_jax.datasets.arrays import (
    dataset_from_arrays as dataset_from_arrays,
  )
  from geco_jax.trained import load as load

# Imported on first use: the core does not need what these need.
_LAZY = {
  'dataset_from_arrays': 'geco_jax.datasets.arrays',
  'load': 'geco_jax.trained',
}


def __dir__() -> list[str]:
  return sorted([*globals(), *_LAZY])


def __getattr__(name: str) -> Any:
  """Import what the core does not need."""
  if name in _LAZY:
    try:
      module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
      raise ModuleNotFoundError(
        f"geco_jax.{name} needs more than geco_jax's core, {error.name} first: "
        "pip install 'geco_jax[train]', in a checkout '.[train]'"
      ) from error
    return getattr(module, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
