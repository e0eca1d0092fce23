"""The training of a run, and what it records."""

from geco_jax.training.loop import train

__all__ = ['train']
