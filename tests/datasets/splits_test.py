"""Splits are carved by rule; their fingerprint is of all images and labels."""

import numpy as np
import pytest

from geco_jax.datasets import splits as splits_lib


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
