"""A folder of pictures as a data set."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import functools
import hashlib
import os
from typing import Any, NamedTuple

import numpy as np

from geco_jax import console
from geco_jax.datasets import cache
from geco_jax.datasets import picture_files
from geco_jax.datasets import pixels
from geco_jax.datasets import scratch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.datasets.images import SPLITS
from geco_jax.datasets.splits import from_arrays
from geco_jax.datasets.splits import to_arrays
from geco_jax.datasets.splits import with_missing_splits
from geco_jax.errors import UserError
from geco_jax.io import files
from geco_jax.io.paths import existing_path

_PICTURES = ('.png', '.jpg', '.jpeg')
_OTHER_PICTURES = (
  *('.apng', '.avif', '.bmp', '.dib', '.dng', '.exr', '.gif', '.heic', '.heif'),
  *('.ico', '.j2k', '.jfif', '.jp2', '.jpe', '.jpf', '.jpx', '.jxl', '.pbm'),
  *('.pcx', '.pgm', '.pnm', '.ppm', '.psd', '.qoi', '.svg', '.tga', '.tif'),
  *('.tiff', '.webp', '.xbm', '.xpm'),
)
# Top-level folders that are splits, not classes, if there are no others.
_SPLIT_FOLDERS = {name: name for name in SPLITS} | {'val': 'validation'}


class _Picture(NamedTuple):
  """A picture's path, and the folders on the way to it."""

  path: str
  folders: tuple[str, ...]


def image_folder(
  path: str,
  image_size: int | None = None,
  *,
  channels: int | None = None,
  white: int = pixels.WHITE,
) -> ImageSet:
  """Return the PNG and JPEG pictures in a folder and the folders within.

  They come in the order of their names. Where every picture lies in a
  subfolder, the subfolders are classes, numbered from 0 in the order of their
  names; or, where they are called train, validation (val) and test and nothing
  else, splits with classes within. Splits that are missing are carved out of
  the training images, a fixed random tenth each. Hidden files and files without
  a picture's name are skipped. Decoded pictures are kept in the cache.

  Args:
    path: path of the folder.
    image_size: height and width of the images: of each picture the largest
      centered square is cut out and resized, antialiased. None keeps pictures
      as they are; then they must all have one shape.
    channels: 1 makes all gray, 3 all color; None keeps them as they are, and
      then they must all be the same.
    white: the level that is white: 1 where pixels are 0 and 1.

  Raises:
    UserError: if there are no pictures, or one is refused, which it names.
    ValueError: if an option is out of its range.
  """
  picture_files.check_size(image_size)
  if channels not in (None, 1, 3):
    raise ValueError(f'channels must be 1, 3 or None, got {channels}')
  folder = existing_path(path, 'a folder of pictures', os.path.isdir)
  pictures = [*_pictures(folder)]
  if not pictures:
    raise UserError(f'{path} holds no picture: no .png, .jpg or .jpeg')
  prepare = functools.partial(_prepare, channels, white, image_size)
  arrays = cache.load_or_build(
    files.cache_folder(),
    'image_folder',
    key={
      'set': os.path.abspath(folder),
      'source': _state_of_files(folder, pictures),
      'image_size': image_size,
      'channels': channels,
      'white': white,
    },
    build=lambda: to_arrays(_decode(path, pictures, prepare)),
  )
  return ImageSet(path, from_arrays(arrays))


def _pictures(
  folder: str, folders: tuple[str, ...] = (), parents: tuple[str, ...] = ()
) -> Iterator[_Picture]:
  """Yield the pictures below a folder, links followed.

  Args:
    folder: to look in.
    folders: names on the way to it.
    parents: the folders that it lies in, without links.
  """
  real = os.path.realpath(folder)
  if real in parents:
    raise UserError(f'{folder} is a link to a folder that it lies in')
  try:
    names = sorted(os.listdir(folder))
  except OSError as error:
    raise UserError(f'{folder} cannot be read: {error.strerror}') from error
  for name in names:
    path, suffix = os.path.join(folder, name), os.path.splitext(name)[1].lower()
    if name.startswith('.'):
      continue
    if os.path.isdir(path):
      yield from _pictures(path, (*folders, name), (*parents, real))
    elif suffix in _PICTURES:
      if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f'{path} is no file that can be read')
      yield _Picture(path, folders)
    elif suffix in _OTHER_PICTURES:
      raise UserError(
        f'{path} is no PNG or JPEG: convert it, or move it out of the folder'
      )


