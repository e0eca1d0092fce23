"""The containers that sources fill and batches are made from."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

SPLITS = ('train', 'validation', 'test')


class Images(NamedTuple):
  """The images of one split, on the host or on a device."""

  image: np.ndarray  # uint8 [n, height, width, channels].
  label: np.ndarray  # int32 [n], -1 where the data set has no labels.


class ImageSet(NamedTuple):
  """A data set on the host: fixed splits of decoded images."""

  name: str
  splits: Mapping[str, Images]  # One for each of `SPLITS`.
