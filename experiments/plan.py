r"""What the paper's figures would cost here, and which fit into some hours.

  python -m experiments.plan --hours=2 --preset=quick --workdir=runs/all
  python -m experiments.run_all --hours=2 --preset=quick --workdir=runs/all

Times a few steps of each program that a row needs on this machine, as it is
now, and prints what each row would cost, in the order of `WORTH`, in which
`run_all` runs them. Runs that are finished in the workdir are not counted
again. A row whose data set or classifier is not at hand is named.

Hours are of training and compilation, one run after another; evaluations and
pictures come on top. On an accelerator `run_all` trains several small runs at
once and is faster. With --until_rest Figures 4 and 5 are counted as if no
baseline rested before the cap. Programs compiled here stay in
--compilation_cache, for `run_all`.
"""

from collections.abc import Callable, Iterator, Sequence
import importlib
import math
import os
import tempfile
from typing import Any, NamedTuple

from absl import flags
from ml_collections.config_dict import ConfigDict

from geco_jax import cli
from geco_jax import config_files
from geco_jax.config_tree import without_sweep
from geco_jax.console import say
from geco_jax.errors import UserError
from geco_jax.sweep import completion
from geco_jax.sweep.grid import Point
from geco_jax.sweep.grid import points as grid_points

from .results.files import file_name
from .results.paper import PAPER
from .shared import planning
from .shared import runs
from .shared.planning import Command
from .shared.planning import Row
from .shared.runs import Run


class Preset(NamedTuple):
  """How large everything is."""

  variant: str  # Variant of the configs.
  short: bool  # Whether Figure 4's rows of 8x8 digits have short runs.
  micro_mnist: Sequence[str]  # Presets of Figure 8.
  rules: str  # The preset of `multiplier_rules`.
  robustness: bool  # Whether the map of step sizes is drawn.


PRESETS = {
  'quick': Preset('quick', True, ('digits',), 'quick', False),
  'full': Preset('quick', False, ('digits', 'mnist'), 'full', True),
  'medium': Preset('medium', False, ('digits', 'mnist'), 'full', True),
  'gpu': Preset('gpu', False, ('digits', 'mnist'), 'full', True),
  'paper': Preset('paper', False, ('digits', 'mnist'), 'full', True),
}


class Options(NamedTuple):
  """The options of the rows that are asked for."""

  preset: str
  workdir: str
  num_steps: int | None = None
  num_seeds: int = 1
  data_dir: str | None = None
  until_rest: bool = False  # Whether Figures 4, 5 train ELBOs until rest.
  max_steps: int | None = None  # The cap of that training.

  @property
  def sizes(self) -> Preset:
    """The sizes of the preset."""
    return PRESETS[self.preset]

  def path(self, *parts: str) -> str:
    """Return a path below the workdir."""
    return os.path.join(self.workdir, *parts)

  def shared_flags(self, folder: str = '', steps_flag: str = 'num_steps'):
    """Return the flags that all commands that train have."""
    flags_ = [f'--workdir={self.path(folder) if folder else self.workdir}']
    if self.data_dir:
      flags_.append(f'--data_dir={self.data_dir}')
    if self.num_steps is not None:
      flags_.append(f'--{steps_flag}={self.num_steps}')
    return flags_

  def rest_flags(self) -> list[str]:
    """Return the flags of commands with seeds, which can train until rest."""
    flags_ = [
      f'--num_seeds={self.num_seeds}',
      f'--until_rest={self.until_rest}',
    ]
    if self.max_steps is not None:
      flags_.append(f'--max_steps={self.max_steps}')
    return flags_

  def seeded(self, row_runs: Sequence[Run]) -> list[Run]:
    """Return the runs at each of the seeds."""
    seeds = range(self.num_seeds)
    return [run._replace(seed=seed) for run in row_runs for seed in seeds]


ListRows = Callable[[Options], Iterator[Row]]


def _module(figure: str) -> Any:
  """Return a module here, imported only if it is asked for."""
  return importlib.import_module(f'.{figure}', __package__)


