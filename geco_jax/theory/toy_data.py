"""Data sets of few dimensions, made to show what theory says of them."""

from collections.abc import Sequence

import numpy as np


def cluster_hierarchy(
  half_distances: Sequence[float],
  num_data: int,
  seed: int,
  stddev: float = 0.0,
) -> np.ndarray:
  """Return nested pairs of clusters in the plane: a planted hierarchy.

  Level k splits each cluster in two at +- half_distances[k], levels taking
  turns between the two axes. On their way up in beta, the pairs of one level
  merge together.

  Args:
    half_distances: one for each level, >= 0; 2^levels clusters.
    num_data: >= 1, shared by the clusters as equally as it can be.
    seed: of the noise.
    stddev: of each cluster, >= 0.

  Returns:
    Points [num_data, 2].
  """
  levels = len(half_distances)
  codes = np.arange(num_data) % 2**levels
  signs = 1 - 2 * (codes[:, None] >> np.arange(levels)[None] & 1)
  points = np.random.default_rng(seed).normal(0, stddev, (num_data, 2))
  for level, distance in enumerate(half_distances):
    points[:, level % 2] += distance * signs[:, level]
  return points


def rectangle(sides: Sequence[float], num_data: int, seed: int) -> np.ndarray:
  """Return points [num_data, dims] uniform in a box around 0.

  Args:
    sides: [dims], its lengths, > 0.
    num_data: >= 1.
    seed: of the points.
  """
  rng = np.random.default_rng(seed)
  return (
    rng.uniform(-0.5, 0.5, (num_data, len(sides))) * np.asarray(sides)[None]
  )


def mixture_of_lines(num_data: int, seed: int) -> np.ndarray:
  """Return points [num_data, 2] on three strokes, as Figure 7's left half."""
  ends = np.array(
    [
      [[-0.42, -0.3], [-0.12, 0.4]],
      [[-0.05, -0.4], [0.4, -0.22]],
      [[0.08, 0.36], [0.42, 0.08]],
    ]
  )
  stroke = np.arange(num_data) % len(ends)
  rng = np.random.default_rng(seed)
  share = rng.uniform(size=(num_data, 1))
  points = ends[stroke, 0] + share * (ends[stroke, 1] - ends[stroke, 0])
  return points + rng.normal(0, 0.01, points.shape)


def mixture_of_circles(num_data: int, seed: int) -> np.ndarray:
  """Return points [num_data, 2] on three circles, as Figure 7's right half."""
  centers = np.array([[-0.22, -0.18], [0.24, -0.2], [0.02, 0.26]])
  radii = np.array([0.19, 0.13, 0.16])
  stroke = np.arange(num_data) % len(radii)
  rng = np.random.default_rng(seed)
  angle = rng.uniform(0, 2 * np.pi, num_data)
  outward = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  points = centers[stroke] + radii[stroke, None] * outward
  return points + rng.normal(0, 0.01, points.shape)
