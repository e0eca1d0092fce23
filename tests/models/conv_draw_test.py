"""Tests of ConvDRAW; what all models promise is in contract_test."""

import hashlib

import jax
from jax import lax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax.distributions import DiagonalGaussian
from geco_jax.distributions import per_example_normal
from geco_jax.models.conv_draw import conv_draw
from geco_jax.models.conv_draw import num_unrolled
from geco_jax.models.layers.space_to_depth import depth_to_space
from geco_jax.models.layers.space_to_depth import space_to_depth

FLOAT32 = jmp.get_policy('float32')
SHAPE = (8, 8, 1)
SIZES = dict(
  num_steps=3, hidden_channels=5, latent_channels=2, kernel_size=3, reduction=2
)
CONDITIONAL = dict(conditional=True, context_channels=4, context_size=8)


def make(batch_size=4, **kwargs):
  """Return a model, parameters that are not at their start, keys, images."""
  model = conv_draw(SHAPE, FLOAT32, **{**SIZES, **kwargs})
  keys = jax.random.split(jax.random.key(1), batch_size)
  image = jax.random.uniform(jax.random.key(2), (batch_size, *SHAPE))
  params = jax.jit(model.init)(jax.random.key(0), keys, image, image)
  rng = np.random.default_rng(3)
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
    jax.device_get(params),
  )
  return model, params, keys, image


def textbook(params, keys, image, *, hidden_to_hidden):
  """ConvDRAW as the paper draws it: a loop over steps, nothing rearranged.

  Returns the canvas, and lists over steps of z_t, q(z_t|x) and p(z_t).
  """

  def convolve(x, w, b=0.0):
    labels = ('NHWC', 'HWIO', 'NHWC')
    y = lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=labels)
    return y + jnp.broadcast_to(b, y.shape)

  def heads(name, x):
    y = convolve(x, params[name]['w'], params[name]['b'])
    return DiagonalGaussian(*jnp.split(y, 2, axis=-1))

  def lstm(gates, cell):
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f + 1) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell

  x = space_to_depth(image, 2)
  zeros = jnp.zeros((len(image), 4, 4, SIZES['hidden_channels']))
  h_enc = c_enc = h_dec = c_dec = zeros
  canvas = jnp.full(x.shape, params['~']['initial_canvas'][0])
  noise = per_example_normal(keys, (SIZES['num_steps'], 4, 4, 2))
  w_encoder = jnp.concatenate(
    [params['image_gates']['w'], params['encoder_gates']['w']], axis=2
  )
  latents, posteriors, priors = [], [], []
  for t in range(SIZES['num_steps']):
    own = ([h_enc], [h_dec]) if hidden_to_hidden else ([], [])
    seen = jnp.concatenate([x, x - canvas, h_dec, *own[0]], axis=-1)
    gates = convolve(seen, w_encoder, params['image_gates']['b'])
    h_enc, c_enc = lstm(gates, c_enc)
    q, p = heads('posterior', h_enc), heads('prior', h_dec)
    z = q.mean + jnp.exp(q.log_stddev) * noise[:, t]
    seen = jnp.concatenate([z, canvas, *own[1]], axis=-1)
    gates = convolve(
      seen, params['decoder_gates']['w'], params['decoder_gates']['b']
    )
    h_dec, c_dec = lstm(gates, c_dec)
    canvas += convolve(h_dec, params['write']['w'], params['write']['b'])
    latents.append(z)
    posteriors.append(q)
    priors.append(p)
  return depth_to_space(canvas, 2), latents, posteriors, priors


