"""Paths are written and printed whatever bytes they have."""

import io

import pytest

from geco_jax.io.encodings import in_unicode
from geco_jax.io.encodings import PATHS_AS_THEY_ARE


@pytest.mark.parametrize(
  ('path', 'text'),
  [
    ('runs/exp [1] é±', 'runs/exp [1] é±'),
    ('é'.encode().decode('ascii', 'surrogateescape'), 'é'),  # LC_ALL=C
    (b'a\xffb'.decode('utf-8', 'surrogateescape'), 'a\ufffdb'),
    ('a\ud800b', 'a\\ud800b'),
  ],
)
def test_paths_in_bytes_of_another_encoding_are_text_in_files(path, text):
  assert in_unicode(path) == text


@pytest.mark.parametrize(
  ('encoding', 'path', 'printed'),
  [
    ('ascii', 'é'.encode().decode('ascii', 'surrogateescape'), 'é'.encode()),
    ('ascii', 'é', b'\\xe9'),
    ('utf-8', b'a\xff'.decode('utf-8', 'surrogateescape'), b'a\xff'),
    ('utf-8', '\ud800±', '\\ud800±'.encode()),
  ],
)
def test_paths_in_bytes_of_another_encoding_are_printed_in_these(
  encoding, path, printed
):
  stream = io.TextIOWrapper(buffer := io.BytesIO(), encoding)
  stream.reconfigure(errors=PATHS_AS_THEY_ARE)
  print(path, end='', file=stream, flush=True)
  assert buffer.getvalue() == printed
