"""The training loop: dispatch, log, save, stop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import signal
import time
from typing import Any

from absl import logging
from ml_collections.config_dict import ConfigDict

from geco_jax import console
from geco_jax import parallel
from geco_jax import signals
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import check_config
from geco_jax.build import run_inputs
from geco_jax.config_tree import without_sweep
from geco_jax.errors import Interrupted
from geco_jax.experiment import Experiment
from geco_jax.io import manifest
from geco_jax.io import run_folder
from geco_jax.io.checkpoint import latest_step
from geco_jax.step import dispatch
from geco_jax.step import training_images
from geco_jax.step import TrainState
from geco_jax.training import origin as origins
from geco_jax.training.recorder import Recorder
from geco_jax.training.run import Run

# (states of all runs, number of steps) -> (states, metrics of each step).
TakeSteps = Callable[[Any, int], tuple[Any, Any]]
_SECONDS_PER_CALL = 4.0
_COMPILES = '; the first step compiles, which takes seconds to minutes'
_WORTH_SAYING = 5.0  # Seconds of compilation.


def train(
  config: ConfigDict,
  workdir: str,
  *,
  data_dir: str | None = None,
  experiment: Experiment | None = None,
  init_from: str | None = None,
  show_progress: bool = True,
) -> TrainState:
  """Train a run to its end, from its latest checkpoint if it has one.

  Args:
    config: see configs/; its `sweep` is ignored.
    workdir: for checkpoints, logs and pictures; created if need be.
    data_dir: TFDS data directory.
    experiment: the run's, for callers that have built it; None builds it.
    init_from: workdir of the run whose parameters this one begins with; None
      is parameters of its own.
    show_progress: whether to say what is trained and draw a progress bar, on
      stderr.

  Returns:
    The final state, NumPy arrays.

  Raises:
    UserError: on bad input, or a loss that is not finite.
    Interrupted: after SIGTERM, SIGINT or SIGHUP, the state saved.
  """
  check_config(config)  # Before a data set is read, which may take minutes.
  config = without_sweep(config)
  if experiment is None:
    experiment = build(config, build_dataset(config, data_dir))
  run = _open(config, workdir, experiment, init_from)
  (failure,) = _train_all([run], parallel.SHARED, show_progress)
  if failure is not None:
    raise failure
  return run.state


def train_together(
  configs: Mapping[str, ConfigDict],
  experiment: Experiment,
  *,
  width: int | None = None,
  show_progress: bool = True,
) -> dict[str, Exception | None]:
  """Train several runs at once, each whole on one device.

  A run's folder is what `train` would have written, up to the rounding of its
  numbers. A run that fails leaves the others alone.

  Args:
    configs: of the runs, by workdir.
    experiment: of all of these runs.
    width: number of runs trained together, which checkpoints record; these may
      be the rest of them. None is the number of these.
    show_progress: whether to say what is trained and draw a progress bar, on
      stderr.

  Returns:
    What went wrong, by workdir; None is nothing.

  Raises:
    Interrupted: after SIGTERM, SIGINT or SIGHUP, the states saved.
  """
  failures: dict[str, Exception | None] = dict.fromkeys(configs)
  runs = []
  with _closed_if_interrupted() as opened:
    for workdir, config in configs.items():
      try:
        args = without_sweep(config), workdir, experiment
        run = _open(*args, runs_at_once=width or len(configs))
      except Exception as error:  # Damaged checkpoints, folders of others, ...
        failures[workdir] = error
      else:
        opened.callback(run.close)
        runs.append(run)
  if runs:
    trained = _train_all(runs, parallel.SPREAD, show_progress)
    failures |= zip((run.workdir for run in runs), trained, strict=True)
  return failures


@contextlib.contextmanager
def _closed_if_interrupted() -> Iterator[contextlib.ExitStack]:
  """Yield a stack whose callbacks are called only if an error ends it.

  A run that nobody closes keeps its folder in use, in this process too.
  """
  with contextlib.ExitStack() as stack:
    yield stack
    stack.pop_all()


def _open(
  config, workdir, experiment, init_from=None, runs_at_once=1
) -> Recorder:
  """Return the recorder of a run in its folder, created if need be."""
  inputs = run_inputs(config, experiment)  # Refused before a folder is made.
  is_new = run_folder.begins_anew(workdir, config)
  origin = origins.find(workdir, init_from, is_new)
  if origin is None:
    args = config, workdir, experiment, inputs
    return Recorder(*args, runs_at_once=runs_at_once)
  is_begun = bool(manifest.steps(workdir))
  params = None if is_begun else origins.params(origin, experiment)
  return Recorder(config, workdir, experiment, inputs, origin._asdict(), params)


def _train_all(runs, layout, show_progress):
  """Train runs to their ends and close them; return each's failure or None."""
  experiment = runs[0].experiment  # All share it.
  compiled = experiment.compiled_layouts
  seeds, steps = [r.inputs.seed for r in runs], [r.step for r in runs]
  with contextlib.ExitStack() as opened:
    with _closed_if_interrupted() as unstarted:
      for run in runs:
        unstarted.callback(run.close)
      take_steps = dispatch(experiment, layout)
      inputs = layout.place([run.inputs.step_inputs() for run in runs])
      images = opened.enter_context(
        training_images(experiment, layout, seeds, steps)
      )
    failures = train_to_end(
      runs,
      lambda states, num_steps: take_steps(
        states, inputs, images(num_steps), num_steps=num_steps
      ),
      layout,
      show_progress,
      layout in compiled,
    )
  if any(step < run.step for step, run in zip(steps, runs, strict=True)):
    compiled.add(layout)
  for index, run in enumerate(runs):
    if failures[index] is None:
      with _failing(failures, index):
        for sentence in run.final_warnings():
          logging.warning(sentence)
  return failures


