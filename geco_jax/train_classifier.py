r"""Train a classifier for the constraints that look through one.

  python -m geco_jax.train_classifier \
      --config=configs/classifiers/digits_cnn.py

The folder is --workdir, else one in the cache folder ($GECO_JAX_CACHE) that has
the config's name: there constraints find it by name. The same command continues
a training that was interrupted.
"""

from collections.abc import Mapping, Sequence
import functools
import os
from typing import Any

from absl import flags
from absl import logging
import jax
from ml_collections.config_dict import ConfigDict
import numpy as np
import optax

from geco_jax import cli
from geco_jax import feed
from geco_jax import parallel
from geco_jax.build import build_classifier
from geco_jax.build import build_dataset
from geco_jax.build import build_optimizer
from geco_jax.build import check_classifier_config
from geco_jax.classifiers import pretrained
from geco_jax.classifiers import training
from geco_jax.classifiers.networks import Classifier
from geco_jax.datasets import shapes
from geco_jax.datasets.batches import Dataset
from geco_jax.datasets.splits import fingerprint
from geco_jax.errors import UserError
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.training.loop import train_to_end
from geco_jax.training.run import Run


class ClassifierRun(Run):
  """The training of a classifier.

  Attributes:
    evaluate: (state, images) -> what evaluation.json holds of a split.
  """

  state: training.State

  def __init__(
    self,
    config: ConfigDict,
    workdir: str,
    classifier: Classifier,
    optimizer: optax.GradientTransformation,
    dataset: Dataset,
  ):
    """Open a run's folder, and its latest checkpoint if it has one."""
    self.evaluate = training.evaluator(classifier)
    self._dataset = dataset
    self._validation_images = dataset.splits['validation']
    first_state = functools.partial(
      training.init_state,
      classifier,
      optimizer,
      config.seed,
      dataset.image_shape,
    )
    like = jax.tree.map(
      lambda x: np.empty(x.shape, x.dtype), jax.eval_shape(first_state)
    )
    super().__init__(config, workdir, like, first_state)

  def claim(self) -> None:
    """Make the folder this run's; refuse one of a run on other data."""
    sha256 = fingerprint(self._dataset.splits)
    run_folder.check_data(self.workdir, self._dataset.name, sha256)
    super().claim()
    shapes.record(self.workdir, self._dataset, sha256)

  @property
  def subject(self) -> str:
    """The network, its size and the data set."""
    size = sum(np.size(x) for x in jax.tree.leaves(self.state.params))
    name = self.config.model.name
    return f'classifier {name} ({size:,} parameters) on {self._dataset.name}'

  def log(
    self, step: int, per_step: Mapping[str, np.ndarray], rate: float
  ) -> str:
    """Log the mean loss over a dispatch."""
    self._check_finite(step, per_step['loss'])
    loss = float(per_step['loss'].mean())
    if self._writes:
      self._writer.scalars(step, {'loss': loss, 'steps_per_second': rate})
    return f'{rate:.0f} steps/s, loss {loss:.4f}'

  def _evaluate(self) -> float:
    results = self.evaluate(self.state, self._validation_images)
    if not np.isfinite(results['mean_probability']):
      # The last update broke the parameters: its own loss came before.
      self._stop_not_finite(self.step + 1)
    if self._writes:
      self._writer.scalars(
        self.step, {f'validation/{k}': v for k, v in results.items()}
      )
    return 1 - results['accuracy']


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
    folder: for the network, its checkpoints, log and evaluation.json.
    data_dir: TFDS data directory.
    show_progress: whether to draw a progress bar on stderr.

  Returns:
    What evaluation.json holds.

  Raises:
    UserError: on bad input, or a loss that is not finite.
    Interrupted: after SIGTERM, SIGINT or SIGHUP, the state saved.
  """
  check_classifier_config(config)
  dataset = build_dataset(config, data_dir)
  if dataset.is_composed:
    raise UserError(
      f'config.dataset: {dataset.name} is composed anew for every batch; '
      'classifiers are trained on stored images, like its base'
    )
  farthest = min(dataset.image_shape[:2]) - 1
  if config.max_shift > farthest:
    raise UserError(
      f'config.max_shift is {config.max_shift}, which moves images of '
      f'{"x".join(map(str, dataset.image_shape))} out of sight; at most '
      f'{farthest}'
    )
  num_classes = _num_classes(dataset)
  classifier = build_classifier(config, num_classes)
  optimizer = build_optimizer(config)
  take_steps = training.train_steps(
    classifier, optimizer, config, num_classes, dataset.placement
  )
  run = ClassifierRun(config, folder, classifier, optimizer, dataset)
  num_examples = len(dataset.splits['train'].label)
  choose = parallel.on_host(training.examples_at(config, num_examples))
  with feed.step_images(
    dataset,
    parallel.SHARED,
    config.batch_size,
    config.steps_per_dispatch,
    [(choose, run.step)],
  ) as images:
    (failure,) = train_to_end(
      [run],
      lambda states, num_steps: take_steps(
        states, images(num_steps), num_steps=num_steps
      ),
      parallel.SHARED,
      show_progress,
    )
  if failure is not None:
    raise failure
  return _finish(run, classifier, dataset, num_classes)


def _num_classes(dataset):
  """Return how many classes there are, all splits' labels checked."""
  labels = {name: images.label for name, images in dataset.splits.items()}
  num_classes = int(labels['train'].max()) + 1
  if min(labels['train'].min(), labels['validation'].min()) < 0:
    raise UserError(f'config.dataset: {dataset.name} has no labels to learn')
  if num_classes < 2:
    raise UserError(f'config.dataset: {dataset.name} has one class alone')
  if num_classes > len(labels['train']):
    raise UserError(
      f'config.dataset: {dataset.name} has labels up to {num_classes - 1} for '
      f'{len(labels["train"])} training images; number the classes from 0'
    )
  for name, label in labels.items():
    if label.max() >= num_classes:
      raise UserError(
        f'config.dataset: {dataset.name} has the label {label.max()} in its '
        f'{name} split; those that are trained are 0 to {num_classes - 1}'
      )
  return num_classes


def _finish(run, classifier, dataset, num_classes):
  """Write what constraints read, and the evaluation."""
  train_images = dataset.splits['train']
  pretrained.save(
    run.workdir,
    model=run.config.model.to_dict(),
    image_shape=dataset.image_shape,
    num_classes=num_classes,
    params=run.state.params,
    state=run.state.state,
    feature_stddevs=training.feature_stddevs(
      classifier, run.state, train_images
    ),
  )
  evaluation = {}
  for split, images in dataset.splits.items():
    if images.label.min() < 0:
      logging.warning('The %s split has no labels, and is left out.', split)
    else:
      evaluation[split] = run.evaluate(run.state, images)
  files.write_json(os.path.join(run.workdir, 'evaluation.json'), evaluation)
  return evaluation


def main(argv: Sequence[str]) -> None:
  """Train the classifier that the flags name."""
  del argv
  config = cli.config()
  cli.use_trackers()
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
  cli.run(main, cli.define_trackers, takes_config=True)
