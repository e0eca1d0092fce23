r"""Update rules of the multipliers on one set of tasks: why `geco` is as it is.

  python -m geco_jax.train_classifier \
      --config=configs/classifiers/digits_cnn.py
  python -m experiments.multiplier_rules --preset=quick --workdir=runs/rules

Compares `rival_multipliers.RULES`, of which `geco` is each config as it stands,
over `TASKS`: both can be chosen, with --rules and --only, as comma lists of
names. multiplier_rules.json and multiplier_rules.png keep the runs that they
have, and the same command goes on with an interrupted one. A run lives in
WORKDIR/RULE/STEPS/RUN and is an ordinary one, except that only this command
knows a rival's rule. `multiplier_comparison` says what is compared.
"""

from collections.abc import Mapping, Sequence
import itertools
import math
import os
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax import cli
from geco_jax import rules
from geco_jax.build import experiment_key
from geco_jax.config_tree import without_sweep
from geco_jax.errors import UserError
from geco_jax.evaluation import verdicts
from geco_jax.experiment import Experiment
from geco_jax.io import files
from geco_jax.io import lock
from geco_jax.io.provenance import trained_on
from geco_jax.sweep import local
from geco_jax.sweep import throughput
from geco_jax.sweep.completion import final_evaluation
from geco_jax.sweep.grid import Point

from .shared import rival_multipliers
from .shared import runs
from .shared.multiplier_comparison import against
from .shared.multiplier_comparison import compared
from .shared.multiplier_comparison import figure
from .shared.multiplier_comparison import table
from .shared.rival_multipliers import RULES
from .shared.runs import Run
from .shared.small_png import write_small_png

# A rival's run is then like any other, its config.json included.
rules.MULTIPLIERS |= rival_multipliers.CONSTRUCTORS


class Task(NamedTuple):
  """Runs of one config that all rules are given."""

  name: str
  data: str  # The DATA in configs/DATA_MODEL.py.
  model: str
  kappas: Sequence[Mapping[str, float]]  # One run for each.
  steps: Sequence[int]  # Each run is trained for each of these lengths.
  variant: str | None = None  # Variant of the config.


class Job(NamedTuple):
  """A run of a task under a rule."""

  task: Task
  rule: str
  run: Run
  point: Point  # The run as a point of a sweep, named by its folder.
  experiment: Experiment  # Shared with runs that agree in its key.

  @property
  def name(self) -> str:
    """The run's folder within the workdir."""
    return self.point.name

  @property
  def config(self) -> ConfigDict:
    """The config of the run."""
    return self.point.config


def _re(*kappas: float) -> Sequence[Mapping[str, float]]:
  return [{'re': kappa} for kappa in kappas]


_QUICK = (
  Task(
    'digits_vae', 'digits', 'vae', _re(0.06, 0.1, 0.15), (1_000, 2_000, 4_000)
  ),
  Task('digits_cla', 'digits', 'vae', [{'cla': 0.9}], (1_000, 4_000)),
  Task('digits_pncc', 'digits', 'vae', [{'pncc': 0.8}], (1_000, 4_000)),
  Task('digits_stats', 'digits', 'vae', [{'fre_stats': 0.05}], (1_000, 4_000)),
  Task('digits_fre', 'digits', 'vae', [{'fre': 0.5}], (1_000, 4_000)),
  Task(
    'digits_re_cla', 'digits', 'vae', [{'re': 0.1, 'cla': 0.9}], (1_000, 4_000)
  ),
  Task('micro_mnist_nvp', 'micro_mnist', 'nvp', _re(0.05), (12_000,), 'digits'),
  Task(
    'color_mnist_nvp', 'color_mnist', 'nvp', _re(0.1, 0.175), (5_000,), 'quick'
  ),
  Task('mnist_vae', 'mnist', 'vae', _re(0.1), (3_000,)),
)
# Tasks of over half an hour on two CPU cores are only in full.
PRESETS = {
  'quick': _QUICK,
  'full': (
    *_QUICK,
    Task('mnist_vae_others', 'mnist', 'vae', _re(0.08, 0.15), (3_000,)),
    Task('mnist_vae_long', 'mnist', 'vae', _re(0.08, 0.1, 0.15), (20_000,)),
    Task(
      'mnist_conv_draw',
      *('mnist', 'conv_draw', _re(0.06, 0.1, 0.175), (1_500,), 'quick'),
    ),
    Task(
      'cifar10_conv_draw',
      *('cifar10', 'conv_draw', _re(0.06, 0.1, 0.175), (1_500,), 'quick'),
    ),
    Task(
      'mnist_triplets_conv_draw',
      *('mnist_triplets', 'conv_draw', _re(0.1), (4_000,), 'quick'),
    ),
    Task(
      'cifar10_conv_draw_fre',
      *('cifar10', 'conv_draw', [{'fre': 0.5}], (1_500,), 'quick'),
    ),
    Task(
      'color_mnist_nvp_others',
      *('color_mnist', 'nvp', _re(0.06), (5_000,), 'quick'),
    ),
    Task(
      'cifar10_nvp',
      *('cifar10', 'nvp', _re(0.06, 0.1, 0.175), (10_000,), 'quick'),
    ),
  ),
}
TASKS = {task.name: task for task in PRESETS['full']}


