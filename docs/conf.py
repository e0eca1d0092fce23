"""The site of the documentation: `make docs`."""

import re

import geco_jax

project = 'geco_jax'
author = 'The geco_jax authors'
copyright = f'2026, {author}, Apache-2.0'
release = geco_jax.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['figures']
html_theme = 'furo'

# GitHub's Markdown, as far as it goes.
myst_enable_extensions = ['dollarmath']
myst_fence_as_directive = ['math']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # What a notebook printed is stored in it.

default_role = 'code'  # Role of single backticks in docstrings.
autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented_params'
napoleon_use_ivar = True  # Fields are described once, by their class.


def _skip(app, what, name, member, skip, options):
  """Skip fields of named tuples, whose only text is `Alias for field number 0`.

  The docstring of their class describes them.
  """
  del app, what, name, options
  return skip or type(member).__name__ == '_tuplegetter'


def _as_text(app, what, name, obj, options, lines):
  """Turn a docstring from plain text into reStructuredText.

  The characters | and * are escaped, since they are no markup here. Lines
  indented by four outside of sections like `Args:` are formulas: they become
  literal blocks.
  """
  del app, what, name, obj, options
  text, start, is_literal = [], '', False
  for line in lines:
    if line.strip() and not line.startswith(' '):
      start = line
    is_formula = line.startswith('    ') and not re.fullmatch(r'\w+:', start)
    if is_formula and not is_literal and not start.endswith('::'):
      text += ['::', '']
    is_literal = is_formula or (is_literal and not line.strip())
    if not (is_formula or line.lstrip().startswith('>>>')):
      line = line.replace('|', r'\|').replace('*', r'\*')
    text.append(line)
  lines[:] = text


def _on_the_site(app, name, source):
  """Change links to pages outside of docs/ into links to their pages here."""
  del app, name
  for outside, inside in {
    '../RESULTS.md': 'claims.md',
    '../README.md#install': 'index.md',
    '../README.md': 'index.md',
  }.items():
    source[0] = source[0].replace(f']({outside})', f']({inside})')


def setup(app):
  """Connect the above."""
  app.connect('autodoc-skip-member', _skip)
  app.connect('autodoc-process-docstring', _as_text, priority=400)
  app.connect('source-read', _on_the_site)
