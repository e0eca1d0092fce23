r"""Does a conditional model add? Read its samples of MNIST-sum.

  python -m geco_jax.train --config=configs/mnist_sum_conv_draw.py:quick \
      --workdir=runs/mnist_sum
  python -m experiments.arithmetic --workdir=runs/mnist_sum

Draws a sample for each of many contexts (I0, I1) of the test split and reads
it with a classifier that was trained on the training split's real digits. The
sample is right if it reads (l0 + l1) mod 10; chance is 10%. Writes
arithmetic.json and arithmetic.png to the workdir.
"""

from collections.abc import Sequence
import os
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import cli
from geco_jax.datasets.batches import Batch
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import pictures
from geco_jax.evaluation.restored import open_run
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.io.provenance import trained_on
from geco_jax.keys import per_example_keys

_SEED = 2
_CHUNK = 100
_MAX_CLASSIFIER_EXAMPLES = 10_000
_SHOWN = 12


def digit_classifier(dataset: Dataset):
  """Return a support vector machine that reads the training split's digits.

  Images in [0, 1] of one channel, flattened; at most 10,000 of them, so that it
  takes seconds.
  """
  from sklearn import svm  # Its import takes a second: bad flags come first.

  images = dataset.splits['train']
  chosen = np.random.default_rng(0).permutation(len(images.label))
  chosen = chosen[:_MAX_CLASSIFIER_EXAMPLES]
  pixels = images.image[chosen].reshape(len(chosen), -1) / 255.0
  return svm.SVC(C=10.0).fit(pixels, images.label[chosen])


def draw(
  experiment: Experiment, params: Any, num_contexts: int
) -> tuple[Batch, np.ndarray]:
  """Return unseen contexts with their targets, and a sample for each.

  Args:
    experiment: the run's experiment.
    params: the model's parameters.
    num_contexts: how many, examples of the test split in turn.

  Returns:
    (batch of num_contexts, samples [num_contexts, height, width, channels]),
    NumPy arrays.
  """
  images = jax.device_put(experiment.dataset.splits['test'])
  assembly_key, noise_key = jax.random.split(jax.random.key(_SEED))

  @jax.jit
  def chunk(params, images, numbers):
    # Past the end of the split its digits come again, in other compositions.
    batch = experiment.dataset.assemble(
      images,
      numbers % images.image.shape[0],
      per_example_keys(assembly_key, numbers),
    )
    keys = per_example_keys(noise_key, numbers)
    return batch, experiment.model.sample(params, keys, batch.context)

  chunks = [
    chunk(params, images, jnp.arange(start, start + _CHUNK))
    for start in range(0, num_contexts, _CHUNK)
  ]
  return jax.tree.map(
    lambda *parts: np.concatenate(parts)[:num_contexts], *chunks
  )


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_integer(
    'num_contexts', 2_000, 'Contexts of the test split.', lower_bound=1
  )


def main(argv: Sequence[str]) -> None:
  """Read the samples of the run that the flags name."""
  del argv
  workdir = cli.workdir()
  config = run_folder.read_config(workdir)
  if config.dataset.name != 'mnist_sum':
    raise UserError(
      f'--workdir={workdir} is a run on {config.dataset.name}; arithmetic is '
      'read from runs on mnist_sum'
    )
  _, experiment = open_run(workdir, cli.DATA_DIR.value)
  state = restore_state(workdir, experiment)
  batch, samples = draw(experiment, state.params, flags.FLAGS.num_contexts)
  classifier = digit_classifier(experiment.dataset)

  def share_right(images):
    digits = classifier.predict(images.reshape(len(images), -1))
    return float(np.mean(digits == batch.label))

  results = {
    'samples_right': share_right(samples),
    'real_targets_right': share_right(batch.image),
    'num_contexts': len(samples),
    'split': 'test',
    'step': int(state.step),
    'multiplier_rule': config.multipliers.name,
    **trained_on(workdir),
  }
  files.write_json(os.path.join(workdir, 'arithmetic.json'), results)
  stride = max(1, len(samples) // _SHOWN)
  examples = jax.tree.map(
    lambda x: x[::stride][:_SHOWN], (batch.context, batch.image, samples)
  )
  rows = pictures.stack_rows(experiment.dataset, *examples)
  path = os.path.join(workdir, 'arithmetic.png')
  labels = ['contexts', 'targets', 'samples']
  pictures.save_png(path, pictures.grid(rows), labels)
  print(
    f'{results["samples_right"]:.1%} of {len(samples)} samples are '
    '(l0 + l1) mod 10, given contexts of the test split; of real targets the '
    f'classifier reads {results["real_targets_right"]:.1%} so. Contexts, '
    f'targets, samples: {path}'
  )


if __name__ == '__main__':
  cli.run(main, define_flags)
