"""Table 2: the marginal KL of VAE+NVP under the ELBO and GECO.

  python -m experiments.table_2 --preset=quick --workdir=runs/table_2

Trains VAE+NVP twice on each of Color-MNIST and CIFAR-10 (`--only` chooses) and
prints KL[q(z); p(z)] beside the paper's numbers. q(z) is of the whole training
split, or of 60,000 compositions. On Color-MNIST in quick --num_steps=60000 take
half an hour on a CPU core.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from absl import flags

from geco_jax import cli
from geco_jax.datasets.batches import Dataset
from geco_jax.evaluation.aggregate_posterior import estimate
from geco_jax.sizes import SIZES
from geco_jax.sweep import results as sweep_results

from .results import findings
from .results.paper import PAPER
from .shared import runs
from .shared.runs import Run

KAPPA = 0.175  # The paper does not say which of its kappas it took.
_NUM_COMPOSED = 60_000


def runs_on(data: str) -> list[Run]:
  """Return the runs on a data set: the ELBO's, then GECO's."""
  return [
    Run(data, 'elbo', model='nvp'),
    Run(data, 'geco', {'re': KAPPA}, 'nvp'),
  ]


def row(
  data: str,
  workdir: str,
  preset: str,
  num_samples: int,
  num_steps: int | None = None,
  data_dir: str | None = None,
) -> dict[str, Any]:
  """Return one data set's numbers, training what is missing."""
  results = runs.train_all(
    runs_on(data),
    workdir,
    preset,
    num_steps,
    data_dir,
  )
  record: dict[str, Any] = {
    'data': data,
    **runs.provenance(preset),
    'steps': results[0].config.num_steps,
    'multiplier_rule': results[-1].config.multipliers.name,
  }
  for result in results:
    kl = estimate(
      os.path.join(workdir, result.run.name),
      num_samples,
      num_data=_num_data(result.experiment.dataset),
      experiment=result.experiment,
    )
    record[result.run.objective] = {'evaluation': result.evaluation} | kl
  return record | _ratio(record['elbo'], record['geco'])


def _ratio(
  elbo: Mapping[str, Any], geco: Mapping[str, Any]
) -> dict[str, float | bool]:
  """Return the ratio of two marginal KLs, or a bound below it.

  The estimate of a KL near 0 may be anything within its error.
  """
  least = 2 * geco['marginal_kl_error_nats']
  kl = geco['marginal_kl_nats']
  return {
    'ratio': elbo['marginal_kl_nats'] / max(kl, least),
    'ratio_is_bound': kl < least,
  }


def _num_data(dataset: Dataset) -> int:
  """Return how many examples make q(z): if composed, as many as MNIST has."""
  if dataset.is_composed:
    return _NUM_COMPOSED
  return len(dataset.splits['train'].label)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Return the rows as text."""
  cells = []
  for row in rows:
    paper = PAPER[row['data']]
    for objective, paper_kl in paper._asdict().items():
      result = row[objective]
      cells.append(
        {
          'data': row['data'],
          'objective': objective,
          'marginal KL': f'{result["marginal_kl_nats"]:.2f}',
          'error': f'{result["marginal_kl_error_nats"]:.2f}',
          'average KL': f'{result["average_kl_nats"]:.1f}',
          'RMSE': f'{result["evaluation"]["rmse"]:.4f}',
          'marginal KL in the paper': f'{paper_kl:.1f}',
        }
      )
    cells.append(
      {
        'objective': 'ratio',
        'marginal KL': findings.ratio_text(row),
        'marginal KL in the paper': f'{paper.elbo / paper.geco:.1f}',
      }
    )
  return sweep_results.as_text(cells)


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum('preset', 'quick', [*SIZES], 'Size: the config variant.')
  flags.DEFINE_multi_enum('only', [*PAPER], [*PAPER], 'Data sets.')
  flags.DEFINE_integer(
    'num_samples', 1_000, 'Samples of each marginal KL.', lower_bound=2
  )


def main(argv: Sequence[str]) -> None:
  """Train what is missing, print the table and write the numbers."""
  del argv
  workdir = cli.workdir()
  path = os.path.join(workdir, 'table_2.json')
  rows = {}
  for data in flags.FLAGS.only:
    data_row = row(
      data,
      workdir,
      flags.FLAGS.preset,
      flags.FLAGS.num_samples,
      runs.NUM_STEPS.value,
      cli.DATA_DIR.value,
    )
    rows = runs.save_row(path, data, data_row)
  print(table([*rows.values()]))
  print(f'\nnumbers: {path}')


if __name__ == '__main__':
  cli.run(main, define_flags)
