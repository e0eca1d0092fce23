"""Read prepared TFDS image sets, without TensorFlow wherever that is possible.

`tensorflow_datasets` is imported where it is used: it takes a third of a
second, which runs on the built-in digits need not wait for.
"""

from collections.abc import Callable, Iterable, Iterator
import difflib
import hashlib
import importlib.util
import itertools
import os
import re
import shlex
from typing import Any

import numpy as np

from geco_jax.datasets import scratch
from geco_jax.datasets.images import Images
from geco_jax.errors import OWN_PARTS
from geco_jax.errors import UserError
from geco_jax.io.system_errors import reason

# A tfds.core.DatasetBuilder, whose decorators hide its types from checkers.
Builder = Any

# NAME, NAME/CONFIG, either with :VERSION. TFDS also takes namespaces, which it
# looks up on the network, and keyword arguments, which no cache key could hold.
_NAME = re.compile(r'\w+(/[\w.\-]+)?(:[\d.*]+)?')
_BUILT_IN = ('digits', 'image_folder', 'npz')


def open_builder(name: str, data_dir: str | None = None) -> Builder:
  """Return TFDS's builder of a data set, prepared or not, offline.

  Args:
    name: TFDS's name, with a config and a version if wanted.
    data_dir: where TFDS keeps its sets, or None for $TFDS_DATA_DIR or TFDS's
      own default.

  Raises:
    UserError: if TFDS knows no such set, config or version.
  """
  import tensorflow_datasets as tfds

  if not _NAME.fullmatch(name):
    raise UserError(
      f'{name!r} is not a TFDS name: NAME, NAME/CONFIG or NAME:VERSION'
    )
  # TFDS reads the variable when it is imported; a program may set it later.
  data_dir = data_dir or os.environ.get('TFDS_DATA_DIR')
  try:
    return tfds.builder(
      name, data_dir=data_dir and os.path.expanduser(data_dir)
    )
  except tfds.core.DatasetNotFoundError as error:
    raise UserError(_unknown(name)) from error
  except (AssertionError, ValueError) as error:  # No such version or config.
    first_line = str(error).split('\n')[0]
    raise UserError(f'TFDS cannot open {name!r}: {first_line}') from error


def open_prepared(name: str, data_dir: str | None = None) -> Builder:
  """Return the builder of a set that can be read here and now.

  Raises:
    UserError: if the set is unknown, not prepared, or needs TensorFlow where
      there is none.
  """
  builder = open_builder(name, data_dir)
  flags = [
    f'--dataset={name}',
    *([f'--data_dir={data_dir}'] if data_dir else []),
  ]
  command = shlex.join(['python', '-m', 'geco_jax.datasets.prepare', *flags])
  if not is_prepared(builder):
    raise UserError(
      f'{name!r} is not prepared in {builder.data_dir}; prepare it: {command}'
    )
  if not reads_without_tensorflow(builder) and not _has_tensorflow():
    raise UserError(
      f'{name!r} is prepared as {builder.info.file_format.value} in '
      f'{builder.data_dir}, which takes TensorFlow to read: pip install '
      'tensorflow-cpu, or delete that folder and prepare the set again as '
      f'array_record: {command}'
    )
  return builder


def is_prepared(builder: Builder) -> bool:
  """Return whether TFDS has prepared this version of the set."""
  # TFDS logs a warning if it is asked about a folder that is not there.
  return builder.data_path.exists() and builder.is_prepared()


def reads_without_tensorflow(builder: Builder) -> bool:
  """Return whether the set is prepared in a random access format."""
  import tensorflow_datasets as tfds

  formats = builder.info.available_file_formats()
  return bool(formats & tfds.core.FileFormat.with_random_access())