def _points(options, row_runs, variant, folder='', changes=None) -> list[Point]:
  """Return the points that `runs.train_all` trains below a folder."""
  listed = runs.points_of(row_runs, variant, options.num_steps, changes or {})
  return [_below(folder, point) for point in listed.values()]


def _below(folder: str, point: Point) -> Point:
  return point._replace(name=os.path.join(folder, point.name))


def _row(options, figure, name, own_flags, points, **fields) -> Row:
  """Return the row of a command that trains in the workdir by `runs`."""
  command = Command(f'.{figure}', [*own_flags, *options.shared_flags()])
  numbers = {f'{figure}.json': file_name(figure, options.sizes.variant)}
  return Row(figure, name, [command], points, **{'numbers': numbers, **fields})


def _figure_4(options: Options) -> Iterator[Row]:
  variant, with_short = options.sizes.variant, options.sizes.short
  own_flags = [
    f'--preset={variant}',
    f'--short={with_short}',
    *options.rest_flags(),
  ]
  figure_4 = _module('figure_4')
  for name, row in figure_4.ROWS.items():
    short = with_short and figure_4.is_short(row, variant)
    points = figure_4.points(
      *(options.seeded(row.runs()), options.workdir, variant),
      options.num_steps,
      short=short,
      until_rest=options.until_rest,
      max_steps=options.max_steps,
    )
    flags_ = [f'--only={name}', *own_flags]
    yield _row(options, 'figure_4', name, flags_, points, by_row=True)


def _table_2(options: Options) -> Iterator[Row]:
  variant = options.sizes.variant
  for data in PAPER:
    points = _points(options, _module('table_2').runs_on(data), variant)
    own_flags = [f'--only={data}', f'--preset={variant}']
    yield _row(options, 'table_2', data, own_flags, points, by_row=True)


def _figure_5(options: Options) -> Iterator[Row]:
  figure_5, variant = _module('figure_5'), options.sizes.variant
  for data in figure_5.DATA:
    points = [
      point
      for elbo in options.seeded([figure_5.elbo_run(data)])
      for point in figure_5.points(
        *(elbo, options.workdir, variant, options.num_steps),
        until_rest=options.until_rest,
        max_steps=options.max_steps,
      )
    ]
    flags_ = [f'--data={data}', f'--preset={variant}', *options.rest_flags()]
    name = figure_5.row_name(data, options.until_rest)
    yield _row(options, 'figure_5', name, flags_, points, by_row=True)


def _panels(figure: str) -> ListRows:
  """Return a function that yields the row of a figure of panels."""

  def list_rows(options):
    variant = options.sizes.variant
    points = _points(options, _module(figure).PANELS, variant)
    yield _row(options, figure, '', [f'--preset={variant}'], points)

  return list_rows


def _figure_8(options: Options) -> Iterator[Row]:
  figure_8 = _module('figure_8')
  shown = {run.name: run for run in (*figure_8.SHOWN, *figure_8.CURVE)}
  for preset in options.sizes.micro_mnist:
    points = _points(options, [*shown.values()], preset, preset)
    own_flags = [f'--preset={preset}']
    yield _row(options, 'figure_8', preset, own_flags, points, by_row=True)


def _constraint_table(options: Options) -> Iterator[Row]:
  figure = 'constraint_table'
  for data in ('digits', 'mnist'):
    row_runs = [
      Run(data, 'geco', kappas, 'vae')
      for kappas in _module(figure).ROWS.values()
    ]
    points = _points(options, row_runs, None)
    file = f'{figure}_{data}.json'
    own_flags = [f'--data={data}']
    yield _row(options, figure, data, own_flags, points, numbers={file: file})