def jobs(
  tasks: Sequence[Task],
  rules: Sequence[str],
  seeds: Sequence[int] = (0,),
  num_steps: int | None = None,
  data_dir: str | None = None,
) -> tuple[list[Job], dict[str, str]]:
  """Return the runs of tasks under rules, task by task.

  A task whose data set or classifier is not at hand, or whose config is
  refused, is left out with a printed line.

  Args:
    tasks: those of `TASKS`, or others.
    rules: names of `RULES`.
    seeds: of each run.
    num_steps: training steps of each run, if not the tasks'.
    data_dir: TFDS data directory.

  Returns:
    The runs, and by name why a task is left out.

  Raises:
    UserError: if nothing is left.
  """
  listed, left_out = [], {}
  for task in tasks:
    task_runs = [
      Run(task.data, 'geco', kappas, task.model, seed)
      for kappas in task.kappas
      for seed in seeds
    ]
    planned = [
      (rule, run, _point(task, rule, run, steps))
      for steps in (task.steps if num_steps is None else [num_steps])
      for rule in rules
      for run in task_runs
    ]
    points = [point for _, _, point in planned]
    try:
      experiments = local.build_experiments(points, data_dir)
    except UserError as error:
      left_out[task.name] = str(error)
      print(f'{task.name} is left out: {error}')
      continue
    listed += [
      Job(task, rule, run, point, experiments[experiment_key(point.config)])
      for rule, run, point in planned
    ]
  if not listed:
    raise UserError('there is no task to run')
  return listed, left_out


def _point(task: Task, rule: str, run: Run, steps: int) -> Point:
  """Return a task's run under a rule as a point, named by its folder."""
  config = config_of(task, rule, run, steps)
  return Point(f'{rule}/{config.num_steps}/{run.name}', {}, config)


def config_of(task: Task, rule: str, run: Run, steps: int) -> ConfigDict:
  """Return the config of a task's run under a rule, for a number of steps."""
  config = run.config(task.variant, steps)
  multipliers = RULES[rule].multipliers(config)
  if multipliers is not None:
    with config.unlocked():
      config.multipliers = multipliers
  return without_sweep(config)


def train(task_jobs: Sequence[Job], workdir: str) -> dict[str, str]:
  """Train and evaluate those runs that are not finished.

  Args:
    task_jobs: runs of one task.
    workdir: parent of the rules' folders.

  Returns:
    Why runs failed, by name: for instance by a loss that is not finite.
  """
  return local.run_here(
    [job.point for job in task_jobs],
    workdir,
    throughput.on_accelerators(workdir),
    splits=runs.EVALUATED_SPLITS,
    experiments={job.experiment.key: job.experiment for job in task_jobs},
  )