def train_to_end(
  runs: Sequence[Run],
  take_steps: TakeSteps,
  layout: parallel.Layout,
  show_progress: bool,
  is_compiled: bool = False,
) -> list[Exception | None]:
  """Train runs of any kind, which lie on the devices together; close them.

  Args:
    runs: at least one, alike in `steps_per_dispatch`.
    take_steps: (states on the devices, number of steps) -> (states, metrics of
      `steps_per_dispatch` steps, of which the first so many were taken).
    layout: how the states lie on the devices.
    show_progress: whether to say what is trained and draw a progress bar, on
      stderr.
    is_compiled: whether `take_steps` need not be compiled.

  Returns:
    What went wrong with each run, or None.

  Raises:
    Interrupted: after SIGTERM, SIGINT or SIGHUP, the states saved.
  """
  failures: list[Exception | None] = [None] * len(runs)
  shows = show_progress and parallel.is_main_process()
  if shows:
    _announce(runs, is_compiled)
  with signals.remembered(speak=shows) as memory:
    try:
      loop = _Loop(runs, take_steps, layout, failures, shows)
      number = loop.run(memory, shows and not is_compiled)
    finally:
      for index, run in enumerate(runs):
        with _failing(failures, index):  # Its last save may fail only now.
          run.close()
    number = number or memory.number  # It may come during the last save.
  if number:
    for failure in filter(None, failures):
      logging.warning('%s', failure)
    steps = [
      latest_step(run.workdir) or 0
      for run, failure in zip(runs, failures, strict=True)
      if failure is None
    ]
    raise Interrupted(number, min(steps, default=0))
  return failures


def _announce(runs: Sequence[Run], is_compiled: bool) -> None:
  """Say what is about to be trained, if anything is."""
  active = [run for run in runs if not run.is_finished]
  if not active:
    return
  first, step = active[0], min(run.step for run in active)
  subject, where = f'{first.subject}, ', first.workdir
  if len(active) > 1:
    subject = f'{len(active)} runs at once, each {subject}'
    where = f'{where} and {len(active) - 1} more'
  if len({run.terms for run in active}) == 1 and first.terms:
    subject += f'{first.terms}, '
  steps = f'steps {step + 1:,} to ' if step else ''
  console.say(
    f'training {subject}{steps}{first.config.num_steps:,}'
    f'{"" if step else " steps"} on {parallel.devices_in_words()}, in {where}'
    f'{"" if is_compiled else _COMPILES}'
  )


@contextlib.contextmanager
def _failing(failures: list[Exception | None], index: int):
  """Record an error as one run's failure, and keep its first; the run stops."""
  try:
    yield
  except Exception as error:  # Full disks, losses that are not finite, ...
    failures[index] = failures[index] or error


