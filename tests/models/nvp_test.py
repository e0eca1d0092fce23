"""The flow is a density, its inverse is exact, and it starts as its base."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest
import scipy.stats

from geco_jax.models.nvp import ConditionalRealNVP

FLOAT32 = jmp.get_policy('float32')
NUM_FEATURES = 4


@functools.cache
def start(latent_size, **kwargs):
  """Return (jitted functions of params, params) of a flow at its start."""

  def functions():
    flow = ConditionalRealNVP(latent_size, FLOAT32, **kwargs)

    def initial(features):
      return flow.forward(
        jnp.zeros((len(features), latent_size)), flow.condition(features)
      )

    return initial, (
      flow.condition,
      flow.forward,
      flow.inverse,
      flow.sample_and_log_prob,
      flow.log_prob,
    )

  transformed = hk.multi_transform(functions)
  init = jax.jit(transformed.init)
  params = init(jax.random.key(0), jnp.zeros((1, NUM_FEATURES)))
  return [jax.jit(f) for f in transformed.apply], jax.device_get(params)


def make(latent_size=5, perturbation=0.1, **kwargs):
  """Return the functions of a flow away from its start."""
  kwargs = dict(num_couplings=4, hidden_sizes=(16,)) | kwargs
  functions, params = start(latent_size, **kwargs)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: x + perturbation * rng.standard_normal(x.shape, np.float32),
    params,
  )
  return [functools.partial(f, params, None) for f in functions]


def features(num, seed=2):
  return noise(num, NUM_FEATURES, seed=seed)


def noise(*shape, seed=3):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


FLOWS = [
  dict(),
  dict(permute=True),
  dict(hidden_sizes=(8, 12), num_couplings=3),
  dict(latent_size=2, num_couplings=1),
  dict(latent_size=6, log_scale_bound=0.5, num_couplings=8),
]


@pytest.mark.parametrize('kwargs', FLOWS)
class TestFlow:
  """What holds for flows of all sizes."""

  def test_inverse_undoes_forward(self, kwargs):
    condition, forward, inverse, *_ = make(**kwargs)
    u = noise(64, kwargs.get('latent_size', 5))
    conditions = condition(features(64))
    z, log_determinant = forward(u, conditions)
    assert np.abs(np.sort(z) - np.sort(u)).max() > 0.1
    again, negative = inverse(z, conditions)
    np.testing.assert_allclose(again, u, atol=1e-5)
    np.testing.assert_allclose(negative, -log_determinant, atol=1e-5)

  def test_log_determinant_is_that_of_the_jacobian(self, kwargs):
    condition, forward, *_ = make(**kwargs)
    u = noise(64, kwargs.get('latent_size', 5))
    conditions = condition(features(64))
    jacobian = jax.vmap(jax.jacfwd(lambda u, c: forward(u, c)[0]))
    jacobians = jax.jit(jacobian)(u, conditions)
    _, expected = np.linalg.slogdet(np.asarray(jacobians, np.float64))
    np.testing.assert_allclose(forward(u, conditions)[1], expected, atol=1e-4)

  def test_a_sample_has_the_density_that_it_was_drawn_with(self, kwargs):
    condition, _, _, sample_and_log_prob, log_prob = make(**kwargs)
    conditions = condition(features(64))
    u = noise(64, kwargs.get('latent_size', 5))
    z, drawn_with = sample_and_log_prob(u, conditions)
    np.testing.assert_allclose(log_prob(z, conditions), drawn_with, atol=1e-4)

  def test_starts_as_its_base(self, kwargs):
    condition, _, _, sample_and_log_prob, log_prob = make(
      perturbation=0.0, **kwargs
    )
    u = noise(64, kwargs.get('latent_size', 5))
    conditions = condition(features(64))
    z, log_q = sample_and_log_prob(u, conditions)
    # Dimensions may have been shuffled.
    np.testing.assert_array_equal(np.sort(z), np.sort(u))
    expected = scipy.stats.norm.logpdf(u).sum(axis=-1)
    np.testing.assert_allclose(log_q, expected, rtol=1e-6)
    np.testing.assert_allclose(log_prob(u, conditions), expected, rtol=1e-6)

  def test_all_pairs_are_those_pairs(self, kwargs):
    condition, *_, log_prob = make(**kwargs)
    z = noise(3, kwargs.get('latent_size', 5))
    conditions = condition(features(7))
    pairs = log_prob(z[:, np.newaxis], conditions[np.newaxis])
    assert pairs.shape == (3, 7)
    for m in range(3):
      one = log_prob(np.tile(z[m], (7, 1)), conditions)
      np.testing.assert_allclose(pairs[m], one, rtol=1e-5, atol=1e-5)

  def test_features_steer_it(self, kwargs):
    condition, _, _, _, log_prob = make(**kwargs)
    z = np.tile(noise(1, kwargs.get('latent_size', 5)), (5, 1))
    assert np.ptp(log_prob(z, condition(features(5)))) > 0.01


@pytest.mark.parametrize('permute', [False, True])
def test_density_integrates_to_one(permute):
  condition, *_, log_prob = make(
    latent_size=2, num_couplings=6, permute=permute
  )
  ticks = np.linspace(-12, 12, 1_201)
  grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 1, 2)
  for number in range(2):
    conditions = condition(features(1, seed=number))
    density = np.exp(
      np.concatenate(
        [
          log_prob(part, conditions[np.newaxis])
          for part in np.array_split(grid.astype(np.float32), 2)
        ]
      ).astype(np.float64)
    )
    width = ticks[1] - ticks[0]
    assert density.sum() * width**2 == pytest.approx(1, abs=2e-3)


def test_scales_are_bounded():
  condition, forward, *_ = make(
    latent_size=4, num_couplings=3, log_scale_bound=0.5, perturbation=50.0
  )
  _, log_determinant = forward(noise(100, 4), condition(features(100)))
  # Three couplings, two dimensions each.
  assert np.abs(log_determinant).max() <= 3 * 2 * 0.5 + 1e-5
  assert np.abs(log_determinant).max() > 1.0


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (dict(latent_size=1), 'latent_size must be > 1.*got 1'),
    (dict(num_couplings=0), 'num_couplings must be'),
    (dict(hidden_sizes=()), 'coupling_sizes must be'),
    (dict(log_scale_bound=0.0), 'log_scale_bound must be > 0.*got 0.0'),
  ],
)
def test_wrong_sizes_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    make(**kwargs)


def test_equals_the_textbook_flow():
  """Couplings of tanh networks that change the halves in turn, in NumPy."""
  kwargs = dict(num_couplings=3, hidden_sizes=(8, 12), log_scale_bound=0.5)
  (condition, forward, *_), params = start(5, **kwargs)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: x + 0.5 * rng.standard_normal(x.shape, np.float32), params
  )
  own = {name.split('/')[-1]: group for name, group in params.items()}

  def linear(name, x):
    return x @ own[name]['w'] + own[name].get('b', 0.0)

  x, u = features(64), noise(64, 5)
  seen = linear('features', x).reshape(64, 3, 8)
  halves, expected = [u[:, :2], u[:, 2:]], np.zeros(64)
  for k in range(3):
    kept, changed = halves[k % 2], halves[1 - k % 2]
    hidden = np.tanh(linear(f'coupling_{k}_in', kept) + seen[:, k])
    hidden = np.tanh(linear(f'coupling_{k}_1', hidden))
    raw, shift = np.split(linear(f'coupling_{k}_out', hidden), 2, axis=1)
    log_scale = 0.5 * np.tanh(raw / 0.5)
    halves[1 - k % 2] = changed * np.exp(log_scale) + shift
    expected += log_scale.sum(axis=1)
  z, log_determinant = forward(params, None, u, condition(params, None, x))
  np.testing.assert_allclose(z, np.concatenate(halves, axis=1), atol=1e-4)
  np.testing.assert_allclose(log_determinant, expected, atol=1e-4)