def _state_of_files(folder: str, pictures: Sequence[_Picture]) -> str:
  """Return a digest of the files' names, sizes and ages."""
  digest = hashlib.sha256()
  for path, _ in pictures:
    try:
      stat = os.stat(path)
    except OSError as error:
      raise UserError(f'{path} cannot be read: {error.strerror}') from error
    name = os.path.relpath(path, folder)
    state = (name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    digest.update(repr(state).encode())
  return digest.hexdigest()


def _decode(
  name: str,
  pictures: Sequence[_Picture],
  prepare: Callable[[str], np.ndarray],
) -> dict[str, Images]:
  """Return the splits of a folder, with missing ones carved out."""
  by_split = _by_split(name, pictures)
  ordered = [picture for split in by_split.values() for picture in split]
  labels = _labels_of_folders([folders for _, folders in ordered])
  with console.bar(desc=f'Decoding {name}', total=len(ordered)) as bar:
    image = _read_all([path for path, _ in ordered], prepare, bar.update)
  ends = np.cumsum([len(split) for split in by_split.values()])[:-1]
  splits = map(Images, np.split(image, ends), np.split(labels, ends))
  return with_missing_splits(name, dict(zip(by_split, splits, strict=True)))


def _by_split(
  name: str, pictures: Sequence[_Picture]
) -> dict[str, list[_Picture]]:
  """Return the pictures by split, without the splits' own folders."""
  tops = {folders[0].lower() if folders else '' for _, folders in pictures}
  known = tops & _SPLIT_FOLDERS.keys()
  if tops - known:
    if 'train' in known and len(known) > 1:
      raise UserError(
        f'{name} has the splits {", ".join(sorted(known))} and pictures beside '
        'them: move these, or rename the folders if they are classes'
      )
    return {'train': [*pictures]}
  if 'train' not in known or {'val', 'validation'} <= known:
    raise UserError(
      f'{name} has the folders {", ".join(sorted(known))}: as splits there are '
      'to be train and, if wanted, validation (or val) and test; classes need '
      'other names'
    )
  by_split: dict[str, list[_Picture]] = {
    split: [] for split in SPLITS if split in map(_SPLIT_FOLDERS.get, known)
  }
  for path, (top, *folders) in pictures:
    by_split[_SPLIT_FOLDERS[top.lower()]].append(_Picture(path, tuple(folders)))
  return by_split


def _labels_of_folders(folders: Sequence[tuple[str, ...]]) -> np.ndarray:
  """Return the classes of pictures, int32 [n], by the folders they lie in."""
  if not all(folders):  # A folder that only some have is no class.
    return np.full(len(folders), -1, np.int32)
  classes = sorted({top for top, *_ in folders})
  numbers = {name: number for number, name in enumerate(classes)}
  return np.array([numbers[top] for top, *_ in folders], np.int32)


def _prepare(
  channels: int | None, white: int, image_size: int | None, path: str
) -> np.ndarray:
  image = pixels.scale(path, picture_files.read(path, channels), white)
  return picture_files.crop_and_resize(None, image_size, image)


def _read_all(
  paths: Sequence[str],
  prepare: Callable[[str], np.ndarray],
  on_picture: Callable[[], Any],
) -> np.ndarray:
  """Return the images of files [n, height, width, channels]."""
  first = paths[0], prepare(paths[0]).shape
  images = scratch.empty((len(paths), *first[1]), np.uint8)
  with futures.ThreadPoolExecutor() as pool:  # Pillow decodes without the GIL.
    prepared = pool.map(prepare, paths)
    try:
      for i, (path, image) in enumerate(zip(paths, prepared, strict=True)):
        _check_alike(*first, path, image.shape)
        images[i] = image
        on_picture()
    finally:
      pool.shutdown(cancel_futures=True)  # Pictures after a refused one.
  return images


def _check_alike(
  first: str, shape: tuple[int, ...], path: str, other: tuple[int, ...]
) -> None:
  """Refuse a picture that has another shape than the first."""
  if other[-1] != shape[-1]:
    kinds = {1: 'gray', 3: 'in color'}
    raise UserError(
      f'{first} is {kinds[shape[-1]]}, {path} {kinds[other[-1]]}: '
      'config.dataset.kwargs.channels=1 makes all gray, 3 all color'
    )
  if other != shape:
    raise UserError(
      f'{first} is {shape[0]}x{shape[1]}, {path} {other[0]}x{other[1]}: '
      'config.dataset.kwargs.image_size makes them one size'
    )
