r"""Show what tolerances mean on a data set, before anything is trained.

  python -m geco_jax.choose_kappa --config=configs/digits_vae.py \
      --workdir=runs/digits_kappas

For each of --kappas: training images reconstructed at exactly that RMSE per
pixel, and the rate of a Gaussian with the data's covariance (`gaussian_rate`),
which the KL of a good model stays below. The reconstructions are those of a
principal component analysis, the last component shrunk; the data stand above.

Only the config's data set and the kappa of its `re` count. Writes
choose_kappa.png and choose_kappa.json. Seconds for small images; for 12,288
pixels times channels the covariance's eigenvalues take minutes.
"""

from collections.abc import Mapping, Sequence
import math
import os
from typing import Any

from absl import flags
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import cli
from geco_jax.base_config import PAPER_KAPPAS
from geco_jax.build import build_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.errors import UserError
from geco_jax.evaluation import gaussian_rate
from geco_jax.evaluation import pictures
from geco_jax.evaluation.gaussian_rate import Spectrum
from geco_jax.io.files import write_json
from geco_jax.io.run_folder import create

_COLUMNS = 12  # Images in a row of the picture.


def describe(
  dataset: Dataset, spectrum: Spectrum, kappas: Sequence[float]
) -> dict[str, Any]:
  """Describe a data set and each kappa on it.

  Args:
    dataset: any.
    spectrum: its own.
    kappas: RMSEs per pixel, > 0.

  Raises:
    UserError: if a kappa is not above 0.
  """
  curve = gaussian_rate.curve(dataset, kappas, spectrum)
  num_dims = len(spectrum.mean)
  return {
    'dataset': dataset.name,
    'num_examples': len(dataset.splits['train'].image),
    'num_dims': num_dims,
    # A kappa above the mean image's RMSE asks for nothing.
    'rmse_of_mean': math.sqrt(spectrum.eigenvalues.sum() / num_dims),
    'kappas': [
      {
        'kappa': kappa,
        'components': len(gaussian_rate.pca_gains(spectrum, kappa)),
        'rate_nats': float(rate),
        'rate_bits': float(rate) / math.log(2),
        'nll_nats_per_dim': float(nll),
      }
      for kappa, rate, nll in zip(
        kappas, curve.rate_nats, curve.nll_nats_per_dim, strict=True
      )
    ],
  }


def table(description: Mapping[str, Any]) -> str:
  """Return a description as text, a line per kappa."""
  lines = [
    f'{description["dataset"]}: {description["num_examples"]} training images '
    f'of {description["num_dims"]} numbers; the mean image has RMSE '
    f'{description["rmse_of_mean"]:.4f}',
    '  kappa  PCA components  rate/nats  rate/bits',
  ]
  for row in description['kappas']:
    lines.append(
      f'{row["kappa"]:>7g} {row["components"]:>15} {row["rate_nats"]:>10.2f} '
      f'{row["rate_bits"]:>10.2f}'
    )
  return '\n'.join(lines)


def rows(
  dataset: Dataset, spectrum: Spectrum, kappas: Sequence[float]
) -> np.ndarray:
  """Return training images and, below, their reconstructions per kappa.

  Args:
    dataset: any.
    spectrum: its own.
    kappas: RMSEs per pixel, > 0.

  Returns:
    float32 [1 + kappas, columns, height, width, channels].
  """
  batch = pictures.shown_batch(dataset, dataset.splits['train'], _COLUMNS)
  reconstructions = [
    gaussian_rate.pca_reconstructions(spectrum, kappa, batch.image)
    for kappa in kappas
  ]
  return pictures.stack_rows(dataset, batch.image, *reconstructions)


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_list(
    'kappas',
    None,
    "RMSEs per pixel; by default the paper's and that of the config's re.",
  )


def _default_kappas(config: ConfigDict) -> list[float]:
  """Return the paper's kappas and the config's own, ascending."""
  constraints = config.get('constraints', {})
  own = [constraints.re.kappa] if 're' in constraints else []
  return sorted({*PAPER_KAPPAS, *own})


def main(argv: Sequence[str]) -> None:
  """Describe the kappas that the flags name."""
  del argv
  config, workdir = cli.config(), cli.workdir()
  kappas = _default_kappas(config)
  if (texts := flags.FLAGS.kappas) is not None:
    try:
      kappas = sorted(map(float, texts))
    except ValueError as error:
      raise UserError(
        f'--kappas must be numbers, got {",".join(texts)}'
      ) from error
  if not kappas:
    raise UserError('--kappas is empty; name at least one')
  gaussian_rate.check_kappas(kappas)
  dataset = build_dataset(config, cli.DATA_DIR.value)
  create(workdir)  # Fails here, not after minutes.
  spectrum = gaussian_rate.spectrum(dataset)
  description = describe(dataset, spectrum, kappas)
  print(table(description))
  numbers = os.path.join(workdir, 'choose_kappa.json')
  write_json(numbers, description)
  picture = os.path.join(workdir, 'choose_kappa.png')
  grid = pictures.grid(rows(dataset, spectrum, kappas))
  labels = ['data', *(f'kappa {kappa:g}' for kappa in kappas)]
  pictures.save_png(picture, grid, labels)
  print(f'\nnumbers: {numbers}')
  print(f'picture: {picture}')


if __name__ == '__main__':
  cli.run(main, define_flags, takes_config=True)
