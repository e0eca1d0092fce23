r"""Evaluate a run on whole splits.

  python -m geco_jax.evaluate --workdir=runs/digits [--split=train,test]

Writes evaluation.json and, per split, a picture of data, reconstructions
and samples. The first split is the file's top level, the others stand under
`other_splits`. A constraint is a statement about the training data (Eq. 1),
hence the default order, and it is met, violated or infeasible on these alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from geco_jax import cli
from geco_jax.datasets.images import SPLITS
from geco_jax.evaluation.checkpoints import evaluate


def table(evaluation: Mapping[str, Any]) -> str:
  """Return the evaluation as a table, a line per split."""
  records = [evaluation, *evaluation['other_splits'].values()]
  lines = [
    f'{"split":<11}{"images":>8}{"KL/nats":>10}{"RMSE":>9}{"NLL/dim":>10}'
    f'{"bits/dim":>10}{"ELBO/nats":>12}  constraints'
  ]
  for r in records:
    constraints = ', '.join(
      _reached(name, report) for name, report in r['constraints'].items()
    )
    lines.append(
      f'{r["split"]:<11}{r["num_examples"]:>8}{r["kl_nats"]:>10.3f}'
      f'{r["rmse"]:>9.4f}{r["nll_nats_per_dim"]:>10.4f}'
      f'{r["nll_bits_per_dim"]:>10.4f}{r["elbo_nats"]:>12.2f}  {constraints}'
    )
  return '\n'.join(lines)


def _reached(name: str, report: Mapping[str, Any]) -> str:
  """Return a constraint's value on a split, and the verdict if any."""
  more = [f'C/scale {report["violation"]:+.2%}']
  if 'verdict' in report:
    more += [report['verdict'], f'lambda {report["multiplier"]:.4g}']
  return (
    f'{name} {report["value"]:.4f} vs kappa {report["kappa"]:g} '
    f'({", ".join(more)})'
  )


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_list(
    'split',
    ['train', 'test'],
    f'Any of {", ".join(SPLITS)}, most wanted first.',
  )
  flags.DEFINE_integer(
    'step', None, "Checkpoint's step; else the latest that is intact."
  )
  flags.DEFINE_bool('progress', True, 'Draw a progress bar.')


def main(argv: Sequence[str]) -> None:
  """Evaluate the run that the flags name."""
  del argv
  splits = [*dict.fromkeys(flags.FLAGS.split)]
  evaluation = evaluate(
    cli.workdir(),
    splits,
    data_dir=cli.DATA_DIR.value,
    step=flags.FLAGS.step,
    show_progress=flags.FLAGS.progress,
  )
  print(table(evaluation))
  if 'train' not in splits:
    print('\nno verdict: constraints are about the train split')
  print(f'\nwrote evaluation.json and pictures to {cli.workdir()}')


if __name__ == '__main__':
  cli.run(main, define_flags)
