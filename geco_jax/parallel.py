"""Placement on devices, and communication among devices and processes.

A program is pmapped over all devices of all processes. In the layout `SHARED`
state and data are replicated, and a device tells its share of the global batch
by `device_index`; in `SPREAD` each device trains whole runs.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import socket
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from geco_jax.errors import UserError

_AXIS = 'devices'
_SECONDS_TO_JOIN = 300.0  # As JAX waits for the others.
_ELSEWHERE = 'another process of this run failed, which says why'


def initialize_distributed(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Join this process to the others of the run; call it before any other.

  Without arguments the cluster's environment (TPU pods, Slurm, ...) decides.

  Raises:
    UserError: if nothing names the others, or nobody listens at the
      coordinator's address for five minutes.
  """
  place = None
  if coordinator_address is not None:
    place = _host_and_port(coordinator_address)
  if num_processes is not None and num_processes < 1:
    raise UserError(f'--num_processes must be >= 1, got {num_processes}')
  if process_id is not None and not 0 <= process_id < (num_processes or np.inf):
    raise UserError(
      f'--process_id must be in [0, --num_processes), got {process_id} of '
      f'{num_processes}'
    )
  if place is not None and process_id:
    _await_coordinator(*place)
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except (ValueError, RuntimeError) as error:
    raise UserError(
      '--distributed: this process cannot join others; where no cluster (TPU '
      'pod, Slurm, ...) tells of them, give --coordinator=HOST:PORT, '
      f'--num_processes and --process_id: {str(error).splitlines()[0]}'
    ) from error


