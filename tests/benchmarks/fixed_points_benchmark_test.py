"""The contenders of the fixed-point benchmark do the same work."""

import numpy as np

from benchmarks import fixed_points as benchmark
from geco_jax.theory import fixed_points
from geco_jax.theory import toy_data

DATA = toy_data.mixture_of_circles(30, 0)
INITIAL = fixed_points.initial_psi(fixed_points.grid(5).centers, 0)
BETAS = np.array([0.01, 0.1])


def test_contenders_end_at_the_same_points():
  ours = benchmark.compiled(DATA, INITIAL, BETAS, 20)()
  for log_space in (True, False):
    plain = benchmark.plain(DATA, INITIAL, BETAS, 20, log_space)()
    np.testing.assert_allclose(ours, plain, atol=1e-5)


def test_the_equations_as_printed_are_nan_at_small_beta():
  (psi,) = benchmark.plain(DATA, INITIAL, [1e-6], 1, log_space=False)()
  assert np.isnan(psi).any()
  (psi,) = benchmark.plain(DATA, INITIAL, [1e-6], 1)()
  assert np.isfinite(psi).all()
