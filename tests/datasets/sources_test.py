"""Every example stands in one split, once, with its own pixels and label."""

import importlib.util
import json
import os
import shlex

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from geco_jax.datasets import sources
from geco_jax.datasets import splits as splits_lib
from geco_jax.datasets import tfds_source
from geco_jax.errors import UserError

_PREPARE = 'python -m geco_jax.datasets.prepare'
_FEATURES = {
  'image': tfds.features.Image(shape=(6, 4, 1)),
  'label': tfds.features.ClassLabel(num_classes=100),
}


def _examples(count, first=0, shape=(6, 4, 1)):
  """Images of noise; the labels number the examples."""
  rng = np.random.default_rng(first)
  return [
    {'image': rng.integers(0, 256, shape, np.uint8), 'label': first + i}
    for i in range(count)
  ]


@pytest.fixture
def tiny(tmp_path, write_tfds_set):
  """Return a function that writes the set 'tiny' and returns its data_dir."""

  def write(data_dir='tfds', features=_FEATURES, **splits):
    write_tfds_set(tmp_path / data_dir, 'tiny', features, splits)
    return str(tmp_path / data_dir)

  return write


def _assert_holds(images, examples):
  np.testing.assert_array_equal(images.image, [e['image'] for e in examples])
  np.testing.assert_array_equal(images.label, [e['label'] for e in examples])
  assert images.image.dtype == np.uint8
  assert images.label.dtype == np.int32


def _assert_same(a, b):
  assert a.name == b.name
  assert a.splits.keys() == b.splits.keys()
  for name, images in a.splits.items():
    np.testing.assert_array_equal(images.image, b.splits[name].image)
    np.testing.assert_array_equal(images.label, b.splits[name].label)


def _sizes(image_set):
  return {name: len(s.label) for name, s in image_set.splits.items()}


# The bundled digits.


def _rows(pixels, labels):
  flat = np.concatenate([pixels.reshape(len(pixels), -1), labels[:, None]], 1)
  return sorted(map(tuple, flat.tolist()))


def test_digits_hold_every_example_of_scikit_learn_once():
  digits = sources.digits()
  assert _sizes(digits) == {'train': 1_437, 'validation': 180, 'test': 180}
  bunch = sklearn.datasets.load_digits()
  got_pixels = np.concatenate([s.image for s in digits.splits.values()])
  got_labels = np.concatenate([s.label for s in digits.splits.values()])
  expected = np.array([round(v * 255 / 16) for v in range(17)])
  expected = expected[bunch.images.astype(int)]
  assert _rows(got_pixels, got_labels) == _rows(expected, bunch.target)


def test_digits_are_uint8_images_with_int32_labels_over_the_full_range():
  train = sources.digits().splits['train']
  assert train.image.shape == (1_437, 8, 8, 1)
  assert (train.image.dtype, train.label.dtype) == (np.uint8, np.int32)
  assert (train.image.min(), train.image.max()) == (0, 255)
  assert set(train.label) == set(range(10))


def test_digits_are_split_the_same_way_every_time():
  _assert_same(sources.digits(), sources.digits())


# Sets of TFDS.


def test_own_splits_are_kept_in_order(tiny):
  splits = {
    'train': _examples(9),
    'validation': _examples(2, first=20),
    'test': _examples(3, first=30),
  }
  image_set = sources.tfds_images('tiny', data_dir=tiny(**splits))
  assert image_set.name == 'tiny'
  assert list(image_set.splits) == list(splits)
  for name, examples in splits.items():
    _assert_holds(image_set.splits[name], examples)


def test_part_of_a_set_with_a_fixed_validation_size_keeps_its_training_images(
  tmp_path, write_tfds_set, monkeypatch
):
  splits = {'train': _examples(60), 'test': _examples(9, first=60)}
  write_tfds_set(tmp_path, 'mnist', _FEATURES, splits, version='3.0.1')

  def sizes():
    return _sizes(sources.tfds_images('mnist', data_dir=str(tmp_path)))

  with monkeypatch.context() as earlier:  # Its entry of the cache is no good.
    for module in (sources, splits_lib):
      earlier.setattr(module, 'has_room', lambda *_: True)
    assert sizes() == {'train': 0, 'validation': 60, 'test': 9}
  assert sizes() == {'train': 54, 'validation': 6, 'test': 9}


