"""Tests of the toy data sets."""

import numpy as np
from scipy.spatial import distance

from geco_jax.theory import toy_data


def test_hierarchy_has_its_clusters_at_their_places():
  data = toy_data.cluster_hierarchy((0.3, 0.1), 8, 0)
  clusters = np.unique(data, axis=0)
  np.testing.assert_allclose(
    clusters, [[-0.3, -0.1], [-0.3, 0.1], [0.3, -0.1], [0.3, 0.1]]
  )


def test_levels_on_one_axis_add_up():
  data = toy_data.cluster_hierarchy((0.3, 0.1, 0.02), 80, 0)
  np.testing.assert_allclose(
    data.var(axis=0), [0.3**2 + 0.02**2, 0.1**2], rtol=1e-6
  )


def test_seeds_make_the_noise():
  for make in (toy_data.mixture_of_lines, toy_data.mixture_of_circles):
    data = make(30, 0)
    assert data.shape == (30, 2)
    assert np.abs(data).max() < 0.55
    np.testing.assert_array_equal(data, make(30, 0))
    assert (data != make(30, 1)).any()


def test_circles_are_round():
  data = toy_data.mixture_of_circles(300, 0)[::3]
  radius = distance.cdist(data, [[-0.22, -0.18]])
  np.testing.assert_allclose(radius, 0.19, atol=0.06)


def test_rectangle_has_its_variances():
  data = toy_data.rectangle((1.0, 0.5), 20_000, 0)
  np.testing.assert_allclose(data.var(axis=0), [1 / 12, 1 / 48], rtol=0.03)


def test_all_three_circles_are_round():
  data = toy_data.mixture_of_circles(300, 0)
  circles = (((-0.22, -0.18), 0.19), ((0.24, -0.2), 0.13), ((0.02, 0.26), 0.16))
  for number, (center, radius) in enumerate(circles):
    distances = distance.cdist(data[number::3], [center])
    np.testing.assert_allclose(distances, radius, atol=0.05)
    np.testing.assert_allclose(distances.mean(), radius, atol=0.005)


def test_clusters_have_their_standard_deviation():
  data = toy_data.cluster_hierarchy((), 20_000, 0, 0.02)
  np.testing.assert_allclose(data.std(axis=0), 0.02, rtol=0.03)
