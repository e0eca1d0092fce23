"""Training steps in a row, as one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import parallel


def scan(
  step: Callable[..., tuple[Any, Any]],
  length: int,
  state: Any,
  args: tuple[Any, ...],
  limit: jax.Array | None = None,
) -> tuple[Any, Any]:
  """Take `length` steps, or the first `limit` of them.

  With a limit, one compiled program takes any number of steps, bit for bit as
  without (measured on CPUs).

  Args:
    step: (state, *args) -> (state, metrics).
    length: of the returned metrics.
    state: before the first step.
    args: the same for each step.
    limit: how many to take, int32 [], at most `length`; None is all.

  Returns:
    (state, metrics of each step; zeros stand for those that were not taken).
  """
  if limit is None:
    return jax.lax.scan(
      lambda state, _: step(state, *args), state, length=length
    )
  step = jax.jit(step)  # Traced once, for its shapes and in the loop.
  _, shapes = jax.eval_shape(step, state, *args)
  empty = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), shapes)

  def take(carry):
    taken, state, metrics = carry
    state, latest = step(state, *args)
    metrics = jax.tree.map(lambda x, y: x.at[taken].set(y), metrics, latest)
    return taken + 1, state, metrics

  _, state, metrics = jax.lax.while_loop(
    lambda carry: carry[0] < limit, take, (jnp.int32(0), state, empty)
  )
  return state, metrics


def dispatcher(
  program: Callable[..., tuple[Any, Any]], max_steps: int
) -> Callable[..., tuple[Any, Any]]:
  """Return a pmapped program as a function that takes up to `max_steps` steps.

  On CPUs it is compiled once, for any number. On accelerators a loop of fixed
  length is faster: the one of `max_steps` steps is compiled, and the other only
  for a run that a CPU left between two lines of its log.

  Args:
    program: (states, *args) or (states, *args, limit), see `scan`.
    max_steps: the program's length.

  Returns:
    (states, *args, num_steps=max_steps) -> what the program returns.
  """

  def take_steps(*args, num_steps=max_steps):
    if num_steps == max_steps and parallel.on_accelerator():
      return program(*args)
    return program(*args, parallel.replicate(np.int32(num_steps)))

  return take_steps
