"""Constraints: values by hand, signs, scales and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.build import CONSTRAINTS
from geco_jax.constraints import classification_accuracy
from geco_jax.constraints import feature_error
from geco_jax.constraints import natural_multiplier
from geco_jax.constraints import negative_log_likelihood
from geco_jax.constraints import patch_cross_correlation
from geco_jax.constraints import patch_statistics_error
from geco_jax.constraints import reconstruction_error
from geco_jax.datasets.batches import Batch
from geco_jax.models.base import ModelOutput
from geco_jax.models.pretrained import Network
from geco_jax.theory import rate_distortion

pytestmark = pytest.mark.usefixtures('compile_fast')

SHAPE = (2, 3, 1)
NUM_DIMS = 6


def as_output(reconstruction, stddev=0.1):
  """Returns what a model with these reconstructions returns."""
  batch_size = len(reconstruction)
  return ModelOutput(
    reconstruction=reconstruction,
    kl=jnp.zeros(batch_size),
    kl_by_step=jnp.zeros((batch_size, 1)),
    latents=None,
    likelihood_stddev=jnp.float32(stddev),
  )


def example(error, stddev=0.1):
  """Returns two images and reconstructions off by `error` everywhere."""
  image = jnp.linspace(0.2, 0.8, 2 * NUM_DIMS).reshape(2, *SHAPE)
  batch = Batch(image=image, label=jnp.zeros(2, jnp.int32))
  return batch, as_output(image + error, stddev)


def test_re_by_hand():
  constraint = reconstruction_error(SHAPE, 0.1)
  violation = constraint.violation(*example(error=0.2))
  np.testing.assert_allclose(violation, 6 * 0.04 - 6 * 0.01, rtol=1e-5)
  np.testing.assert_allclose(violation / constraint.scale, 3.0, rtol=1e-5)
  assert constraint.measure(violation[0]) == pytest.approx(0.2)


def test_re_is_zero_where_the_rmse_is_kappa():
  violation = reconstruction_error(SHAPE, 0.1).violation(*example(error=0.1))
  np.testing.assert_allclose(violation, 0, atol=1e-6)


def test_re_is_never_below_minus_one_relatively():
  constraint = reconstruction_error(SHAPE, 0.3)
  violation = constraint.violation(*example(error=0.0))
  np.testing.assert_allclose(violation / constraint.scale, -1, rtol=1e-6)


def test_multiplier_of_re_is_half_the_likelihoods_precision():
  """The gradient of C / (2 sigma^2) equals that of -log N(x; g, sigma^2)."""
  stddev = 0.07
  batch, output = example(error=0.1, stddev=stddev)

  def value(constraint, reconstruction):
    changed = output._replace(reconstruction=reconstruction)
    return constraint.violation(batch, changed).sum()

  re, nll = (
    jax.grad(lambda g, c=constraint: value(c, g))(output.reconstruction)
    for constraint in (
      reconstruction_error(SHAPE, 0.1),
      negative_log_likelihood(SHAPE, 0.0),
    )
  )
  np.testing.assert_allclose(re / (2 * stddev**2), nll, rtol=1e-5)


def test_nll_by_hand():
  constraint = negative_log_likelihood(SHAPE, kappa=-0.5)
  per_dim = 0.5 * np.log(2 * np.pi * 0.01) + 0.5 * (0.2 / 0.1) ** 2
  violation = constraint.violation(*example(error=0.2))
  np.testing.assert_allclose(violation, 6 * (per_dim + 0.5), rtol=1e-5)
  assert constraint.measure(violation[0]) == pytest.approx(per_dim, rel=1e-5)


@pytest.mark.parametrize('kappa', [0.0, -0.1, float('nan'), float('inf')])
def test_re_refuses_a_kappa_that_is_not_positive(kappa):
  with pytest.raises(ValueError, match=f'kappa must be > 0.*got {kappa}'):
    reconstruction_error(SHAPE, kappa)


def test_nll_refuses_a_kappa_that_is_not_finite():
  with pytest.raises(ValueError, match='kappa must be finite, got inf'):
    negative_log_likelihood(SHAPE, float('inf'))


LARGE = (8, 8, 1)
# Its pixels' weights in the classes and in the features, of no symmetry.
WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def network(image_shape=LARGE):
  """Returns a linear classifier; a layer halves images and keeps channels."""
  num_pixels = int(np.prod(image_shape))
  weights = np.resize(WEIGHTS, (num_pixels, 10))

  def features(image, layer):
    assert layer == 'halved'
    return image[:, ::2, ::2] ** 2

  return Network(
    name='linear',
    image_shape=image_shape,
    num_classes=10,
    logits=lambda image: 3 * image.reshape(-1, num_pixels) @ weights,
    features=features,
    feature_stddevs={'halved': np.full(image_shape[-1], 0.5, np.float32)},
  )


def digits(num=3, shape=LARGE, seed=0):
  """Returns random images and, as their labels, how the classifier has them."""
  image = jax.random.uniform(jax.random.key(seed), (num, *shape))
  if shape[-1] == 1:
    label = network(shape).logits(image).argmax(axis=-1)
  else:
    label = jnp.stack(
      [
        network().logits(image[..., c : c + 1]).argmax(axis=-1)
        for c in range(shape[-1])
      ],
      axis=-1,
    )
  return Batch(image=image, label=label)


MAKERS = {
  're': lambda kappa: reconstruction_error(LARGE, kappa),
  'nll': lambda kappa: negative_log_likelihood(LARGE, kappa),
  'fre': lambda kappa: feature_error(
    LARGE, kappa, network=network(), layer='halved'
  ),
  'fre_stats': lambda kappa: patch_statistics_error(LARGE, kappa),
  'cla': lambda kappa: classification_accuracy(LARGE, kappa, network=network()),
  'pncc': lambda kappa: patch_cross_correlation(LARGE, kappa, patch_size=4),
}


def test_fre_by_hand():
  batch = digits()
  noisy = batch.image + 0.1
  constraint = feature_error(LARGE, 0.3, network=network(), layer='halved')
  features, others = (
    np.asarray(image)[:, ::2, ::2] ** 2 / 0.5 for image in (batch.image, noisy)
  )
  expected = ((features - others) ** 2).sum(axis=(1, 2, 3)) - 16 * 0.3**2
  violation = constraint.violation(batch, as_output(noisy))
  np.testing.assert_allclose(violation, expected, rtol=1e-5)
  assert constraint.scale == pytest.approx(16 * 0.3**2)
  rmse = np.sqrt(((features - others)[0] ** 2).mean())
  assert constraint.measure(violation[0]) == pytest.approx(rmse, rel=1e-5)


def test_fre_shows_grey_images_in_all_channels():
  coloured = network((8, 8, 3))
  batch = digits()
  grey = feature_error(LARGE, 0.3, network=coloured, layer='halved')
  three = feature_error((8, 8, 3), 0.3, network=coloured, layer='halved')
  batch_of_three = Batch(jnp.repeat(batch.image, 3, axis=-1), batch.label)
  np.testing.assert_allclose(
    grey.violation(batch, as_output(batch.image / 2)),
    three.violation(batch_of_three, as_output(batch_of_three.image / 2)),
    rtol=1e-5,
  )


def test_fre_of_statistics_by_hand():
  image = np.zeros((1, 4, 4, 1), np.float32)
  other = image.copy()
  other[0, :2, :2, 0] = [[0, 1], [1, 0]]  # Mean 1/2, standard deviation 1/2.
  constraint = patch_statistics_error((4, 4, 1), 0.2, patch_size=2)
  batch = Batch(jnp.asarray(image), jnp.zeros(1, jnp.int32))
  violation = constraint.violation(batch, as_output(jnp.asarray(other)))
  deviations = np.sqrt([1e-4, 0.25 + 1e-4])
  expected = 0.25 + np.diff(deviations) ** 2 - 8 * 0.2**2
  np.testing.assert_allclose(violation, expected, rtol=1e-4)


def test_fre_of_statistics_does_not_see_shuffling_within_patches():
  batch = digits(shape=(8, 8, 3))
  tiles = batch.image.reshape(3, 2, 4, 2, 4, 3).swapaxes(2, 3)
  shuffled = jax.random.permutation(
    jax.random.key(1), tiles.reshape(3, 2, 2, 16, 3), axis=3
  )
  image = shuffled.reshape(tiles.shape).swapaxes(2, 3).reshape(3, 8, 8, 3)
  assert not np.allclose(image, batch.image)
  constraint = patch_statistics_error((8, 8, 3), 0.1)
  np.testing.assert_allclose(
    constraint.violation(batch, as_output(image)), -constraint.scale, atol=1e-4
  )


def test_cla_is_kappa_less_the_probability_of_the_right_label():
  batch = Batch(digits().image, jnp.array([4, 0, 9]))
  logits = 3 * np.asarray(batch.image).reshape(3, 64) @ WEIGHTS
  weights = np.exp(logits - logits.max(axis=1, keepdims=True))
  right = (weights / weights.sum(axis=1, keepdims=True))[range(3), batch.label]
  constraint = classification_accuracy(LARGE, 0.9, network=network())
  violation = constraint.violation(batch, as_output(batch.image))
  np.testing.assert_allclose(violation, 0.9 - right, atol=1e-5)
  assert constraint.scale == 0.9
  assert constraint.measure(violation[1]) == pytest.approx(right[1], abs=1e-5)


def test_cla_of_digits_in_channels_is_the_mean_over_them():
  batch = digits(shape=(8, 8, 3))
  constraint = classification_accuracy((8, 8, 3), 0.9, network=network())
  single = classification_accuracy(LARGE, 0.9, network=network())
  each = [
    single.violation(
      Batch(batch.image[..., c : c + 1], batch.label[:, c]),
      as_output(batch.image[..., c : c + 1]),
    )
    for c in range(3)
  ]
  np.testing.assert_allclose(
    constraint.violation(batch, as_output(batch.image)),
    np.mean(each, axis=0),
    atol=1e-6,
  )


def test_pncc_by_hand():
  x = np.array([[0.1, 0.9], [0.5, 0.3]], np.float32)
  y = np.array([[0.2, 0.6], [0.8, 0.2]], np.float32)
  constraint = patch_cross_correlation((2, 2, 1), 0.7, patch_size=2)

  def psi(patch):
    values = np.append(patch - patch.mean(), np.sqrt(4e-4))
    return values / np.linalg.norm(values)

  batch = Batch(jnp.asarray(x)[None, ..., None], jnp.zeros(1, jnp.int32))
  violation = constraint.violation(
    batch, as_output(jnp.asarray(y)[None, ..., None])
  )
  expected = 0.7 - psi(x) @ psi(y)
  np.testing.assert_allclose(violation, [expected], rtol=1e-4)


def test_pncc_does_not_see_brightness_and_hardly_contrast():
  batch = digits(shape=(8, 8, 3))
  constraint = patch_cross_correlation((8, 8, 3), 0.9, patch_size=4)
  assert constraint.scale == 25
  for image in (batch.image + 0.3, 0.5 * batch.image, 1.5 * batch.image - 0.2):
    violation = constraint.violation(batch, as_output(image))
    np.testing.assert_allclose(violation / constraint.scale, -0.1, atol=2e-3)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: feature_error(LARGE, 0.1, network=network(), layer='top'),
      "network linear has no layer 'top'; choose from halved",
    ),
    (
      lambda: feature_error(
        (8, 8, 3), 0.1, network=network((8, 8, 1)), layer='halved'
      ),
      'network linear takes images of 1 channels, got 3',
    ),
    (
      lambda: classification_accuracy((8, 9, 1), 0.1, network=network()),
      r'takes images of \(8, 8, 1\), got \(8, 9, 1\)',
    ),
    (
      lambda: patch_statistics_error((8, 8, 1), 0.1, patch_size=3),
      'patch_size must divide .* 8x8, got 3',
    ),
    (
      lambda: patch_cross_correlation((8, 8, 1), 0.1, patch_size=9),
      r'patch_size must be in \[1, 8\]',
    ),
  ],
)
def test_options_that_do_not_fit_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize('name', ['cla', 'pncc'])
@pytest.mark.parametrize('kappa', [0, 1.0, -0.5, float('nan')])
def test_shares_of_one_are_within_the_unit_interval(name, kappa):
  with pytest.raises(
    ValueError, match=rf'kappa must be in \(0, 1\), got {kappa}'
  ):
    MAKERS[name](kappa)


def test_every_constraint_is_made_here():
  assert set(MAKERS) == set(CONSTRAINTS)


@pytest.mark.parametrize('name', CONSTRAINTS)
class TestContract:
  """What every constraint promises."""

  def values(self, name, image, dtype=jnp.float32):
    """Returns C of reconstructions of the digits, per example."""
    return MAKERS[name](0.5).violation(digits(), as_output(image.astype(dtype)))

  def test_perfect_reconstructions_hold_and_noise_violates(self, name):
    image = digits().image
    noise = jax.random.uniform(jax.random.key(7), image.shape) - 0.5
    values = [
      self.values(name, image + share * noise).mean() for share in (0, 0.5, 4)
    ]
    assert values[0] < values[1] < values[2]
    assert values[0] < 0 < values[2]

  def test_per_example_values_and_positive_scale(self, name):
    image = digits().image * 0.5
    together = self.values(name, image)
    assert together.shape == (3,)
    batch = jax.tree.map(lambda x: x[1:2], digits())
    alone = MAKERS[name](0.5).violation(batch, as_output(image[1:2]))
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-4)
    assert MAKERS[name](0.5).scale > 0

  def test_gradient_is_that_of_finite_differences(self, name):
    image = 0.8 * digits().image + 0.1
    direction = jax.random.normal(jax.random.key(8), image.shape)

    def value(size):
      return self.values(name, image + size * direction).mean()

    epsilon = 3e-3
    expected = float(value(epsilon) - value(-epsilon)) / (2 * epsilon)
    assert jax.grad(value)(0.0) == pytest.approx(expected, rel=0.02, abs=2e-3)

  def test_flat_images_have_finite_values_and_gradients(self, name):
    batch = Batch(jnp.full((1, *LARGE), 0.5), jnp.zeros(1, jnp.int32))

    def value(image):
      return MAKERS[name](0.5).violation(batch, as_output(image)).sum()

    for level in (0.5, 0.0):
      flat = jnp.full((1, *LARGE), level)
      assert np.isfinite(value(flat))
      assert np.all(np.isfinite(jax.grad(value)(flat)))

  def test_jit_and_bfloat16_stay_close(self, name):
    image = 0.7 * digits().image
    exact = self.values(name, image)
    jitted = jax.jit(lambda image: self.values(name, image))(image)
    np.testing.assert_allclose(jitted, exact, rtol=1e-3, atol=1e-4)
    rounded = self.values(name, image, jnp.bfloat16)
    scale = MAKERS[name](0.5).scale
    np.testing.assert_allclose(rounded / scale, exact / scale, atol=0.1)

  def test_kappa_may_be_traced(self, name):
    batch = digits()
    output = as_output(0.7 * batch.image)

    def relative(kappa):
      constraint = MAKERS[name](kappa)
      return (constraint.violation(batch, output) / constraint.scale).mean()

    assert jax.jit(relative)(0.2) == pytest.approx(
      float(relative(0.2)), rel=1e-4
    )
    # kappa is a lower bound of these, of the others an upper bound.
    sign = 1 if name in ('cla', 'pncc') else -1
    assert jax.grad(relative)(0.2) * sign > 0

  def test_measure_at_zero_violation_is_kappa(self, name):
    constraint = MAKERS[name](0.1)
    assert constraint.measure(jnp.float32(0)) == pytest.approx(0.1)


@pytest.mark.parametrize(
  'make',
  [
    lambda: reconstruction_error(LARGE, 0.1),
    lambda: feature_error(LARGE, 0.3, network=network(), layer='halved'),
    lambda: patch_statistics_error(LARGE, 0.05, patch_size=4),
    lambda: patch_cross_correlation(LARGE, 0.8, patch_size=4),
  ],
)
def test_budget_is_what_a_perfect_reconstruction_has_to_spare(make):
  constraint = make()
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.uniform(size=(3, *LARGE)), jnp.float32)
  batch = Batch(image=image, label=jnp.zeros(3, jnp.int32))
  spare = -constraint.violation(batch, as_output(image))
  budget = constraint.scale if constraint.budget is None else constraint.budget
  # Correlations of patches fall short of 1 by the regularization.
  np.testing.assert_allclose(spare, budget, rtol=2e-2)
  assert natural_multiplier(constraint, 64) == pytest.approx(32 / budget)


def test_budget_of_cla_is_what_a_sure_classifier_has_to_spare():
  constraint = classification_accuracy(LARGE, 0.9, network=network())
  assert constraint.budget == pytest.approx(0.1)
  assert natural_multiplier(constraint, 64) == pytest.approx(320)


def test_no_gaussian_source_needs_more_than_the_natural_multiplier():
  """lambda* = 1 / (2 m) of reverse water-filling is at most D / (2 Delta)."""
  eigenvalues = np.random.default_rng(0).lognormal(sigma=2.0, size=16)
  for share in (0.9, 0.5, 0.1, 1e-3):
    kappa = np.sqrt(share * eigenvalues.mean())
    constraint = reconstruction_error((4, 4, 1), kappa)
    exact = rate_distortion.optimal_multiplier(
      eigenvalues, share * eigenvalues.sum()
    )
    assert exact <= natural_multiplier(constraint, 16) * (1 + 1e-6)