class _Loop:
  """The training of runs that lie on the devices together."""

  def __init__(
    self,
    runs: Sequence[Run],
    take_steps: TakeSteps,
    layout: parallel.Layout,
    failures: list[Exception | None],
    shows: bool,
  ):
    self._runs = runs
    self._failures = failures  # One per run, filled in here.
    self._layout = layout
    self._take_steps = take_steps
    self._pending = None  # Metrics that are not noted yet.
    self._since = time.monotonic()  # When the last noted ones were complete.
    self._pace = _Pace(runs[0].config.steps_per_dispatch)
    self._progress = console.Progress(
      max(run.config.num_steps for run in runs),
      min(run.step for run in runs),
      shows,
    )

  def run(self, memory: signals.Memory, reports: bool) -> int | None:
    """Train to the last step; if a signal comes, save and return its number.

    Args:
      memory: of signals.
      reports: whether to say how long the first step took to compile.
    """
    states = self._layout.place([run.state for run in self._runs])
    self._since = time.monotonic()
    with contextlib.closing(self._progress):
      while active := self._active():
        num_steps = min(
          self._pace.num_steps,
          *(self._runs[i].steps_to_line for i in active),
        )
        states, step_metrics = self._take_steps(states, num_steps)
        if not memory.keeps:  # From here on there is something to save.
          memory.keeps = True
          seconds = time.monotonic() - self._since
          if reports and seconds > _WORTH_SAYING:
            console.say(f'compiled in {seconds:.0f} s')
        for index in active:
          self._runs[index].step += num_steps
        # While the devices take these steps, the previous ones are noted.
        self._note_pending()
        steps = {i: self._runs[i].step for i in active}
        self._pending = steps, num_steps, step_metrics
        if self._pace.is_slow:  # Then signals wait for one call only.
          self._note_pending()
        number = memory.number
        stop = parallel.any_process(number is not None)
        due = [i for i in active if stop or self._runs[i].is_checkpoint_due]
        if due:
          self._note_pending()
          self._save(due, states)
        if stop:
          return number or signal.SIGTERM
    return None

  def _note_pending(self) -> None:
    """Hand the latest metrics to the runs, when they are complete."""
    if self._pending is None:
      return
    steps, num_steps, step_metrics = self._pending
    self._pending = None
    per_run = self._layout.fetch(step_metrics, len(self._runs))
    now = time.monotonic()
    seconds, self._since = now - self._since, now
    self._pace.add(num_steps, seconds)
    texts = []
    for index, step in steps.items():
      if self._failures[index] is None:
        per_step = {k: v[:num_steps] for k, v in per_run[index].items()}
        with _failing(self._failures, index):
          texts.append(self._runs[index].note(step, per_step, seconds))
    if len(self._runs) > 1:
      rate = len(steps) * num_steps / seconds
      texts = [f'{len(steps)} runs together, {rate:.0f} steps/s in all']
    self._progress.update(min(steps.values()), ''.join(texts))

  def _save(self, indices, states) -> None:
    fetched = self._layout.fetch(states, len(self._runs))
    for index in indices:
      if self._failures[index] is None:
        with _failing(self._failures, index):
          self._runs[index].save(fetched[index])
    self._since = time.monotonic()

  def _active(self) -> list[int]:
    """Return which runs go on. The others' numbers are ignored."""
    self._failures[:] = parallel.failures_of_all(self._failures)
    return [
      index
      for index, run in enumerate(self._runs)
      if self._failures[index] is None and not run.is_finished
    ]


class _Pace:
  """How many steps a call of the program takes: as many as fit into seconds.

  A signal waits for the end of a call, or of two where they take less than the
  bound. Only CPUs are so slow that it matters; there two steps alone are
  measured first, of which one compiles.

  Attributes:
    num_steps: steps of the next call.
  """

  def __init__(self, steps_per_dispatch: int):
    self.num_steps = 1 if not parallel.on_accelerator() else steps_per_dispatch
    self._max_steps = steps_per_dispatch
    self._calls = 0
    self._steps, self._seconds = 0, 0.0

  @property
  def is_slow(self) -> bool:
    """Whether the next call takes less than a dispatch."""
    return self.num_steps < self._max_steps

  def add(self, num_steps: int, seconds: float) -> None:
    """Note how long a call took."""
    self._calls += 1
    if parallel.on_accelerator() or self._calls == 1:  # It compiled.
      return
    # Over many steps, since a call that is still running may count here.
    self._steps += num_steps
    self._seconds += seconds
    if self._calls == 2 or self._steps >= self._max_steps:
      seconds_per_step = parallel.highest(self._seconds) / self._steps
      fitting = int(_SECONDS_PER_CALL / max(seconds_per_step, 1e-9))
      self.num_steps = min(max(fitting, 1), self._max_steps)
      self._steps, self._seconds = 0, 0.0
