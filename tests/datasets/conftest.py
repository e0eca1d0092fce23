"""Small TFDS sets, made on the fly without a network and TensorFlow."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds


def _png(image):
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def _encoded(example):
  # TFDS would encode an array by TensorFlow; bytes it takes as a file.
  return {
    name: _png(value) if isinstance(value, np.ndarray) else value
    for name, value in example.items()
  }


@pytest.fixture
def write_tfds_set():
  """Return a function that writes a set of examples as array_record."""

  def write(data_dir, name, features, splits):
    folder = data_dir / name / '1.0.0'
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
      name=name, version='1.0.0', data_dir=str(folder), module_name='test'
    )
    info = tfds.core.DatasetInfo(
      builder=identity, features=tfds.features.FeaturesDict(features)
    )
    writer = tfds.core.SequentialWriter(
      info, max_examples_per_shard=4, file_format='array_record'
    )
    writer.initialize_splits(list(splits))
    for split, examples in splits.items():
      writer.add_examples({split: [_encoded(e) for e in examples]})
    writer.close_all()
    return folder

  return write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  """No test reads or fills the user's cache."""
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path / 'default_cache'))