def fingerprint(builder: Builder) -> str:
  """Return a digest of where the prepared files are, their sizes and ages.

  One version may be prepared twice with other contents, as a subset or from
  lossy copies; the name and the version alone do not tell them apart.
  """
  lines = [os.path.abspath(builder.data_dir)]
  for path in sorted(builder.data_path.iterdir()):
    stat = path.stat()
    lines.append(f'{path.name} {stat.length} {stat.mtime}')
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def read_split(
  builder: Builder,
  split: str,
  transform: Callable[[np.ndarray], np.ndarray],
  on_example: Callable[[], Any],
) -> Images:
  """Decode one split in the order it is stored in.

  Args:
    builder: a prepared set with at least one example in the split.
    split: TFDS's name of the split.
    transform: applied to each decoded image, uint8 [height, width, channels].
    on_example: called after each example, to show progress.

  Raises:
    UserError: if the set has no uint8 image, or images of several shapes, or a
      file cannot be read, which it names.
  """
  image_feature = _image_feature(builder.name, builder.info.features)
  has_labels = _has_labels(builder.info.features)
  count = builder.info.splits[split].num_examples
  images = np.empty(0, np.uint8)  # Its shape is known from the first one.
  labels = np.full(count, -1, np.int32)
  for i, example in enumerate(_readable_examples(builder, split)):
    image = transform(example[image_feature])
    if i == 0:
      images = scratch.empty((count, *image.shape), np.uint8)
    if image.shape != images.shape[1:]:
      raise UserError(
        f'{builder.name} has images of several shapes, {images.shape[1:]} and '
        f'{image.shape}: give image_size to make them all one size'
      )
    images[i] = image
    if has_labels:
      labels[i] = example['label']
    on_example()
  return Images(images, labels)


def _readable_examples(
  builder: Builder, split: str
) -> Iterator[dict[str, Any]]:
  """Yield a split's examples; name the file where one cannot be read."""
  num_read = 0
  try:
    for example in _examples(builder, split):
      yield example
      num_read += 1
  except Exception as error:  # Each format's reader raises its own.
    info = builder.info.splits[split]
    ends = itertools.accumulate(info.shard_lengths)
    paths = [
      path
      for path, end in zip(info.filepaths, ends, strict=True)
      if num_read < end
    ]
    raise UserError(
      f'{paths[0] if paths else builder.data_dir} cannot be read '
      f'({reason(error)}); delete its folder and prepare {builder.name} again'
    ) from error


def _examples(builder: Builder, split: str) -> Iterable[dict[str, Any]]:
  import tensorflow_datasets as tfds

  if reads_without_tensorflow(builder):
    return builder.as_data_source(split)
  return tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))


def _image_feature(name: str, features: Any) -> str:
  """Return the name of the feature to read: 'image', or the only image."""
  import tensorflow_datasets as tfds

  is_dict = isinstance(features, tfds.features.FeaturesDict)
  dtypes: dict[str, Any] = {
    key: feature.np_dtype
    for key, feature in (features.items() if is_dict else ())
    if isinstance(feature, tfds.features.Image)
  }
  if 'image' not in dtypes and len(dtypes) != 1:
    raise UserError(
      f"{name} has no feature 'image' and not exactly one image to take in its "
      f'place; its images: {", ".join(sorted(dtypes)) or "none"}'
    )
  chosen = 'image' if 'image' in dtypes else next(iter(dtypes))
  dtype = np.dtype(dtypes[chosen])
  if dtype != np.uint8:
    raise UserError(f'images must be uint8, those of {name} are {dtype}')
  return chosen


def _has_labels(features: Any) -> bool:
  if 'label' not in features:
    return False
  label = features['label']
  return label.shape == () and np.issubdtype(label.np_dtype, np.integer)


def _has_tensorflow() -> bool:
  return importlib.util.find_spec('tensorflow') is not None


def _unknown(name: str) -> str:
  import tensorflow_datasets as tfds

  base = re.split('[/:]', name)[0]
  names = [*_BUILT_IN, *tfds.list_builders(with_community_datasets=False)]
  close_names = difflib.get_close_matches(base, names)
  guess = f' (did you mean {" or ".join(close_names)}?)' if close_names else ''
  return (
    f'unknown data set {name!r}{guess}; known are digits (built in, nothing to '
    'prepare), image_folder and npz (your own), mnist, cifar10, celeb_a and '
    f"TFDS's other image sets, {OWN_PARTS}"
  )
