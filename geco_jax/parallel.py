"""Everything that knows how many devices and processes there are.

A program is pmapped over all devices of all processes. State and data are
replicated; a device tells its share of the global batch by `device_index`.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

_AXIS = 'devices'


def initialize_distributed(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins this process to the others of the run; call it before any other.

  With no argument the cluster's own environment (TPU pods, Slurm, ...) tells.
  """
  jax.distributed.initialize(coordinator_address, num_processes, process_id)


def split_cpu(num_devices: int) -> None:
  """Makes XLA see the host's CPU as several devices; call it before others.

  Nothing happens where XLA_FLAGS say already how many.
  """
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    jax.config.update('jax_num_cpu_devices', num_devices)


def num_cores() -> int:
  """Returns how many of the host's cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Not on macOS.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def pmap(function: Callable, donate_argnums=()) -> Callable:
  """Returns `function` compiled for all devices, arguments replicated."""
  return jax.pmap(function, axis_name=_AXIS, donate_argnums=donate_argnums)


def mean(tree: Any) -> Any:
  """Inside `pmap`: the mean over all devices."""
  # XLA:CPU does not drop the all-reduce of one device, 7% of a small step.
  return jax.lax.pmean(tree, _AXIS) if jax.device_count() > 1 else tree


def total(tree: Any) -> Any:
  """Inside `pmap`: the sum over all devices."""
  return jax.lax.psum(tree, _AXIS) if jax.device_count() > 1 else tree


def log_total(x: jax.Array) -> jax.Array:
  """Inside `pmap`: log of the sum of exp(x) over all devices."""
  if jax.device_count() == 1:
    return x
  highest = jax.lax.pmax(x, _AXIS)
  # Where all are -inf, so is the answer.
  shift = jnp.where(jnp.isfinite(highest), highest, 0)
  return jnp.log(jax.lax.psum(jnp.exp(x - shift), _AXIS)) + shift


def device_index() -> jax.Array:
  """Inside `pmap`: this device's number among all, int32 []."""
  return jax.lax.axis_index(_AXIS)


def replicate(tree: Any) -> Any:
  """Returns the tree on every local device, with a leading device axis."""
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
  """Returns one device's copy of a replicated tree, as NumPy arrays."""
  # Indexing the array itself would reshard it over all devices.
  return jax.tree.map(
    lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree
  )


def spread(trees: Sequence[Any]) -> Any:
  """Returns trees shared out to the devices of this process, the only one.

  Leaves become [num_devices, trees per device, ...]; where the devices do not
  divide the trees, the last tree stands in for those that are missing.
  """
  num_devices = jax.local_device_count()
  per_device = -(-len(trees) // num_devices)
  missing = num_devices * per_device - len(trees)
  filled = [*trees, *[trees[-1]] * missing]

  def place(*leaves):
    stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    shape = num_devices, per_device, *stacked.shape[1:]
    return jax.device_put(stacked.reshape(shape), _per_device())

  return jax.tree.map(place, *filled)


def collect(tree: Any, num_trees: int) -> list[Any]:
  """Returns the trees that were `spread`, as NumPy arrays."""
  leaves = jax.tree.map(
    lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), tree
  )
  return [jax.tree.map(lambda x, i=i: x[i], leaves) for i in range(num_trees)]


def _per_device():
  """Returns the sharding whose leading axis is the local devices."""
  return jax.sharding.NamedSharding(
    jax.sharding.Mesh(np.array(jax.local_devices()), (_AXIS,)),
    jax.sharding.PartitionSpec(_AXIS),
  )


def is_main_process() -> bool:
  """Returns whether this process writes the run's files."""
  return jax.process_index() == 0


def any_process(flag: bool) -> bool:
  """Returns whether any process passed True; all must call it."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
