"""Whatever is damaged in a folder, the same command is right or says so."""

import pathlib
import shutil

import numpy as np
import pytest

from tests.faults.commands import Command
from tests.faults.commands import differences
from tests.faults.commands import left_in
from tests.faults.commands import run
from tests.faults.commands import Running
from tests.faults.commands import SEED
from tests.faults.commands import wait_until

# Which folder, and the commands that are given again in it.
FOLDERS = {
  'finished train': ('evaluate', ('train', 'evaluate')),
  'half of train': ('train', ('train',)),
  'finished train_classifier': ('train_classifier', ('train_classifier',)),
  'half of train_classifier': ('train_classifier', ('train_classifier',)),
  'finished sweep': ('sweep', ('sweep',)),
  'finished figure': ('figure', ('figure',)),
  'finished cache': ('cache', ('cache',)),
}
# They change no number and nobody may read them again: they stay as they are,
# or are begun anew.
BY_PRODUCTS = (
  'metrics.jsonl',
  'progress.png',
  'reconstructions_train.png',
  'reconstructions_test.png',
  'best.json',
  'data.json',
  'run.json',
)
# Files made from what runs keep beside their numbers: logs, whose lines have no
# digests, and the device.
DRAWN = {
  *('constraints.png', 'multipliers.png', 'report.html'),
  'information_plane.json',
}


def truncate(path: pathlib.Path, rng: np.random.Generator) -> None:
  """Cut a file anywhere."""
  content = path.read_bytes()
  path.write_bytes(content[: rng.integers(max(len(content), 1))])


def flip(path: pathlib.Path, rng: np.random.Generator) -> None:
  """Flip a bit of a file."""
  content = bytearray(path.read_bytes())
  if content:
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
  path.write_bytes(content)


def delete(path: pathlib.Path, rng: np.random.Generator) -> None:
  """Delete a file."""
  del rng
  path.unlink()


DAMAGES = {'truncated': truncate, 'flipped': flip, 'deleted': delete}


def unit(path: str) -> str:
  """Return what is compared as one: a file, or a checkpoint."""
  parts = pathlib.PurePath(path).parts
  if 'checkpoints' in parts:
    return str(pathlib.PurePath(*parts[: parts.index('checkpoints') + 2]))
  return path


def outcome(damaged: pathlib.Path, path: str, commands: list[Command], whole):
  """Give the commands again in a damaged folder; return what happened.

  Fails with an AssertionError where that is neither right nor said.
  """
  printed = ''
  for command in commands:
    ended = run(command, damaged)
    printed += ended.printed
    if ended.code != 0:
      assert ended.is_one_sentence, f'exit {ended.code}: {ended.printed}'
      return 'refused in one sentence'
  assert 'Traceback' not in printed, printed
  left = left_in(damaged)
  wrong = differences(left, whole.left)
  drawn = DRAWN if path.endswith(('metrics.jsonl', 'run.json')) else set()
  others = [other for other in wrong if other not in {unit(path), *drawn}]
  assert not others, f'{others} differ: {printed}'
  if not wrong:
    return 'equal'
  name = pathlib.PurePath(path).name
  is_read = 'checkpoints' not in path and name not in BY_PRODUCTS
  newest = max(
    (p for p in whole.left if 'checkpoints' in p and unit(p) == p),
    key=lambda p: int(pathlib.PurePath(p).name),
    default=None,
  )
  assert not is_read and unit(path) != newest, f'{wrong} differ: {printed}'
  is_said = name in printed or unit(path) in printed
  lost = 'an older checkpoint' if 'checkpoints' in path else name
  return f'equal but for {lost}, ' + (
    'which a warning names' if is_said else 'which was not read'
  )


def half(whole, folder) -> None:
  """Leave a run in a folder that was killed in its middle."""
  saved = folder / 'checkpoints' / '80' / 'manifest' / 'commit_success.txt'
  process = Running(whole.command, folder)
  wait_until(process, saved.exists)
  assert process.kill()


def files_of(name: str, folder: pathlib.Path) -> list[str]:
  """Return the files of a folder of `FOLDERS` that are damaged, in order."""
  paths = [path.relative_to(folder) for path in sorted(folder.rglob('*'))]
  left_out = {'.lock', 'tensorboard'}
  if name in ('finished sweep', 'finished figure'):
    left_out.add('checkpoints')  # Those of a run are damaged in a run's folder.
  if name == 'finished cache':
    left_out.add('run')
  return [
    str(path)
    for path in paths
    if (folder / path).is_file() and left_out.isdisjoint(path.parts)
  ]


@pytest.mark.faults
@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('name', FOLDERS)
def test_what_is_damaged_is_mended_or_refused(
  name, damage, whole, count, tmp_path
):
  expected, given = FOLDERS[name]
  expected = whole(expected)
  commands = [whole(command).command for command in given]
  sound = expected.folder
  if name.startswith('half'):
    sound = tmp_path / 'half'
    half(expected, sound)
  rng = np.random.default_rng([SEED, *name.encode(), *damage.encode()])
  wrong = {}
  for path in files_of(name, sound):
    folder = tmp_path / 'damaged'
    shutil.copytree(sound, folder)
    DAMAGES[damage](folder / path, rng)
    # The second need not see what the first has mended.
    again = commands[:1] if 'checkpoints' in path else commands
    try:
      count(
        f'{damage} files of a {name}', outcome(folder, path, again, expected)
      )
    except AssertionError as error:
      wrong[path] = str(error)
      count(f'{damage} files of a {name}', 'WRONG')
    shutil.rmtree(folder)
  assert not wrong, '\n'.join(f'{path}: {why}' for path, why in wrong.items())
