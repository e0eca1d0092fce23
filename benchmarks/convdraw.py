"""ConvDRAW's training step beside PyTorch's: speed, compilation, memory.

  python -m benchmarks.convdraw --num_cpu_devices=2 --output=convdraw.json

One step is forward, backward, Adam and the multiplier. Same architecture, with
fused gates on both sides; PyTorch takes the best of its forms (eager or
`torch.compile`, channels_last or not) row by row. Images are random bytes.
Compilation and memory are those of a fresh process: JAX itself says how long it
traces, lowers and compiles; for PyTorch it is the first step less a later one.
Run it on an idle machine.
"""

from collections.abc import Sequence
import functools
import multiprocessing
import time
from typing import Any, NamedTuple

from absl import flags
import jax

from benchmarks import contenders
from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from geco_jax import cli
from geco_jax.base_config import get_base_config
from geco_jax.base_config import group


class Size(NamedTuple):
  """A model, and the batches it is trained on."""

  image_shape: tuple[int, int, int]
  batch_size: int
  model: dict[str, Any]


SIZES = {
  'large': Size(
    image_shape=(32, 32, 3),
    batch_size=32,
    model=dict(num_steps=8, hidden_channels=64, latent_channels=8),
  ),
  'small': Size(
    image_shape=(28, 28, 1),
    batch_size=64,
    model=dict(num_steps=4, hidden_channels=32, latent_channels=4),
  ),
}
_OURS = 'geco_jax'
TORCHS = {
  'torch eager': dict(),
  'torch eager, channels_last': dict(channels_last=True),
  'torch.compile, channels_last': dict(
    channels_last=True, compile_mode='default'
  ),
}
_NUM_IMAGES = 1_024


def contender(
  name: str, size: Size, steps_per_round: int, **model: Any
) -> Contender:
  """Return one program to time, `model` changing the size's own model."""
  kwargs = {**size.model, **model}
  dataset = contenders.random_images(size.image_shape, _NUM_IMAGES)
  config = get_base_config('geco', kappa=0.1, num_steps=1_000)
  config.batch_size = size.batch_size
  config.model = group('conv_draw', **kwargs)
  if name == _OURS:
    return contenders.ours(config, dataset, steps_per_round)
  return contenders.torchs(
    contenders.torch_network(size.image_shape, config.model),
    dataset.splits['train'].image,
    size.batch_size,
    steps_per_round,
    **TORCHS[name],
  )


def _measure_cold(name, size_name, model, num_devices, queue):
  """Put a process's seconds to compile and peak memory in MiB into a queue."""
  jax.config.update('jax_num_cpu_devices', num_devices)
  program = contender(name, SIZES[size_name], 1, **model)
  compiling = []

  def listen(event, duration_secs, **_):
    if event.startswith('/jax/core/compile/'):
      compiling.append(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(listen)
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    program.run()
    seconds.append(time.perf_counter() - start)
  queue.put(
    {
      'compile_seconds': sum(compiling) or seconds[0] - min(seconds),
      'peak_memory_mib': _peak_memory() / 2**20,
    }
  )


def _peak_memory():
  """Return this process's largest resident size in bytes, on Linux.

  `resource.ru_maxrss` would be that of the process that started this one.
  """
  with open('/proc/self/status') as file:
    (line,) = (line for line in file if line.startswith('VmHWM'))
  return int(line.split()[1]) * 1024


def cold(name: str, size_name: str, **model: Any) -> dict[str, Any]:
  """Return what a program's first step costs, in a fresh process."""
  context = multiprocessing.get_context('spawn')
  queue = context.Queue()
  args = (name, size_name, model, flags.FLAGS.num_cpu_devices, queue)
  process = context.Process(target=_measure_cold, args=args)
  process.start()
  process.join()
  return {
    'size': size_name,
    'program': name,
    'num_steps': model.get('num_steps', SIZES[size_name].model['num_steps']),
    **queue.get(timeout=1),
  }


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_multi_enum('sizes', [*SIZES], [*SIZES], 'Sizes of the model.')
  side_by_side.define_flags(rounds=5, steps_per_round=3, num_cpu_devices=1)
  flags.DEFINE_boolean(
    'cold', True, 'Whether to measure compilation and memory too.'
  )


def main(argv: Sequence[str]) -> None:
  """Measure all rows, print and write them."""
  del argv
  side_by_side.split_cpu()
  rows, firsts = [], []
  for size_name in flags.FLAGS.sizes:
    for hidden_to_hidden in (True, False):
      make = functools.partial(
        contender,
        size=SIZES[size_name],
        steps_per_round=flags.FLAGS.steps_per_round,
        hidden_to_hidden=hidden_to_hidden,
      )
      rates = side_by_side.measure(
        {name: make(name) for name in (_OURS, *TORCHS)}, flags.FLAGS.rounds
      )
      title = size_name if hidden_to_hidden else f'{size_name}, no hidden'
      rows += [
        side_by_side.compare(title, rates, _OURS, name) for name in TORCHS
      ]
    if flags.FLAGS.cold:
      firsts += [cold(name, size_name) for name in (_OURS, *TORCHS)]
      firsts.append(cold(_OURS, size_name, num_steps=32))
  side_by_side.report(rows, first_steps=firsts)
  for first in firsts:
    print(
      f'{first["size"]:<6} {first["program"]:<29} '
      f'T={first["num_steps"]:<3} compiles in {first["compile_seconds"]:5.1f} '
      f's, peak memory {first["peak_memory_mib"]:6.0f} MiB'
    )


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
