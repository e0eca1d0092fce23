"""Trained classifiers, found by name or by path.

`geco_jax.train_classifier` makes them.
"""

from collections.abc import Mapping
import hashlib
import json
import os
from typing import Any

import jax
import numpy as np

from geco_jax import config_files
from geco_jax.classifiers.base import Network
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.config_schema import hint
from geco_jax.errors import UserError
from geco_jax.io import files
from geco_jax.io.paths import local_path
from geco_jax.io.system_errors import reason
from geco_jax.io.system_errors import refusal

_FILE = 'network.npz'
_CONFIGS = 'classifiers/'  # Their names begin so.


def folder_of(name: str) -> str:
  """Return the folder of a named classifier; a path stands for itself."""
  if os.path.basename(name) != name:
    return local_path(name)
  return os.path.join(files.cache_folder(), 'classifiers', name)


def save(
  folder: str,
  *,
  model: Mapping[str, Any],
  image_shape: tuple[int, ...],
  num_classes: int,
  params: Any,
  state: Any,
  feature_stddevs: Mapping[str, np.ndarray],
) -> None:
  """Write a classifier into its folder, whole or not at all.

  Args:
    folder: must be there.
    model: its name in `CLASSIFIERS` and its keyword arguments.
    image_shape: (height, width, channels).
    num_classes: how many.
    params: parameters of the classifier, two levels of dictionaries of arrays.
    state: likewise.
    feature_stddevs: by layer, [channels].
  """
  metadata = {
    'model': dict(model),
    'image_shape': list(image_shape),
    'num_classes': num_classes,
  }
  arrays: dict[str, Any] = {'about': json.dumps(metadata)}
  for kind, tree in (('params', params), ('state', state)):
    for module, values in tree.items():
      for name, value in values.items():
        arrays[f'{kind}:{module}:{name}'] = value
  for layer, stddev in feature_stddevs.items():
    arrays[f'stddev:{layer}'] = stddev
  files.write_npz(os.path.join(folder, _FILE), arrays)


def load(name: str) -> Network:
  """Return a trained classifier.

  Args:
    name: name of a classifier in the cache folder ($GECO_JAX_CACHE), or the
      path of a training's folder.

  Raises:
    UserError: if it is not there or damaged.
  """
  path = _file_of(name)
  try:
    metadata, trees = _read(path)
    model = metadata['model']
    if model['name'] not in CLASSIFIERS:
      raise ValueError(
        f'its model {model["name"]!r} is not known; if it is of your own, name '
        'its module in config.imports'
      )
    classifier = CLASSIFIERS[model['name']](
      metadata['num_classes'], **model['kwargs']
    )
    image_shape = tuple(metadata['image_shape'])
    _check_arrays(classifier, trees, image_shape, metadata['num_classes'])
  except Exception as error:  # A damaged file makes its reader raise anything.
    if answer := refusal(error):
      raise UserError(f'{path} cannot be read: {answer}') from error
    raise UserError(
      f'{path} is damaged ({reason(error)}); delete it and train again: '
      f'{_training(name)}'
    ) from error

  def outputs(image):
    result, _ = classifier.apply(
      trees['params'], trees['state'], image, is_training=False
    )
    return result

  return Network(
    name=name,
    image_shape=image_shape,
    num_classes=metadata['num_classes'],
    logits=lambda image: outputs(image)[0],
    features=lambda image, layer: outputs(image)[1][layer],
    feature_stddevs=trees['stddev'],
  )


def sha256(name: str) -> str:
  """Return the digest of a classifier's file: a name may be trained again.

  Raises:
    UserError: if it is not there or cannot be read.
  """
  path = _file_of(name)
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {reason(error)}') from error


def _file_of(name: str) -> str:
  """Return a classifier's existing file."""
  if not name.strip('. '):
    raise UserError(
      f'network must be the name of a trained classifier or the path of its '
      f'folder, got {name!r}'
    )
  path = os.path.join(folder_of(name), _FILE)
  if not os.path.isfile(path):
    known = _known()
    is_misspelled = os.path.basename(name) == name and name not in known
    choice = hint(name, known) if is_misspelled else ''
    raise UserError(
      f'no trained classifier at {path}{choice}; this trains it: '
      f'{_training(name)}'
    )
  return path


def _training(name: str) -> str:
  """Return the command that trains a classifier."""
  config = f'configs/{_CONFIGS}{name}.py'
  if name not in _known():
    config = f'... --workdir={folder_of(name)}'
  return f'python -m geco_jax.train_classifier --config={config}'


def _known() -> list[str]:
  """Return the names of the classifiers that have a config."""
  return [
    config.removeprefix(_CONFIGS)
    for config in config_files.names()
    if config.startswith(_CONFIGS)
  ]


def _read(path: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
  """Return a file's metadata, and its arrays by kind, module and name."""
  with np.load(path) as file:
    arrays = {key: file[key] for key in file.files}
  metadata = json.loads(arrays.pop('about').item())
  trees = {'params': {}, 'state': {}, 'stddev': {}}
  for key, value in arrays.items():
    kind, module, *names = key.split(':')
    if names:
      trees[kind].setdefault(module, {})[names[0]] = value
    else:
      trees[kind][module] = value
  return metadata, trees


def _check_arrays(classifier, trees, image_shape, num_classes) -> None:
  """Raise any error unless the arrays are those that a classifier takes."""
  (logits, features), _ = jax.eval_shape(
    lambda image: classifier.apply(
      trees['params'], trees['state'], image, is_training=False
    ),
    jax.ShapeDtypeStruct((1, *image_shape), np.float32),
  )
  if (
    logits.shape != (1, num_classes)
    or features.keys() != trees['stddev'].keys()
  ):
    raise ValueError('its arrays are of another network')
