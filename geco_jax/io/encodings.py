"""Text with paths in it, whose bytes the locale may not decode."""

import codecs

# Value of a stream's `errors`: a path that the locale's encoding did not decode
# is written in its own bytes, characters that it lacks with backslashes.
PATHS_AS_THEY_ARE = 'geco_jax.paths_as_they_are'


def _encode_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
  """Return what stands for characters that an encoding does not have."""
  try:
    return codecs.lookup_error('surrogateescape')(error)
  except UnicodeError:
    return codecs.lookup_error('backslashreplace')(error)


codecs.register_error(PATHS_AS_THEY_ARE, _encode_unencodable)


def in_unicode(text: str) -> str:
  """Return text with paths or commands in it as any file can hold it.

  Python has a surrogate for each byte that the locale's encoding does not
  decode, which no other encoding takes. Bytes that are UTF-8 become what they
  stand for, others a replacement character.
  """
  return text.encode('utf-8', PATHS_AS_THEY_ARE).decode('utf-8', 'replace')
