"""The command that prepares a set: what it does and what it says."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds

from geco_jax.datasets import prepare
from geco_jax.datasets import sources
from geco_jax.errors import UserError
from tests import processes

_HAS_TENSORFLOW = importlib.util.find_spec('tensorflow') is not None
_FEATURES = {'image': tfds.features.Image(shape=(4, 4, 1))}


def _run(*flags, **environment):
  with mock.patch.dict(os.environ, environment):
    return processes.run('geco_jax.datasets.prepare', *flags)


def _write_tiny(write_tfds_set, data_dir):
  examples = [{'image': np.zeros((4, 4, 1), np.uint8)}] * 10
  return write_tfds_set(data_dir, 'tiny', _FEATURES, {'train': examples})


def test_command_says_that_a_set_is_prepared_already(tmp_path, write_tfds_set):
  folder = _write_tiny(write_tfds_set, tmp_path)
  code, out, _ = _run('--dataset=tiny', f'--data_dir={tmp_path}')
  assert code == 0
  assert out == f'tiny/1.0.0 is already prepared in {folder}\n'


def test_set_prepared_as_tfrecord_is_left_alone_with_a_hint(
  tmp_path, write_tfds_set
):
  folder = _write_tiny(write_tfds_set, tmp_path)
  info = pathlib.Path(folder, 'dataset_info.json')
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  message = prepare.prepare('tiny', str(tmp_path))
  assert 'already prepared' in message
  assert 'as tfrecord' in message
  assert 'delete that folder' in message


def test_command_reports_an_unknown_set_in_one_line(tmp_path):
  code, _, err = _run('--dataset=mnst', f'--data_dir={tmp_path}')
  assert code != 0
  assert err.startswith("error: unknown data set 'mnst' (did you mean ")
  assert err.count('\n') == 1


def test_command_without_a_data_set_names_the_flag():
  code, _, err = _run()
  assert code != 0
  assert err == 'error: --dataset is missing, e.g. --dataset=mnist\n'


@pytest.mark.skipif(_HAS_TENSORFLOW, reason='TensorFlow is installed')
def test_command_without_tensorflow_names_the_extra(tmp_path):
  code, _, err = _run('--dataset=mnist', TFDS_DATA_DIR=str(tmp_path))
  assert code != 0
  assert err.count('\n') == 1
  assert "pip install 'geco_jax[prepare]'" in err
  assert not list(tmp_path.iterdir())


def test_folder_of_an_unfinished_set_is_not_taken_for_prepared(tmp_path):
  (tmp_path / 'mnist' / '3.0.1').mkdir(parents=True)
  with pytest.raises(UserError, match='not a prepared set: delete it'):
    prepare.prepare('mnist:3.0.1', str(tmp_path))


_LOCAL_SET = """
    import sys
    import numpy as np
    import tensorflow_datasets as tfds
    from geco_jax.datasets import prepare

    class Shades(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        return self.dataset_info_from_configs(
          features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(4, 4, 1)),
            'label': tfds.features.ClassLabel(num_classes=30),
          })
        )

      def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

      def _generate_examples(self):
        for i in range(30):
          if i == 20 and 'fail' in sys.argv:
            raise OSError('cannot go on')
          image = np.full((4, 4, 1), 8 * i, np.uint8)
          yield i, {'image': image, 'label': i}

    print(prepare.prepare('shades', sys.argv[1]))
"""


def _prepare_local_set(tmp_path, *arguments):
  # TFDS looks for metadata beside a set's module: that needs a package.
  (tmp_path / 'local').mkdir(exist_ok=True)
  (tmp_path / 'local' / '__init__.py').touch()
  (tmp_path / 'local' / 'shades.py').write_text(textwrap.dedent(_LOCAL_SET))
  return subprocess.run(
    [sys.executable, '-c', 'import local.shades', tmp_path, *arguments],
    capture_output=True,
    text=True,
    timeout=120,
    cwd=tmp_path,
  )


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_TENSORFLOW, reason='TensorFlow is not installed')
def test_prepared_set_is_read_back(tmp_path):
  for message in ('is prepared', 'is already prepared'):
    process = _prepare_local_set(tmp_path)
    assert process.stdout.splitlines()[-1] == (
      f'shades/1.0.0 {message} in {tmp_path}/shades/1.0.0'
    )
  splits = sources.tfds_images('shades', data_dir=str(tmp_path)).splits
  for images in splits.values():
    shade = np.mean(images.image, axis=(1, 2, 3))
    np.testing.assert_array_equal(shade, 8 * images.label)
  assert sum(len(images.label) for images in splits.values()) == 30


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_TENSORFLOW, reason='TensorFlow is not installed')
def test_failed_preparation_leaves_nothing_prepared(tmp_path):
  process = _prepare_local_set(tmp_path, 'fail')
  reason = 'could not prepare shades/1.0.0: OSError: cannot go on'
  assert f'UserError: TFDS {reason}' in process.stderr
  assert not list((tmp_path / 'shades').iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_TENSORFLOW, reason='TensorFlow is not installed')
def test_command_without_a_network_says_so_at_once(tmp_path):
  nowhere = 'http://127.0.0.1:9'
  code, _, err = _run(
    '--dataset=mnist',
    f'--data_dir={tmp_path}',
    http_proxy=nowhere,
    https_proxy=nowhere,
  )
  assert code != 0
  assert err.startswith('error: cannot reach storage.googleapis.com')
  assert err.count('\n') == 1
  assert not list(tmp_path.iterdir())
