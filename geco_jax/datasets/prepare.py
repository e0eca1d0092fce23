r"""Download a TFDS data set and prepare it for reading without TensorFlow.

    pip install 'geco_jax[prepare]'
    python -m geco_jax.datasets.prepare --dataset=mnist [--data_dir=DIR]

Only this command needs TensorFlow and the network; runs need neither.
"""

from collections.abc import Sequence
import importlib.util
import urllib.parse

from absl import flags
import requests

from geco_jax import cli
from geco_jax.datasets import tfds_source
from geco_jax.errors import UserError

_TIMEOUT_SECONDS = 20


def prepare(name: str, data_dir: str | None = None) -> str:
  """Prepare a data set as array_record, unless it is prepared already.

  Args:
    name: TFDS's name, with a config if wanted.
    data_dir: where TFDS keeps its sets, or None for TFDS's own default.

  Returns:
    What was done, as one line.

  Raises:
    UserError: if the set is unknown, TensorFlow or the network is missing, or
      TFDS could not prepare the set.
  """
  builder = tfds_source.open_builder(name, data_dir)
  full_name, folder = builder.info.full_name, builder.data_dir
  if tfds_source.is_prepared(builder):
    return f'{full_name} is already prepared in {folder}{_format_hint(builder)}'
  if builder.data_path.exists():  # TFDS would take it for a prepared set.
    raise UserError(f'{folder} is there but not a prepared set: delete it')
  _require_tensorflow()
  _require_network(builder)
  try:
    builder.download_and_prepare(file_format='array_record')
  except Exception as error:  # Each set fails in its own ways; none is ours.
    raise UserError(
      f'TFDS could not prepare {full_name}: {type(error).__name__}: {error}'
    ) from error
  return f'{full_name} is prepared in {folder}'


def _format_hint(builder: tfds_source.Builder) -> str:
  if tfds_source.reads_without_tensorflow(builder):
    return ''
  return (
    f', but as {builder.info.file_format.value}, which takes TensorFlow to '
    'read; delete that folder to prepare it again as array_record'
  )


def _require_tensorflow() -> None:
  for module in ('tensorflow', 'importlib_resources'):
    if importlib.util.find_spec(module) is None:
      raise UserError(
        f'TFDS needs {module} to prepare a data set (runs do not): '
        "pip install 'geco_jax[prepare]'"
      )


def _require_network(builder: tfds_source.Builder) -> None:
  """Fail at once where TFDS would retry for minutes before it gave up."""
  if (builder.data_dir_root / 'downloads').exists():
    return  # Its files may have been downloaded before.
  for url in list(builder.url_infos or ())[:1]:
    try:
      requests.head(url, timeout=_TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
      raise UserError(
        f'cannot reach {urllib.parse.urlparse(url).netloc} to download '
        f'{builder.name}: preparing a data set takes a network'
      ) from error


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_string(
    'dataset', None, "TFDS's name of the data set, e.g. mnist"
  )


def main(argv: Sequence[str]) -> None:
  """Prepare the data set that the flags name."""
  del argv
  if not flags.FLAGS.dataset:
    raise UserError('--dataset is missing, e.g. --dataset=mnist')
  print(prepare(flags.FLAGS.dataset, cli.DATA_DIR.value))


if __name__ == '__main__':
  cli.run(main, define_flags)
