"""Paths that people give."""

import os
import re

from geco_jax.errors import UserError


def local_path(path: str) -> str:
  """Return a path of this machine, its `~` expanded.

  Raises:
    UserError: if it is one of another machine (gs://...), or in a home folder
      that is not known.
  """
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', path):
    raise UserError(f'{path} is no path of this machine; mount it or copy it')
  expanded = os.path.expanduser(path)
  if expanded.startswith('~'):
    raise UserError(f'{path}: there is no home folder {path.split("/")[0]}')
  return expanded
