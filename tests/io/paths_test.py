"""Paths: ~ is a home folder, and another machine's are refused."""

from absl import flags
import pytest

from geco_jax import cli
from geco_jax.classifiers import pretrained
from geco_jax.errors import UserError
from geco_jax.io.paths import check_for_checkpoints
from geco_jax.io.paths import local_path
from geco_jax.io.paths import output_path

HOME_PATHS = {
  '~/run': '/home/me/run',
  '~': '/home/me',
  'a/~/b': 'a/~/b',
  './~x': './~x',
  '/some/exp [1]': '/some/exp [1]',
  'C:run': 'C:run',
  'config.py:quick,elbo': 'config.py:quick,elbo',
}


@pytest.fixture(autouse=True)
def _home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')


@pytest.mark.parametrize('path', HOME_PATHS)
def test_home_folders_are_expanded_and_nothing_else_is(path):
  assert local_path(path) == HOME_PATHS[path]


@pytest.mark.parametrize(
  'path', ['gs://a/b', 's3://a', 'file:///a', 'https://a/b', 'gs:/a/b']
)
def test_paths_of_other_machines_are_refused(path):
  with pytest.raises(UserError, match=f'{path} is no path of this machine'):
    local_path(path)


def test_unknown_home_folders_are_refused():
  with pytest.raises(UserError, match='no home folder ~no_such_user'):
    local_path('~no_such_user/run')


@pytest.mark.parametrize(
  'flag', [cli.WORKDIR, cli.DATA_DIR, cli.COMPILATION_CACHE]
)
def test_flags_that_are_paths_are_expanded(flag):
  parser = flags.FLAGS[flag.name].parser
  assert parser.parse('~/run') == '/home/me/run'
  assert parser.parse('') == ''
  with pytest.raises(UserError, match='no path of this machine'):
    parser.parse('gs://bucket/run')


def test_a_folder_of_someone_s_is_no_file_to_be_written(tmp_path):
  with pytest.raises(UserError, match='is a folder; name a file'):
    output_path(str(tmp_path))
  assert output_path('~/x.npz') == '/home/me/x.npz'


def test_paths_of_networks_are_expanded():
  assert pretrained.folder_of('~/networks/mine') == '/home/me/networks/mine'


def test_a_backslash_is_refused_where_checkpoints_would_be_lost(tmp_path):
  with pytest.raises(UserError, match='with a backslash cannot be read back'):
    check_for_checkpoints(str(tmp_path / 'a\\b' / 'run'))
  check_for_checkpoints(str(tmp_path / "it's [1] $HOME %d" / 'run'))