@pytest.mark.parametrize(
  ('splits', 'sizes'),
  [
    (('train', 'test'), {'train': 27, 'validation': 3, 'test': 5}),
    (('train', 'validation'), {'train': 27, 'validation': 5, 'test': 3}),
    (('train',), {'train': 24, 'validation': 3, 'test': 3}),
  ],
)
def test_missing_splits_are_carved_from_train_losing_nothing(
  tiny, tmp_path, splits, sizes
):
  examples = {'train': _examples(30)}
  examples |= {name: _examples(5, first=40) for name in splits[1:]}
  data_dir = tiny(**examples)
  image_set = sources.tfds_images('tiny', data_dir=data_dir)
  assert _sizes(image_set) == sizes
  by_label = {e['label']: e['image'] for s in examples.values() for e in s}
  got = np.concatenate([s.label for s in image_set.splits.values()])
  assert sorted(got) == sorted(by_label)
  for images in image_set.splits.values():
    for image, label in zip(images.image, images.label, strict=True):
      np.testing.assert_array_equal(image, by_label[label])
  again = sources.tfds_images(
    'tiny', data_dir=data_dir, cache_dir=tmp_path / 'other_cache'
  )
  _assert_same(image_set, again)


def test_splits_of_other_names_are_left_out(tiny):
  data_dir = tiny(train=_examples(10), extra=_examples(10, first=50))
  image_set = sources.tfds_images('tiny', data_dir=data_dir)
  assert max(s.label.max() for s in image_set.splits.values()) == 9


def test_labels_are_minus_one_where_there_are_none(tiny):
  images = [{'image': e['image']} for e in _examples(10)]
  data_dir = tiny(features={'image': _FEATURES['image']}, train=images)
  image_set = sources.tfds_images('tiny', data_dir=data_dir)
  for split in image_set.splits.values():
    assert set(split.label) == {-1}
    assert split.label.dtype == np.int32


def test_only_image_is_taken_whatever_its_name(tiny):
  examples = _examples(10)
  data_dir = tiny(
    features={'photo': _FEATURES['image'], 'label': _FEATURES['label']},
    train=[{'photo': e['image'], 'label': e['label']} for e in examples],
    validation=[],
  )
  train = sources.tfds_images('tiny', data_dir=data_dir).splits['train']
  for image, label in zip(train.image, train.label, strict=True):
    np.testing.assert_array_equal(image, examples[label]['image'])


def test_second_load_comes_from_the_cache(tiny, monkeypatch):
  data_dir = tiny(train=_examples(10))
  decoded = sources.tfds_images('tiny', data_dir=data_dir)
  monkeypatch.delattr(tfds_source, 'read_split')
  _assert_same(decoded, sources.tfds_images('tiny', data_dir=data_dir))


def test_one_version_prepared_twice_is_not_mixed_up_in_the_cache(tiny):
  a = tiny(data_dir='a', train=_examples(10), test=_examples(1))
  b = tiny(data_dir='b', train=_examples(10, first=50), test=_examples(1))
  for data_dir, labels in ((a, range(10)), (b, range(50, 60)), (a, range(10))):
    splits = sources.tfds_images('tiny', data_dir=data_dir).splits
    got = np.concatenate([splits['train'].label, splits['validation'].label])
    assert sorted(got) == list(labels)


def test_sizes_and_crops_do_not_share_a_cache_entry(tiny):
  data_dir = tiny(train=_examples(10))
  shapes = {}
  for size, crop in ((None, None), (2, None), (None, 2), (3, 4)):
    image_set = sources.tfds_images(
      'tiny', data_dir=data_dir, image_size=size, centre_crop=crop
    )
    shapes[size, crop] = image_set.splits['train'].image.shape[1:]
  assert shapes == {
    (None, None): (6, 4, 1),
    (2, None): (2, 2, 1),
    (None, 2): (2, 2, 1),
    (3, 4): (3, 3, 1),
  }


