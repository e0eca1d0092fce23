"""A folder of pictures is the images that people see in it, or is refused."""

import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from geco_jax.datasets import picture_files
from geco_jax.datasets.image_folder import image_folder
from geco_jax.errors import UserError

_COLOR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
_GRAY = _COLOR[..., 0]


def save(path, pixels=_GRAY, mode=None, **kwargs):
  """Write a picture, converted to a mode if one is given."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  image = PIL.Image.fromarray(pixels)
  (image.convert(mode) if mode else image).save(path, **kwargs)


@pytest.fixture
def folder(tmp_path):
  """Return (pictures' names, pixels) -> a folder of these and ten others."""

  def make(*names, pixels=_GRAY, **kwargs):
    for name in names or [f'{number}.png' for number in range(10)]:
      save(str(tmp_path / 'set' / name), pixels, **kwargs)
    return str(tmp_path / 'set')

  return make


def everything(image_set):
  """Return all images and labels, in no order."""
  splits = image_set.splits.values()
  return [np.concatenate(arrays) for arrays in zip(*splits, strict=True)]


def test_pictures_come_sorted_and_are_carved_into_splits(folder, tmp_path):
  names = [f'{a}/{b}.PNG' for a in 'cab' for b in 'zyx'] + ['c/deep/er/a.png']
  for number, name in enumerate(names):
    folder(name, pixels=np.full((4, 5), 20 * number + 70, np.uint8))
  image_set = image_folder(str(tmp_path / 'set'))
  sizes = {name: len(s.label) for name, s in image_set.splits.items()}
  assert sizes == {'train': 8, 'validation': 1, 'test': 1}
  image, label = everything(image_set)
  assert image.shape == (10, 4, 5, 1) and image.dtype == np.uint8
  read = sorted(zip(image[:, 0, 0, 0].tolist(), label.tolist(), strict=True))
  classes = [2, 2, 2, 0, 0, 0, 1, 1, 1, 2]
  assert read == [(20 * n + 70, c) for n, c in enumerate(classes)]
  again = image_folder(str(tmp_path / 'set'))  # From the cache.
  for name, images in image_set.splits.items():
    np.testing.assert_array_equal(again.splits[name].image, images.image)
  train = image_set.splits['train'].image[:, 0, 0, 0]
  order = np.random.default_rng(0).permutation(10)[2:]
  by_name = [
    v for _, v in sorted((n, 20 * k + 70) for k, n in enumerate(names))
  ]
  assert train.tolist() == [by_name[i] for i in order]


def test_pictures_outside_of_class_folders_have_no_labels(folder):
  folder()
  assert set(everything(image_folder(folder('a/1.png')))[1]) == {-1}


def test_folders_called_as_splits_are_these(folder):
  names = [f'{s}/{c}/0.png' for s in ('train', 'val', 'test') for c in 'ba']
  image_set = image_folder(folder(*names))
  for images in image_set.splits.values():
    assert images.label.tolist() == [0, 1]
  assert list(image_set.splits) == ['train', 'validation', 'test']


@pytest.mark.parametrize(
  ('folders', 'message'),
  [
    (['train', 'val', 'cat'], 'the splits train, val and pictures beside them'),
    (['test', 'val'], 'has the folders test, val: .* are to be train and'),
    (['train', 'val', 'validation'], 'as splits there are to be train'),
  ],
)
def test_folders_that_are_half_splits_are_refused(folders, message, folder):
  with pytest.raises(UserError, match=message):
    image_folder(folder(*(f'{name}/{i}.png' for name in folders for i in 'ab')))


def test_a_class_may_be_called_train(folder):
  names = [f'{c}/{i}.png' for c in ('bus', 'train') for i in range(5)]
  assert (
    sorted(everything(image_folder(folder(*names)))[1]) == [0] * 5 + [1] * 5
  )


@pytest.mark.parametrize(
  ('name', 'pixels', 'kwargs', 'expected'),
  [
    ('a.png', _GRAY, {}, _GRAY[..., None]),
    ('a.png', _COLOR, {}, _COLOR),
    ('a.png', _COLOR, {'mode': 'RGBA'}, _COLOR),
    ('a.png', _GRAY, {'mode': 'LA'}, _GRAY[..., None]),
    ('a.png', _GRAY > 99, {}, 255 * (_GRAY > 99)[..., None]),
    ('a.png', _GRAY // 64 * 85, {'mode': 'P'}, None),
    ('a.JPEG', _GRAY, {'quality': 100}, _GRAY[..., None]),
    (
      'a.jpg',
      np.full((6, 8, 3), [200, 30, 90], np.uint8),
      {'quality': 100},
      np.full((6, 8, 3), [200, 30, 90]),
    ),
  ],
)
def test_pictures_are_what_people_see(tmp_path, name, pixels, kwargs, expected):
  path = str(tmp_path / name)
  save(path, pixels, **kwargs)
  if expected is None:
    expected = np.repeat(pixels[..., None], 3, axis=-1)
  atol = 0 if name.endswith('png') else 3
  got = picture_files.read(path)
  assert got.dtype == np.uint8
  np.testing.assert_allclose(got, expected, atol=atol)


def test_a_picture_stands_as_its_exif_says(tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees, clockwise.
  for name in ('a.jpg', 'a.png'):
    path = str(tmp_path / name)
    save(path, np.repeat(_GRAY[:, :1], 8, axis=1), exif=exif, quality=100)
    turned = np.rot90(picture_files.read(path)[..., 0])
    np.testing.assert_allclose(turned[:, 0], _GRAY[:, 0], atol=12)


def truncated(kind):
  """Return half of a file."""
  content = io.BytesIO()
  PIL.Image.fromarray(np.tile(_GRAY, (20, 20))).save(content, kind)
  return content.getvalue()[: len(content.getvalue()) // 2]


def flipped():
  """Return a PNG with a wrong byte in its data."""
  content = io.BytesIO()
  PIL.Image.fromarray(_GRAY).save(content, 'PNG')
  content = bytearray(content.getvalue())
  content[len(content) // 2] ^= 255
  return bytes(content)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('x.png', b'', 'is no image that can be read: no PNG or JPEG'),
    ('x.jpg', b'text', 'is no image that can be read: no PNG or JPEG'),
    ('x.png', truncated('PNG'), 'is no image that can be read: .*truncated'),
    ('x.jpg', truncated('JPEG'), 'is no image that can be read: .*truncated'),
    ('x.png', flipped(), 'is no image that can be read: broken'),
    ('x.png', truncated('GIF'), 'is no image that can be read: no PNG'),
    ('x.gif', b'', 'is no PNG or JPEG: convert it, or move it out'),
    *(
      (f'sub/x.{suffix}', b'', 'is no PNG or JPEG: convert it, or move it out')
      for suffix in ('webp', 'jpe', 'apng', 'pnm', 'heif', 'ico', 'svg')
    ),
  ],
)
def test_a_damaged_picture_or_another_is_named(folder, name, content, message):
  path = os.path.join(folder(), name)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'wb') as file:
    file.write(content)
  with pytest.raises(UserError, match=f'{path} {message}'):
    image_folder(folder())


@pytest.mark.parametrize(
  ('name', 'pixels', 'kwargs', 'message'),
  [
    ('x.png', np.uint16(_GRAY) * 257, {}, 'has 16 bits per channel'),
    ('x.png', np.dstack([_COLOR, _GRAY]), {}, 'is transparent in places'),
    ('x.png', _GRAY, {'transparency': 0}, None),  # No pixel has that level.
    ('x.png', _GRAY, {'transparency': int(_GRAY[0, 0])}, 'is transparent in'),
    ('x.jpg', _COLOR, {'mode': 'CMYK'}, 'is CMYK, images are gray or RGB'),
    (
      'x.png',
      _GRAY,
      {'save_all': True, 'append_images': [PIL.Image.new('L', (8, 6))]},
      'is an animation',
    ),
  ],
)
def test_what_has_no_eight_bits_of_gray_or_color_is_refused(
  tmp_path, name, pixels, kwargs, message
):
  path = str(tmp_path / name)
  save(path, pixels, **kwargs)
  if message is None:
    np.testing.assert_array_equal(picture_files.read(path)[..., 0], pixels)
  else:
    with pytest.raises(UserError, match=f'{path} {message}'):
      picture_files.read(path)


def test_sixteen_bits_of_color_are_not_cut_to_eight(tmp_path):
  """Pillow reads them as eight without a word."""

  def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    length, checksum = struct.pack('>I', len(data)), struct.pack('>I', checksum)
    return length + kind + data + checksum

  header = struct.pack('>IIBBBBB', 4, 4, 16, 2, 0, 0, 0)
  rows = zlib.compress(bytes(4 * (1 + 4 * 6)))
  path = tmp_path / 'x.png'
  path.write_bytes(
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', rows)
    + chunk(b'IEND', b'')
  )
  assert PIL.Image.open(path).mode == 'RGB'
  with pytest.raises(UserError, match='x.png has 16 bits per channel'):
    picture_files.read(str(path))


def test_pictures_must_be_alike_or_be_made_so(folder):
  save(os.path.join(folder(), 'color.png'), _COLOR)
  message = 'is gray, .*color.png in color: .*channels=1 makes all gray'
  with pytest.raises(UserError, match=message):
    image_folder(folder())
  for channels in (1, 3):
    image, _ = everything(image_folder(folder(), channels=channels))
    assert image.shape == (11, 6, 8, channels)
  os.remove(os.path.join(folder(), 'color.png'))
  save(os.path.join(folder(), 'tall.png'), _GRAY.T)
  message = 'is 6x8, .*tall.png 8x6: .*image_size makes them one size'
  with pytest.raises(UserError, match=message):
    image_folder(folder())
  image, _ = everything(image_folder(folder(), 3))
  assert image.shape == (11, 3, 3, 1)


def test_the_largest_centered_square_is_resized(folder):
  pixels = np.zeros((6, 10), np.uint8)
  pixels[:, 2:8] = 200
  image, _ = everything(image_folder(folder(pixels=pixels), 4))
  assert (image == 200).all()
  image, _ = everything(image_folder(folder(pixels=pixels), 12))
  assert image.shape == (10, 12, 12, 1) and (image == 200).all()


def test_levels_0_and_1_are_scaled_if_white_says_so(folder):
  path = folder(pixels=_GRAY % 2)
  image, _ = everything(image_folder(path, white=1))
  np.testing.assert_array_equal(image[0, ..., 0], 255 * (_GRAY % 2))
  save(os.path.join(path, 'x.png'), _GRAY)
  with pytest.raises(UserError, match='x.png: 24. is brighter than white=1'):
    image_folder(path, white=1)


def test_hidden_files_and_other_names_are_passed_over(folder):
  path = folder()
  for name in ('.DS_Store', '._0.png', 'labels.csv', '.git/x.png'):
    full = os.path.join(path, name)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, 'w') as file:
      file.write('x')
  assert len(everything(image_folder(path))[0]) == 10


def test_splits_are_folders_in_capitals_too(folder):
  names = [f'Train/{n}.png' for n in range(20)] + ['Test/a.png']
  splits = image_folder(folder(*names)).splits
  assert (len(splits['test'].label), len(splits['train'].label)) == (1, 18)


def test_what_is_no_file_is_refused_and_not_waited_for(folder):
  path = folder()
  os.mkfifo(os.path.join(path, 'z.png'))
  with pytest.raises(UserError, match='z.png is no file that can be read'):
    image_folder(path)


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
  path = folder()
  save(str(tmp_path / 'elsewhere' / 'a.png'))
  os.symlink(tmp_path / 'elsewhere', os.path.join(path, 'linked'))
  os.symlink(tmp_path / 'elsewhere' / 'a.png', os.path.join(path, 'x.png'))
  assert len(everything(image_folder(path))[0]) == 12
  os.symlink(path, os.path.join(path, 'linked', 'back'))
  with pytest.raises(UserError, match='linked/back is a link to a folder that'):
    image_folder(path)
  os.remove(os.path.join(path, 'linked', 'back'))
  os.symlink(tmp_path / 'none.png', os.path.join(path, 'y.png'))
  with pytest.raises(UserError, match='y.png cannot be read: No such file'):
    image_folder(path)


def test_a_picture_that_changed_is_read_anew(folder):
  path = folder()
  image_folder(path)
  save(os.path.join(path, '3.png'), 255 - _GRAY)
  image, _ = everything(image_folder(path))
  assert (image[..., 0] == 255 - _GRAY).all(axis=(1, 2)).sum() == 1


@pytest.mark.parametrize(
  ('count', 'message'),
  [
    (0, 'holds no picture: no .png, .jpg or .jpeg'),
    (1, r'too few training images \(1\): a tenth each is taken for'),
    (9, r'training images \(9\).* it needs 10 at least'),
  ],
)
def test_too_few_pictures_are_refused(tmp_path, count, message):
  for number in range(count):
    save(str(tmp_path / 'few' / f'{number}.png'))
  (tmp_path / 'few').mkdir(exist_ok=True)
  with pytest.raises(UserError, match=message):
    image_folder(str(tmp_path / 'few'))


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('', 'config.dataset.kwargs.path is missing: the path of a folder'),
    ('no/such', 'no/such is no such path'),
    (__file__, 'is not a folder of pictures'),
    ('s3://bucket', 'no path of this machine'),
  ],
)
def test_a_path_that_is_none_is_refused(path, message):
  with pytest.raises(UserError, match=message):
    image_folder(path)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'image_size': 0}, 'image_size must be an integer in .*, got 0'),
    ({'channels': 2}, 'channels must be 1, 3 or None, got 2'),
  ],
)
def test_options_out_of_range_are_refused(folder, kwargs, message):
  with pytest.raises(ValueError, match=message):
    image_folder(folder(), **kwargs)


def test_a_folder_that_is_read_in_several_ways_is_cached_in_as_many(folder):
  path = folder(pixels=_GRAY // 128)  # Levels 0 and 1.
  ways = [
    ({'white': 1}, 255, (6, 8, 1)),
    ({'white': 2}, 128, (6, 8, 1)),
    ({'white': 1, 'channels': 3}, 255, (6, 8, 3)),
    ({'white': 1, 'channels': 3, 'image_size': 6}, 255, (6, 6, 3)),
  ]
  for way, brightest, shape in ways * 2:
    image, _ = everything(image_folder(path, **way))
    assert (image.max(), image.shape[1:]) == (brightest, shape)


def test_classes_that_are_renamed_to_splits_are_read_anew(folder):
  path = folder(*(f'{name}/{i}.png' for name in 'ab' for i in range(20)))
  assert {*everything(image_folder(path))[1]} == {0, 1}
  for old, new in (('a', 'test'), ('b', 'train')):
    os.rename(os.path.join(path, old), os.path.join(path, new))
  splits = image_folder(path).splits
  assert len(splits['test'].image) == 20
  assert {*everything(image_folder(path))[1]} == {-1}
