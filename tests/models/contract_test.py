"""Contracts that every model keeps, on every kind of data set."""

import functools
import math

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest

from geco_jax import step as steps
from geco_jax.base_config import get_base_config
from geco_jax.base_config import group
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import MODELS
from geco_jax.build import run_inputs
from geco_jax.choices import COMPOSITIONS
from geco_jax.feed import fixed_examples

FLOAT32 = jmp.get_policy('float32')
BFLOAT16 = jmp.get_policy('params=float32,compute=bfloat16,output=float32')
_DRAW = dict(
  num_steps=2,
  hidden_channels=6,
  latent_channels=2,
  kernel_size=3,
  context_channels=4,
  context_size=8,
)
SMALL = {
  'mlp_vae': ('mlp_vae', dict(latent_size=3, hidden_sizes=(8,))),
  'conv_vae': (
    'conv_vae',
    dict(latent_size=3, channels=(4, 6), hidden_size=8),
  ),
  'vae_nvp': (
    'vae_nvp',
    dict(
      latent_size=3,
      channels=(4, 6),
      hidden_size=8,
      num_couplings=3,
      coupling_sizes=(8,),
    ),
  ),
  'conv_draw': ('conv_draw', _DRAW),
  'conditional_conv_draw': ('conv_draw', {**_DRAW, 'conditional': True}),
}
SAMPLED_KL = {'vae_nvp'}  # The KL of the others is exact, given z_<t.
SHAPES = [(8, 8, 1), (8, 4, 3)]