def _figure_3(options: Options) -> Iterator[Row]:
  folder = 'figure_3'
  name = f'mnist_rotate_conv_draw:{options.sizes.variant}'
  config = _config(name, options.num_steps)
  own_flags = [
    f'--config={name}',
    *options.shared_flags(folder, 'config.num_steps'),
  ]
  yield Row(
    *(folder, ''),
    [Command(f'.{folder}', own_flags)],
    [Point(f'{folder}/run', {}, without_sweep(config))],
    splits=(),
    numbers={f'{folder}/figure_3.json': 'figure_3.json'},
  )


def _information_plane(options: Options) -> Iterator[Row]:
  for data, kappas in (
    ('digits', (0.06, 0.08, 0.1, 0.15)),
    ('mnist', (0.08, 0.1, 0.15)),
  ):
    folder = f'information_plane_{data}'
    config = _config(f'{data}_vae', options.num_steps)
    config.sweep = ({'constraints.re.kappa': kappas},)
    own_flags = [
      f'--config={data}_vae',
      f'--kappas={",".join(map(str, kappas))}',
      *options.shared_flags(folder, 'config.num_steps'),
    ]
    yield Row(
      *('information_plane', data),
      [Command('.information_plane', own_flags)],
      [_below(folder, point) for point in grid_points(config)],
      completion.EVALUATED_SPLITS,
      {f'{folder}/information_plane.json': f'{data}_vae.json'},
    )


def _config(name: str, num_steps: int | None) -> ConfigDict:
  config = config_files.load(name)
  if num_steps is not None:
    config.num_steps = num_steps
  return config


def _single_run(figure: str, data: str) -> ListRows:
  """Return a function that yields a row: a GECO run, and a figure of it."""

  def list_rows(options):
    run, variant = Run(data, 'geco', {'re': 0.1}), options.sizes.variant
    training = [
      f'--config={data}_conv_draw:{variant},geco+re',
      *(f'--config.constraints.{k}.kappa={v}' for k, v in run.kappas.items()),
      *options.shared_flags(run.name, 'config.num_steps'),
    ]
    reading = options._replace(num_steps=None).shared_flags(run.name)
    yield Row(
      *(figure, ''),
      [Command('geco_jax.train', training), Command(f'.{figure}', reading)],
      _points(options, [run], variant),
      splits=(),
      numbers={f'{run.name}/{figure}.json': file_name(figure, variant)},
    )

  return list_rows


def _multiplier_rules(options: Options) -> Iterator[Row]:
  folder = 'multiplier_rules'
  multiplier_rules = _module(folder)
  for task in multiplier_rules.PRESETS[options.sizes.rules]:
    row_runs = options.seeded(
      [Run(task.data, 'geco', kappas, task.model) for kappas in task.kappas]
    )
    lengths = task.steps if options.num_steps is None else [options.num_steps]
    points = [
      Point(
        os.path.join(folder, rule, str(steps), run.name),
        {},
        multiplier_rules.config_of(task, rule, run, steps),
      )
      for steps in lengths
      for rule in multiplier_rules.RULES
      for run in row_runs
    ]
    own_flags = [
      f'--only={task.name}',
      f'--preset={options.sizes.rules}',
      f'--num_seeds={options.num_seeds}',
      *options.shared_flags(folder),
    ]
    yield Row(
      *(folder, task.name),
      [Command(f'.{folder}', own_flags)],
      points,
      numbers={f'{folder}/{folder}.json': f'{folder}.json'},
    )


def _computed(figure: str, seconds: float, flag: str = '') -> ListRows:
  """Return a function that yields the row of a figure that trains nothing."""

  def list_rows(options):
    own_flags = [f'--workdir={options.path(figure)}', *([flag] if flag else [])]
    name = flag.removeprefix('--')
    file = '_'.join(filter(None, [figure, name]))
    yield Row(
      *(figure, name),
      [Command(f'.{figure}', own_flags)],
      numbers={f'{figure}/{file}.json': f'{file}.json'},
      seconds=seconds,
    )

  return list_rows


def _rate_distortion(options: Options) -> Iterator[Row]:
  yield from _computed('rate_distortion', 20)(options)
  if options.sizes.robustness:
    yield from _computed('rate_distortion', 60, '--robustness')(options)


