"""Data sets of other ranges, shapes or labels are refused before training."""

import numpy as np
import pytest

from geco_jax.build import build
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.checks import check_images
from geco_jax.datasets.checks import check_labels
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError


def splits_of(images, change=lambda image: image, changed_split='train'):
  """Return three equal splits, the images of one of them changed."""
  splits = dict.fromkeys(('train', 'validation', 'test'), images)
  splits[changed_split] = images._replace(image=change(images.image))
  return splits


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x / np.float32(255), 'must be uint8 from 0 to 255, got float32'),
    (lambda x: x / 255, 'must be uint8 .* got float64; for pixels x in'),
    (lambda x: np.where(x, np.nan, 0), 'must be uint8'),
    (lambda x: x > 127, 'must be uint8 .* got bool'),
    (lambda x: x.astype(np.int64), 'must be uint8 .* got int64'),
    (lambda x: (x > 127).astype(np.uint8), 'reach 1 of 255 .* 0 to 1 by 255'),
    (lambda x: x // 16, 'reach 15 of 255 .* for 0 to 15 by 17'),
    (lambda x: x[:0], 'there are none, the split is empty'),
    (lambda x: x[..., 0], r'must be \[n, height, width, channels\], got'),
    (lambda x: x[:, :0], r'must be \[n, height, width, channels\], got'),
  ],
)
@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_images_of_another_form_are_refused_in_every_split(
  make_images, tiny_config, change, message, split
):
  splits = splits_of(make_images(12, (4, 4, 1)), change, split)
  with pytest.raises(UserError, match=f'odd: images of the {split} split.*'):
    check_images('odd', splits)
  dataset = as_dataset(ImageSet('odd', splits))
  with pytest.raises(UserError, match=message):
    build(tiny_config(), dataset)


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_a_few_images_of_another_scale_than_the_others_are_refused(
  make_images, split
):
  images = make_images(12, (4, 4, 1))
  splits = splits_of(images, lambda x: x[:5] // 16, split)
  splits[split] = splits[split]._replace(label=images.label[:5])
  with pytest.raises(
    UserError, match=f'the {split} split reach 15 of 255 only'
  ):
    check_images('odd', splits)
  few = Images(images.image[:5] // 16, images.label[:5])
  check_images('odd', splits_of(few))  # All are as dark: a dark set.


def test_a_data_set_goes_where_the_config_says(tiny_config, make_images):
  config = tiny_config()
  with config.unlocked():
    config.dataset.placement = 'host'
  dataset = as_dataset(ImageSet('set', splits_of(make_images(12, (4, 4, 1)))))
  assert build(config, dataset).dataset.is_on_host


def test_splits_must_all_be_there_and_agree(make_images):
  images, others = make_images(12, (4, 4, 1)), make_images(12, (4, 4, 3))
  with pytest.raises(UserError, match='has no test split; it has train, val'):
    check_images('odd', {'train': images, 'validation': images})
  with pytest.raises(UserError, match=r'\(4, 4, 3\), those of train \(4, 4, 1'):
    check_images('odd', {**splits_of(images), 'test': others})
  for label in (
    *(images.label[:3], images.label.astype(float)),
    images.label[:, np.newaxis],  # As Keras has them.
    images.label - 12,
  ):
    with pytest.raises(UserError, match='needs an integer label for each of'):
      check_images('odd', splits_of(Images(images.image, label)))
  few = Images(images.image[:3], images.label[:3])  # Compared with the others.
  with pytest.raises(UserError, match='has no test split; it has train, val'):
    check_images('odd', {'train': few, 'validation': few})
  listed = few._replace(image=few.image.tolist())
  with pytest.raises(UserError, match='image of the test .* got list'):
    check_images('odd', {**splits_of(few), 'test': listed})


@pytest.mark.parametrize('level', [0, 255])
def test_training_images_of_one_level_are_nothing_to_learn(make_images, level):
  images = make_images(1_000, (4, 4, 1))
  splits = splits_of(images)
  flat = images._replace(image=np.full_like(images.image, level))
  check_images('set', splits | {'test': flat})
  with pytest.raises(UserError, match=f'no pixel that is not {level}: nothing'):
    check_images('set', splits | {'train': flat})


def test_images_of_a_few_bright_pixels_are_taken(make_images):
  images = make_images(1_000, (4, 4, 1))
  dark = images.image * 0
  dark[-1, -1] = 255
  check_images('dark', splits_of(images._replace(image=dark)))


def test_every_split_needs_labels_that_the_network_knows(make_images):
  images = make_images(12, (4, 4, 1))
  splits = splits_of(images)
  check_labels('sound', splits, 3)
  hidden = images._replace(label=np.full(12, -1, np.int32))
  message = 'no labels for 12 of the 12 images of its test split'
  with pytest.raises(UserError, match=message):
    check_labels('hidden', {**splits, 'test': hidden}, 3)
  with pytest.raises(UserError, match='label 2 in its train split.* 0 to 1'):
    check_labels('more', splits, 2)
