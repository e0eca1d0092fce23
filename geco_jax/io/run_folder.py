"""A run's folder and its config."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
from typing import Any

from absl import logging
from ml_collections.config_dict import ConfigDict

from geco_jax.config_tree import flatten
from geco_jax.config_tree import plain
from geco_jax.errors import UserError
from geco_jax.io import by_products
from geco_jax.io import manifest
from geco_jax.io.files import read_text
from geco_jax.io.files import write_json
from geco_jax.io.files import writing
from geco_jax.io.paths import check_path

ORIGIN = 'init_from.json'
DATA = 'data.json'  # What `datasets.shapes` records.
_CONFIG = 'config.json'
_ABANDONED = 'abandoned'
_GROUPS = ('multipliers', 'optimizer', 'learning_rate', 'dataset', 'model')
# Keys on which no number of the training depends but by rounding. The data are
# known by their SHA-256, wherever they lie.
_FREE = (
  *('checkpoint_every', 'tolerance', 'imports', 'dataset.placement'),
  'dataset.kwargs.path',
)
# What results stand for without a look at the data: verdicts depend on the
# tolerance, and no SHA-256 is compared.
_FREE_WITH_RESULTS = ('checkpoint_every', 'imports', 'dataset.placement')
_CLASSIFIER_KEY = 'label_smoothing'  # A key that no model's config has.
_MAX_NAMED = 5
# Files that a run leaves besides checkpoints and results, its config last: the
# process that moves them may be killed.
_TRY_FILES = (
  *(DATA, ORIGIN, 'best.json', 'error.log', 'metrics.jsonl', 'progress.png'),
  *('run.json', 'tensorboard', 'trackers.json', _CONFIG),
)
_RESULTS = ('evaluation.json', 'network.npz')
# Values of keys that are missing in configs of earlier versions.
FORMER = {'imports': [], 'dataset.placement': 'device'}


def claim(workdir: str, config: ConfigDict) -> None:
  """Create the folder for a run, or make sure that it is this run's.

  Keys on which no number of the training depends may change: the folder then
  takes them from `config`, with a warning. A run of another config that never
  saved anything is moved out of the way, also with a warning. The folder keeps
  paths of data and networks as absolute ones, so that they are good from any
  folder.

  The caller holds the folder's lock.

  Raises:
    UserError: if it was made by another config, or under settings of JAX that
      give other numbers, or cannot be written.
  """
  check_path(workdir)
  config = _with_absolute_paths(config)
  try:
    old = _read(workdir)
  except FileNotFoundError:
    old = None
  except ValueError as error:
    if not manifest.runs(workdir):  # Then nothing else has the config.
      raise UserError(
        f'{error}; restore it, or choose another workdir'
      ) from error
    old = None
  if begins_anew(workdir, config):
    _move_try(workdir, _differences(plain(old), config))
    old = None
  elif old is not None:
    _refuse_other(workdir, plain(old), config, _FREE)
  elif any(_configs_of_checkpoints(workdir)):
    logging.warning('%s is made anew in %s', _CONFIG, workdir)
  elif manifest.steps(workdir):
    logging.warning(
      '%s is missing in %s, and its checkpoints do not tell theirs: it is '
      'taken for a run of this config',
      _CONFIG,
      workdir,
    )
  for stored in _configs_of_checkpoints(workdir):
    _refuse_other(workdir, stored, config, _FREE)
  _refuse_other_settings(workdir)
  changes = [] if old is None else _differences(plain(old), config)
  if changes:
    logging.warning('%s goes on, though %s', workdir, '; '.join(changes))
  if changes or old is None:
    create(workdir)
    write_json(os.path.join(workdir, _CONFIG), plain(config))


def identity(workdir: str) -> dict[str, Any]:
  """Return what checkpoints record about the run in a folder."""
  try:
    config = plain(_read(workdir))
  except (OSError, ValueError):
    config = None
  return {
    'config': config,
    'settings': manifest.settings(),
    'init_from': origin(workdir),
    'data': recorded_sha256(workdir),
  }


def check_data(workdir: str, name: str, sha256: str) -> None:
  """Make sure that the run in a folder, if there is one, is of the given data.

  Its checkpoints are asked first, then its file. A run of an earlier version
  has no record of its data and passes.

  Args:
    workdir: the folder.
    name: the data set's display name.
    sha256: `datasets.splits.fingerprint` of all its splits.

  Raises:
    UserError: if it was trained on other data.
  """
  stored = manifest.runs(workdir)
  if not stored:  # Nothing was trained on them yet.
    return
  known = [run['data'] for run in stored.values() if run.get('data')]
  for was in known or filter(None, [recorded_sha256(workdir)]):
    if was != sha256:
      raise UserError(
        f'--workdir={workdir} was trained on other data: the images or labels '
        f'of {name} have SHA-256 {sha256[:12]}..., its own {was[:12]}...; '
        'choose another workdir, or the data as they were'
      )


def recorded_sha256(workdir: str) -> str | None:
  """Return the fingerprint in a run's folder, None if there is none."""

  def parse(content):
    sha256 = content.get('sha256')
    by_products.check(sha256, (str, type(None)), 'sha256')
    return sha256

  return by_products.read(os.path.join(workdir, DATA), parse)


