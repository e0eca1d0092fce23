"""The training of classifiers, which moved to `geco_jax.train_classifier`."""

import runpy
import sys

if __name__ == '__main__':
  print(
    'geco_jax.models.train_classifier is now geco_jax.train_classifier',
    file=sys.stderr,
  )
  runpy.run_module(
    'geco_jax.train_classifier', run_name='__main__', alter_sys=True
  )
