"""Constraints on a model's output (Rezende & Viola 2018, Table 1).

A constraint C holds where its expectation over data and posterior is <= 0. To
add one, write a function `(image_shape, kappa, ...) -> Constraint` and enter it
in `build.CONSTRAINTS`.
"""

from collections.abc import Callable
import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from geco_jax.datasets.batches import Batch
from geco_jax.distributions import gaussian_nll
from geco_jax.models.base import ModelOutput


class Constraint(NamedTuple):
  """One inequality E[C(x, g)] <= 0.

  Attributes:
    violation: (batch, output) -> C per example [batch]; C <= 0 holds.
    scale: positive; C / scale has no dimension. `geco` is fed C / scale, so
      that one step size serves every data set, constraint and kappa.
    kappa: the tolerance, in the unit of `measure`.
    measure: mean C [] -> the measured quantity in kappa's unit [], for people.
    unit: name of the measured quantity and its unit.
  """

  violation: Callable[[Batch, ModelOutput], jax.Array]
  scale: float | jax.Array
  kappa: float | jax.Array
  measure: Callable[[jax.Array], jax.Array]
  unit: str


def squared_error(batch: Batch, output: ModelOutput) -> jax.Array:
  """Returns ||x - g(z)||^2 per example [batch], summed over pixels."""
  difference = batch.image - output.reconstruction
  return (difference**2).reshape(difference.shape[0], -1).sum(axis=-1)


def reconstruction_error(
  image_shape: tuple[int, ...], kappa: float | jax.Array
) -> Constraint:
  """Returns RE, `||x - g(z)||^2 - D kappa^2` (Table 1).

  kappa is a root-mean-square error per pixel and channel, images in [0, 1]; the
  multiplier is 1 / (2 sigma^2) of a Gaussian likelihood.

  Departs from the paper: the D, without which the paper's kappas of 0.06 to
  0.175 would not be errors per pixel.

  Args:
    image_shape: (height, width, channels), D is its product.
    kappa: tolerance, > 0.

  Raises:
    ValueError: if kappa is a Python number and not > 0 and finite.
  """
  if isinstance(kappa, numbers.Real) and not 0 < kappa < math.inf:
    raise ValueError(f'kappa must be > 0 and finite, got {kappa}')
  num_dims = math.prod(image_shape)
  budget = num_dims * kappa**2
  return Constraint(
    violation=lambda batch, output: squared_error(batch, output) - budget,
    scale=budget,
    kappa=kappa,
    measure=lambda c: jnp.sqrt(jnp.maximum(c + budget, 0) / num_dims),
    unit='RMSE per pixel',
  )


def negative_log_likelihood(
  image_shape: tuple[int, ...], kappa: float | jax.Array
) -> Constraint:
  """Returns NLL, `-log p(x|z) - D kappa`, with the model's own sigma.

  With a fixed multiplier of 1 the Lagrangian is the negative ELBO (Eq. 1) up to
  the constant D kappa, with 1/beta it is a beta-VAE's (Section 3.2).

  Args:
    image_shape: (height, width, channels), D is its product.
    kappa: tolerance in nats per dimension; densities may exceed 1, so that any
      finite number is allowed.

  Raises:
    ValueError: if kappa is a Python number and not finite.
  """
  if isinstance(kappa, numbers.Real) and not math.isfinite(kappa):
    raise ValueError(f'kappa must be finite, got {kappa}')
  num_dims = math.prod(image_shape)

  def violation(batch, output):
    nll = gaussian_nll(
      batch.image, output.reconstruction, output.likelihood_stddev
    )
    return nll - num_dims * kappa

  return Constraint(
    violation=violation,
    scale=float(num_dims),
    kappa=kappa,
    measure=lambda c: c / num_dims + kappa,
    unit='nats per dimension',
  )
