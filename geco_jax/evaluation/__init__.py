"""What a model is worth: measures, verdicts, rates and pictures."""

from geco_jax.evaluation.measures import evaluate

__all__ = ['evaluate']
