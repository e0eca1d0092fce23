"""The fingerprint of a data set is that of every image, label and place."""

import numpy as np

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