# The most valuable rows come first: the paper's claims by weight (how much
# lower the KL is in the plane of all models and data sets, what it is between
# aggregate posterior and prior, how it compares at one error), then the
# pictures of these, then figures computed in minutes, then our own.
WORTH: dict[str, ListRows] = {
  'figure_4': _figure_4,
  'table_2': _table_2,
  'figure_5': _figure_5,
  'figure_6': _panels('figure_6'),
  'figure_9': _panels('figure_9'),
  'figure_10': _panels('figure_10'),
  'figure_11': _panels('figure_11'),
  'figure_3': _figure_3,
  'figure_8': _figure_8,
  'arithmetic': _single_run('arithmetic', 'mnist_sum'),
  'constraint_table': _constraint_table,
  'figure_1': _computed('figure_1', 5),
  'figure_2': _computed('figure_2', 30),
  'figure_7': _computed('figure_7', 120),
  'propositions': _computed('propositions', 30),
  'rate_distortion': _rate_distortion,
  'information_plane': _information_plane,
  'conceptual_compression': _single_run('conceptual_compression', 'mnist'),
  'multiplier_rules': _multiplier_rules,
}
# The other commands, and why they are in no plan.
NOT_PLANNED = {
  'data_sets': 'draws the data, for eyes alone',
  'results_page': 'writes the page of results that are there',
  'plan': 'is the plan',
  'run_all': 'carries it out',
}


def rows(options: Options, only: Sequence[str] | None = None) -> list[Row]:
  """Return the rows in the order of their worth.

  Args:
    options: see `Options`.
    only: figures, names of `WORTH`; None is all.
  """
  return [
    row
    for figure, list_rows in WORTH.items()
    if only is None or figure in only
    for row in list_rows(options)
  ]


def define_flags() -> None:
  """Define the command's flags, which are those of `run_all` too."""
  flags.DEFINE_float(
    'hours', None, 'Hours available on this machine.', lower_bound=0.0
  )
  flags.DEFINE_enum('preset', 'quick', [*PRESETS], 'Size of everything.')
  flags.DEFINE_list('only', None, f'Figures: any of {", ".join(WORTH)}.')
  flags.register_validator(
    'only',
    lambda names: names is None or (names and set(names) <= set(WORTH)),
    f'choose from {", ".join(WORTH)}',
  )
  flags.DEFINE_integer(
    'num_seeds', 1, 'Seeds of each run that can have several.', lower_bound=1
  )
  _module('shared.rest').define_flags()


def asked(workdir: str) -> tuple[float, list[Row]]:
  """Return the hours and the rows that the flags ask for.

  Args:
    workdir: directory of the runs.

  Raises:
    UserError: if --hours is missing or not finite.
  """
  values = flags.FLAGS
  if values.hours is None:
    raise UserError('--hours is missing, e.g. --hours=2')
  if not math.isfinite(values.hours):
    raise UserError(f'--hours must be a finite number, got {values.hours}')
  options = Options(
    values.preset,
    workdir,
    runs.NUM_STEPS.value,
    values.num_seeds,
    cli.DATA_DIR.value,
    values.until_rest,
    values.max_steps,
  )
  return values.hours, rows(options, values.only)


def main(argv: Sequence[str]) -> None:
  """Measure, and print the plan."""
  del argv
  costs = []
  with tempfile.TemporaryDirectory() as empty:
    workdir = cli.WORKDIR.value or empty
    hours, listed = asked(workdir)
    planner = planning.Planner(workdir, cli.DATA_DIR.value)
    for row in listed:
      say(f'timing {row.title}')
      costs.append(planner.cost(row))
  device = runs.provenance(None)
  print(
    f'{device["device"]}, {device["num_devices"]} devices, '
    f'{device["num_cores"]} cores'
  )
  print(planning.table(costs, hours))


if __name__ == '__main__':
  cli.run(main, define_flags)
