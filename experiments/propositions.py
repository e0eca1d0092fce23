r"""Propositions 1 to 6 of the paper, as numbers.

  python -m experiments.propositions --workdir=runs/propositions

Each line of the table is one claim: the measured number, the expected one, and
whether they agree. Takes half a minute. The claims and their corrections are
explained in docs/theory.md.
"""

from collections.abc import Iterator, Sequence
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geco_jax import cli
from geco_jax.io.files import write_json
from geco_jax.io.run_folder import create
from geco_jax.theory import fixed_points
from geco_jax.theory import lipschitz
from geco_jax.theory import propositions
from geco_jax.theory import rate_distortion
from geco_jax.theory import toy_data

BETA = 0.02
HALF_DISTANCES = (0.3, 0.1)
NUM_DATA = 40
TILES_PER_SIDE = 16
# The encoder whose gradients say what is small has logits this much too large:
# among so many tiles those of any encoder are small numbers.
_OFF = 0.05
_SHARE = 0.1  # Smaller shares of these are 0: float32 leaves up to 0.02.
_ROUNDING = 1e-4  # Smaller numbers are 0 after iterations in float32.


class Claim(NamedTuple):
  """One measured number and what the theory says of it."""

  proposition: int
  what: str
  measured: float
  expected: str
  least: float  # The claim holds from here
  most: float | None = None  # to here, if there is a limit.

  @property
  def holds(self) -> bool:
    """Whether the measured number is what the theory says."""
    return self.least <= self.measured and (
      self.most is None or self.measured <= self.most
    )


def _zero(proposition, subject, measured):
  """Return the claim that a number is 0."""
  return Claim(proposition, subject, measured, '0', -_ROUNDING, _ROUNDING)


class _Setting(NamedTuple):
  """A small problem, iterated to its fixed points."""

  data: np.ndarray  # [n, 2].
  tiles: fixed_points.Tiles
  initial: np.ndarray  # [tiles, 2].
  psi: np.ndarray  # [tiles, 2], converged.
  prior: np.ndarray  # [tiles].


def claims() -> Iterator[Claim]:
  """Yield every claim, in the paper's order."""
  setting = _setting()
  yield from _stationarity(setting)
  yield from _partition(setting)
  yield from _overlap(setting)
  yield from _kernel_pca(setting)
  yield from _equipartition(setting)
  yield from _lipschitz(setting)


def _setting():
  data = toy_data.cluster_hierarchy(HALF_DISTANCES, NUM_DATA, 0, 0.01)
  tiles = fixed_points.grid(TILES_PER_SIDE)
  initial = fixed_points.initial_psi(tiles.centers, 0)
  points = fixed_points.fixed_points(
    *(data, initial, [BETA]), smoothing=0.0, max_steps=2_000, tolerance=1e-6
  )
  prior = np.full(len(initial), 1 / len(initial))
  return _Setting(data, tiles, initial, np.asarray(points.psi[0]), prior)


def _stationarity(setting):
  """Yield Prop. 1: the Lagrangian's gradients vanish at the fixed points."""
  data, log_prior = (
    jnp.asarray(x, jnp.float32) for x in (setting.data, np.log(setting.prior))
  )
  gradients = jax.grad(propositions.lagrangian, argnums=(0, 1))
  for name, psi in (('start', setting.initial), ('fixed points', setting.psi)):
    psi = jnp.asarray(psi, jnp.float32)
    logits = propositions.optimal_logits(data, psi, log_prior, 0.5 / BETA)
    optimal, off = (
      gradients(factor * logits, psi, data, log_prior, 0.5 / BETA)
      for factor in (1.0, 1.0 + _OFF)
    )
    for number, part in enumerate(('encoder', 'decoder')):
      line = (
        f'largest gradient, {part}, at the {name}, over that of an encoder '
        f'{_OFF:.0%} off'
      )
      largest = [float(jnp.abs(each[number]).max()) for each in (optimal, off)]
      ratio = largest[0] / largest[1]
      if (name, part) == ('start', 'decoder'):
        yield Claim(1, line, ratio, f'> 0, here above {_SHARE}', least=_SHARE)
      else:
        expected = f'0, here below {_SHARE}'
        yield Claim(1, line, ratio, expected, least=0.0, most=_SHARE)