def _host_and_port(address: str) -> tuple[str, int]:
  """Split an address; refuse one at which JAX would wait, or abort."""
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f'--coordinator must be HOST:PORT, got {address!r}')
  place = host.strip('[]'), int(port)
  try:
    socket.getaddrinfo(*place)
  except (OSError, UnicodeError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise UserError(f'--coordinator={address}: {host}: {reason}') from error
  return place


def _await_coordinator(host: str, port: int) -> None:
  """Wait until process 0 listens: JAX would abort this one if it never does."""
  last = time.monotonic() + _SECONDS_TO_JOIN
  while True:
    try:
      socket.create_connection((host, port), 5.0).close()
      return
    except OSError as error:
      if time.monotonic() > last:
        raise UserError(
          f'--coordinator={host}:{port}: nobody listened there for '
          f'{_SECONDS_TO_JOIN:g} s, where process 0 should: {error}'
        ) from error
    time.sleep(0.5)


def split_cpu(num_devices: int) -> None:
  """Make XLA see the host's CPU as several devices; call it before others.

  Nothing happens where XLA_FLAGS already say how many.
  """
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    jax.config.update('jax_num_cpu_devices', num_devices)


def num_cores() -> int:
  """Return how many of the host's cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Not on macOS.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def num_devices() -> int:
  """Return how many devices all processes have together."""
  return jax.device_count()


def devices_in_words() -> str:
  """Return how many devices there are, of which kind: '1 x cpu'."""
  return f'{num_devices()} x {jax.devices()[0].device_kind}'


def device_name() -> str:
  """Return what kind of device there is: 'CPU', or as its maker calls it."""
  return jax.devices()[0].device_kind if on_accelerator() else 'CPU'


def on_accelerator() -> bool:
  """Return whether the program being traced will run on a GPU or TPU.

  Decided while tracing: `jax.lax.platform_dependent` would decide by the
  platform for which a program is lowered, but trace a training step twice,
  which costs half as much time again.
  """
  return jax.default_backend() != 'cpu'


def check_batch_size(batch_size: int) -> None:
  """Refuse a global batch that the devices cannot share equally.

  Raises:
    UserError: if their number does not divide `config.batch_size`.
  """
  if batch_size % num_devices():
    raise UserError(
      f'config.batch_size={batch_size} is not divisible by the '
      f'{num_devices()} devices'
    )


def local_batch_size(batch_size: int) -> int:
  """Return how many examples of a global batch a device has."""
  return batch_size // num_devices()


def local_places(batch_size: int) -> jax.Array:
  """Inside `pmap`: which of a global batch are this device's, int32 [local]."""
  start = device_index() * local_batch_size(batch_size)
  return start + jnp.arange(local_batch_size(batch_size))


def pmap(function: Callable, donate_argnums=()) -> Callable:
  """Return `function` compiled for all devices, arguments replicated."""
  return jax.pmap(function, axis_name=_AXIS, donate_argnums=donate_argnums)


def mean(tree: Any) -> Any:
  """Inside `pmap`: the mean over all devices."""
  # XLA:CPU does not drop the all-reduce of one device, 7% of a small step.
  return jax.lax.pmean(tree, _AXIS) if num_devices() > 1 else tree


def total(tree: Any) -> Any:
  """Inside `pmap`: the sum over all devices."""
  return jax.lax.psum(tree, _AXIS) if num_devices() > 1 else tree


def log_total(x: jax.Array) -> jax.Array:
  """Inside `pmap`: log of the sum of exp(x) over all devices."""
  if num_devices() == 1:
    return x
  highest = jax.lax.pmax(x, _AXIS)
  # Where all are -inf, so is the answer.
  shift = jnp.where(jnp.isfinite(highest), highest, 0)
  return jnp.log(jax.lax.psum(jnp.exp(x - shift), _AXIS)) + shift


def device_index() -> jax.Array:
  """Inside `pmap`: this device's number among all, int32 []."""
  return jax.lax.axis_index(_AXIS)


def replicate(tree: Any) -> Any:
  """Return the tree on every local device, with a leading device axis."""
  devices = jax.local_devices()
  sharding = _per_device()

  def place(leaf):
    leaf = np.asarray(leaf)[np.newaxis]
    return jax.make_array_from_single_device_arrays(
      (len(devices), *leaf.shape[1:]),
      sharding,
      [jax.device_put(leaf, device) for device in devices],
    )

  return jax.tree.map(place, tree)


def unreplicate(tree: Any) -> Any:
  """Return one device's copy of a replicated tree, as NumPy arrays."""
  # Indexing the array itself would reshard it over all devices.
  return jax.tree.map(
    lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree
  )


def _spread(trees: Sequence[Any]) -> Any:
  """Return trees shared out to the devices of this process, the only one."""
  num_local = jax.local_device_count()
  per_device = -(-len(trees) // num_local)
  missing = num_local * per_device - len(trees)
  filled = [*trees, *[trees[-1]] * missing]

  def place(*leaves):
    stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    shape = num_local, per_device, *stacked.shape[1:]
    return jax.device_put(stacked.reshape(shape), _per_device())

  return jax.tree.map(place, *filled)


def _collect(tree: Any, num_trees: int) -> list[Any]:
  """Return the trees that were spread, as NumPy arrays."""
  leaves = jax.tree.map(
    lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), tree
  )
  return [jax.tree.map(lambda x, i=i: x[i], leaves) for i in range(num_trees)]


class Layout(NamedTuple):
  """How the states and inputs of runs lie on the devices.

  Attributes:
    place: a tree per run -> one tree on the devices.
    fetch: (such a tree, number of runs) -> a tree per run, NumPy arrays.
    host_places: global batch size -> which of the batch's examples this process
      hands to its devices, int [places].
    place_batches: (per run, a tree of these examples [steps, places, ...]) ->
      one tree on the devices.
  """

  place: Callable[[Sequence[Any]], Any]
  fetch: Callable[[Any, int], list[Any]]
  host_places: Callable[[int], np.ndarray]
  place_batches: Callable[[Sequence[Any]], Any]


def host_places(batch_size: int) -> np.ndarray:
  """Return which examples of a global batch this process's devices have."""
  devices = jax.devices()
  numbers = np.array([devices.index(d) for d in jax.local_devices()])
  starts = numbers * local_batch_size(batch_size)
  return np.add.outer(starts, np.arange(local_batch_size(batch_size))).ravel()


def share(tree: Any) -> Any:
  """Return what `host_places` names, with a leading device axis.

  Args:
    tree: leaves [steps, places, ...].

  Returns:
    Leaves [num_devices, steps, local, ...], on every device its share.
  """
  devices = jax.local_devices()

  def place(leaf):
    num_steps, places, *rest = leaf.shape
    shape = num_steps, len(devices), places // len(devices), *rest
    shares = np.moveaxis(leaf.reshape(shape), 1, 0)
    return jax.make_array_from_single_device_arrays(
      shares.shape,
      _per_device(),
      [
        jax.device_put(shares[i : i + 1], device)
        for i, device in enumerate(devices)
      ],
    )

  return jax.tree.map(place, tree)


def on_host(function: Callable) -> Callable:
  """Return `function` compiled for the host's CPU; it returns NumPy arrays.

  Where JAX was told to have no CPU, the first device takes its place.
  """
  compiled = jax.jit(function)

  def call(*args):
    with jax.default_device(_host_device()):
      return jax.tree.map(np.asarray, compiled(*args))

  return call


def put_on_host(array: np.ndarray) -> jax.Array:
  """Return an array for functions that are compiled by `on_host`."""
  return jax.device_put(array, _host_device())


def _host_device():
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return jax.local_devices()[0]


# One run, replicated: the devices share each of its batches.
SHARED = Layout(
  place=lambda trees: replicate(trees[0]),
  fetch=lambda tree, _: [unreplicate(tree)],
  host_places=host_places,
  place_batches=lambda trees: share(trees[0]),
)
# Each run whole on one device. Leaves are [num_devices, runs per device, ...];
# where the devices do not divide the runs, the last one stands in for those
# that are missing.
SPREAD = Layout(
  place=_spread,
  fetch=_collect,
  host_places=np.arange,
  place_batches=_spread,
)


def _per_device():
  """Return the sharding whose leading axis is the local devices."""
  return jax.sharding.NamedSharding(
    jax.sharding.Mesh(np.array(jax.local_devices()), (_AXIS,)),
    jax.sharding.PartitionSpec(_AXIS),
  )


def is_main_process() -> bool:
  """Return whether this process writes the run's files."""
  return jax.process_index() == 0


def any_process(flag: bool) -> bool:
  """Return whether any process passed True; all must call it."""
  return bool(highest(flag))


def failures_of_all(
  failures: Sequence[Exception | None],
) -> list[Exception | None]:
  """Return failures, those of other processes too; all must call it."""
  return [
    UserError(_ELSEWHERE) if any_process(f is not None) and f is None else f
    for f in failures
  ]


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
  """Raise in all processes if one of them raises within; all must enter it.

  Else the others would wait for the one.

  Raises:
    UserError: if another process raised, which says why.
  """
  error = None
  try:
    yield
  except Exception as raised:
    error = raised
  if any_process(error is not None):
    raise error or UserError(_ELSEWHERE)


def highest(value: float) -> float:
  """Return the highest of all processes' values; all must call it."""
  if jax.process_count() == 1:
    return value
  return float(np.max(multihost_utils.process_allgather(np.array(value))))