def record(job: Job, workdir: str) -> dict[str, Any]:
  """Return the record of a finished run, read from its folder.

  Raises:
    UserError: if its evaluation or its log is gone.
  """
  evaluation = final_evaluation(job.point, workdir, runs.EVALUATED_SPLITS)
  folder = os.path.join(workdir, job.name)
  log = runs.training_log(folder)
  reports = {}
  for name, report in evaluation['constraints'].items():
    constraint = job.experiment.constraints[name]
    peak = math.exp(log[f'{name}/log_multiplier'].max())
    reports[name] = {
      **{key: report[key] for key in ('violation', 'verdict', 'multiplier')},
      'peak_multiplier': max(peak, report['multiplier']),
      'natural_multiplier': report['multiplier'] / report['saturation'],
      'scale': float(constraint.scale(report['kappa'])),
    }
  worst = np.max([log[f'{name}/violation'] for name in reports], axis=0)
  met = np.flatnonzero(verdicts.is_met(worst, job.config.tolerance))
  return {
    'run': job.name,
    'task': job.task.name,
    'problem': job.run._replace(seed=0).name,
    'rule': job.rule,
    'kappas': dict(job.run.kappas),
    'steps': job.config.num_steps,
    'seed': job.run.seed,
    **trained_on(folder),
    'kl_nats': evaluation['kl_nats'],
    'constraints': reports,
    'verdict': verdicts.worst(report['verdict'] for report in reports.values()),
    'first_met': int(log['step'][met[0]]) if len(met) else None,
    # Training alone: the median leaves out the dispatch that compiles.
    'seconds': job.config.num_steps / float(np.median(log['steps_per_second'])),
  }


def save(path: str, entry: Mapping[str, Any], preset: str) -> dict[str, Any]:
  """Put a run into the file of numbers, which keeps the others; return it."""
  with lock.taking_turns(os.path.dirname(path)):
    kept = {other['run']: other for other in runs.written(path).get('runs', [])}
    records = {**kept, entry['run']: entry}
    content = {
      **runs.provenance(preset),
      'runs': sorted(compared([*records.values()]), key=_place),
    }
    files.write_json(path, content)
  return content


def _place(entry: Mapping[str, Any]) -> tuple[Any, ...]:
  """Return the sort key of a record in the file."""
  return (
    [*TASKS].index(entry['task']),
    *entry['kappas'].values(),
    *(entry['steps'], entry['seed'], [*RULES].index(entry['rule'])),
  )


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_enum('preset', 'quick', [*PRESETS], 'Set of tasks.')
  runs.define_seed_flags()
  for name, choices, text in (
    ('only', [*TASKS], 'Tasks, of whichever preset'),
    ('rules', [*RULES], 'Rules'),
  ):
    flags.DEFINE_list(name, None, f'{text}: any of {", ".join(choices)}.')
    flags.register_validator(
      name,
      lambda names, choices=choices: set(names or ()) <= set(choices),
      f'choose from {", ".join(choices)}',
    )


def main(argv: Sequence[str]) -> None:
  """Train what is missing, print the table and draw the figure."""
  del argv
  values = flags.FLAGS
  workdir = cli.workdir()
  named = [TASKS[name] for name in values.only or ()]
  listed, left_out = jobs(
    named or PRESETS[values.preset],
    values.rules or [*RULES],
    range(values.seed, values.seed + values.num_seeds),
    runs.NUM_STEPS.value,
    cli.DATA_DIR.value,
  )
  path = os.path.join(workdir, 'multiplier_rules')
  content = {}
  failed = left_out if named else {}
  for _, group in itertools.groupby(listed, lambda job: job.task):
    task_jobs = [*group]
    failed |= train(task_jobs, workdir)
    for job in task_jobs:
      if job.name in failed:
        continue
      try:
        entry = record(job, workdir)
      except UserError as error:  # The others are still recorded.
        failed[job.name] = str(error)
        continue
      content = save(f'{path}.json', entry, values.preset)
  if content:
    print(table(content))
    print(against(content))
    write_small_png(f'{path}.png', figure(content))
    print(f'\nnumbers: {path}.json\nfigure:  {path}.png')
  local.raise_failures(failed)


if __name__ == '__main__':
  cli.run(main, define_flags)
