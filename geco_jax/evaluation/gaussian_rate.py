"""What a tolerance costs on a data set, before anything is trained.

A Gaussian with the data's covariance needs R(kappa) nats to be described to
within an RMSE of kappa per pixel (reverse water-filling,
`theory.rate_distortion`). No data with that covariance needs more, so that R
bounds the data's own rate from above; it is what a linear VAE under the RE
constraint pays. A model whose KL is above it does worse than a linear one.

The contexts of a data set are ignored: the bound is for the images alone, and a
model that also knows the context needs no more.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import feed
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.batches import evenly_spaced
from geco_jax.datasets.images import Images
from geco_jax.distributions import per_example_normal
from geco_jax.distributions import quantized_normal_log_prob
from geco_jax.errors import UserError
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.theory import rate_distortion

_BATCH_SIZE = 500
_NLL_EXAMPLES = 10_000  # Enough for the mean NLL to within 0.01 nats.
_NOISE_SEED = 0


class Spectrum(NamedTuple):
  """Mean and covariance of a data set's images, in float64.

  Attributes:
    mean: [D], D the pixels times channels.
    eigenvalues: [rank] of the covariance, descending, rank = min(n, D).
    eigenvectors: [D, rank], orthonormal columns.
  """

  mean: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray


class Curve(NamedTuple):
  """A linear VAE's curve in the information plane, each [kappas]."""

  kappas: np.ndarray  # RMSE per pixel.
  rate_nats: np.ndarray  # Nats per image.
  nll_nats_per_dim: np.ndarray  # NLL of Appendix D, at sigma_opt.


def spectrum(dataset: Dataset) -> Spectrum:
  """Return mean and covariance of the train split's images.

  A composed data set has one example per base image, that of `fixed_batch`.
  It takes memory for D^2 numbers or, with fewer images than D, for n D.
  """
  images = dataset.splits['train']
  count, num_dims = len(images.image), int(np.prod(dataset.image_shape))
  if count < num_dims:
    # The singular values of n rows give the nonzero eigenvalues, without D^2.
    rows = np.concatenate([*_rows(dataset, images)])
    mean = rows.mean(axis=0)
    _, singular, transposed = np.linalg.svd(rows - mean, full_matrices=False)
    return Spectrum(mean, singular**2 / count, transposed.T)
  total, products = np.zeros(num_dims), np.zeros((num_dims, num_dims))
  for rows in _rows(dataset, images):
    total += rows.sum(axis=0)
    products += rows.T @ rows
  mean = total / count
  values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
  # Rounding leaves some zero eigenvalues a little below 0.
  return Spectrum(mean, np.maximum(values[::-1], 0.0), vectors[:, ::-1])


def eigenvalues(dataset: Dataset) -> np.ndarray:
  """Return the covariance's eigenvalues, float64 [min(n, D)], descending."""
  return spectrum(dataset).eigenvalues


def rate_nats(source: Spectrum, kappas: Sequence[float]) -> np.ndarray:
  """Return R(kappa), the Gaussian's rate in nats per image [kappas].

  Raises:
    UserError: if a kappa is not above 0.
  """
  return rate_distortion.rate(source.eigenvalues, _distortions(source, kappas))


def curve(
  dataset: Dataset, kappas: Sequence[float], source: Spectrum | None = None
) -> Curve:
  """Return rate and NLL of the optimal linear test channel at each kappa.

  The NLL is the quantized normal's at sigma_opt, the channel's exact RMSE, of
  at most 10,000 training images, evenly spaced, with one draw of the channel's
  noise for each.

  Args:
    dataset: any; its train split is described.
    kappas: RMSEs per pixel, > 0; where nothing need be sent, the rate is 0 and
      the RMSE is the mean image's.
    source: the data set's spectrum, for callers that have it already.

  Raises:
    UserError: if a kappa is not above 0.
  """
  source = source or spectrum(dataset)
  rates = rate_nats(source, kappas)
  nll = [_nll_nats_per_dim(dataset, source, kappa) for kappa in kappas]
  return Curve(np.asarray(kappas, np.float64), rates, np.asarray(nll))


def channel_reconstructions(
  source: Spectrum, kappa: float, image: jax.Array, keys: jax.Array
) -> jax.Array:
  """Return images as the optimal linear test channel reconstructs them.

  With the water level m, the coordinate y along an eigendirection of variance
  l > m becomes `(1 - m / l) y + sqrt(m (1 - m / l)) noise`, the others become
  their mean. This leaves an expected squared error of min(m, l) in each: it is
  the test channel of Cover & Thomas, Theorem 10.3.3, conditioned on y.

  Args:
    source: the data set's spectrum.
    kappa: RMSE per pixel, in expectation over data set and noise, > 0.
    image: float32 [batch, height, width, channels].
    keys: typed PRNG keys [batch], of the noise.

  Returns:
    float32, as `image`; not clipped to [0, 1].
  """
  (distortion,) = _distortions(source, [kappa])
  level = rate_distortion.water_level(source.eigenvalues, distortion)
  gain = 1 - level / source.eigenvalues[source.eigenvalues > level]
  stddev = np.sqrt(level * gain) if gain.size else gain
  noise = per_example_normal(keys, gain.shape) * _row(stddev)
  return _scaled(source, image, gain, noise)


