"""A small part of `make test-faults` in `make test`: of one training."""

import shutil

import numpy as np

from tests.faults.commands import run
from tests.faults.commands import SEED
from tests.faults.damages_test import DAMAGES
from tests.faults.damages_test import files_of
from tests.faults.damages_test import outcome
from tests.faults.full_disk_test import check_said
from tests.faults.kills_test import kill_and_finish
from tests.faults.kills_test import KILLS


def test_a_training_survives_kills_damages_and_a_full_disk(
  whole, begun, count, tmp_path
):
  rng = np.random.default_rng(SEED)
  folder, train = tmp_path / 'run', whole('train')
  for index in rng.integers(KILLS['train'], size=2):
    kill_and_finish(train, begun, folder, index, count, 'train')
  for damage in DAMAGES:
    damaged = tmp_path / damage
    shutil.copytree(train.folder, damaged)
    newest = [f for f in files_of('train', damaged) if 'checkpoints/200' in f]
    path = rng.choice(newest)
    DAMAGES[damage](damaged / path, rng)
    count(f'{damage} files', outcome(damaged, path, [train.command], train))
  ended = run(train.command, tmp_path / 'full', max_bytes=3_000)
  count('full disks', check_said(ended, tmp_path / 'full'))
