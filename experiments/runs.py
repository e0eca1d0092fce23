"""Runs of one model on one data set with one objective, by name.

They live in `WORKDIR/DATASET_MODEL_OBJECTIVE_KAPPAS`: what is there already is
not trained again, and experiments that share a workdir share their runs.
"""

from collections.abc import Mapping, Sequence
import importlib
import os
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_dict import ConfigDict

from geco_jax import training
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.datasets.batches import Dataset
from geco_jax.evaluation import evaluate
from geco_jax.metrics import say
from geco_jax.workdir import write_json

NUM_STEPS = flags.DEFINE_integer(
  'num_steps', None, "Training steps of each run; else the config's."
)
_TITLES = {
  'elbo': 'ELBO',
  'annealed_beta': r'ELBO, annealed $\beta$',
  're': 'RE',
  'fre': 'FRE',
  'fre_stats': 'FRE of statistics',
  'cla': 'CLA',
  'pncc': 'pNCC',
}


class Run(NamedTuple):
  """One run of a figure."""

  data: str  # Of configs/DATA_MODEL.py.
  objective: str  # 'elbo', 'annealed_beta' or 'geco'.
  kappas: Mapping[str, float] = {}  # Of GECO's constraints.
  model: str = 'conv_draw'

  @property
  def name(self) -> str:
    """Of its folder."""
    parts = [self.data, self.model, self.objective]
    return '_'.join([*parts, *(f'{k}_{v:g}' for k, v in self.kappas.items())])

  @property
  def title(self) -> str:
    """For people, without the data set."""
    if not self.kappas:
      return _TITLES[self.objective]
    return 'GECO+' + '+'.join(
      rf'{_TITLES[name]} $\kappa$={kappa:g}'
      for name, kappa in self.kappas.items()
    )

  def config(
    self, preset: str | None = None, num_steps: int | None = None
  ) -> ConfigDict:
    """Returns the run's config, of a model that has them in a preset."""
    module = importlib.import_module(f'configs.{self.data}_{self.model}')
    objective = '+'.join([self.objective, *self.kappas])
    config = module.get_config(f'{preset},{objective}' if preset else objective)
    for name, kappa in self.kappas.items():
      config.constraints[name].kappa = kappa
    if num_steps is not None:
      config.num_steps = num_steps
    return config.lock()


class Result(NamedTuple):
  """What became of a run."""

  run: Run
  config: ConfigDict
  dataset: Dataset
  params: Any
  evaluation: Mapping[str, Any]


def train_all(
  runs: Sequence[Run],
  workdir: str,
  preset: str | None = None,
  num_steps: int | None = None,
  data_dir: str | None = None,
) -> list[Result]:
  """Trains the runs, or reuses them, and evaluates them.

  Args:
    runs: any.
    workdir: parent of the runs' folders.
    preset: of the configs, if they have presets.
    num_steps: training steps of each run, if not the configs'.
    data_dir: of TFDS.
  """
  configs = [each.config(preset, num_steps) for each in runs]
  datasets = {
    each.data: build_dataset(config, data_dir)
    for each, config in zip(runs, configs, strict=True)
  }
  for each, config in zip(runs, configs, strict=True):
    build(config, datasets[each.data])  # Refuses before an hour has passed.
  results = []
  for each, config in zip(runs, configs, strict=True):
    say(each.name)
    dataset = datasets[each.data]
    folder = os.path.join(workdir, each.name)
    state = training.train(config, folder, dataset=dataset)
    evaluation = evaluate(folder, ('train',), dataset=dataset)
    results.append(Result(each, config, dataset, state.params, evaluation))
  return results


def table(results: Sequence[Result]) -> str:
  """Returns the runs as text: what was asked, what was reached, at what KL."""
  width = max(len(result.run.name) for result in results)
  lines = [f'{"run":<{width}}   KL/nats     RMSE  NLL/dim  constraints']
  for result in results:
    evaluation = result.evaluation
    asked = ', '.join(
      f'{name} {c["value"]:.4g} for {c["kappa"]:g} '
      f'{"met" if c["holds"] else "violated"} at lambda {c["multiplier"]:.3g}'
      for name, c in evaluation['constraints'].items()
      if name in result.run.kappas
    )
    lines.append(
      f'{result.run.name:<{width}} {evaluation["kl_nats"]:>9.2f} '
      f'{evaluation["rmse"]:>8.4f} {evaluation["nll_nats_per_dim"]:>8.3f}  '
      f'{asked}'.rstrip()
    )
  return '\n'.join(lines)


def save_records(path: str, results: Sequence[Result]) -> None:
  """Writes the runs' names and evaluations as JSON."""
  records = [
    {'run': result.run.name, 'evaluation': result.evaluation}
    for result in results
  ]
  write_json(path, records)
