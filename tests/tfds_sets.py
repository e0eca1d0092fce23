"""Writes small TFDS sets without a network and TensorFlow."""

from collections.abc import Mapping, Sequence
import io
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds


def png(image: np.ndarray) -> bytes:
  """Return an image [height, width, channels] as a PNG file."""
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def _encoded(example):
  # TFDS would encode an array by TensorFlow; bytes it takes as a file.
  return {
    name: png(value) if isinstance(value, np.ndarray) else value
    for name, value in example.items()
  }


def write(
  data_dir: pathlib.Path,
  name: str,
  features: Mapping[str, Any],
  splits: Mapping[str, Sequence[Mapping[str, Any]]],
  version: str = '1.0.0',
  examples_per_shard: int = 4,
) -> pathlib.Path:
  """Write a set of examples as array_record; return its folder."""
  folder = data_dir / name / version
  folder.mkdir(parents=True)
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=name, version=version, data_dir=str(folder), module_name='test'
  )
  info = tfds.core.DatasetInfo(
    builder=identity, features=tfds.features.FeaturesDict(features)
  )
  writer = tfds.core.SequentialWriter(
    info, max_examples_per_shard=examples_per_shard, file_format='array_record'
  )
  writer.initialize_splits(list(splits))
  for split, examples in splits.items():
    writer.add_examples({split: [_encoded(e) for e in examples]})
  writer.close_all()
  return folder
