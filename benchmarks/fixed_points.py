"""Fixed-point steps per second: the compiled program against plain NumPy.

  python -m benchmarks.fixed_points --output=fixed_points.json

Both take every one of Appendix A's 400 smoothed steps (32x32 tiles, 300 points,
no tolerance, so that neither stops early), in turn; a "step" of the table is
that of one beta. NumPy's program is what one would write: the same equations in
log space, with SciPy's log-sum-exp, in float64 or float32. It does fewer betas,
and rates are per beta. `log_space=False` is Eqs. 19-20 as printed, which are
NaN at small beta. Run it on an idle machine.
"""

from collections.abc import Callable, Sequence

from absl import flags
import jax
import numpy as np
from scipy import special

from benchmarks import side_by_side
from benchmarks.side_by_side import Contender
from geco_jax import cli
from geco_jax.theory import fixed_points
from geco_jax.theory import toy_data

_SMOOTHING = 0.9


def numpy_fixed_points(
  data: np.ndarray,
  initial: np.ndarray,
  beta: float,
  num_steps: int,
  log_space: bool = True,
) -> np.ndarray:
  """Return psi [tiles, dims] after smoothed steps under a uniform prior.

  Args:
    data: [n, dims].
    initial: [tiles, dims].
    beta: > 0.
    num_steps: >= 0.
    log_space: whether to normalize logarithms, or Eqs. 19-20 as printed.
  """
  psi = initial
  for _ in range(num_steps):
    apart = data[:, np.newaxis] - psi[np.newaxis]
    energy = -(apart**2).sum(axis=2) / (2 * beta)
    if log_space:
      log_m = energy - special.logsumexp(energy, axis=1, keepdims=True)
      weights = special.softmax(log_m, axis=0)
    else:
      kernel = np.exp(energy)
      m = kernel / kernel.sum(axis=1, keepdims=True)
      weights = m / m.sum(axis=0, keepdims=True)
    psi = _SMOOTHING * psi + (1 - _SMOOTHING) * (weights.T @ data)
  return psi


def compiled(
  data: np.ndarray, initial: np.ndarray, betas: np.ndarray, num_steps: int
) -> Callable[[], np.ndarray]:
  """Return our program: () -> psi [betas, tiles, dims]."""

  def run():
    fixed = fixed_points.fixed_points(
      *(data, initial, betas),
      smoothing=_SMOOTHING,
      max_steps=num_steps,
      tolerance=0.0,
    )
    return np.asarray(jax.block_until_ready(fixed.psi))

  return run


def plain(
  data: np.ndarray,
  initial: np.ndarray,
  betas: np.ndarray,
  num_steps: int,
  log_space: bool = True,
) -> Callable[[], np.ndarray]:
  """Return NumPy's program: () -> psi [betas, tiles, dims]."""

  def run():
    with np.errstate(invalid='ignore', divide='ignore'):
      return np.stack(
        [
          numpy_fixed_points(data, initial, beta, num_steps, log_space)
          for beta in betas
        ]
      )

  return run


def define_flags() -> None:
  """Define the command's flags."""
  flags.DEFINE_integer(
    'num_betas', 8, 'Betas of the compiled program.', lower_bound=1
  )
  flags.DEFINE_integer(
    'numpy_betas', 1, 'Betas of each NumPy program.', lower_bound=1
  )
  flags.DEFINE_integer('num_steps', 400, 'Steps for each beta.', lower_bound=1)
  flags.DEFINE_integer(
    'tiles_per_side', 32, 'Tiles per side of the latent grid.', lower_bound=2
  )
  flags.DEFINE_integer('num_data', 300, 'Data points.', lower_bound=1)
  side_by_side.define_flags(rounds=5)


def main(argv: Sequence[str]) -> None:
  """Measure all rows, print and write them."""
  del argv
  num_steps = flags.FLAGS.num_steps
  data = toy_data.mixture_of_circles(flags.FLAGS.num_data, 0)
  centers = fixed_points.grid(flags.FLAGS.tiles_per_side).centers
  initial = fixed_points.initial_psi(centers, 0)
  betas = np.geomspace(1e-3, 0.1, flags.FLAGS.num_betas)
  few = np.geomspace(1e-3, 0.1, flags.FLAGS.numpy_betas + 2)[1:-1]
  ours = Contender(
    compiled(data, initial, betas, num_steps), num_steps * len(betas)
  )
  single = data.astype(np.float32), initial.astype(np.float32)
  small = few.astype(np.float32)
  peers = {
    'numpy float64': plain(data, initial, few, num_steps),
    'numpy float32': plain(*single, small, num_steps),
    'numpy as printed': plain(data, initial, few, num_steps, log_space=False),
  }
  contenders = {'geco_jax': ours} | {
    name: Contender(run, num_steps * len(few)) for name, run in peers.items()
  }
  rates = side_by_side.measure(contenders, flags.FLAGS.rounds)
  rows = [
    side_by_side.compare('fixed points', rates, 'geco_jax', name)
    for name in peers
  ]
  sizes = {
    'num_tiles': len(initial),
    'num_data': len(data),
    'num_steps': num_steps,
  }
  side_by_side.report(rows, sizes=sizes)


if __name__ == '__main__':
  cli.run(main, define_flags, compilation_cache=cli.NO_CACHE)
