"""The evaluation of a run's checkpoint, written to the run's folder."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from geco_jax import console
from geco_jax import parallel
from geco_jax.build import run_inputs
from geco_jax.datasets.images import SPLITS
from geco_jax.errors import UserError
from geco_jax.evaluation import measures
from geco_jax.evaluation import pictures
from geco_jax.evaluation import verdicts
from geco_jax.evaluation.restored import open_run
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.io import by_products
from geco_jax.io import manifest


def evaluate(
  workdir: str,
  splits: Sequence[str] = ('train', 'test'),
  *,
  data_dir: str | None = None,
  experiment: Experiment | None = None,
  step: int | None = None,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Evaluate a run's checkpoint; write evaluation.json and pictures.

  Args:
    workdir: the run's directory.
    splits: names of splits, most wanted first.
    data_dir: TFDS data directory.
    experiment: the run's, for callers that have built it; None builds it.
    step: checkpoint to load; None is the latest that is intact.
    show_progress: whether to say what is evaluated and draw a progress bar on
      stderr.

  Returns:
    What evaluation.json holds.

  Raises:
    UserError: if there is no such run, checkpoint or split, or the run was
      trained on other data.
  """
  unknown = [split for split in splits if split not in SPLITS]
  if unknown or not splits:
    raise UserError(
      f'--split must name any of {", ".join(SPLITS)}, got '
      f'{",".join(splits) or "nothing"}'
    )
  is_built_here = experiment is None  # Callers that have one say what they do.
  config, experiment = open_run(workdir, data_dir, experiment)
  inputs = run_inputs(config, experiment)
  state = restore_state(workdir, experiment, step)
  if is_built_here and show_progress and parallel.is_main_process():
    console.say(
      f'evaluating step {int(state.step):,} on {", ".join(splits)}, in '
      f'{workdir}; the first draws compile, which takes seconds to minutes'
    )
  evaluation = measures.evaluate_state(
    experiment, inputs, state, splits, show_progress=show_progress
  )
  # The rounding of all these numbers depends on it.
  widths = manifest.runs_at_once(workdir, int(state.step))
  evaluation['runs_at_once'] = widths[0] if len(widths) == 1 else widths or None
  if parallel.is_main_process():
    path = os.path.join(workdir, 'evaluation.json')
    by_products.write_sealed(path, evaluation)
    are_met = _are_met(evaluation)
    for split in splits:
      images = experiment.dataset.splits[split]
      shown = pictures.image_rows(experiment, images)(state.params)
      path = os.path.join(workdir, f'reconstructions_{split}.png')
      labels = pictures.row_labels(experiment.dataset, are_met)
      pictures.save_png(path, pictures.grid(shown), labels)
  return evaluation


def _are_met(evaluation: Mapping[str, Any]) -> bool:
  """Return whether no constraint is known to be violated.

  Constraints are about the training split: if it is not evaluated, there is no
  verdict.
  """
  records = evaluation, *evaluation['other_splits'].values()
  return all(verdicts.are_met(r) for r in records if r['split'] == 'train')
