"""What classifiers are trained on."""

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax.classifiers import training


def test_what_fades_into_noise_is_less_sure():
  image = jax.random.uniform(jax.random.key(0), (6, 6, 1))
  target = jax.nn.one_hot(2, 4)
  keys = jax.random.split(jax.random.key(1), 500)
  fade = jax.vmap(training.fade, in_axes=(0, None, None))
  faded, targets = jax.jit(fade)(keys, image, target)
  shares = (targets[:, 2] - 1 / 4) / (1 - 1 / 4)
  others = (1 - targets[:, 2]) / 3
  np.testing.assert_allclose(targets[:, 0], others, atol=1e-6)
  # All but the image's share is noise in [0, 1].
  noise = faded - shares[:, None, None, None] * image[None]
  assert noise.min() > -1e-5
  assert np.all(noise.max(axis=(1, 2, 3)) <= 1 - shares + 1e-5)
  kept = np.isclose(shares, 1, atol=1e-6)
  assert 0.4 < kept.mean() < 0.6
  np.testing.assert_allclose(faded[kept][0], image, atol=1e-6)
  assert shares.min() < 0.1


def test_augmentation_shifts_and_mirrors():
  image = jnp.arange(1.0, 13).reshape(3, 4, 1)
  keys = jax.random.split(jax.random.key(0), 400)
  augment = jax.vmap(
    lambda key: training.augment(key, image, max_shift=1, flip=True)
  )
  images = {each.tobytes() for each in np.asarray(jax.jit(augment)(keys))}
  padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)))
  expected = set()
  for row in range(3):
    for column in range(3):
      shifted = padded[row : row + 3, column : column + 4]
      expected |= {shifted.tobytes(), shifted[:, ::-1].tobytes()}
  assert images == expected
  same = training.augment(keys[0], image, max_shift=0, flip=False)
  np.testing.assert_array_equal(same, image)
