"""The paper's figures and tables, a module each."""

from geco_jax import signals as signals  # First, for signals during imports.
