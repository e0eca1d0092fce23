"""Constraints: values by hand, signs, scales and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax.build import CONSTRAINTS
from geco_jax.constraints import negative_log_likelihood
from geco_jax.constraints import reconstruction_error
from geco_jax.datasets.batches import Batch
from geco_jax.models.base import ModelOutput

SHAPE = (2, 3, 1)
NUM_DIMS = 6


def example(error, stddev=0.1):
  """Returns two images and reconstructions off by `error` everywhere."""
  image = jnp.linspace(0.2, 0.8, 2 * NUM_DIMS).reshape(2, *SHAPE)
  output = ModelOutput(
    reconstruction=image + error,
    kl=jnp.zeros(2),
    latents=None,
    likelihood_stddev=jnp.float32(stddev),
  )
  return Batch(image=image, label=jnp.zeros(2, jnp.int32)), output


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


@pytest.mark.parametrize('name', CONSTRAINTS)
class TestContract:
  """What every constraint promises."""

  def test_better_reconstructions_have_lower_values(self, name):
    constraint = CONSTRAINTS[name](SHAPE, kappa=0.1)
    values = [
      float(constraint.violation(*example(error)).mean())
      for error in (0.0, 0.1, 0.3)
    ]
    assert values[0] < values[1] < values[2]

  def test_per_example_values_and_positive_scale(self, name):
    constraint = CONSTRAINTS[name](SHAPE, kappa=0.1)
    assert constraint.violation(*example(0.1)).shape == (2,)
    assert constraint.scale > 0

  def test_kappa_may_be_traced(self, name):
    batch, output = example(0.1)

    def mean(kappa):
      constraint = CONSTRAINTS[name](SHAPE, kappa=kappa)
      return constraint.violation(batch, output).mean()

    assert jax.jit(mean)(0.2) == pytest.approx(float(mean(0.2)), rel=1e-5)
    assert jax.grad(mean)(0.2) < 0  # A looser tolerance is less violated.

  def test_measure_at_zero_violation_is_kappa(self, name):
    constraint = CONSTRAINTS[name](SHAPE, kappa=0.1)
    assert constraint.measure(jnp.float32(0)) == pytest.approx(0.1)
