"""Constraints: values by hand, signs, scales and gradients."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.classifiers.base import Network
from geco_jax.constraints import classification_accuracy
from geco_jax.constraints import Constraint
from geco_jax.constraints import CONSTRAINTS
from geco_jax.constraints import feature_error
from geco_jax.constraints import natural_multiplier
from geco_jax.constraints import negative_log_likelihood
from geco_jax.constraints import patch_cross_correlation
from geco_jax.constraints import patch_statistics_error
from geco_jax.constraints import reconstruction_error
from geco_jax.datasets.batches import Batch
from geco_jax.models.base import ModelOutput
from geco_jax.theory import rate_distortion

SHAPE = (2, 3, 1)
NUM_DIMS = 6

# Operations one by one would be a program each, and one more for every shape.
violation_of = jax.jit(Constraint.violation, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def statistic_of(constraint, batch, output):
  return constraint.statistic(batch, output)


def as_output(reconstruction, stddev=0.1):
  """Return what a model with these reconstructions returns."""
  batch_size = len(reconstruction)
  return ModelOutput(
    reconstruction=reconstruction,
    kl=np.zeros(batch_size, np.float32),
    kl_by_step=np.zeros((batch_size, 1), np.float32),
    latents=None,
    likelihood_stddev=np.float32(stddev),
  )


def example(error, stddev=0.1):
  """Return two images and reconstructions off by `error` everywhere."""
  image = np.linspace(0.2, 0.8, 2 * NUM_DIMS, dtype=np.float32)
  image = image.reshape(2, *SHAPE)
  batch = Batch(image=image, label=np.zeros(2, np.int32))
  return batch, as_output(image + np.float32(error), stddev)


def test_re_by_hand():
  constraint = reconstruction_error(SHAPE)
  violation = violation_of(constraint, *example(error=0.2), 0.1)
  np.testing.assert_allclose(violation, 6 * 0.04 - 6 * 0.01, rtol=1e-5)
  np.testing.assert_allclose(violation / constraint.scale(0.1), 3.0, rtol=1e-5)
  statistic = statistic_of(constraint, *example(error=0.2))
  assert constraint.measure(statistic[0]) == pytest.approx(0.2)


def test_re_is_zero_where_the_rmse_is_kappa():
  constraint = reconstruction_error(SHAPE)
  violation = violation_of(constraint, *example(error=0.1), 0.1)
  np.testing.assert_allclose(violation, 0, atol=1e-6)


def test_re_is_never_below_minus_one_relatively():
  constraint = reconstruction_error(SHAPE)
  violation = violation_of(constraint, *example(error=0.0), 0.3)
  np.testing.assert_allclose(violation / constraint.scale(0.3), -1, rtol=1e-6)


def test_multiplier_of_re_is_half_the_likelihoods_precision():
  """The gradient of C / (2 sigma^2) equals that of -log N(x; g, sigma^2)."""
  stddev = 0.07
  batch, output = example(error=0.1, stddev=stddev)

  def value(constraint, reconstruction):
    changed = output._replace(reconstruction=reconstruction)
    return constraint.violation(batch, changed, 0.1).sum()

  re, nll = (
    jax.jit(jax.grad(functools.partial(value, constraint)))(
      output.reconstruction
    )
    for constraint in (
      reconstruction_error(SHAPE),
      negative_log_likelihood(SHAPE),
    )
  )
  np.testing.assert_allclose(re / (2 * stddev**2), nll, rtol=1e-5)


def test_nll_by_hand():
  constraint = negative_log_likelihood(SHAPE)
  per_dim = 0.5 * np.log(2 * np.pi * 0.01) + 0.5 * (0.2 / 0.1) ** 2
  violation = violation_of(constraint, *example(error=0.2), -0.5)
  np.testing.assert_allclose(violation, 6 * (per_dim + 0.5), rtol=1e-5)
  statistic = statistic_of(constraint, *example(error=0.2))
  assert constraint.measure(statistic[0]) == pytest.approx(per_dim, rel=1e-5)


@pytest.mark.parametrize('kappa', [0.0, -0.1, float('nan'), float('inf')])
def test_re_refuses_a_kappa_that_is_not_positive(kappa):
  with pytest.raises(ValueError, match=f'kappa must be > 0.*got {kappa}'):
    CONSTRAINTS['re'].check_kappa(kappa)


def test_nll_refuses_a_kappa_that_is_not_finite():
  with pytest.raises(ValueError, match='kappa must be finite, got inf'):
    CONSTRAINTS['nll'].check_kappa(float('inf'))


LARGE = (8, 8, 1)
# Its pixels' weights in the classes and in the features, of no symmetry.
WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def network(image_shape=LARGE):
  """Return a linear classifier; a layer halves images and keeps channels."""
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
  """Return random images and, as their labels, how the classifier has them."""
  image = np.random.default_rng(seed).random((num, *shape), np.float32)
  if shape[-1] == 1:
    label = network(shape).logits(image).argmax(axis=-1)
  else:
    label = np.stack(
      [
        network().logits(image[..., c : c + 1]).argmax(axis=-1)
        for c in range(shape[-1])
      ],
      axis=-1,
    )
  return Batch(image=image, label=label)


BUILT = {
  're': reconstruction_error(LARGE),
  'nll': negative_log_likelihood(LARGE),
  'fre': feature_error(LARGE, network=network(), layer='halved'),
  'fre_stats': patch_statistics_error(LARGE),
  'cla': classification_accuracy(LARGE, network=network()),
  'pncc': patch_cross_correlation(LARGE, patch_size=4),
}


def test_fre_by_hand():
  batch = digits()
  noisy = batch.image + 0.1
  constraint = feature_error(LARGE, network=network(), layer='halved')
  features, others = (
    np.asarray(image)[:, ::2, ::2] ** 2 / 0.5 for image in (batch.image, noisy)
  )
  expected = ((features - others) ** 2).sum(axis=(1, 2, 3)) - 16 * 0.3**2
  violation = violation_of(constraint, batch, as_output(noisy), 0.3)
  np.testing.assert_allclose(violation, expected, rtol=1e-5)
  assert constraint.scale(0.3) == pytest.approx(16 * 0.3**2)
  rmse = np.sqrt(((features - others)[0] ** 2).mean())
  statistic = statistic_of(constraint, batch, as_output(noisy))
  assert constraint.measure(statistic[0]) == pytest.approx(rmse, rel=1e-5)


def test_channels_that_never_vary_are_no_features_of_fre():
  colored = network((8, 8, 3))
  stddevs = np.array([0.5, 0.0, 0.5], np.float32)
  partly_dead = colored._replace(feature_stddevs={'halved': stddevs})
  constraint = feature_error((8, 8, 3), network=partly_dead, layer='halved')
  assert constraint.scale(0.3) == pytest.approx(2 * 16 * 0.3**2)
  batch = digits(shape=(8, 8, 3))
  darker = as_output(batch.image / 2)
  expected = sum(
    statistic_of(
      feature_error(LARGE, network=network(), layer='halved'),
      batch._replace(image=batch.image[..., c : c + 1]),
      as_output(darker.reconstruction[..., c : c + 1]),
    )
    for c in (0, 2)
  )
  np.testing.assert_allclose(
    statistic_of(constraint, batch, darker), expected, rtol=1e-5
  )


def dense(image_shape=LARGE):
  """Return a network whose layer takes images of one size."""
  weights = jnp.ones((64, 2))
  return network(image_shape)._replace(
    features=lambda image, layer: image.reshape(len(image), -1) @ weights,
    feature_stddevs={'hidden': np.zeros(2, np.float32)},
  )


def test_fre_shows_gray_images_in_all_channels():
  colored = network((8, 8, 3))
  batch = digits()
  gray = feature_error(LARGE, network=colored, layer='halved')
  three = feature_error((8, 8, 3), network=colored, layer='halved')
  batch_of_three = Batch(np.repeat(batch.image, 3, axis=-1), batch.label)
  halves = as_output(batch.image / 2), as_output(batch_of_three.image / 2)
  np.testing.assert_allclose(
    violation_of(gray, batch, halves[0], 0.3),
    violation_of(three, batch_of_three, halves[1], 0.3),
    rtol=1e-5,
  )


def test_fre_of_statistics_by_hand():
  image = np.zeros((1, 4, 4, 1), np.float32)
  other = image.copy()
  other[0, :2, :2, 0] = [[0, 1], [1, 0]]  # Mean 1/2, standard deviation 1/2.
  constraint = patch_statistics_error((4, 4, 1), patch_size=2)
  batch = Batch(image, np.zeros(1, np.int32))
  violation = violation_of(constraint, batch, as_output(other), 0.2)
  deviations = np.sqrt([1e-4, 0.25 + 1e-4])
  expected = 0.25 + np.diff(deviations) ** 2 - 8 * 0.2**2
  np.testing.assert_allclose(violation, expected, rtol=1e-4)


def test_fre_of_statistics_does_not_see_shuffling_within_patches():
  batch = digits(shape=(8, 8, 3))
  tiles = batch.image.reshape(3, 2, 4, 2, 4, 3).swapaxes(2, 3)
  rng = np.random.default_rng(1)
  shuffled = rng.permutation(tiles.reshape(3, 2, 2, 16, 3), axis=3)
  image = shuffled.reshape(tiles.shape).swapaxes(2, 3).reshape(3, 8, 8, 3)
  assert not np.allclose(image, batch.image)
  constraint = patch_statistics_error((8, 8, 3))
  np.testing.assert_allclose(
    violation_of(constraint, batch, as_output(image), 0.1),
    -constraint.scale(0.1),
    atol=1e-4,
  )


def test_cla_is_kappa_less_the_probability_of_the_right_label():
  batch = Batch(digits().image, np.array([4, 0, 9]))
  logits = 3 * np.asarray(batch.image).reshape(3, 64) @ WEIGHTS
  weights = np.exp(logits - logits.max(axis=1, keepdims=True))
  right = (weights / weights.sum(axis=1, keepdims=True))[range(3), batch.label]
  constraint = classification_accuracy(LARGE, network=network())
  violation = violation_of(constraint, batch, as_output(batch.image), 0.9)
  np.testing.assert_allclose(violation, 0.9 - right, atol=1e-5)
  assert constraint.scale(0.9) == 0.9
  statistic = statistic_of(constraint, batch, as_output(batch.image))
  assert constraint.measure(statistic[1]) == pytest.approx(right[1], abs=1e-5)


def test_cla_of_digits_in_channels_is_the_mean_over_them():
  batch = digits(shape=(8, 8, 3))
  constraint = classification_accuracy((8, 8, 3), network=network())
  single = classification_accuracy(LARGE, network=network())
  each = [
    violation_of(
      single,
      Batch(batch.image[..., c : c + 1], batch.label[:, c]),
      as_output(batch.image[..., c : c + 1]),
      0.9,
    )
    for c in range(3)
  ]
  np.testing.assert_allclose(
    violation_of(constraint, batch, as_output(batch.image), 0.9),
    np.mean(each, axis=0),
    atol=1e-6,
  )


def test_pncc_by_hand():
  x = np.array([[0.1, 0.9], [0.5, 0.3]], np.float32)
  y = np.array([[0.2, 0.6], [0.8, 0.2]], np.float32)
  constraint = patch_cross_correlation((2, 2, 1), patch_size=2)

  def psi(patch):
    values = np.append(patch - patch.mean(), np.sqrt(4e-4))
    return values / np.linalg.norm(values)

  batch = Batch(x[None, ..., None], np.zeros(1, np.int32))
  violation = violation_of(
    constraint, batch, as_output(y[None, ..., None]), 0.7
  )
  expected = 0.7 - psi(x) @ psi(y)
  np.testing.assert_allclose(violation, [expected], rtol=1e-4)


def test_pncc_does_not_see_brightness_and_hardly_contrast():
  batch = digits(shape=(8, 8, 3))
  constraint = patch_cross_correlation((8, 8, 3), patch_size=4)
  assert constraint.scale(0.9) == 25
  for image in (batch.image + 0.3, 0.5 * batch.image, 1.5 * batch.image - 0.2):
    violation = violation_of(constraint, batch, as_output(image), 0.9)
    np.testing.assert_allclose(violation / 25, -0.1, atol=2e-3)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: feature_error(LARGE, network=network(), layer='top'),
      "network linear has no layer 'top'; choose from halved",
    ),
    (
      lambda: feature_error(
        (8, 8, 3), network=network((8, 8, 1)), layer='halved'
      ),
      'network linear takes images of 1 channels, got 3',
    ),
    (
      lambda: feature_error(LARGE, network=dense(), layer='hidden'),
      'layer hidden of network linear is constant over the images',
    ),
    (
      lambda: feature_error(
        (4, 8, 1),
        network=dense()._replace(feature_stddevs={'hidden': np.ones(2)}),
        layer='hidden',
      ),
      'layer hidden of network linear takes images of 8x8, got 4x8',
    ),
    (
      lambda: classification_accuracy((8, 9, 1), network=network()),
      r'takes images of \(8, 8, 1\), got \(8, 9, 1\)',
    ),
    (
      lambda: patch_statistics_error((8, 8, 1), patch_size=3),
      'patch_size must divide .* 8x8, got 3',
    ),
    (
      lambda: patch_cross_correlation((8, 8, 1), patch_size=9),
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
    CONSTRAINTS[name].check_kappa(kappa)


def test_every_constraint_is_made_here():
  assert set(BUILT) == set(CONSTRAINTS)


@pytest.mark.parametrize('name', CONSTRAINTS)
class TestContract:
  """What every constraint promises."""

  def values(self, name, image, dtype=jnp.float32):
    """Return C of reconstructions of the digits, per example."""
    return violation_of(
      BUILT[name], digits(), as_output(image.astype(dtype)), 0.5
    )

  def test_perfect_reconstructions_hold_and_noise_violates(self, name):
    image = digits().image
    noise = digits(seed=1).image - 0.5
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
    alone = violation_of(BUILT[name], batch, as_output(image[1:2]), 0.5)
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-4)
    assert BUILT[name].scale(0.5) > 0

  def test_gradient_is_that_of_finite_differences(self, name):
    image = 0.8 * digits().image + 0.1
    rng = np.random.default_rng(8)
    direction = rng.standard_normal(image.shape, np.float32)

    def value(size):
      return self.values(name, image + size * direction).mean()

    epsilon = np.float32(3e-3)
    expected = float(value(epsilon) - value(-epsilon)) / (2 * epsilon)
    assert jax.jit(jax.grad(value))(0.0) == pytest.approx(
      expected, rel=0.02, abs=2e-3
    )

  def test_flat_images_have_finite_values_and_gradients(self, name):
    batch = Batch(np.full((1, *LARGE), 0.5, np.float32), np.zeros(1, np.int32))

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(image):
      return BUILT[name].violation(batch, as_output(image), 0.5).sum()

    for level in (0.5, 0.0):
      flat = np.full((1, *LARGE), level, np.float32)
      value, gradient = value_and_gradient(flat)
      assert np.isfinite(value)
      assert np.all(np.isfinite(gradient))

  def test_jit_and_bfloat16_stay_close(self, name):
    image = 0.7 * digits().image
    output = as_output(jnp.asarray(image))
    exact = BUILT[name].violation(digits(), output, 0.5)
    jitted = self.values(name, image)
    np.testing.assert_allclose(jitted, exact, rtol=1e-3, atol=1e-4)
    rounded = self.values(name, image, jnp.bfloat16)
    scale = BUILT[name].scale(0.5)
    np.testing.assert_allclose(rounded / scale, exact / scale, atol=0.1)

  def test_kappa_may_be_traced(self, name):
    batch = digits()
    output = as_output(0.7 * batch.image)
    statistic = statistic_of(BUILT[name], batch, output).mean()

    def relative(kappa):
      violation = BUILT[name].violation(batch, output, kappa)
      return (violation / BUILT[name].scale(kappa)).mean()

    value, gradient = jax.jit(jax.value_and_grad(relative))(0.2)
    expected = float(statistic - BUILT[name].bound(0.2)) / BUILT[name].scale(
      0.2
    )
    assert value == pytest.approx(expected, rel=1e-4)
    # kappa is a lower bound of these, of the others an upper bound.
    sign = 1 if name in ('cla', 'pncc') else -1
    assert gradient * sign > 0

  def test_measure_is_the_inverse_of_the_bound(self, name):
    for kappa in (0.1, 0.9):
      assert BUILT[name].measure(BUILT[name].bound(kappa)) == pytest.approx(
        kappa
      )

  def test_defaults_of_configs_are_options_and_a_kappa_in_its_range(self, name):
    entry = CONSTRAINTS[name]
    entry.check_kappa(entry.defaults['kappa'])
    options = inspect.signature(entry.make).parameters.keys() | {'kappa'}
    assert entry.digits.keys() <= entry.defaults.keys() <= options


@pytest.mark.parametrize(
  ('name', 'kappa'),
  [('re', 0.1), ('fre', 0.3), ('fre_stats', 0.05), ('pncc', 0.8)],
)
def test_budget_is_what_a_perfect_reconstruction_has_to_spare(name, kappa):
  constraint = BUILT[name]
  rng = np.random.default_rng(0)
  image = rng.random((3, *LARGE), np.float32)
  batch = Batch(image=image, label=np.zeros(3, np.int32))
  spare = -violation_of(constraint, batch, as_output(image), kappa)
  budget = (constraint.budget or constraint.scale)(kappa)
  # Correlations of patches fall short of 1 by the regularization.
  np.testing.assert_allclose(spare, budget, rtol=2e-2)
  natural = natural_multiplier(constraint, kappa, 64)
  assert natural == pytest.approx(32 / budget)


def test_budget_of_cla_is_what_a_sure_classifier_has_to_spare():
  budget = BUILT['cla'].budget
  assert budget and budget(0.9) == pytest.approx(0.1)
  assert natural_multiplier(BUILT['cla'], 0.9, 64) == pytest.approx(320)


def test_no_gaussian_source_needs_more_than_the_natural_multiplier():
  """lambda* = 1 / (2 m) of reverse water-filling is at most D / (2 Delta)."""
  eigenvalues = np.random.default_rng(0).lognormal(sigma=2.0, size=16)
  for share in (0.9, 0.5, 0.1, 1e-3):
    kappa = np.sqrt(share * eigenvalues.mean())
    natural = natural_multiplier(reconstruction_error((4, 4, 1)), kappa, 16)
    exact = rate_distortion.optimal_multiplier(
      eigenvalues, share * eigenvalues.sum()
    )
    assert exact <= natural * (1 + 1e-6)


@pytest.mark.parametrize('kappa', [-2e6, 2e6])
def test_kappas_beyond_a_million_are_refused_on_either_side(kappa):
  with pytest.raises(ValueError, match='kappa must be within 1e'):
    CONSTRAINTS['nll'].check_kappa(kappa)
  CONSTRAINTS['nll'].check_kappa(kappa / 2)


def test_an_error_that_rounding_brings_below_zero_is_zero():
  """A mean that is recovered from C may be -1e-9."""
  assert reconstruction_error(SHAPE).measure(-1e-9) == 0


@pytest.mark.parametrize('name', ['fre_stats', 'pncc'])
def test_digits_of_64_pixels_are_cut_into_patches_of_half_the_side(name):
  entry = CONSTRAINTS[name]
  sides = entry.defaults['patch_size'], entry.digits['patch_size']
  assert sides[1] == sides[0] / 2


def test_a_channel_that_hardly_varies_does_not_outweigh_all_others():
  """A standard deviation of 1e-12 counts as if it were 1e-6."""
  own = network(LARGE)
  batch = digits()
  output = as_output(batch.image / 2)
  statistics = []
  for stddev in (1e-12, 1e-6):
    dull = own._replace(
      feature_stddevs={'halved': np.full(1, stddev, np.float32)}
    )
    constraint = feature_error(LARGE, network=dull, layer='halved')
    statistics.append(statistic_of(constraint, batch, output))
  np.testing.assert_allclose(*statistics, rtol=1e-5)