def origin(workdir: str) -> dict[str, Any] | None:
  """Return the workdir and the step whose parameters a run begins with.

  None is a run that begins with parameters of its own.

  Raises:
    UserError: if the file that says so is damaged.
  """
  path = os.path.join(check_path(workdir), ORIGIN)
  if stored := manifest.runs(workdir):  # Then its file is a by-product.
    return stored[max(stored)].get('init_from')
  try:
    content = json.loads(read_text(path))
    return {'workdir': str(content['workdir']), 'step': int(content['step'])}
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except (ValueError, LookupError, TypeError) as error:
    raise UserError(
      f'{path} is damaged: it is to hold a workdir and a step; choose another '
      'workdir'
    ) from error


def record_origin(workdir: str, origin: Mapping[str, Any]) -> None:
  """Record in a run's folder whose parameters it begins with."""
  write_json(os.path.join(workdir, ORIGIN), dict(origin))


def holds_run(workdir: str) -> bool:
  """Return whether a run was started in a folder, its config lost or not."""
  try:
    return _has_config(workdir) or bool(_configs_of_checkpoints(workdir))
  except UserError:  # Reported when it is trained.
    return False


def check_same(workdir: str, config: ConfigDict) -> None:
  """Make sure that the run in a folder has this config, or nothing to lose.

  Keys on which no number of the training depends may differ, as in `claim`,
  but the tolerance may not, on which verdicts in the folder's results depend,
  nor the path of the data, which are not read here.

  Raises:
    UserError: if it has another config.
  """
  config_there = read_config(workdir)
  if _has_saved(workdir):
    new = _with_absolute_paths(config)
    _refuse_other(workdir, plain(config_there), new, _FREE_WITH_RESULTS)


def begins_anew(workdir: str, config: ConfigDict) -> bool:
  """Return whether a run of a config would begin in another's folder.

  It would if the other run never saved anything: it failed or was killed before
  its first checkpoint.

  Raises:
    UserError: if the folder cannot be read.
  """
  check_path(workdir)
  try:
    old = plain(_read(workdir))
  except (FileNotFoundError, ValueError):
    return False
  return bool(_differences(old, config, _FREE)) and not _has_saved(workdir)


def mend(workdir: str, config: ConfigDict) -> None:
  """Write the config of a run again where its file is missing or damaged.

  Args:
    workdir: directory of a run that has this config (`check_same`).
    config: the run's config.

  Raises:
    UserError: if it cannot be written.
  """
  try:
    _read(workdir)
  except (FileNotFoundError, ValueError):
    claim(workdir, config)


def create(workdir: str) -> None:
  """Create the folder unless it is there.

  Raises:
    UserError: if it cannot be.
  """
  with writing(f'--workdir={workdir}'):
    os.makedirs(workdir, exist_ok=True)


def read_config(workdir: str) -> ConfigDict:
  """Return the config of the run in a folder.

  Where its file is missing or damaged, it is that of the latest checkpoint.

  Raises:
    UserError: if the folder holds no run, a classifier's, or one whose
      checkpoints are of another config.
  """
  check_path(workdir)
  *_, latest = [None, *_configs_of_checkpoints(workdir)]
  try:
    config = _read(workdir)
  except (OSError, ValueError) as error:
    reason = (
      f'{_CONFIG} is missing or damaged'
      if isinstance(error, FileNotFoundError)
      else str(error)
    )
    if latest is None:
      raise UserError(
        f'--workdir={workdir} holds no run: {reason}{runs_within(workdir)}'
      ) from error
    logging.warning('%s; that of the latest checkpoint is taken', reason)
    return ConfigDict(latest)
  if latest is not None:
    _refuse_other(workdir, latest, config, _FREE)
  if _CLASSIFIER_KEY in config:
    raise UserError(
      f'--workdir={workdir} holds a classifier, not a run of a model; '
      'constraints take it as their network'
    )
  return config


def _has_saved(workdir) -> bool:
  """Return whether a run in a folder ever saved a checkpoint or a result."""
  if manifest.are_there(workdir) or any(
    os.path.lexists(os.path.join(workdir, name)) for name in _RESULTS
  ):
    return True

  def parse(content):
    return any(session['last_step'] > 0 for session in content['sessions'])

  return bool(by_products.read(os.path.join(workdir, 'run.json'), parse))


