"""Runs of one model on one data set with one objective, by name.

They live in `WORKDIR/DATASET_MODEL_OBJECTIVE_KAPPAS`, with `_seed_SEED` at the
end unless the seed is 0. Existing runs are neither trained nor evaluated again,
and experiments that share a workdir share their runs.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import config_files
from geco_jax import parallel
from geco_jax.build import experiment_key
from geco_jax.classifiers import pretrained
from geco_jax.config_tree import without_sweep
from geco_jax.constraints import CONSTRAINTS
from geco_jax.errors import UserError
from geco_jax.evaluation import sample_quality
from geco_jax.evaluation import verdicts
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.io import by_products
from geco_jax.io.files import write_json
from geco_jax.io.lock import taking_turns
from geco_jax.io.logs import read_metrics
from geco_jax.io.provenance import trained_on
from geco_jax.sweep import local
from geco_jax.sweep import throughput
from geco_jax.sweep.completion import final_evaluation
from geco_jax.sweep.grid import Point

NUM_STEPS = flags.DEFINE_integer(
  'num_steps',
  None,
  "Training steps of each run; else the config's.",
  lower_bound=1,
)
EVALUATED_SPLITS = ('train',)  # What each run is evaluated on.
_TITLES = {
  'elbo': 'ELBO',
  'annealed_beta': r'ELBO, annealed $\beta$',
}
_NO_CHANGES: Mapping[str, Any] = {}


class Run(NamedTuple):
  """One run of a figure."""

  data: str  # The DATA in configs/DATA_MODEL.py.
  objective: str  # 'elbo', 'annealed_beta' or 'geco'.
  kappas: Mapping[str, float] = {}  # Constraint of GECO -> its kappa.
  model: str = 'conv_draw'
  seed: int = 0

  @property
  def name(self) -> str:
    """Name of its folder."""
    parts = [self.data, self.model, self.objective]
    parts += [f'{k}_{v:g}' for k, v in self.kappas.items()]
    return '_'.join(parts + ([f'seed_{self.seed}'] if self.seed else []))

  @property
  def title(self) -> str:
    """Title for people, without the data set."""
    if not self.kappas:
      return _TITLES[self.objective]
    return 'GECO+' + '+'.join(
      rf'{CONSTRAINTS[name].title} $\kappa$={kappa:g}'
      for name, kappa in self.kappas.items()
    )

  def config(
    self,
    preset: str | None = None,
    num_steps: int | None = None,
    changes: Mapping[str, Any] = _NO_CHANGES,
  ) -> ConfigDict:
    """Return the run's config.

    Args:
      preset: the config's variant, of a model that has them.
      num_steps: training steps, if not the config's.
      changes: values that the config is to have instead, by dotted name.
    """
    objective = '+'.join([self.objective, *self.kappas])
    variant = f'{preset},{objective}' if preset else objective
    config = config_files.load(f'{self.data}_{self.model}:{variant}')
    for name, kappa in self.kappas.items():
      config.constraints[name].kappa = kappa
    config.seed = self.seed
    config.update_from_flattened_dict(changes)
    if num_steps is not None:
      config.num_steps = num_steps
    return config.lock()


class Result(NamedTuple):
  """The outcome of a run."""

  run: Run
  config: ConfigDict
  experiment: Experiment  # Shared by runs of the same key.
  evaluation: Mapping[str, Any]
  infeasible: Sequence[str]  # A sentence per constraint that was out of reach.
  preset: str | None
  rested: bool | None = None  # Whether it is at rest; None if not known.
  sample_quality: Mapping[str, Any] | None = None  # None if not measured.
  folder: str = ''

  def params(self) -> Any:
    """Return the parameters of the last checkpoint, read again at each call."""
    return restore_state(self.folder, self.experiment).params


def define_seed_flags() -> None:
  """Define --seed and --num_seeds, for `with_seeds`."""
  flags.DEFINE_integer('seed', 0, 'Seed of the first run.', lower_bound=0)
  flags.DEFINE_integer(
    'num_seeds', 1, 'Runs of each kind, with seeds in a row.', lower_bound=1
  )


def define_network_flag() -> None:
  """Define --network, for `with_sample_quality`."""
  flags.DEFINE_string(
    'network',
    None,
    'Trained classifier, in whose features the samples of each run are '
    'compared with the test split (geco-jax sample_quality); else they are '
    'not, but for runs that have sample_quality.json.',
  )


def with_sample_quality(
  results: Sequence[Result], network: str | None, data_dir: str | None
) -> list[Result]:
  """Measure the samples of the runs that this network has not measured.

  Runs on one data set are measured by one layer and number of samples, those of
  the runs that the network has measured, or the default's if these differ.

  Args:
    results: any.
    network: `sample_quality.estimate`'s; None leaves the results as they are.
    data_dir: TFDS data directory.

  Raises:
    UserError: if there is no such network, or it takes other images.
  """
  if network is None:
    return [*results]
  digest = pretrained.sha256(network)
  by_data: dict[str, set[tuple[str, int]]] = {}
  for result in results:
    by_data.setdefault(result.run.data, set()).update(_settings(result, digest))
  agreed = {
    data: settings.pop() if len(settings) == 1 else (None, None)
    for data, settings in by_data.items()
  }
  return [
    result
    if agreed[result.run.data] in _settings(result, digest)
    else _measured(result, network, *agreed[result.run.data], data_dir)
    for result in results
  ]


def _settings(result: Result, digest: str) -> set[tuple[str, int]]:
  """Return layer and number of samples, if this network measured the run."""
  frechet = (result.sample_quality or {}).get('frechet', {})
  if frechet.get('network_sha256') != digest:
    return set()
  return {(frechet['layer'], frechet['num_samples'])}


def _measured(
  result: Result,
  network: str,
  layer: str | None,
  num_samples: int | None,
  data_dir: str | None,
) -> Result:
  """Return the result with its samples measured, as `estimate` says."""
  quality = sample_quality.estimate(
    result.folder,
    network,
    layer=layer,
    sizes=sample_quality.Sizes(num_samples),
    data_dir=data_dir,
    experiment=result.experiment,
  )
  return result._replace(sample_quality=quality)


def with_seeds(runs: Sequence[Run]) -> list[Run]:
  """Return the runs at each of the seeds that the flags name."""
  first = flags.FLAGS.seed
  seeds = range(first, first + flags.FLAGS.num_seeds)
  return [run._replace(seed=seed) for run in runs for seed in seeds]


def points_of(
  runs: Sequence[Run],
  preset: str | None = None,
  num_steps: int | None = None,
  changes: Mapping[str, Any] = _NO_CHANGES,
) -> dict[str, Point]:
  """Return the points that `train_all` trains, each once, by name."""
  return {
    run.name: Point(
      run.name, {}, without_sweep(run.config(preset, num_steps, changes))
    )
    for run in runs
  }


def train_all(
  runs: Sequence[Run],
  workdir: str,
  preset: str | None = None,
  num_steps: int | None = None,
  data_dir: str | None = None,
  changes: Mapping[str, Any] = _NO_CHANGES,
) -> list[Result]:
  """Train the runs, or reuse them, and evaluate them.

  Args:
    runs: any.
    workdir: parent of the runs' folders.
    preset: of the configs, if they have presets.
    num_steps: training steps of each run, if not the configs'.
    data_dir: TFDS data directory.
    changes: values that the configs are to have instead, by dotted name.

  Raises:
    UserError: if a config is refused, or a run failed (the others are finished
      then) or has lost its evaluation.
  """
  grid = points_of(runs, preset, num_steps, changes)
  points = [*grid.values()]
  experiments = local.build_experiments(points, data_dir)
  failed = local.run_here(
    points,
    workdir,
    throughput.on_accelerators(workdir),
    splits=EVALUATED_SPLITS,
    experiments=experiments,
  )
  local.raise_failures(failed)
  results = []
  for run in runs:
    point, folder = grid[run.name], os.path.join(workdir, run.name)
    experiment = experiments[experiment_key(point.config)]
    evaluation = final_evaluation(point, workdir, EVALUATED_SPLITS)
    reports, logged = evaluation['constraints'], read_metrics(folder)
    results.append(
      Result(
        run=run,
        config=point.config,
        experiment=experiment,
        evaluation=evaluation,
        infeasible=[*verdicts.infeasibility_sentences(reports, logged)],
        preset=preset,
        sample_quality=sample_quality.read(folder, evaluation['step']),
        folder=folder,
      )
    )
  return results


def table(results: Sequence[Result]) -> str:
  """Return the runs as text: what was asked, what was reached, at what KL."""
  width = max(len(result.run.name) for result in results)
  lines = [f'{"run":<{width}}   KL/nats     RMSE  NLL/dim  constraints']
  for result in results:
    evaluation = result.evaluation
    asked = ', '.join(
      f'{name} {c["value"]:.4g} for {c["kappa"]:g} '
      f'{verdicts.read(evaluation, name, result.infeasible)} '
      f'at lambda {c["multiplier"]:.3g}'
      for name, c in evaluation['constraints'].items()
      if name in result.run.kappas
    )
    lines.append(
      f'{result.run.name:<{width}} {evaluation["kl_nats"]:>9.2f} '
      f'{evaluation["rmse"]:>8.4f} {evaluation["nll_nats_per_dim"]:>8.3f}  '
      f'{asked}'.rstrip()
    )
  return '\n'.join(lines)


def provenance(preset: str | None) -> dict[str, Any]:
  """Return what a results file says about the origin of its numbers."""
  return {
    'preset': preset,
    'device': parallel.device_name(),
    'num_devices': parallel.num_devices(),
    'num_cores': parallel.num_cores(),
  }


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
  """Return the record that is written of each run."""
  return [
    {
      'run': result.run.name,
      **result.run._asdict(),
      'steps': result.config.num_steps,
      'multiplier_rule': result.config.multipliers.name,
      **trained_on(result.folder),
      'infeasible': [*result.infeasible],
      'evaluation': result.evaluation,
      **{
        name: value
        for name in ('rested', 'sample_quality')
        if (value := getattr(result, name)) is not None
      },
    }
    for result in results
  ]


def training_log(folder: str) -> dict[str, np.ndarray]:
  """Return the lines that training wrote of a run, each value [lines].

  Raises:
    UserError: if the log is gone, which nothing but training can write.
  """
  log = read_metrics(folder)
  if 'loss' not in log:
    raise UserError(f'{folder} has lost its log; delete it to train it again')
  return {
    name: values[np.isfinite(log['loss'])] for name, values in log.items()
  }


def thinned(values: np.ndarray, most: int) -> np.ndarray:
  """Return at most so many of values, at equal distances up to the last."""
  stride = -(-len(values) // most)
  return values[::-1][::stride][::-1]


def save_row(
  path: str, name: str, row: Mapping[str, Any], *, keep: bool = False
) -> dict[str, Any]:
  """Put a row into a JSON file of rows by name; return all of them.

  The rows of an experiment can thus be run one by one, each in the preset that
  time allows.

  Args:
    path: the file's path.
    name: name of the row.
    row: what is known of it.
    keep: whether the runs of other names stay that the file's row of this name
      has, if it is of the same preset, and as short.
  """
  with taking_turns(os.path.dirname(path)):
    rows = written(path)
    earlier = rows.get(name, {}) if keep else {}
    is_same = all(earlier.get(k) == row.get(k) for k in ('preset', 'short'))
    if is_same and 'runs' in earlier:
      row = {**row, 'runs': _joined(earlier['runs'], row['runs'])}
    rows[name] = row
    write_json(path, rows)
  return rows


def save_records(
  path: str, results: Sequence[Result], *, keep: bool = False
) -> None:
  """Write the runs and their evaluations as JSON.

  Args:
    path: the file's path.
    results: of one preset, at least one.
    keep: whether the file's runs of other names stay.
  """
  header = provenance(results[0].preset)
  with taking_turns(os.path.dirname(path)):
    kept = written(path).get('runs', []) if keep else []
    write_json(path, {**header, 'runs': _joined(kept, records(results))})


def _joined(
  kept: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
  """Return the records of all runs, of each name the new one."""
  return [*{record['run']: record for record in (*kept, *new)}.values()]


def written(path: str) -> dict[str, Any]:
  """Return what a file of numbers holds already, {} if there is no file.

  Raises:
    UserError: if it is damaged: its content must not be overwritten.
  """
  try:
    with open(path) as file:
      return _numbers(json.load(file))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} is damaged: {error}; move it away to begin it anew'
    ) from error


def _numbers(content: Any) -> dict[str, Any]:
  """Return the content of a file of runs, or of rows, if it is one."""
  content = by_products.mapping(content, object)
  if 'runs' in content:
    rows = {'': content}
  else:
    rows = by_products.mapping(content, dict)
  for row in rows.values():
    for record in row.get('runs', []):
      if not isinstance(record, dict) or 'run' not in record:
        raise ValueError(f'a run without a name: {record!r}')
  return content
