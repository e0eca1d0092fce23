"""Configs as trees: their leaves, and the part that is a single run."""

import copy
import json
from typing import Any

from ml_collections.config_dict import ConfigDict


def flatten(config: ConfigDict) -> dict[str, Any]:
  """Return the leaves of a config by dotted name."""

  def leaves(prefix, value):
    if isinstance(value, dict) and value:
      for key, inner in value.items():
        yield from leaves(f'{prefix}.{key}' if prefix else key, inner)
    else:
      yield prefix, value

  return dict(leaves('', plain(config)))


def plain(config):
  """Return the config as it reads back from JSON."""
  return json.loads(config.to_json())


SWEEP = 'sweep'


def without_sweep(config: ConfigDict) -> ConfigDict:
  """Return the config of a single run: all but `sweep`."""
  if SWEEP not in config:
    return config
  single = copy.deepcopy(config)
  with single.unlocked():
    del single[SWEEP]
  return single
