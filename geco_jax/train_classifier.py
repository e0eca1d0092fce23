r"""Train a classifier for the constraints that look through one.

  python -m geco_jax.train_classifier \
      --config=configs/classifiers/digits_cnn.py

The folder is --workdir, else one in the cache folder ($GECO_JAX_CACHE) that has
the config's name: there constraints find it by name. The same command continues
a training that was interrupted.
"""

from collections.abc import Callable, Sequence
import functools
import os
import time
from typing import Any, NamedTuple

from absl import flags
import haiku as hk
import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import numpy as np
import optax

from geco_jax import cli
from geco_jax import console
from geco_jax import parallel
from geco_jax.build import build_dataset
from geco_jax.build import build_optimizer
from geco_jax.build import check_classifier_config
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import Classifier
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.datasets import batches
from geco_jax.datasets.images import Images
from geco_jax.errors import UserError
from geco_jax.io import checkpoint
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.keys import per_example_keys

_EVALUATION_BATCH = 500


class State(NamedTuple):
  """All that a training remembers."""

  step: jax.Array  # int32 [], steps taken.
  params: hk.Params
  state: hk.State
  optimizer_state: optax.OptState


def train_steps(
  classifier: Classifier,
  optimizer: optax.GradientTransformation,
  config: Any,
  num_classes: int,
) -> Callable[[State, Images], tuple[State, jax.Array]]:
  """Return the compiled program that takes `config.steps_per_dispatch` steps.

  Batch normalization is over a device's share of the batch; the moving moments
  are the devices' mean.

  Args:
    classifier: what is trained.
    optimizer: of its parameters.
    config: of the training.
    num_classes: how many labels there are.

  Returns:
    (state, training images), replicated -> (state, loss of each step).
  """
  data_key, augmentation_key = jax.random.split(jax.random.key(config.seed))

  def step(state, images):
    places = parallel.local_places(config.batch_size)
    positions = state.step * config.batch_size + places
    indices = batches.indices_at(data_key, positions, images.image.shape[0])
    keys = per_example_keys(augmentation_key, positions)
    image = jax.vmap(
      functools.partial(augment, max_shift=config.max_shift, flip=config.flip)
    )(keys, batches.decode(images.image[indices]))
    target = jax.nn.one_hot(images.label[indices], num_classes)
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
    return State(state.step + 1, params, new_state, optimizer_state), value

  def run(state, images):
    return jax.lax.scan(
      lambda state, _: step(state, images),
      state,
      length=config.steps_per_dispatch,
    )

  return parallel.pmap(run, donate_argnums=0)


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

  What shows less of a digit is to be less sure: of noise alone the target is
  uniform (as in Hendrycks et al. 2019, "Deep anomaly detection with outlier
  exposure").

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


def evaluate(
  classifier: Classifier, state: State, images: Images
) -> dict[str, float]:
  """Return accuracy and mean probability of the right label on a split."""

  @jax.jit
  def chunk(image, label):
    (logits, _), _ = classifier.apply(
      state.params, state.state, batches.decode(image), is_training=False
    )
    right = jax.nn.softmax(logits)[jnp.arange(len(label)), label]
    return (logits.argmax(axis=-1) == label), right

  parts = [jax.tree.map(np.asarray, chunk(*part)) for part in _chunks(images)]
  correct, right = (np.concatenate(part) for part in zip(*parts, strict=True))
  return {
    'accuracy': float(correct.mean()),
    'mean_probability': float(right.mean(dtype=np.float64)),
  }


def feature_stddevs(
  classifier: Classifier, state: State, images: Images
) -> dict[str, np.ndarray]:
  """Return each layer's standard deviations over the images, [channels]."""

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
    return np.sqrt(np.maximum(square - mean**2, 0)).astype(np.float32)

  return {layer: stddev(layer) for layer in moments[0]}


def _chunks(images):
  starts = range(0, len(images.image), _EVALUATION_BATCH)
  for start in starts:
    part = slice(start, start + _EVALUATION_BATCH)
    yield images.image[part], images.label[part]


def train(
  config: ConfigDict,
  folder: str,
  *,
  data_dir: str | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Train a classifier to its end, from its latest checkpoint if it has one.

  Args:
    config: see configs/classifiers/.
    folder: for the network, its checkpoints and evaluation.json.
    data_dir: of TFDS.
    show_progress: whether to draw a progress bar on stderr.

  Returns:
    What evaluation.json holds.

  Raises:
    UserError: on bad input.
  """
  check_classifier_config(config)
  dataset = build_dataset(config, data_dir)
  splits = dataset.splits
  num_classes = int(splits['train'].label.max()) + 1
  if splits['train'].label.min() < 0 or num_classes < 2:
    raise UserError(f'config.dataset: {dataset.name} has no labels to learn')
  parallel.check_batch_size(config.batch_size)
  if config.num_steps % config.steps_per_dispatch:
    raise UserError(
      f'config.num_steps={config.num_steps} is not a multiple of '
      f'config.steps_per_dispatch={config.steps_per_dispatch}'
    )
  if not 0 <= config.label_smoothing < 1:
    raise UserError(
      f'config.label_smoothing must be in [0, 1), got {config.label_smoothing}'
    )
  classifier = _construct(config, num_classes)
  optimizer = build_optimizer(config)
  run_folder.claim(folder, config)
  state = _init_state(classifier, optimizer, config.seed, dataset.image_shape)
  checkpointer = checkpoint.Checkpointer(folder)
  restored = checkpointer.restore(state)
  if restored is not None:
    state = restored.state
    console.say(f'continuing from step {restored.step} in {folder}')
  run_steps = train_steps(classifier, optimizer, config, num_classes)
  images = parallel.replicate(splits['train'])
  step = int(state.step)
  progress = console.Progress(config.num_steps, step, show_progress)
  replicated = parallel.replicate(state)
  while step < config.num_steps:
    since = time.monotonic()
    replicated, losses = run_steps(replicated, images)
    loss = float(parallel.unreplicate(losses).mean())
    step += config.steps_per_dispatch
    seconds = time.monotonic() - since
    rate = config.steps_per_dispatch / seconds
    text = f'{rate:.0f} steps/s, loss {loss:.4f}'
    last = step >= config.num_steps
    if last or not step % config.checkpoint_every:
      state = parallel.unreplicate(replicated)
      result = evaluate(classifier, state, splits['validation'])
      checkpointer.save(step, state, 1 - result['accuracy'])
      text += f', validation accuracy {result["accuracy"]:.2%}'
    progress.update(step, text)
  progress.close()
  checkpointer.close()
  return _finish(config, folder, dataset, classifier, state, num_classes)


def _finish(config, folder, dataset, classifier, state, num_classes):
  pretrained.save(
    folder,
    model=config.model.to_dict(),
    image_shape=dataset.image_shape,
    num_classes=num_classes,
    params=state.params,
    state=state.state,
    feature_stddevs=feature_stddevs(classifier, state, dataset.splits['train']),
  )
  evaluation = {
    split: evaluate(classifier, state, images)
    for split, images in dataset.splits.items()
  }
  files.write_json(os.path.join(folder, 'evaluation.json'), evaluation)
  return evaluation


def _construct(config, num_classes):
  name = config.model.name
  if name not in CLASSIFIERS:
    raise UserError(
      f'config.model: unknown name {name!r}; choose from '
      f'{", ".join(sorted(CLASSIFIERS))}'
    )
  try:
    return CLASSIFIERS[name](num_classes, **config.model.kwargs)
  except (TypeError, ValueError) as error:
    raise UserError(f'config.model: {error}') from error


def _init_state(classifier, optimizer, seed, image_shape):
  image = jnp.zeros((1, *image_shape))
  params, state = jax.jit(classifier.init)(jax.random.key(seed), image)
  return jax.tree.map(
    np.asarray, State(jnp.int32(0), params, state, optimizer.init(params))
  )


def main(argv: Sequence[str]) -> None:
  """Train the classifier that the flags name."""
  del argv
  config = cli.config()
  flag: Any = flags.FLAGS['config']
  name = os.path.splitext(os.path.basename(flag.config_filename))[0]
  folder = cli.WORKDIR.value or pretrained.folder_of(name)
  evaluation = train(config, folder, data_dir=cli.DATA_DIR.value)
  print(f'accuracy of {folder}:')
  for split, result in evaluation.items():
    print(
      f'  {split:<10} {result["accuracy"]:7.2%}, mean probability of the '
      f'right label {result["mean_probability"]:.4f}'
    )


if __name__ == '__main__':
  cli.run(main, takes_config=True)