@pytest.mark.parametrize(
  ('hidden_to_hidden', 'remat', 'on_accelerator'),
  [
    (True, False, False),
    (False, False, False),
    (True, True, False),
    (True, False, True),
  ],
)
def test_equals_the_unrolled_textbook_model(
  hidden_to_hidden, remat, on_accelerator, monkeypatch
):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: on_accelerator)
  model, params, keys, image = make(
    hidden_to_hidden=hidden_to_hidden, remat=remat
  )

  def rearranged_outputs(params):
    output = model.apply(params, keys, image)
    return output.reconstruction, output.kl_by_step, output.latents

  def textbook_outputs(params):
    canvas, latents, posteriors, priors = textbook(
      params, keys, image, hidden_to_hidden=hidden_to_hidden
    )
    kl = [q.kl_to(p) for q, p in zip(posteriors, priors, strict=True)]
    return canvas, jnp.stack(kl, axis=1), jnp.stack(latents, axis=1)

  def loss(function, params):
    canvas, kl, latents = function(params)
    total = ((image - canvas) ** 2).sum() + kl.sum()
    return total, (canvas, kl, latents)

  gradient = jax.jit(jax.grad(loss, 1, has_aux=True), static_argnums=0)
  gradients, outputs = zip(
    gradient(rearranged_outputs, params),
    gradient(textbook_outputs, params),
    strict=True,
  )
  for actual, expected in zip(*outputs, strict=True):
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3),
    *gradients,
  )


def test_kl_equals_the_monte_carlo_estimate():
  model, params, _, image = make()
  num_draws = 4_000
  keys = jax.random.split(jax.random.key(5), num_draws)
  repeated = jnp.repeat(image[:1], num_draws, axis=0)
  kl = jax.jit(model.apply)(params, keys, repeated).kl

  @jax.jit
  def log_ratios(params):
    _, latents, posteriors, priors = textbook(
      params, keys, repeated, hidden_to_hidden=True
    )
    return sum(
      q.log_prob(z) - p.log_prob(z)
      for z, q, p in zip(latents, posteriors, priors, strict=True)
    )

  estimates = log_ratios(params)
  standard_error = float((estimates - kl).std()) / num_draws**0.5
  assert standard_error < 0.02 * float(kl.mean())
  assert abs(float((estimates - kl).mean())) < 4 * standard_error


def test_information_is_added_step_by_step():
  model, params, keys, image = make()
  reconstruct = jax.jit(model.reconstruct)
  pictures = [reconstruct(params, keys, image, None, t) for t in range(4)]
  for before, after in zip(pictures, pictures[1:], strict=False):
    assert not np.allclose(before, after, atol=1e-4)


def test_program_does_not_grow_with_the_steps_on_cpus(monkeypatch):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: False)

  def num_lines(num_steps):
    model, params, keys, image = make(num_steps=num_steps)

    def loss(params):
      output = model.apply(params, keys, image)
      return output.kl.sum() + output.reconstruction.sum()

    return len(jax.jit(jax.grad(loss)).lower(params).as_text().splitlines())

  assert num_lines(32) <= 1.01 * num_lines(8)


@pytest.mark.parametrize('length', [1, 2, 16, 17, 32, 100, 1_000])
def test_iterations_are_long_but_not_too_long_on_accelerators(
  length, monkeypatch
):
  assert num_unrolled(length) == 1
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: True)
  written_out = num_unrolled(length) + length % num_unrolled(length)
  if length <= 16:
    assert divmod(length, num_unrolled(length)) in ((1, 0), (0, length))
  else:
    assert 8 < written_out <= 25


@pytest.mark.parametrize(
  ('kwargs', 'digest'),
  [
    ({}, 'ea4f1a93525ac8b9eded1b2a98d577d42d555fef3272eb45a5ee641ef8eb7db9'),
    (
      CONDITIONAL,
      'f791c32be18f34fd3a2cdfb26aec8ad7510efc39db218ad8898529ece04a8794',
    ),
  ],
  ids=['unconditional', 'conditional'],
)
@pytest.mark.parametrize('on_accelerator', [False, True])
def test_checkpoints_stay_readable(kwargs, digest, on_accelerator, monkeypatch):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: on_accelerator)
  sizes = {**SIZES, **kwargs, 'learn_likelihood_stddev': True}
  model = conv_draw(SHAPE, FLOAT32, **sizes)
  keys, image = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, *SHAPE))
  params = jax.eval_shape(model.init, keys[0], keys, image, image)
  lines = [
    f'{module}/{name} {x.shape} {x.dtype}'
    for module, parameters in sorted(params.items())
    for name, x in sorted(parameters.items())
  ]
  tree = '\n'.join(lines)
  assert hashlib.sha256(tree.encode()).hexdigest() == digest, tree


