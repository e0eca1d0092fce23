"""Files that can be made again: damage is noticed, and stops nothing."""

import json
import math

from geco_jax.io import by_products

CONTENT = {
  'kl_nats': 23.25,
  'nan': math.nan,
  'by_step': [1, 2.5, None],
  'nested': {10: 'a', 9: {'met': True}},  # JSON makes its keys strings.
}


def read(path):
  """Return a file's content as its text, without NaN's inequality."""
  return by_products.read(
    str(path),
    # The digest's own name may be damaged: it is a key too many then.
    lambda content: json.dumps(
      {k: content[k] for k in CONTENT}, sort_keys=True
    ),
  )


def test_no_flipped_bit_of_a_sealed_file_is_read(tmp_path):
  path = tmp_path / 'evaluation.json'
  by_products.write_sealed(str(path), CONTENT)
  whole, written = path.read_bytes(), read(path)
  assert json.loads(written)['nested'] == {'9': {'met': True}, '10': 'a'}
  assert by_products.read(str(path), dict).keys() == CONTENT.keys()
  refused = 0
  for place in range(len(whole)):
    for bit in range(8):
      damaged = bytearray(whole)
      damaged[place] ^= 1 << bit
      path.write_bytes(damaged)
      assert read(path) in (None, written)  # White space may change.
      refused += read(path) is None
  assert refused > 7 * len(whole)


def test_a_file_without_a_digest_is_read(tmp_path):
  path = tmp_path / 'evaluation.json'
  path.write_text('{"step": 3}')
  assert by_products.read(str(path), dict) == {'step': 3}
  path.write_text('[3]')
  assert by_products.read(str(path), list) == [3]
