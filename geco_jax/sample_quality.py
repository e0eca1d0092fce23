r"""Measure a run's samples: Frechet distances, importance-weighted NLL.

  python -m geco_jax.sample_quality --workdir=runs/digits --network=digits_cnn

Samples and reconstructions are compared with the test split in the features of
a trained classifier (`geco_jax.train_classifier`); the distance of the train
split is the floor. Run geco_jax.evaluate before. Writes sample_quality.json.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from absl import flags

from geco_jax import cli
from geco_jax.errors import UserError
from geco_jax.evaluation.sample_quality import estimate
from geco_jax.evaluation.sample_quality import FILE
from geco_jax.evaluation.sample_quality import NUM_DRAWS
from geco_jax.evaluation.sample_quality import NUM_IMAGES
from geco_jax.evaluation.sample_quality import Sizes

_ROWS = {
  'samples': 'samples',
  'reconstructions': 'reconstructions',
  'train': 'train split, the floor',
}


def table(result: Mapping[str, Any]) -> str:
  """Return the result as a table."""
  distances, likelihood = result['frechet'], result['importance']
  lines = [
    f'{"to the test split":<24}{"Frechet distance":>17}  in '
    f'{distances["num_features"]} features ({distances["layer"]} of '
    f'{distances["network"]}), {distances["num_samples"]} examples'
  ]
  lines += [f'{_ROWS[k]:<24}{distances[k]:>17.4f}' for k in _ROWS]
  if likelihood is None:
    return '\n'.join([*lines, 'NLL: none, for q(z|x) depends on a context'])
  error = likelihood['nll_error_nats']
  deviation = '' if error is None else f', standard error {error:.2f}'
  return '\n'.join(
    [
      *lines,
      f'NLL, k = {likelihood["num_draws"]}: {likelihood["nll_nats"]:.2f} '
      f'nats{deviation}, {likelihood["nll_bits_per_dim"]:.4f} bits/dim, of '
      f'{likelihood["num_images"]} test images',
      f'-ELBO, k = 1: {-likelihood["elbo_nats"]:.2f} nats',
    ]
  )


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_string(
    'network', None, 'Trained classifier, its name or the path of its folder.'
  )
  flags.DEFINE_string(
    'layer',
    None,
    'Layer whose features are compared; else the one before the logits.',
  )
  flags.DEFINE_integer(
    'num_samples',
    None,
    'Examples of each set compared; else as many as the test split has images, '
    'of composed sets ten for each feature at least.',
    lower_bound=2,
  )
  flags.DEFINE_integer(
    'num_images',
    None,
    f'Test images whose NLL is estimated; else {NUM_IMAGES}, or all.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'num_draws',
    NUM_DRAWS,
    'Draws of z for each of the test images.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'step', None, "Checkpoint's step; else the latest that is intact."
  )
  cli.define_seed('Seed of all draws.')
  flags.DEFINE_bool('progress', True, 'Draw progress bars.')


def main(argv: Sequence[str]) -> None:
  """Measure the samples of the run that the flags name."""
  del argv
  values = flags.FLAGS
  workdir = cli.workdir()
  if not values.network:
    raise UserError('--network is missing, e.g. --network=digits_cnn')
  result = estimate(
    workdir,
    values.network,
    layer=values.layer,
    sizes=Sizes(values.num_samples, values.num_images, values.num_draws),
    step=values.step,
    seed=values.seed,
    data_dir=cli.DATA_DIR.value,
    show_progress=values.progress,
  )
  print(table(result))
  print(f'\nwrote {os.path.join(workdir, FILE)}')


if __name__ == '__main__':
  cli.run(main, define_flags)
