"""Training latent-variable models by constraints: GECO in JAX.

The public list is short; everything else is imported from its module. `load`,
of a trained run, needs what training does.
"""

from typing import Any

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


def __getattr__(name: str) -> Any:
  """Import `load` when it is asked for: the core does without its needs."""
  if name == 'load':
    from geco_jax.trained import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