@functools.cache
def make(name, shape=(8, 8, 1), policy=FLOAT32):
  """Return a small jitted model, parameters, 5 keys, images, contexts.

  The parameters are of the start's shapes and sizes, but none is zero. NumPy
  draws them: each program of `model.init` would take a second to compile.
  """
  constructor, kwargs = SMALL[name]
  model = MODELS[constructor](shape, policy, **kwargs)
  functions = ('apply', 'sample', 'reconstruct', 'encode', 'decode')
  model = model._replace(**{f: jax.jit(getattr(model, f)) for f in functions})
  keys = jax.random.split(jax.random.key(1), 5)
  rng = np.random.default_rng(2)
  image = rng.random((5, *shape), np.float32)
  context = None
  if model.conditional:
    context = rng.random((5, *shape[:2], 2), np.float32)

  def draw(path, leaf):
    small = leaf.ndim < 2 or path[0].key.endswith('_out')  # Zeros at first.
    stddev = 0.03 if small else 1 / math.sqrt(math.prod(leaf.shape[:-1]))
    return (stddev * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  start = jax.eval_shape(model.init, jax.random.key(0), keys, image, context)
  params = jax.tree.map_with_path(draw, start)
  return model, params, keys, image, context


def test_small_sizes_are_given_for_every_model():
  assert {constructor for constructor, _ in SMALL.values()} == set(MODELS)


@pytest.mark.parametrize('name', SMALL)
class TestContract:
  """What every model promises."""

  @pytest.mark.parametrize('shape', SHAPES)
  def test_shapes_types_and_finite_values(self, name, shape):
    model, params, keys, image, context = make(name, shape)
    output = model.apply(params, keys, image, context)
    assert output.reconstruction.shape == image.shape
    assert output.kl.shape == (5,)
    assert output.kl_by_step.shape == (5, model.num_steps)
    assert output.likelihood_stddev.shape == ()
    assert model.sample(params, keys, context).shape == image.shape
    for leaf in jax.tree.leaves(output):
      assert leaf.dtype == jnp.float32
      assert np.all(np.isfinite(leaf))

  def test_parameters_start_the_same_in_any_precision_of_the_products(
    self, name
  ):
    constructor, kwargs = SMALL[name]
    _, _, keys, image, context = make(name)
    starts = [
      jax.jit(MODELS[constructor](image.shape[1:], policy, **kwargs).init)(
        jax.random.key(0), keys, image, context
      )
      for policy in (FLOAT32, BFLOAT16)
    ]
    jax.tree.map(np.testing.assert_array_equal, *starts)

  def test_every_parameter_gets_a_finite_gradient(self, name):
    model, params, keys, image, context = make(name)

    def loss(params):
      output = model.apply(params, keys, image, context)
      return output.kl.sum() + ((image - output.reconstruction) ** 2).sum()

    gradient = jax.device_get(jax.jit(jax.grad(loss))(params))
    for leaf in jax.tree.leaves(gradient):
      assert np.all(np.isfinite(leaf))
      assert np.any(leaf != 0)

  def test_kl_is_positive_and_the_sum_of_its_steps(self, name):
    model, params, keys, image, context = make(name)
    output = model.apply(params, keys, image, context)
    if name in SAMPLED_KL:
      many = jax.random.split(jax.random.key(5), (2_000, 5))
      kl = jax.vmap(lambda keys: model.apply(params, keys, image, context).kl)
      assert np.all(kl(many).mean(axis=0) > 0)
    else:
      assert np.all(output.kl_by_step > 0)
    np.testing.assert_allclose(
      output.kl_by_step.sum(axis=1), output.kl, rtol=1e-6
    )
    if output.kl_by_latent is not None:
      assert output.kl_by_latent.size == output.latents.size
      by_step = output.kl_by_latent.reshape(5, model.num_steps, -1).sum(axis=-1)
      np.testing.assert_allclose(by_step, output.kl_by_step, rtol=1e-5)

  def test_examples_do_not_depend_on_their_batch(self, name):
    model, params, keys, image, context = make(name)
    whole = model.apply(params, keys, image, context)
    others = None if context is None else context[3:]
    part = model.apply(params, keys[3:], image[3:], others)
    np.testing.assert_allclose(
      whole.reconstruction[3:], part.reconstruction, atol=1e-6
    )
    np.testing.assert_allclose(whole.kl[3:], part.kl, rtol=1e-5)

  def test_noise_comes_from_the_keys(self, name):
    model, params, keys, image, context = make(name)
    first = model.apply(params, keys, image, context)
    other = model.apply(params, keys[::-1], image, context)
    again = model.apply(params, keys, image, context)
    assert not np.allclose(first.latents, other.latents)
    np.testing.assert_array_equal(first.latents, again.latents)
    # The first step's posterior depends on no noise.
    assert np.array_equal(first.kl_by_step[:, 0], other.kl_by_step[:, 0]) == (
      name not in SAMPLED_KL
    )

  def test_informed_to_the_end_reconstructs(self, name):
    model, params, keys, image, context = make(name)
    np.testing.assert_allclose(
      model.reconstruct(params, keys, image, context, model.num_steps),
      model.apply(params, keys, image, context).reconstruction,
      atol=1e-6,
    )

  def test_never_informed_samples_whatever_the_image(self, name):
    model, params, keys, image, context = make(name)
    sample = model.sample(params, keys, context)
    for other in (image, 1 - image):
      np.testing.assert_allclose(
        model.reconstruct(params, keys, other, context, 0), sample, atol=1e-6
      )
    informed = model.reconstruct(params, keys, image, context, 1)
    assert not np.allclose(informed, sample, atol=1e-3)

  def test_decoding_the_latents_is_the_reconstruction(self, name):
    model, params, keys, image, context = make(name)
    output = model.apply(params, keys, image, context)
    np.testing.assert_allclose(
      model.decode(params, output.latents, context),
      output.reconstruction,
      atol=1e-6,
    )

  def test_encoding_is_the_center_of_the_posterior(self, name):
    model, params, keys, image, context = make(name)
    center = model.encode(params, image, context)
    many = jax.random.split(jax.random.key(7), (400, 5))

    @jax.jit
    def first_latents(keys):
      latents = model.apply(params, keys, image, context).latents
      # Later steps' posteriors depend on the draws of earlier ones.
      return latents[:, 0] if model.num_steps > 1 else latents

    draws = jax.lax.map(first_latents, many)
    assert (
      center.shape == model.apply(params, keys, image, context).latents.shape
    )
    first = center[:, 0] if model.num_steps > 1 else center
    # A flow's center is that of its noise, which is not quite its mean.
    errors = 10 if name in SAMPLED_KL else 5
    error = draws.std(axis=0) / math.sqrt(len(many))
    assert np.all(np.abs(draws.mean(axis=0) - first) < errors * error)

  def test_contexts_matter_to_conditional_models_alone(self, name):
    model, params, keys, image, context = make(name)
    contexts = jnp.ones((5, 8, 8, 2)) if context is None else context
    outputs = [
      (model.apply(params, keys, image, c).kl, model.sample(params, keys, c))
      for c in (contexts, contexts[::-1] / 2)
    ]
    for first, second in zip(*outputs, strict=True):
      assert np.allclose(first, second, atol=1e-6) != model.conditional

  def test_jit_vmap_and_pmap_agree(self, name):
    model, params, keys, image, context = make(name)
    jitted = model.apply(params, keys, image, context).reconstruction
    args = jax.tree.map(lambda x: x[None], (keys, image, context))
    for transform in (jax.vmap, jax.pmap):
      output = transform(model.apply, in_axes=(None, 0, 0, 0))(params, *args)
      np.testing.assert_allclose(output.reconstruction[0], jitted, atol=1e-5)

  def test_posterior_is_that_of_the_model(self, name):
    model, params, keys, image, context = make(name)
    if model.conditional:
      assert model.posterior is None
      return
    posterior = model.posterior._make(map(jax.jit, model.posterior))
    conditions = posterior.condition(params, image)
    output = model.apply(params, keys, image, context)
    latents = posterior.sample(params, keys, conditions)
    np.testing.assert_allclose(latents, output.latents, atol=1e-5)
    pairs = posterior.log_prob(params, latents[:3], conditions)
    assert pairs.shape == (3, 5)
    # The mean log ratio to the prior is the KL that the model is trained with.
    num_draws = 400

    @jax.jit
    def draw(keys):
      z = posterior.sample(params, keys, conditions)
      log_q = jnp.diagonal(posterior.log_prob(params, z, conditions))
      return log_q - posterior.log_prior(params, z)

    @jax.jit
    def trained_with(keys):
      return model.apply(params, keys, image, context).kl

    many = jax.random.split(jax.random.key(6), (num_draws, 5))
    ratios, kls = (jax.lax.map(f, many) for f in (draw, trained_with))
    difference = np.asarray(ratios - kls, np.float64)
    error = difference.std(axis=0) / math.sqrt(num_draws)
    assert np.all(np.abs(difference.mean(axis=0)) < 4 * error + 1e-5)
    if name in SAMPLED_KL:
      np.testing.assert_allclose(ratios, kls, atol=1e-4)

  def test_bfloat16_stays_close_and_keeps_float32_parameters(self, name):
    model, params, keys, image, context = make(name, policy=BFLOAT16)
    exact, *_ = make(name)
    for leaf in jax.tree.leaves(params):
      assert leaf.dtype == jnp.float32
    output = model.apply(params, keys, image, context)
    expected = exact.apply(params, keys, image, context)
    assert output.reconstruction.dtype == jnp.float32
    np.testing.assert_allclose(
      output.reconstruction, expected.reconstruction, atol=0.03
    )
    assert not np.array_equal(output.reconstruction, expected.reconstruction)

  def test_bfloat16_trains(self, name):
    model, params, keys, image, context = make(name, policy=BFLOAT16)

    def loss(params):
      output = model.apply(params, keys, image, context)
      error = ((image - output.reconstruction) ** 2).sum()
      return 0.01 * output.kl.sum() + error

    optimizer = optax.adam(3e-3)

    @jax.jit
    def losses(params):
      def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

      start = params, optimizer.init(params)
      return jax.lax.scan(step, start, length=40)[1]

    first, *_, last = losses(params)
    assert last < 0.98 * first


@functools.cache
def dataset_of_digits(name):
  """Return the data set, and the batch of its first six training examples."""
  config = get_base_config('geco', kappa=0.1, num_steps=100)
  kwargs = {'base': 'digits'} if name in COMPOSITIONS else {}
  config.dataset = group(name, **kwargs)
  dataset = build_dataset(config)
  examples = fixed_examples(dataset)
  return dataset, examples(dataset.splits['train'], np.arange(6))


@pytest.fixture(scope='module')
def programs():
  """Return those of a model's first state and gradients, by its shapes."""
  return {}


@pytest.mark.parametrize('dataset_name', ['digits', *COMPOSITIONS])
@pytest.mark.parametrize('name', SMALL)
def test_loss_and_gradients_are_finite_on_every_data_set(
  name, dataset_name, programs
):
  dataset, batch = dataset_of_digits(dataset_name)
  constructor, kwargs = SMALL[name]
  if kwargs.get('conditional') and dataset.context_shape is None:
    pytest.skip('a conditional model needs contexts')
  config = get_base_config('geco', kappa=0.1, num_steps=100)
  config.model = group(constructor, **kwargs)
  experiment = build(config, dataset)
  inputs = run_inputs(config, experiment)
  # A model and its loss know of a data set its shapes alone.
  key = name, dataset.image_shape, dataset.context_shape
  if key not in programs:
    loss = functools.partial(steps.loss_and_metrics, experiment)
    programs[key] = (
      steps.init_state(experiment, inputs),
      jax.jit(jax.grad(loss, has_aux=True)),
    )
  state, gradients = programs[key]
  keys = jax.random.split(jax.random.key(0), 6)
  gradient, (_, metrics) = gradients(
    state.params, state.log_multipliers, inputs.kappas, keys, batch
  )
  assert metrics['kl_nats'] >= 0  # VAE+NVP starts at exactly 0.
  for leaf in jax.tree.leaves((metrics, gradient)):
    assert np.all(np.isfinite(leaf))