def _partition(setting):
  """Yield Prop. 2: partitions stay; the equiprobable one has the least KL."""
  n, num_tiles = 8, len(setting.prior)
  data = np.random.default_rng(0).uniform(-0.5, 0.5, (n, 2))
  equal = np.arange(num_tiles) % n
  unequal = np.where(np.arange(num_tiles) < num_tiles // 2, 0, equal)
  for name, owner in (('equiprobable', equal), ('another', unequal)):
    points = fixed_points.fixed_points(data, data[owner], [1e-6], max_steps=1)
    masses = np.bincount(owner, minlength=n) / num_tiles
    distance = np.abs(np.asarray(points.psi[0]) - data[owner]).max()
    yield _zero(2, f'{name} partition, psi moves by', float(distance))
    kl = propositions.partition_kl(masses)
    yield Claim(
      2,
      f'{name} partition, average KL [nats]',
      float(points.kl_nats[0]),
      f'{kl:.4f}' + (' = log n' if name == 'equiprobable' else ' > log n'),
      least=kl - _ROUNDING,
      most=kl + _ROUNDING,
    )


def _overlap(setting):
  """Yield Prop. 3: Eq. 17 is Eq. 4 for indicator posteriors."""
  del setting
  rng = np.random.default_rng(0)
  data = rng.normal(size=(5, 2))
  supports = rng.uniform(size=(64, 5)) < 0.5
  supports[0] = True
  masses = supports.mean(axis=0)
  blurred = propositions.overlap_reconstruction(data, masses, supports)
  # log q - log prior, which is -log pi_i within the support.
  log_m = np.log(np.where(supports, 1 / masses[None], 0) + 1e-38)
  covered = supports.any(axis=1)
  decoded = fixed_points.decode(
    jnp.asarray(data, jnp.float32), jnp.asarray(log_m[covered], jnp.float32)
  )
  difference = np.abs(np.asarray(decoded) - blurred[covered]).max()
  yield _zero(3, 'Eq. 17 against Eq. 4, largest difference', float(difference))


def _kernel_pca(setting):
  """Yield Prop. 4: kernel PCA has the same iterates, step for step."""
  psi = setting.initial
  iterate = jnp.asarray(psi, jnp.float32)
  args = (
    jnp.asarray(np.log(setting.prior), jnp.float32),
    jnp.float32(BETA),
  )
  largest = 0.0
  for _ in range(20):
    coefficients = propositions.normalized_coefficients(
      setting.data, psi, setting.prior, BETA
    )
    psi = propositions.kernel_pca_preimage_step(
      setting.data, psi, coefficients, BETA
    )
    iterate = fixed_points.transition(
      jnp.asarray(setting.data, jnp.float32), iterate, *args
    )
    largest = max(largest, float(np.abs(np.asarray(iterate) - psi).max()))
  yield _zero(4, 'against pre-images, largest difference, 20 steps', largest)


def _equipartition(setting):
  """Yield Prop. 5: sums are n once the masses have adapted, and not before."""
  n = len(setting.data)
  data, psi, prior = (
    jnp.asarray(x, jnp.float32)
    for x in (setting.data, setting.psi, setting.prior)
  )
  plain = propositions.balance(data, psi, prior, BETA)
  points = propositions.equilibrium(setting.data, setting.psi, BETA)
  plain_error, adapted_error = (
    float(jnp.abs(sums / n - 1).max()) for sums in (plain, points.balance)
  )
  line = 'sum / n - 1, largest, masses'
  yield Claim(5, f'{line} of the grid', plain_error, 'not 0', least=_ROUNDING)
  yield _zero(5, f'{line} adapted', adapted_error)
  covariance = np.cov(setting.data, rowvar=False, bias=True)
  bound = rate_distortion.rate(
    np.linalg.eigvalsh(covariance), float(points.squared_error)
  )
  yield Claim(
    5,
    'average KL [nats]',
    float(points.kl_nats),
    f'<= {float(bound):.4f} if optimal, a Gaussian source',
    least=0.0,
    most=float(bound),
  )


def _lipschitz(setting):
  """Yield Prop. 6: no two centers' reconstructions are steeper than L."""
  # Tiles of side 0 are their centers.
  centers = setting.tiles._replace(side=0.0)
  pairs = lipschitz.pairs_within(centers, 2.0)
  yield Claim(
    6,
    'largest slope between centers, without',
    float(lipschitz.slopes(setting.psi, pairs).max()),
    '> L = 1',
    least=1.0 + _ROUNDING,
  )
  points = lipschitz.lipschitz_fixed_points(
    setting.data, setting.initial, BETA, pairs, 1.0, slope_tolerance=0.01
  )
  yield Claim(
    6,
    'largest slope between centers, with',
    points.largest_slope,
    '<= 1.01 L = 1.01',
    least=0.0,
    most=1.01 + _ROUNDING,
  )


def table(rows: Sequence[Claim]) -> str:
  """Return the claims as text, a line each."""
  width = max(len(row.what) for row in rows)
  lines = [f'Prop.  {"what":<{width}}  measured  holds  expected']
  for row in rows:
    lines.append(
      f'{row.proposition:>5}  {row.what:<{width}}  {row.measured:>8.3g}'
      f'  {"yes" if row.holds else "NO":<5}  {row.expected}'
    )
  return '\n'.join(lines)


def run(workdir: str) -> list[Claim]:
  """Measure, print and write all claims; return them."""
  rows = [*claims()]
  print(table(rows))
  create(workdir)
  path = os.path.join(workdir, 'propositions.json')
  settings = {
    'beta': BETA,
    'half_distances': HALF_DISTANCES,
    'num_data': NUM_DATA,
    'num_tiles': TILES_PER_SIDE**2,
  }
  write_json(
    path,
    {
      'settings': settings,
      'claims': [{**row._asdict(), 'holds': row.holds} for row in rows],
    },
  )
  print(f'\nnumbers: {path}')
  return rows


def main(argv: Sequence[str]) -> None:
  """Run what the flags ask for."""
  del argv
  run(cli.workdir())


if __name__ == '__main__':
  cli.run(main)
