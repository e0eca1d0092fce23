r"""GECO against Shannon's rate-distortion function, where the answer is known.

  python -m experiments.rate_distortion --workdir=runs/rate_distortion
  python -m experiments.rate_distortion --workdir=runs/rate_distortion \
      --robustness

A linear VAE describes a Gaussian source under the constraint
`||x - g(z)||^2 <= D`. It must end at KL = R(D) nats with the multiplier
1 / (2 m) of reverse water-filling (`geco_jax.theory.rate_distortion`). The
first command takes 20 s on two CPU cores and should print KL/R and lambda over
its exact value within 0.5% of 1. The second repeats it for seven step sizes of
the multiplier, in a minute: Algorithm 1 ends within 1% of R(D) and 2% of lambda
for every D at 1e-3 and 3e-3, `geco` from 3e-3, 36 over the number of steps, to
1e-1. Smaller ones leave it too little time: its slowest time constant is 5 over
the step size.

KL and distortion are exact expectations at the final parameters, lambda is the
final one. Training sees only random batches and posterior samples, the same in
all runs. Adam's rate falls to 0, and so does the multiplier's step size, over
the last fifth of the steps: otherwise lambda would keep the noise of batches.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
import os
import time
from typing import Any, NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from geco_jax import algorithm_1
from geco_jax import cli
from geco_jax import geco
from geco_jax import lagrangian
from geco_jax.io.files import write_json
from geco_jax.io.run_folder import create
from geco_jax.theory import rate_distortion as theory

from .shared import rate_distortion_figures as figures
from .shared.small_png import write_png

EIGENVALUES = np.geomspace(0.05, 4.0, 16)  # Variances of the source.
DISTORTIONS = (8.0, 4.0, 2.0, 1.0)  # Total squared errors to reach.
STEP_SIZES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LEARNING_RATE = 1e-2  # Rate of Adam at the start of a cosine to 0.

# (schedule of the step size, natural multiplier) -> the update.
UPDATES: dict[str, Callable[[Any, Any], optax.GradientTransformation]] = {
  'literal': lambda schedule, natural: algorithm_1(schedule),
  'geco': lambda schedule, natural: geco(schedule, natural_multiplier=natural),
}
_FADE = 0.2  # Share of the steps over which the step size falls to 0.
# Step sizes without --robustness; None is 40 / steps, the configs'.
DEFAULT_STEP_SIZES = {'literal': 1e-3, 'geco': None}

KL_TOLERANCE = 0.01
MULTIPLIER_TOLERANCE = 0.02
DIVERGED = 10.0  # Factor by which a diverged multiplier is off, at least.
_NUM_TRACE_POINTS = 600


class LinearVae(NamedTuple):
  """q(z|x) = N(x encoder, diag(exp(2 log_stddev))), g(z) = z decoder."""

  encoder: jax.Array  # [n, n].
  decoder: jax.Array  # [n, n].
  log_stddev: jax.Array  # [1, n].


class Outcome(NamedTuple):
  """How runs ended, [runs] each."""

  kl: jax.Array  # Expected KL in nats.
  distortion: jax.Array  # Expected squared error.
  log_multiplier: jax.Array
  trace: jax.Array  # [runs, points], log-multipliers during training.


def init_model(key: jax.Array) -> LinearVae:
  """Return random weights and posteriors of unit variance."""
  n = EIGENVALUES.size
  encoder, decoder = 0.1 * jax.random.normal(key, (2, n, n))
  return LinearVae(encoder, decoder, jnp.zeros((1, n)))


def kl_and_squared_error(
  model: LinearVae, key: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array]:
  """Return the means [] over a fresh batch with one posterior sample each."""
  stddevs = jnp.sqrt(jnp.asarray(EIGENVALUES, jnp.float32))[None]
  x, noise = jax.random.normal(key, (2, batch_size, EIGENVALUES.size))
  x = x * stddevs
  mean = x @ model.encoder
  z = mean + jnp.exp(model.log_stddev) * noise
  variance = jnp.exp(2 * model.log_stddev)
  kl = 0.5 * (mean**2 + variance - 1) - model.log_stddev
  return kl.sum(axis=1).mean(), ((x - z @ model.decoder) ** 2).sum(1).mean()


def exact_kl_and_squared_error(
  model: LinearVae,
) -> tuple[jax.Array, jax.Array]:
  """Return the expectations [] of `kl_and_squared_error`."""
  eigenvalues = jnp.asarray(EIGENVALUES, jnp.float32)[:, None]
  variance = jnp.exp(2 * model.log_stddev)
  kl = (
    0.5 * (eigenvalues * model.encoder**2).sum()
    + (0.5 * (variance - 1) - model.log_stddev).sum()
  )
  residual = jnp.eye(EIGENVALUES.size) - model.encoder @ model.decoder
  squared_error = (eigenvalues * residual**2).sum() + (
    variance.T * model.decoder**2
  ).sum()
  return kl, squared_error


def train(
  multiplier_update: optax.GradientTransformation,
  distortion: jax.Array,
  num_steps: int,
  batch_size: int,
  seed: int,
) -> Outcome:
  """Train one model under the constraint of one distortion []."""
  init_key, data_key = jax.random.split(jax.random.key(seed))
  optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps))

  def loss(model, log_multiplier, key):
    kl, squared_error = kl_and_squared_error(model, key, batch_size)
    constraint = squared_error - distortion
    return lagrangian(kl, constraint, log_multiplier), constraint

  def step(state: Any, count: jax.Array) -> tuple[Any, jax.Array]:
    model, optimizer_state, log_multiplier, multiplier_state = state
    gradients, constraint = jax.grad(loss, has_aux=True)(
      model, log_multiplier, jax.random.fold_in(data_key, count)
    )
    updates, optimizer_state = optimizer.update(gradients, optimizer_state)
    multiplier_updates, multiplier_state = multiplier_update.update(
      constraint / distortion, multiplier_state, log_multiplier
    )
    return (
      optax.apply_updates(model, updates),
      optimizer_state,
      optax.apply_updates(log_multiplier, multiplier_updates),
      multiplier_state,
    ), log_multiplier

  model, log_multiplier = init_model(init_key), jnp.zeros([])
  state = (
    model,
    optimizer.init(model),
    log_multiplier,
    multiplier_update.init(log_multiplier),
  )
  (model, _, log_multiplier, _), trace = jax.lax.scan(
    step, state, jnp.arange(num_steps)
  )
  kl, squared_error = exact_kl_and_squared_error(model)
  stride = max(1, num_steps // _NUM_TRACE_POINTS)
  return Outcome(kl, squared_error, log_multiplier, trace[::stride])


def run_update(
  name: str,
  step_sizes: Sequence[float],
  num_steps: int,
  batch_size: int,
  seed: int,
  distortions: Sequence[float] = DISTORTIONS,
) -> tuple[list[dict[str, Any]], np.ndarray]:
  """Train every step size and distortion together.

  Args:
    name: key of `UPDATES`.
    step_sizes: the multiplier's step sizes, >= 0.
    num_steps: training steps.
    batch_size: draws of the source per step.
    seed: of parameters, data and noise.
    distortions: total squared errors to reach, > 0.

  Returns:
    The rows of the table, one a run, distortions running fastest, and the
    multipliers during training [runs, points].
  """
  pairs = [*itertools.product(step_sizes, distortions)]

  @jax.jit
  @jax.vmap
  def train_all(step_size, distortion):
    fade = optax.linear_schedule(
      step_size, 0.0, int(_FADE * num_steps), int((1 - _FADE) * num_steps)
    )
    update = UPDATES[name](fade, EIGENVALUES.size / (2 * distortion))
    return train(update, distortion, num_steps, batch_size, seed)

  start = time.perf_counter()
  outcome = jax.device_get(train_all(*jnp.array(pairs, jnp.float32).T))
  seconds = time.perf_counter() - start
  rows = [
    _row(name, step_size, distortion, *(float(leaf[i]) for leaf in outcome[:3]))
    | {'seconds': seconds}
    for i, (step_size, distortion) in enumerate(pairs)
  ]
  return rows, np.exp(outcome.trace)


def _row(name, step_size, distortion, kl, squared_error, log_multiplier):
  """Return one run's numbers beside the exact ones."""
  rate = float(theory.rate(EIGENVALUES, distortion))
  optimum = float(theory.optimal_multiplier(EIGENVALUES, distortion))
  multiplier = float(np.exp(log_multiplier))
  kl_error, multiplier_error = kl / rate - 1, multiplier / optimum - 1
  ratio_in_range = 1 / DIVERGED <= multiplier / optimum <= DIVERGED
  return {
    'update': name,
    'step_size': step_size,
    'distortion': distortion,
    'violation': squared_error / distortion - 1,
    'rate_nats': rate,
    'kl_nats': kl,
    'kl_error': kl_error,
    'optimal_multiplier': optimum,
    'multiplier': multiplier,
    'multiplier_error': multiplier_error,
    'accurate': abs(kl_error) <= KL_TOLERANCE
    and abs(multiplier_error) <= MULTIPLIER_TOLERANCE,
    'diverged': not (np.isfinite(kl) and ratio_in_range),
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Return the runs as text, a line each."""
  lines = [
    'update   step size   D  violation  R/nats  KL/nats    KL/R'
    '  lambda/lambda*  seconds'
  ]
  for row in rows:
    verdict = 'diverged' if row['diverged'] else 'off'
    lines.append(
      f'{row["update"]:<8} {row["step_size"]:>9g} {row["distortion"]:>3g} '
      f'{row["violation"]:>+8.2%} {row["rate_nats"]:>9.4f} '
      f'{row["kl_nats"]:>8.4f} {1 + row["kl_error"]:>7.4f}'
      f' {1 + row["multiplier_error"]:>15.4g} {row["seconds"]:>8.1f}'
      + ('' if row['accurate'] else f'  {verdict}')
    )
  return '\n'.join(lines)


def run(
  workdir: str,
  robustness: bool,
  num_steps: int,
  batch_size: int,
  seed: int,
) -> list[dict[str, Any]]:
  """Train, print the table and write JSON and PNG; return the rows."""
  rows, traces = [], {}
  for name in UPDATES:
    default = DEFAULT_STEP_SIZES[name] or 40 / num_steps
    step_sizes = STEP_SIZES if robustness else [default]
    update_rows, traces[name] = run_update(
      name, step_sizes, num_steps, batch_size, seed
    )
    rows += update_rows
  print(table(rows))
  figure = (
    figures.robustness_figure(rows, KL_TOLERANCE, MULTIPLIER_TOLERANCE)
    if robustness
    else figures.curve_figure(rows, traces, num_steps, EIGENVALUES)
  )
  name = 'rate_distortion_robustness' if robustness else 'rate_distortion'
  path = os.path.join(workdir, name)
  settings = {
    'num_steps': num_steps,
    'batch_size': batch_size,
    'seed': seed,
    'learning_rate': LEARNING_RATE,
    'eigenvalues': EIGENVALUES.tolist(),
  }
  write_json(f'{path}.json', {'settings': settings, 'runs': rows})
  write_png(f'{path}.png', figure, dpi=110)
  print(f'\nfigure:  {path}.png\nnumbers: {path}.json')
  return rows


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_bool(
    'robustness', False, 'Draw the map over step sizes of the multiplier.'
  )
  flags.DEFINE_integer('num_steps', 12_000, 'Training steps.', lower_bound=1)
  flags.DEFINE_integer('batch_size', 512, 'Draws a step.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Seed of parameters, data and noise.')


def main(argv: Sequence[str]) -> None:
  """Run what the flags ask for."""
  del argv
  workdir = cli.workdir()
  create(workdir)
  run(
    workdir,
    flags.FLAGS.robustness,
    flags.FLAGS.num_steps,
    flags.FLAGS.batch_size,
    flags.FLAGS.seed,
  )


if __name__ == '__main__':
  cli.run(main, define_flags)
