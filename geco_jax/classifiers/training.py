"""The training steps of a classifier, and its measures."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from geco_jax import parallel
from geco_jax.classifiers.networks import Classifier
from geco_jax.datasets import batches
from geco_jax.datasets.images import Images
from geco_jax.keys import key_of
from geco_jax.keys import per_example_keys
from geco_jax.scan import dispatcher
from geco_jax.scan import scan

_EVALUATION_BATCH = 500


class State(NamedTuple):
  """All that a training remembers."""

  step: jax.Array  # int32 [], steps taken.
  params: hk.Params
  state: hk.State
  optimizer_state: optax.OptState


def init_state(
  classifier: Classifier,
  optimizer: optax.GradientTransformation,
  seed: int,
  image_shape: tuple[int, ...],
) -> State:
  """Return the state before the first step."""
  image = jnp.zeros((1, *image_shape))
  params, state = jax.jit(classifier.init)(key_of(seed), image)
  return State(jnp.int32(0), params, state, optimizer.init(params))


def train_steps(
  classifier: Classifier,
  optimizer: optax.GradientTransformation,
  config: Any,
  num_classes: int,
  placement: str = batches.DEVICE,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
  """Return the function that takes up to `config.steps_per_dispatch` steps.

  It is compiled once. Batch normalization is over a device's share of the
  batch; the moving moments are the devices' mean.

  Args:
    classifier: what is trained.
    optimizer: of its parameters.
    config: config of the training.
    num_classes: how many labels there are.
    placement: of the images.

  Returns:
    (state, training images, both replicated, num_steps) -> (state, metrics of
    each step). Where the images stay on the host, they are the batches of
    steps, step i's at i modulo `config.steps_per_dispatch`.
  """
  data_key, augmentation_key = _keys(config.seed)
  length = config.steps_per_dispatch

  def step(state, images):
    places = parallel.local_places(config.batch_size)
    positions = state.step * config.batch_size + places
    if placement == batches.HOST:
      chosen = state.step % length
    else:
      num_examples = images.image.shape[0]
      chosen = batches.indices_at(data_key, positions, num_examples)
    keys = per_example_keys(augmentation_key, positions)
    image = jax.vmap(
      functools.partial(augment, max_shift=config.max_shift, flip=config.flip)
    )(keys, batches.decode(images.image[chosen]))
    target = jax.nn.one_hot(images.label[chosen], num_classes)
    target = optax.smooth_labels(target, config.label_smoothing)
    if config.fade:
      image, target = jax.vmap(fade)(keys, image, target)

    def loss(params):
      (logits, _), new_state = classifier.apply(
        params, state.state, image, is_training=True
      )
      return optax.softmax_cross_entropy(logits, target).mean(), new_state

    (value, new_state), gradient = jax.value_and_grad(loss, has_aux=True)(
      state.params
    )
    value, moments, gradient = parallel.mean((value, new_state, gradient))
    # The mean of the counters among them would be a float.
    new_state = jax.tree.map(
      lambda mean, own: mean.astype(own.dtype), moments, new_state
    )
    updates, optimizer_state = optimizer.update(
      gradient, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    next_state = State(state.step + 1, params, new_state, optimizer_state)
    return next_state, {'loss': value}

  def run(state, images, limit=None):
    return scan(step, length, state, (images,), limit)

  return dispatcher(parallel.pmap(run, donate_argnums=0), length)


def examples_at(
  config: Any, num_examples: int
) -> Callable[[jax.Array], jax.Array]:
  """Return (positions of a training's data [m]) -> its images [m]."""
  data_key, _ = _keys(config.seed)
  return lambda positions: batches.indices_at(data_key, positions, num_examples)


def _keys(seed):
  """Return the keys of the data and of their augmentation."""
  return jax.random.split(key_of(seed))


def augment(
  key: jax.Array, image: jax.Array, *, max_shift: int, flip: bool
) -> jax.Array:
  """Return the image shifted at random, and mirrored half of the time.

  Args:
    key: of the example.
    image: [height, width, channels].
    max_shift: pixels in either direction, >= 0; black moves in.
    flip: whether to mirror left and right.
  """
  shift_key, flip_key = jax.random.split(key)
  padded = jnp.pad(image, ((max_shift,) * 2, (max_shift,) * 2, (0, 0)))
  row, column = jax.random.randint(shift_key, [2], 0, 2 * max_shift + 1)
  shifted = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
  mirrored = flip & jax.random.bernoulli(flip_key)
  return jnp.where(mirrored, shifted[:, ::-1], shifted)


def fade(
  key: jax.Array, image: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Return the image blended with noise half of the time, its target as well.

  An image that shows less of a digit has a less certain target: for pure noise
  it is uniform (as in Hendrycks et al. 2019, "Deep anomaly detection with
  outlier exposure").

  Args:
    key: of the example.
    image: [height, width, channels].
    target: probabilities [classes].
  """
  keys = jax.random.split(jax.random.fold_in(key, 1), 5)
  gray, contrast, share = (jax.random.uniform(k) for k in keys[:3])
  noise = gray + contrast * (jax.random.uniform(keys[3], image.shape) - 0.5)
  share = jnp.where(jax.random.bernoulli(keys[4]), share, 1.0)
  uniform = 1 / target.size
  return (
    share * image + (1 - share) * jnp.clip(noise, 0, 1),
    share * target + (1 - share) * uniform,
  )


def evaluator(
  classifier: Classifier,
) -> Callable[[State, Images], dict[str, float]]:
  """Return the function that measures a classifier on a split, compiled once.

  Returns:
    (state, images) -> accuracy, and the mean probability of the right label.
  """

  @jax.jit
  def chunk(params, state, image, label):
    (logits, _), _ = classifier.apply(
      params, state, batches.decode(image), is_training=False
    )
    right = jax.nn.softmax(logits)[jnp.arange(len(label)), label]
    return (logits.argmax(axis=-1) == label), right

  def evaluate(state, images):
    parts = [
      jax.tree.map(np.asarray, chunk(state.params, state.state, *part))
      for part in _chunks(images)
    ]
    correct, right = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {
      'accuracy': float(correct.mean()),
      'mean_probability': float(right.mean(dtype=np.float64)),
    }

  return evaluate


def feature_stddevs(
  classifier: Classifier, state: State, images: Images
) -> dict[str, np.ndarray]:
  """Return each layer's standard deviations over the images, [channels].

  They are 0 for channels that vary by less than a thousandth of their size.
  """

  @jax.jit
  def chunk(image):
    (_, features), _ = classifier.apply(
      state.params, state.state, batches.decode(image), is_training=False
    )
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), features)
    return jax.tree.map(lambda x: (x.mean(axis=0), (x**2).mean(axis=0)), flat)

  chunks = [image for image, _ in _chunks(images)]
  weights = np.array([len(image) for image in chunks]) / len(images.image)
  moments = [chunk(image) for image in chunks]

  def stddev(layer):
    mean, square = (
      weights @ np.stack([moment[layer][i] for moment in moments]).astype(float)
      for i in range(2)
    )
    variance = square - mean**2
    # Below this it is the rounding of float32 moments: the channel is constant.
    return np.sqrt(np.where(variance > 1e-6 * square, variance, 0)).astype(
      np.float32
    )

  return {layer: stddev(layer) for layer in moments[0]}


def _chunks(images):
  starts = range(0, len(images.image), _EVALUATION_BATCH)
  for start in starts:
    part = slice(start, start + _EVALUATION_BATCH)
    yield images.image[part], images.label[part]
