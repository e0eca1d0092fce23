"""What a constraint costs: ConvDRAW's training step with it, beside RE's.

  python -m benchmarks.constraint_cost --num_cpu_devices=2 --output=cost.json

The model is that of configs/cifar10_conv_draw.py in a chosen size, on random
32x32x3 images. FRE looks through configs/classifiers/cifar10_resnet.py with
random weights; the time of a forward and backward pass of that ResNet, as in
its own training, says how much FRE may cost. Run it on an idle machine.
"""

from collections.abc import Sequence
import importlib
import os
import tempfile

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import contenders
from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from geco_jax import cli
from geco_jax import parallel
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.sizes import SIZES

_SHAPE = (32, 32, 3)
_NUM_CLASSES = 10
_PASSES = 'ResNet forward and backward'
OBJECTIVES = ('geco+re', 'geco+pncc', 'geco+fre_stats', 'geco+fre')


def train_step(
  objective: str, size: str, network: str, num_steps: int
) -> Contender:
  """Return the training step under an objective as something to time."""
  module = importlib.import_module('configs.cifar10_conv_draw')
  config = module.get_config(f'{size},{objective}')
  if 'fre' in config.constraints:
    config.constraints.fre.network = network
  dataset = contenders.random_images(_SHAPE, 1_024)
  return contenders.ours(config, dataset, num_steps)


def network_passes(model, batch_size: int, num_steps: int) -> Contender:
  """Return a classifier's loss and its gradient as something to time."""
  classifier = CLASSIFIERS[model['name']](_NUM_CLASSES, **model['kwargs'])
  image = jnp.zeros((parallel.local_batch_size(batch_size), *_SHAPE))
  label = jnp.zeros(len(image), jnp.int32)
  params, state = classifier.init(jax.random.key(0), image)

  def step(params, _):
    def loss(params):
      (logits, _), _ = classifier.apply(params, state, image, is_training=True)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, label
      ).mean()

    # A step of descent: otherwise all passes would be equal, and one might do.
    gradient = parallel.mean(jax.grad(loss)(params))
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient), None

  program = parallel.pmap(
    lambda params: jax.lax.scan(step, params, length=num_steps)[0]
  )
  replicated = parallel.replicate(params)
  return Contender(
    lambda: jax.block_until_ready(program(replicated)), num_steps
  )


def save_random_network(folder: str, model) -> None:
  """Write the classifier with random weights as a trained one."""
  classifier = CLASSIFIERS[model['name']](_NUM_CLASSES, **model['kwargs'])
  image = jnp.zeros((1, *_SHAPE))
  params, state = classifier.init(jax.random.key(0), image)
  (_, features), _ = classifier.apply(params, state, image, is_training=False)
  pretrained.save(
    folder,
    model=model,
    image_shape=_SHAPE,
    num_classes=_NUM_CLASSES,
    params=params,
    state=state,
    feature_stddevs={k: np.ones(v.shape[-1]) for k, v in features.items()},
  )


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum('size', 'quick', [*SIZES], 'Size of the model.')
  side_by_side.define_flags(rounds=5, steps_per_round=5, num_cpu_devices=1)


def main(argv: Sequence[str]) -> None:
  """Measure all rows, print and write them."""
  del argv
  side_by_side.split_cpu()
  module = importlib.import_module('configs.classifiers.cifar10_resnet')
  model = module.get_config().model.to_dict()
  config = importlib.import_module('configs.cifar10_conv_draw').get_config(
    flags.FLAGS.size
  )
  with tempfile.TemporaryDirectory() as parent:
    network = os.path.join(parent, 'resnet')
    os.mkdir(network)
    save_random_network(network, model)
    programs = {
      objective: train_step(
        objective, flags.FLAGS.size, network, flags.FLAGS.steps_per_round
      )
      for objective in OBJECTIVES
    }
  programs[_PASSES] = network_passes(
    model, config.batch_size, flags.FLAGS.steps_per_round
  )
  rates = side_by_side.measure(programs, flags.FLAGS.rounds)
  # Each ratio is the contender's seconds per step over the baseline's.
  rows = [
    side_by_side.compare(flags.FLAGS.size, rates, 'geco+re', name)
    for name in programs
    if name != 'geco+re'
  ]
  side_by_side.report(rows)
  *_, fre, passes = (row.ratio for row in rows)
  print(
    f'a step with FRE costs {fre:.2f} of one with RE; a pass forward and '
    f'backward of its network would make it {1 + passes:.2f}'
  )


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