def fingerprint(x):
  """Return a mean of squares in which every element has a weight of its own.

  No signs cancel in it, and its digits are the same on other processors.
  """
  return np.average(x.ravel() ** 2, weights=1.0 + np.arange(x.size))


@pytest.mark.parametrize(
  ('kwargs', 'expected'),
  [
    (
      {},
      dict(
        reconstruction=0.430313581,
        kl_by_step=8.8653918,
        latents=1.0375682,
        sample=0.391584298,
        compressed=0.378592842,
        log_prob=19035.3703,
        log_prior=21134.2314,
      ),
    ),
    (
      CONDITIONAL,
      dict(
        reconstruction=0.711817927,
        kl_by_step=38.1705234,
        latents=1.0981172,
        sample=0.780087308,
        compressed=0.739047968,
      ),
    ),
  ],
  ids=['unconditional', 'conditional'],
)
@pytest.mark.parametrize('on_accelerator', [False, True])
def test_numbers_stay_what_they_were(
  kwargs, expected, on_accelerator, monkeypatch
):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: on_accelerator)
  model, params, keys, image = make(**kwargs)
  context = image[::-1]

  @jax.jit
  def outputs(params):
    output = model.apply(params, keys, image, context)
    arrays = dict(
      reconstruction=output.reconstruction,
      kl_by_step=output.kl_by_step,
      latents=output.latents,
      sample=model.sample(params, keys, context),
      compressed=model.reconstruct(params, keys, image, context, 1),
    )
    if model.posterior:
      z = output.latents[:3]
      arrays['log_prob'] = model.posterior.log_prob(params, z, image)
      arrays['log_prior'] = model.posterior.log_prior(params, z)
    return arrays

  # A GPU would otherwise round what it convolves.
  with jax.default_matmul_precision('highest'):
    actual = jax.tree.map(fingerprint, jax.device_get(outputs(params)))
  assert actual == pytest.approx(expected, rel=1e-5)


def test_space_to_depth_keeps_patches_together():
  image = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  patches = space_to_depth(image, 2)
  assert patches.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(
    patches[1, 1, 2].reshape(2, 2, 3), image[1, 2:4, 4:6]
  )
  np.testing.assert_array_equal(depth_to_space(patches, 2), image)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (dict(num_steps=0), r'num_steps must be .* got \[0\]'),
    (dict(hidden_channels=-1), 'hidden_channels must be'),
    (dict(reduction=3), 'reduction=3 must divide .* got 8x8'),
    (dict(likelihood_stddev=0.0), 'likelihood_stddev must be > 0.*got 0.0'),
  ],
)
def test_refuses_bad_sizes(kwargs, message):
  with pytest.raises(ValueError, match=message):
    conv_draw(SHAPE, FLOAT32, **kwargs)


def test_a_conditional_model_refuses_to_go_without_a_context():
  model = conv_draw(SHAPE, FLOAT32, **SIZES, conditional=True)
  keys = jax.random.split(jax.random.key(0), 1)
  with pytest.raises(ValueError, match='needs a context, got None'):
    model.init(jax.random.key(0), keys, jnp.zeros((1, *SHAPE)))


def test_a_canvas_to_which_nothing_is_written_is_of_the_learned_color():
  model = conv_draw((8, 4, 3), FLOAT32, **SIZES)
  keys, image = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 8, 4, 3))
  params = jax.jit(model.init)(keys[0], keys, image)
  color = jnp.array([0.1, 0.5, 0.9])
  params['~']['initial_canvas'] = color
  params['write'] = jax.tree.map(jnp.zeros_like, params['write'])
  canvas = jax.jit(model.apply)(params, keys, image).reconstruction
  np.testing.assert_array_equal(canvas, np.broadcast_to(color, image.shape))
