r"""Conceptual compression: what each step of a model adds (Gregor et al. 2016).

  python -m experiments.conceptual_compression --workdir=runs/mnist_conv_draw

A trained model reconstructs images of the test split while it is informed of
them in its first 0, 1, 2, ... steps only and draws the others from its prior:
information comes from global to local. Writes conceptual_compression.png to the
workdir, the images at the bottom, and conceptual_compression.json: by number of
informed steps the RMSE over the images shown and the KL of the informed steps.
"""

from collections.abc import Sequence
import math
import os

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import cli
from geco_jax.evaluation import pictures
from geco_jax.evaluation.restored import open_run
from geco_jax.evaluation.restored import restore_state
from geco_jax.io import files


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_integer('num_images', 12, 'Images to show.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
  """Draw the run that the flags name."""
  del argv
  workdir = cli.workdir()
  _, experiment = open_run(workdir, cli.DATA_DIR.value)
  dataset, model = experiment.dataset, experiment.model
  params = restore_state(workdir, experiment).params
  batch = pictures.shown_batch(
    dataset, dataset.splits['test'], flags.FLAGS.num_images
  )
  keys = jax.random.split(jax.random.key(0), len(batch.image))
  reconstruct = jax.jit(model.reconstruct)
  rows = [
    reconstruct(params, keys, batch.image, batch.context, informed)
    for informed in range(model.num_steps + 1)
  ]
  output = jax.jit(model.apply)(params, keys, batch.image, batch.context)
  kl_nats = np.cumsum([0.0, *np.asarray(output.kl_by_step).mean(axis=0)])
  results = [
    {
      'informed_steps': informed,
      'kl_nats': float(kl),
      'rmse': math.sqrt(jnp.mean((batch.image - row) ** 2)),
    }
    for informed, (row, kl) in enumerate(zip(rows, kl_nats, strict=True))
  ]
  files.write_json(
    os.path.join(workdir, 'conceptual_compression.json'), results
  )
  path = os.path.join(workdir, 'conceptual_compression.png')
  picture_rows = pictures.stack_rows(dataset, batch.context, *rows, batch.image)
  labels = [f'{k} of {model.num_steps} steps' for k in range(len(rows))]
  if batch.context is not None:
    labels.insert(0, 'contexts')
  pictures.save_png(path, pictures.grid(picture_rows), [*labels, 'data'])
  print('informed steps  KL/nats    RMSE')
  for row in results:
    print(
      f'{row["informed_steps"]:>14} {row["kl_nats"]:8.2f} {row["rmse"]:7.4f}'
    )
  print(f'wrote {path}')


if __name__ == '__main__':
  cli.run(main, define_flags)
