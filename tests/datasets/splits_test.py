"""Splits are carved by rule; their fingerprint is of all images and labels."""

import numpy as np
import pytest

from geco_jax.datasets import splits as splits_lib
from geco_jax.errors import UserError


def test_a_fingerprint_changes_with_whatever_changes(make_images, monkeypatch):
  images = make_images(12, (4, 4, 1))
  splits = dict.fromkeys(['train', 'test'], images)
  fingerprint = splits_lib.fingerprint(splits)
  assert len(fingerprint) == 64
  pixel, label = images.image.copy(), images.label.copy()
  pixel[-1, -1, -1] ^= 1
  label[0] += 1
  others = [
    {**splits, 'test': images._replace(image=pixel)},
    {**splits, 'test': images._replace(label=label)},
    {**splits, 'train': images._replace(image=pixel)},
    {**splits, 'test': splits_lib.take(images, np.arange(12)[::-1])},
    {**splits, 'test': splits_lib.take(images, np.arange(11))},
    {
      **splits,
      'test': images._replace(image=images.image.transpose(0, 2, 1, 3)),
    },
    {**splits, 'validation': images},
  ]
  assert len({fingerprint, *map(splits_lib.fingerprint, others)}) == 8
  monkeypatch.setattr(splits_lib, '_BLOCK', 5)  # Whatever is read at once.
  strided = {
    name: images._replace(image=np.repeat(images.image, 2, axis=0)[::2])
    for name, images in reversed(splits.items())
  }
  assert splits_lib.fingerprint(strided) == fingerprint


@pytest.mark.parametrize(
  ('num_images', 'validation_size', 'test', 'sizes'),
  [
    (100, 30, True, (70, 30, 25)),
    (100, 50, True, (50, 50, 25)),
    (100, 50, False, (40, 50, 10)),
    # There is no room for them: a tenth.
    (100, 51, True, (90, 10, 25)),
    (100, 5_000, False, (80, 10, 10)),
    (100, None, True, (90, 10, 25)),
  ],
)
def test_validation_of_a_fixed_size_leaves_half_of_the_training_images(
  make_images, num_images, validation_size, test, sizes
):
  images = make_images(num_images, (2, 2, 1))
  splits = {'train': images}
  if test:
    splits['test'] = make_images(25, (2, 2, 1))
  got = splits_lib.with_missing_splits('set', splits, validation_size)
  assert tuple(len(got[name].label) for name in splits_lib.SPLITS) == sizes
  order = splits_lib.fixed_permutation(num_images)
  first = splits_lib.take(images, order[: sizes[1]])
  np.testing.assert_array_equal(got['validation'].image, first.image)


def test_carved_splits_are_random_parts_of_sorted_images():
  order = splits_lib.fixed_permutation(10_000)
  np.testing.assert_array_equal(np.sort(order), np.arange(10_000))
  # Means of a random tenth are normal with stddev 10,000 / sqrt(12 * 1,000).
  assert abs(order[:1_000].mean() - 4_999.5) < 4 * 10_000 / np.sqrt(12_000)


def test_a_fingerprint_is_of_names_shapes_and_types_too(make_images):
  """All of these have the same bytes in the same order."""
  one, other = (make_images(12, (4, 4, 1), seed) for seed in (0, 1))
  splits = {'test': one, 'train': other}
  same_bytes = [
    splits,
    {'validation': other, 'test': one},
    {**splits, 'test': one._replace(image=one.image.reshape(12, 2, 8, 1))},
    {**splits, 'test': one._replace(label=one.label.view(np.uint32))},
  ]
  assert len({*map(splits_lib.fingerprint, same_bytes)}) == 4


def test_fewer_than_ten_images_have_no_tenth(make_images):
  with pytest.raises(UserError, match='too few .*9.* so it needs 10 at least'):
    splits_lib.with_missing_splits('set', {'train': make_images(9, (2, 2, 1))})
  got = splits_lib.with_missing_splits(
    'set', {'train': make_images(10, (2, 2, 1))}
  )
  assert [len(own.label) for own in got.values()] == [8, 1, 1]