def _move_try(workdir, differences) -> None:
  """Move the files of a run that never saved anything into a subfolder."""
  number = 0
  while os.path.lexists(target := f'{workdir}/{_ABANDONED}{number or ""}'):
    number += 1
  create(target)
  for name in _TRY_FILES:
    path = os.path.join(workdir, name)
    if os.path.lexists(path):
      with writing(target):
        os.rename(path, os.path.join(target, name))
  logging.warning(
    '%s begins anew: its run of another config (%s) had saved no checkpoint, '
    'and what it left is in %s',
    *(workdir, '; '.join(differences), target),
  )


def _has_config(workdir: str) -> bool:
  return os.path.lexists(os.path.join(workdir, _CONFIG))


def runs_within(workdir: str) -> str:
  """Return '; ...' with the first runs in the folders of a sweep, or ''."""
  try:
    names = sorted(os.listdir(workdir))
  except (OSError, ValueError):
    return ''
  names = [name for name in names if _has_config(os.path.join(workdir, name))]
  more = ', ...' if len(names) > _MAX_NAMED else ''
  listed = ', '.join(names[:_MAX_NAMED]) + more
  return f'; it holds folders of runs: {listed}' if names else ''


def _read(workdir) -> ConfigDict:
  """Return what config.json holds.

  Raises:
    FileNotFoundError: if there is none.
    UserError: if it cannot be read.
    ValueError: if it is not a config.
  """
  path = os.path.join(workdir, _CONFIG)
  try:
    content = json.loads(read_text(path))
  except (FileNotFoundError, NotADirectoryError):
    raise FileNotFoundError(path) from None
  except IsADirectoryError as error:
    raise ValueError(f'{path} is a folder') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from error
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  for reason in _wrong_forms(content):
    raise ValueError(f'{path} is damaged: {reason}')
  try:
    return ConfigDict(content)
  except (AttributeError, TypeError, ValueError, RecursionError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error


def _wrong_forms(content) -> Iterator[str]:
  """Yield what keeps the content of config.json from being a config."""
  if not isinstance(content, dict):
    yield f'it holds {json.dumps(content)[:60]}, not the keys of a config'
    return
  if not content:
    yield 'it is empty'
  for name in content.keys() & set(_GROUPS):
    group = content[name]
    if not (
      isinstance(group, dict)
      and isinstance(group.get('name'), str)
      and isinstance(group.get('kwargs'), dict)
    ):
      yield f'{name} is {json.dumps(group)[:60]}, not a name and its kwargs'


def _with_absolute_paths(config: ConfigDict) -> ConfigDict:
  """Return a config whose data and networks have absolute paths, if paths."""
  content = plain(config)
  data = content.get('dataset', {}).get('kwargs', {})
  if isinstance(data.get('path'), str):
    data['path'] = _absolute(data['path'])
  for options in content.get('constraints', {}).values():
    network = options.get('network')
    if isinstance(network, str) and os.path.dirname(network):  # Or a name.
      options['network'] = _absolute(network)
  return ConfigDict(content)


def _absolute(path: str) -> str:
  """Return a path as it is from any folder, if anything is there."""
  local = os.path.expanduser(path)
  # To a data set of one's own what is called a path may be a name.
  return os.path.abspath(local) if os.path.lexists(local) else path


def _configs_of_checkpoints(workdir) -> list[dict[str, Any]]:
  """Return the configs that the checkpoints name, oldest first."""
  stored = (run.get('config') for run in manifest.runs(workdir).values())
  return [config for config in stored if config]


def _differences(
  old: dict[str, Any], config: ConfigDict, free: Sequence[str] = ()
) -> list[str]:
  """Return a phrase per leaf that differs, except for `free` ones."""
  # Those of earlier versions may have relative paths.
  old_config = _with_absolute_paths(ConfigDict(old))
  was, now = FORMER | flatten(old_config), FORMER | flatten(config)
  return [
    f'{name} was {was.get(name)!r}, is {now.get(name)!r}'
    for name in sorted(was | now)
    if was.get(name) != now.get(name) and name not in free
  ]


def _refuse_other(workdir, old, config, free):
  """Raise a `UserError` that names what differs, except for `free` leaves."""
  if differences := _differences(old, config, free):
    raise UserError(
      f'--workdir={workdir} was made by another config '
      f'({"; ".join(differences)}); choose another workdir or that config'
    )


def _refuse_other_settings(workdir):
  now = manifest.settings()
  for run in manifest.runs(workdir).values():
    for name, was in run.get('settings', {}).items():
      if name in now and now[name] != was:
        raise UserError(
          f"--workdir={workdir} was trained with JAX's {name}={was}, now it "
          f'is {now[name]}, which gives other numbers; set it as it was'
        )
