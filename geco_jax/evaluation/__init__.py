"""What a model is worth: measures, verdicts, rates and pictures."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
  """Import `evaluate` when asked for it: pages need the verdicts alone."""
  if name == 'evaluate':
    return importlib.import_module('geco_jax.evaluation.checkpoints').evaluate
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