def test_unwritable_cache_warns_and_goes_on(tiny, tmp_path, caplog):
  examples = _examples(10)
  (tmp_path / 'file').write_text('')
  image_set = sources.tfds_images(
    'tiny',
    data_dir=tiny(train=examples, validation=examples, test=examples),
    cache_dir=tmp_path / 'file',
  )
  _assert_holds(image_set.splits['train'], examples)
  assert 'Going on uncached' in caplog.text


def test_data_dir_is_taken_from_the_environment(tiny, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', tiny(train=_examples(10)))
  assert sources.tfds_images('tiny').name == 'tiny'


# Cropping and resizing.


def _resized(tiny, images, **kwargs):
  channels = images[0].shape[-1]
  features = {'image': tfds.features.Image(shape=(None, None, channels))}
  data_dir = tiny(
    features=features,
    train=[{'image': np.asarray(image, np.uint8)} for image in images],
    validation=[],
  )
  return sources.tfds_images('tiny', data_dir=data_dir, **kwargs)


def test_crop_is_the_center(tiny):
  image = np.zeros((8, 6, 3), np.uint8)
  image[2:6, 1:5] = 200
  train = _resized(tiny, [image] * 10, centre_crop=4).splits['train']
  assert train.image.shape[1:] == (4, 4, 3)
  assert (train.image == 200).all()


def test_resizing_keeps_the_aspect_by_taking_the_largest_square(tiny):
  image = np.zeros((12, 4, 1), np.uint8)
  image[4:8] = 200
  train = _resized(tiny, [image] * 10, image_size=2).splits['train']
  assert (train.image == 200).all()


def test_shrinking_averages_what_it_drops(tiny):
  checkerboard = np.indices((64, 64)).sum(0)[..., None] % 2 * 255
  train = _resized(tiny, [checkerboard] * 10, image_size=8).splits['train']
  assert np.abs(train.image.astype(int) - 127.5).max() <= 2


def test_images_of_several_shapes_need_image_size(tiny):
  images = [np.full((5 + i, 7, 3), i) for i in range(10)]
  with pytest.raises(UserError, match='several shapes.*give image_size'):
    _resized(tiny, images)
  data_dir = os.environ['GECO_JAX_CACHE'].replace('default_cache', 'tfds')
  splits = sources.tfds_images('tiny', data_dir=data_dir, image_size=4).splits
  assert splits['train'].image.shape == (8, 4, 4, 3)


def test_binary_images_are_scaled_where_white_says_so_and_kept_apart(tiny):
  examples = _examples(10)
  for example in examples:
    example['image'] %= 2
  data_dir = tiny(train=examples)
  images = sources.tfds_images('tiny', data_dir=data_dir).splits['train']
  assert images.image.max() == 1  # `check_images` refuses them.
  scaled = sources.tfds_images('tiny', data_dir=data_dir, white=1)
  np.testing.assert_array_equal(
    scaled.splits['train'].image, 255 * images.image
  )


def test_crop_larger_than_the_images_is_refused(tiny):
  with pytest.raises(UserError, match=r'centre_crop=5 does not fit.*6x4'):
    sources.tfds_images(
      'tiny', data_dir=tiny(train=_examples(10)), centre_crop=5
    )


@pytest.mark.parametrize('option', ['image_size', 'centre_crop'])
def test_sizes_below_one_are_refused(option):
  with pytest.raises(ValueError, match=f'{option} must be at least 1, got 0'):
    sources.tfds_images('mnist', **{option: 0})


# What a user is told.


def _message(*args, **kwargs):
  with pytest.raises(UserError) as error:
    sources.tfds_images(*args, **kwargs)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_set_that_is_not_prepared_names_the_command(tmp_path, monkeypatch):
  data_dir = str(tmp_path / 'empty')
  message = _message('mnist', data_dir=data_dir)
  assert message.endswith(f'{_PREPARE} --dataset=mnist --data_dir={data_dir}')
  assert 'not prepared' in message
  monkeypatch.setenv('TFDS_DATA_DIR', data_dir)
  assert _message('mnist').endswith(f'{_PREPARE} --dataset=mnist')


def test_the_command_is_quoted_for_a_shell(tmp_path):
  data_dir = tmp_path / "Jo's sets"
  message = _message('mnist:3.*.*', data_dir=str(data_dir))
  command = message[message.index(_PREPARE) :]
  assert shlex.split(command)[-2:] == [
    '--dataset=mnist:3.*.*',
    f'--data_dir={data_dir}',
  ]
  assert '*.*' in command and "'--dataset=mnist:3.*.*'" in command


def test_celeb_a_that_is_not_prepared_names_the_command(tmp_path):
  with pytest.raises(UserError, match=f'{_PREPARE} --dataset=celeb_a'):
    sources.celeb_a(data_dir=str(tmp_path))


def test_unknown_name_lists_close_ones_and_those_built_in(tmp_path):
  message = _message('cifar11', data_dir=str(tmp_path))
  assert "unknown data set 'cifar11' (did you mean cifar10" in message
  for name in ('digits', 'mnist', 'celeb_a', 'module of your own'):
    assert name in message


@pytest.mark.parametrize('name', ['', '../x', 'a b', 'ns:mnist', 'mnist/a=3'])
def test_malformed_name_is_refused_without_a_look_up(name):
  assert 'is not a TFDS name' in _message(name)


@pytest.mark.parametrize('name', ['mnist:1.0.0', 'mnist/bold'])
def test_unknown_version_or_config_is_refused(name, tmp_path):
  message = _message(name, data_dir=str(tmp_path))
  assert f'TFDS cannot open {name!r}' in message


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'empty', 'gone'])
def test_a_damaged_shard_is_named_in_a_line(tiny, tmp_path, damage):
  data_dir = tiny(train=_examples(10))  # Four to a file.
  path = tmp_path / 'tfds/tiny/1.0.0/tiny-train.array_record-00001'
  content = bytearray(path.read_bytes())
  match damage:
    case 'cut':
      content = content[: len(content) // 2]
    case 'flipped':
      content[100] ^= 0xFF
    case 'empty':
      content = b''
  path.unlink()
  if damage != 'gone':
    path.write_bytes(content)
  with pytest.raises(UserError, match=f'^{path} cannot be read .*prepare tiny'):
    sources.tfds_images('tiny', data_dir=data_dir)


def test_set_without_train_is_refused(tiny):
  message = _message('tiny', data_dir=tiny(test=_examples(3)))
  assert "no examples in a split 'train'; its splits: test" in message


def test_set_without_an_image_is_refused(tiny):
  data_dir = tiny(
    features={'label': _FEATURES['label']}, train=[{'label': 1}] * 10
  )
  assert 'its images: none' in _message('tiny', data_dir=data_dir)


def test_set_of_two_images_is_refused(tiny):
  image = _FEATURES['image']
  pair = {'left': _examples(1)[0]['image'], 'right': _examples(1)[0]['image']}
  data_dir = tiny(features={'left': image, 'right': image}, train=[pair] * 10)
  assert 'its images: left, right' in _message('tiny', data_dir=data_dir)


def test_set_of_uint16_images_is_refused(tiny):
  feature = tfds.features.Image(shape=(6, 4, 1), dtype=np.uint16)
  images = [{'image': e['image'].astype(np.uint16)} for e in _examples(10)]
  data_dir = tiny(features={'image': feature}, train=images)
  assert 'must be uint8' in _message('tiny', data_dir=data_dir)


@pytest.mark.skipif(
  importlib.util.find_spec('tensorflow') is not None,
  reason='TensorFlow is installed and reads TFRecord',
)
def test_tfrecord_without_tensorflow_says_what_to_do(tiny):
  data_dir = tiny(train=_examples(10))
  info = os.path.join(data_dir, 'tiny', '1.0.0', 'dataset_info.json')
  with open(info) as file:
    about = json.load(file)
  with open(info, 'w') as file:
    json.dump({**about, 'fileFormat': 'tfrecord'}, file)
  message = _message('tiny', data_dir=data_dir)
  assert 'prepared as tfrecord' in message
  assert 'pip install tensorflow-cpu' in message
  assert f'{_PREPARE} --dataset=tiny --data_dir={data_dir}' in message


def test_tfrecord_is_read_through_tensorflow(tmp_path):
  pytest.importorskip('tensorflow', reason='TensorFlow is not installed')
  examples = _examples(10)
  tfds.dataset_builders.store_as_tfds_dataset(
    name='tiny',
    version='1.0.0',
    data_dir=str(tmp_path),
    features=tfds.features.FeaturesDict(_FEATURES),
    split_datasets={
      name: list(enumerate(examples))
      for name in ('train', 'validation', 'test')
    },
    file_format='tfrecord',
    disable_shuffling=True,
  )
  splits = sources.tfds_images('tiny', data_dir=str(tmp_path)).splits
  for images in splits.values():
    _assert_holds(images, examples)


# Real sets.


@pytest.fixture
def real(tmp_path):
  """Load a real set without the cache's help, or skip."""
  data_dir = os.environ.get('TFDS_DATA_DIR')
  if not data_dir:
    pytest.skip('TFDS_DATA_DIR is not set: no real data sets')

  def load(source, name):
    if not os.path.isdir(os.path.join(data_dir, name)):
      pytest.skip(f'{name} is not prepared in TFDS_DATA_DIR')
    return source(cache_dir=tmp_path)

  return load


def _train_and_validation(image_set):
  splits = image_set.splits
  parts = splits['train'], splits['validation']
  return (np.concatenate(arrays) for arrays in zip(*parts, strict=True))


@pytest.mark.slow
def test_mnist_is_complete_and_its_pixels_are_mnists(real):
  mnist = real(lambda **kw: sources.tfds_images('mnist', **kw), 'mnist')
  assert _sizes(mnist) == {'train': 55_000, 'validation': 5_000, 'test': 10_000}
  image, label = _train_and_validation(mnist)
  assert image.shape == (60_000, 28, 28, 1)
  assert np.mean(image / 255) == pytest.approx(0.1307, abs=5e-5)
  assert np.std(image / 255) == pytest.approx(0.3081, abs=5e-5)
  assert len({i.tobytes() for i in image}) == 60_000
  counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  assert np.bincount(label).tolist() == counts
  counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  assert np.bincount(mnist.splits['test'].label).tolist() == counts


@pytest.mark.slow
def test_cifar10_is_complete_and_its_pixels_are_cifars(real):
  cifar = real(lambda **kw: sources.tfds_images('cifar10', **kw), 'cifar10')
  assert _sizes(cifar) == {'train': 45_000, 'validation': 5_000, 'test': 10_000}
  image, label = _train_and_validation(cifar)
  assert image.shape == (50_000, 32, 32, 3)
  mean = np.mean(image, (0, 1, 2)) / 255
  np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-3)
  assert np.bincount(label).tolist() == [5_000] * 10


@pytest.mark.slow
@pytest.mark.parametrize('size', [64, 32])
def test_celeb_a_is_cropped_and_resized(real, size):
  faces = real(lambda **kw: sources.celeb_a(size, **kw), 'celeb_a')
  for images in faces.splits.values():
    assert images.image.shape[1:] == (size, size, 3)
    assert set(images.label) == {-1}
    # Pixels that vary between faces, and neither all black nor all white.
    assert 0.3 < np.mean(images.image / 255) < 0.6
    assert np.std(images.image / 255, axis=0).min() > 0.1