def pca_reconstructions(
  source: Spectrum, kappa: float, image: jax.Array
) -> jax.Array:
  """Return images of the fewest principal components that reach kappa.

  The last component is shrunk so that the RMSE over the data set is kappa
  exactly. No noise is added, so that people see what is missing.

  Args:
    source: the data set's spectrum.
    kappa: RMSE per pixel over the data set, > 0.
    image: float32 [batch, height, width, channels].

  Returns:
    float32, as `image`; not clipped to [0, 1].
  """
  return _scaled(source, image, pca_gains(source, kappa), 0.0)


def pca_gains(source: Spectrum, kappa: float) -> np.ndarray:
  """Return the factors of the components that are kept, [kept].

  All are 1 but the last, whose shrinkage s leaves `s^2 l` of its variance l.

  >>> source = Spectrum(np.zeros(2), np.array([4.0, 1.0]), np.eye(2))
  >>> pca_gains(source, np.sqrt(1.0)).tolist()  # Squared error 2 = 1 + 4 / 4.
  [0.5]

  Raises:
    UserError: if kappa is not above 0.
  """
  (distortion,) = _distortions(source, [kappa])
  # Squared errors that k = 0 ... rank components leave: the sums of the other
  # components' variances.
  errors = np.append(np.cumsum(source.eigenvalues[::-1])[::-1], 0.0)
  num_kept = int(np.argmax(errors <= distortion))
  gain = np.ones(num_kept)
  if num_kept:
    spare_error = distortion - errors[num_kept]
    gain[-1] = 1 - np.sqrt(spare_error / source.eigenvalues[num_kept - 1])
  return gain


def _scaled(source, image, gain, noise):
  """Return images of the first len(gain) directions, scaled, plus noise."""
  vectors = jnp.asarray(source.eigenvectors[:, : len(gain)], jnp.float32)
  mean = _row(source.mean)
  coordinates = (image.reshape(len(image), -1) - mean) @ vectors
  scaled = mean + (coordinates * _row(gain) + noise) @ vectors.T
  return scaled.reshape(image.shape)


def _row(values):
  return jnp.asarray(values, jnp.float32)[jnp.newaxis]


def _nll_nats_per_dim(dataset, source, kappa):
  """Return the NLL of the test channel at one kappa, in nats per dimension."""
  (distortion,) = _distortions(source, [kappa])
  sigma_opt = np.sqrt(
    min(distortion, source.eigenvalues.sum()) / len(source.mean)
  ).astype(np.float32)
  images = dataset.splits['train']

  @jax.jit
  def log_probs(image, indices):
    keys = per_example_keys(key_of(_NOISE_SEED), indices)
    reconstruction = channel_reconstructions(source, kappa, image, keys)
    return quantized_normal_log_prob(image, reconstruction, sigma_opt)

  indices = evenly_spaced(_NLL_EXAMPLES, len(images.image))
  batch = feed.fixed_examples(dataset)
  sums = [
    np.asarray(log_probs(batch(images, part).image, part), np.float64).sum()
    for part in _parts(indices)
  ]
  return -sum(sums) / (len(indices) * len(source.mean))


def _rows(dataset: Dataset, images: Images) -> Iterator[np.ndarray]:
  """Yield a split's images as float64 rows, some at a time."""
  batch = feed.fixed_examples(dataset)
  for indices in _parts(np.arange(len(images.image))):
    image = np.asarray(batch(images, indices).image, np.float64)
    yield image.reshape(len(image), -1)


def _parts(indices):
  return np.split(indices, np.arange(_BATCH_SIZE, len(indices), _BATCH_SIZE))


def check_kappas(kappas: Sequence[float]) -> None:
  """Refuse what is no RMSE, or has a square that is 0 or infinite.

  Raises:
    UserError: if one is.
  """
  if not all(
    kappa > 0 and 0 < float(kappa) * float(kappa) < np.inf for kappa in kappas
  ):
    raise UserError(
      'kappas and their squares must be finite and > 0, got '
      f'{", ".join(map(str, kappas))}'
    )


def _distortions(source, kappas):
  """Return D kappa^2 [kappas], or raise UserError."""
  check_kappas(kappas)
  return len(source.mean) * np.square(np.asarray(kappas, np.float64))
