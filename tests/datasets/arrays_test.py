"""Arrays of one's own, in a program and in an npz."""

import inspect
import pickle

import numpy as np
import pytest

import geco_jax
from geco_jax.datasets import arrays
from geco_jax.datasets.arrays import npz
from geco_jax.errors import UserError

_IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 4), np.uint8)
_LABELS = np.arange(30)


@pytest.fixture
def write(tmp_path):
  """Return (arrays by name) -> the path of an npz."""

  def write(**contents):
    path = tmp_path / 'set.npz'
    np.savez(path, **contents)
    return str(path)

  return write


def test_missing_splits_are_carved_and_labels_stay_with_their_images():
  dataset = geco_jax.dataset_from_arrays(_IMAGES, labels=_LABELS)
  assert (dataset.name, dataset.image_shape) == ('arrays', (5, 4, 1))
  sizes = {name: len(s.label) for name, s in dataset.splits.items()}
  assert sizes == {'train': 24, 'validation': 3, 'test': 3}
  seen = np.concatenate([s.label for s in dataset.splits.values()])
  assert sorted(seen) == [*_LABELS]
  for images in dataset.splits.values():
    assert images.label.dtype == np.int32
    np.testing.assert_array_equal(images.image[..., 0], _IMAGES[images.label])


def test_splits_that_are_given_are_kept_whole():
  dataset = geco_jax.dataset_from_arrays(
    _IMAGES,
    _IMAGES[:4],
    test_labels=[3, 2, 1, 0],
    validation=_IMAGES[:2] > 99,
    name='mine',
  )
  assert {n: len(s.label) for n, s in dataset.splits.items()} == {
    'train': 30,
    'validation': 2,
    'test': 4,
  }
  assert dataset.splits['test'].label.tolist() == [3, 2, 1, 0]
  assert set(dataset.splits['train'].label) == {-1}


def test_labels_may_have_an_axis_of_one_as_keras_has():
  both = (
    geco_jax.dataset_from_arrays(_IMAGES, labels=labels).splits['train'].label
    for labels in (_LABELS, _LABELS[:, np.newaxis])
  )
  np.testing.assert_array_equal(*both)


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    (_LABELS[:-1], '29 for 30 images'),
    (_LABELS - 1, r'must be in \[0, .*got -1 to 28.* leave them out'),
    (_LABELS * 1.0, r'must be integers \[30\], got float64 \[30\]'),
    (np.eye(30, dtype=int), r'must be integers \[30\], got int64 \[30, 30\]'),
    (_LABELS + 2**31, r'must be in \[0, 2147483647\], got 2147483648 to'),
    (_LABELS > 3, 'must be integers.* got bool'),
    (_LABELS.astype(str), 'must be integers.* got <U'),
    ([[1], [1, 2]], 'no array of one shape'),
  ],
)
def test_other_labels_are_refused(labels, message, write):
  message = f'labels of the train split.*{message}'
  with pytest.raises(UserError, match=message):
    geco_jax.dataset_from_arrays(_IMAGES, labels=labels)
  if not isinstance(labels, list):
    with pytest.raises(UserError, match=message):
      npz(write(train=_IMAGES, labels=labels))


def test_images_must_be_there_and_be_an_array():
  for images, message in (
    (None, 'images of the train split are missing'),
    ([[1], [1, 2]], 'no array of one shape'),
    (np.array([_IMAGES, None], dtype=object), 'got object'),
  ):
    with pytest.raises(UserError, match=message):
      geco_jax.dataset_from_arrays(images)
  with pytest.raises(UserError, match='labels of the test split, but no imag'):
    geco_jax.dataset_from_arrays(_IMAGES, test_labels=[1])


def test_an_npz_has_the_arguments_of_dataset_from_arrays(write):
  path = write(train=_IMAGES, labels=_LABELS, test=_IMAGES / 255)
  image_set = npz(path)
  expected = geco_jax.dataset_from_arrays(_IMAGES, _IMAGES / 255, _LABELS)
  assert image_set.name == path
  for name, images in image_set.splits.items():
    for got, array in zip(images, expected.splits[name], strict=True):
      np.testing.assert_array_equal(got, array)
  parameters = inspect.signature(geco_jax.dataset_from_arrays).parameters
  assert set(arrays._KEYS.values()) == set(parameters) - {'white', 'name'}
  keras = npz(
    write(x_train=_IMAGES, y_train=_LABELS, x_test=_IMAGES, y_test=_LABELS)
  )
  np.testing.assert_array_equal(keras.splits['test'].label, _LABELS)


def test_images_of_an_npz_are_resized_if_a_size_is_given(write):
  path = write(train=_IMAGES)
  assert npz(path).splits['train'].image.shape == (24, 5, 4, 1)
  assert npz(path, 3).splits['train'].image.shape == (24, 3, 3, 1)
  for size in (0, -1, 2.5, '3', True, 10**6):
    with pytest.raises(ValueError, match=r'an integer in \[1, 4096\], got'):
      npz(path, size)


@pytest.mark.parametrize(
  ('contents', 'message'),
  [
    ({}, "has no arrays, where training images are .* called 'train'"),
    ({'test': _IMAGES}, 'has test, where training images'),
    ({'train': _IMAGES, 'images': _IMAGES}, 'in one array'),
    ({'trains': _IMAGES}, r"'trains' \(did you mean train\?\)"),
    ({'train': _IMAGES, 'latents': _IMAGES}, "an array 'latents'"),
    ({'train': np.array([1, None])}, 'objects, which are never unpickled'),
    (
      {'train': _IMAGES, 'labels': np.array(['a'] * 30, dtype=object)},
      'objects, which are never unpickled',
    ),
  ],
)
def test_other_contents_are_refused(contents, message, write):
  with pytest.raises(UserError, match=message):
    npz(write(**contents))


class _Evil:
  """Fails the test if it is unpickled."""

  def __reduce__(self):
    return pytest.fail, ('unpickled',)


def test_other_files_are_refused_and_never_unpickled(tmp_path, write):
  whole = (tmp_path / write(train=_IMAGES)).read_bytes()
  damaged = bytearray(whole)
  damaged[200] ^= 255
  path = tmp_path / 'other.npz'
  for content in (b'', b'text', whole[:300], damaged, pickle.dumps(_Evil())):
    path.write_bytes(content)
    with pytest.raises(UserError, match='no npz of plain arrays that can be'):
      npz(str(path))
  np.savez(path, train=np.array([_Evil()] * 3))
  with pytest.raises(UserError, match='never unpickled'):
    npz(str(path))
  with open(path, 'wb') as file:
    np.save(file, _IMAGES)
  with pytest.raises(UserError, match='a single array: np.savez'):
    npz(str(path))


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('', 'config.dataset.kwargs.path is missing: the path of an npz'),
    ('none.npz', 'no such path'),
    ('.', 'not an npz file'),
    ('gs://a/b.npz', 'no path of this machine'),
  ],
)
def test_a_path_that_is_none_is_refused(path, message):
  with pytest.raises(UserError, match=message):
    npz(path)
