"""A trained run in a program's hands."""

import functools
import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from configs import digits_vae
import geco_jax
from geco_jax import keys
from geco_jax import parallel
from geco_jax import sample
from geco_jax.base_config import get_base_config
from geco_jax.base_config import group
from geco_jax.build import build_dataset
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.base import Network
from geco_jax.errors import UserError
from geco_jax.evaluation.checkpoints import evaluate
from geco_jax.feed import fixed_examples
from geco_jax.io import lock
from geco_jax.training.loop import train

# As many channels as Winograd's form asks for.
_DRAW = dict(num_steps=2, hidden_channels=20, latent_channels=2, kernel_size=3)
MODELS = {
  'mlp_vae': ('digits', {}, 'mlp_vae', dict(latent_size=3, hidden_sizes=(16,))),
  'vae_nvp': (
    'digits',
    {},
    'vae_nvp',
    dict(
      latent_size=3,
      channels=(4,),
      hidden_size=8,
      num_couplings=3,
      coupling_sizes=(8,),
    ),
  ),
  'conditional_conv_draw': (
    'mnist_rotate',
    {'base': 'digits'},
    'conv_draw',
    {**_DRAW, 'conditional': True, 'context_channels': 4, 'context_size': 8},
  ),
}


def config_of(name):
  """Return the config of a run of a model, which takes a second."""
  data, data_kwargs, model, kwargs = MODELS[name]
  config = get_base_config('geco', kappa=0.2, num_steps=20)
  config.batch_size, config.steps_per_dispatch = 8, 10
  config.checkpoint_every = 20
  config.dataset = group(data, **data_kwargs)
  config.model = group(model, **kwargs)
  return config


@pytest.fixture(scope='module')
def workdir_of(tmp_path_factory):
  """Return name -> the folder of a run of that model, trained once."""

  @functools.cache
  def make(name):
    workdir = str(tmp_path_factory.mktemp(name) / 'run')
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
      train(config_of(name), workdir, show_progress=False)
    return workdir

  return make


@pytest.fixture(scope='module', params=MODELS)
def trained(request, workdir_of):
  """Return a run that was loaded, and six examples of its data set."""
  dataset = build_dataset(config_of(request.param))
  batch = fixed_examples(dataset)(dataset.splits['train'], np.arange(6))
  return geco_jax.load(workdir_of(request.param)), jax.device_get(batch)


def context_of(run, batch):
  """Return the contexts of a batch where the model takes them."""
  return batch.context if run.experiment.model.conditional else None


def test_no_data_set_is_read(trained, monkeypatch):
  run, _ = trained

  def refuse(*_):
    raise AssertionError('a data set was read')

  monkeypatch.setattr('geco_jax.trained.build_dataset', refuse)
  again = geco_jax.load(run.workdir)
  assert again.step == 20 and again.config.num_steps == 20
  jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
  assert run.metrics()['step'].tolist() == [10, 20, 20]
  assert again.log_multipliers.keys() == {'re'}


def test_reconstructing_is_decoding_what_was_encoded(trained):
  run, batch = trained
  context = context_of(run, batch)
  latents = run.encode(batch.image, context)
  images = run.decode(latents, context)
  assert images.shape == batch.image.shape
  np.testing.assert_array_equal(images, run.reconstruct(batch.image, context))
  draws = [
    run.encode(batch.image, context, key=jax.random.key(k)) for k in (1, 1, 2)
  ]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert not np.allclose(draws[0], draws[2])


def test_an_interpolation_ends_at_its_ends(trained):
  run, batch = trained
  context = context_of(run, batch)
  one = None if context is None else context[0]
  line = run.interpolate(batch.image[0], batch.image[1], 5, one)
  ends = None if context is None else np.stack([context[0]] * 2)
  expected = run.reconstruct(batch.image[:2], ends)
  np.testing.assert_allclose(np.asarray(line)[[0, -1]], expected, atol=1e-6)
  latents = np.mean(run.encode(batch.image[:2], ends), axis=0, keepdims=True)
  middle = run.decode(latents, None if ends is None else ends[:1])
  np.testing.assert_allclose(line[2:3], middle, atol=1e-6)


def test_samples_are_those_of_the_model_and_their_key(trained):
  run, batch = trained
  context = context_of(run, batch)
  images = run.sample(6, context, key=jax.random.key(3))
  keys = jax.random.split(jax.random.key(3), 6)
  expected = jax.jit(run.experiment.model.sample)(run.params, keys, context)
  np.testing.assert_allclose(images, expected, atol=1e-6)


@pytest.mark.parametrize(
  'name', ['encode', 'decode', 'reconstruct', 'sample', 'elbo', 'interpolate']
)
def test_an_exported_function_is_that_of_the_run(trained, name, tmp_path):
  run, batch = trained
  path = tmp_path / 'function.bin'
  run.export(name, str(path))
  function = jax.export.deserialize(bytearray(path.read_bytes())).call
  context = context_of(run, batch)
  contexts = [] if context is None else [context[:3]]
  images, key = batch.image[:3], jax.random.key(5)
  arguments = [images]
  if name == 'sample':
    arguments = [jax.random.key_data(jax.random.split(key, 3))]
    expected = run.sample(3, *contexts, key=key)
  elif name == 'elbo':
    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    arguments += [jax.random.key_data(keys), jnp.float32(0.3)]
    expected = run.elbo(images, *contexts, key=key, stddev=0.3)
  elif name == 'interpolate':
    contexts = [x[0] for x in contexts]
    arguments = [images[0], images[1], jnp.linspace(0, 1, 5)]
    expected = run.interpolate(images[0], images[1], 5, *contexts)
  else:
    if name == 'decode':
      arguments = [run.encode(images, *contexts)]
    expected = getattr(run, name)(*arguments, *contexts)
  actual = function(*arguments, *contexts)
  np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def test_keys_are_the_same_whatever_the_default_generator(workdir_of, tmp_path):
  run = geco_jax.load(workdir_of('mlp_vae'))
  path = tmp_path / 'function.bin'
  expected = np.asarray(run.sample(2))
  with jax.default_prng_impl('rbg'):
    np.testing.assert_array_equal(run.sample(2), expected)
    run.export('sample', str(path))
  function = jax.export.deserialize(bytearray(path.read_bytes())).call
  keys = jax.random.key_data(jax.random.split(jax.random.key(0), 2))
  np.testing.assert_allclose(function(keys), expected, atol=1e-5)


def test_elbo_of_the_training_split_is_that_of_the_evaluation(
  workdir_of, tmp_path
):
  workdir = shutil.copytree(workdir_of('mlp_vae'), str(tmp_path / 'run'))
  run = geco_jax.load(workdir)
  images = build_dataset(config_of('mlp_vae')).splits['train'].image
  assert run.evaluation is None
  with pytest.raises(UserError, match='no evaluation.*geco-jax evaluate'):
    run.elbo(images)
  evaluation = evaluate(workdir)
  assert run.evaluation == json.loads(json.dumps(evaluation))
  elbo = run.elbo(images, num_draws=4)
  assert elbo.shape == (len(images),)
  np.testing.assert_allclose(elbo.mean(), evaluation['elbo_nats'], rtol=5e-3)
  error = (run.reconstruct(images, key=jax.random.key(0)) - images / 255.0) ** 2
  assert math.sqrt(error.mean()) == pytest.approx(evaluation['rmse'], rel=0.02)
  run.save_params(str(tmp_path / 'params.npz'))
  with np.load(tmp_path / 'params.npz') as arrays:
    for name, array in arrays.items():
      module, parameter = name.rsplit('/', 1)
      np.testing.assert_array_equal(array, run.params[module][parameter])


@pytest.mark.parametrize(
  'images, message',
  [
    (np.zeros((2, 8, 9, 1), np.uint8), r'must be \[n, 8, 8, 1\], got'),
    (np.zeros((8, 8), np.uint8), r'must be \[n, 8, 8, 1\], got \(8, 8\)'),
    (np.full((2, 8, 8), 1, np.uint8), 'uint8 of 0 and 1'),
    (np.full((2, 8, 8), 17.0), r'within \[0, 1\].*got \[17, 17\]'),
    (np.full((2, 8, 8), np.nan), r'within \[0, 1\]'),
    (np.zeros((2, 8, 8), np.int32), 'uint8, bool or floats.*got int32'),
  ],
)
def test_images_of_another_form_are_refused(images, message, digits_run):
  with pytest.raises(UserError, match=message):
    digits_run.encode(images)


def test_latents_and_numbers_of_another_form_are_refused(digits_run):
  with pytest.raises(UserError, match=r'latents must be \[n, \d+\].* \(2, 1\)'):
    digits_run.decode(np.zeros((2, 1)))
  for num, message in (-1, 'at least 1, got -1'), (2.0, 'integer, got 2.0'):
    with pytest.raises(UserError, match=f'num must be .*{message}'):
      digits_run.sample(num)
  with pytest.raises(UserError, match='a key is given by its name'):
    digits_run.encode(np.zeros((2, 8, 8)), jax.random.key(0))


@pytest.mark.parametrize(
  'call',
  [
    lambda run, x: run.encode(x, key=3),
    lambda run, x: run.sample(2, key='x'),
    lambda run, x: run.sample(2, key=jax.random.split(jax.random.key(0))),
    lambda run, x: run.decode(None),
    lambda run, x: run.decode('x'),
    lambda run, x: run.elbo(x, stddev=0.0),
    lambda run, x: run.elbo(x, stddev=-1.0),
    lambda run, x: run.elbo(x, stddev='x'),
    lambda run, x: run.elbo(x, stddev=True),
    lambda run, x: run.elbo(x, stddev=np.array('x')),
    lambda run, x: run.elbo(x, stddev=np.complex64(1)),
    lambda run, x: run.decode(np.full((2, *run._latent_shape), 'x')),
    lambda run, x: run.decode(np.full((2, *run._latent_shape), None)),
    lambda run, x: run.elbo(x, stddev=jnp.array([0.1, 0.2])),
    lambda run, x: run.decode(np.zeros((2, *run._latent_shape), complex)),
    lambda run, x: run.export(['decode'], 'decode.bin'),
    lambda run, x: geco_jax.load(run.workdir, step=20.0),
    lambda run, x: geco_jax.load(run.workdir, step=True),
    lambda run, x: run.encode(np.ma.masked_less(x, 1)),
    lambda run, x: run.elbo(x, stddev=0.1, num_draws=0),
    lambda run, x: run.elbo(x, stddev=0.1, num_draws='x'),
    lambda run, x: run.export('encode', None),
    lambda run, x: run.save_params(3),
    lambda run, x: run.save_params('/'),
  ],
)
def test_arguments_of_another_form_are_refused(call, digits_run):
  with pytest.raises(UserError):
    call(digits_run, np.zeros((2, 8, 8, 1), np.float32))


@pytest.mark.parametrize('step', [False, True, np.True_, 20.0])
def test_a_step_that_is_no_integer_is_refused(digits_run, step):
  with pytest.raises(UserError, match='step must be an integer or None, got'):
    geco_jax.load(digits_run.workdir, step=step)


@pytest.mark.parametrize(
  'content', ['{}', '[]', '3', '{"sigma_opt": null}', '{"sigma_opt": NaN}']
)
def test_a_damaged_evaluation_is_none(content, digits_run):
  path = pathlib.Path(digits_run.workdir, 'evaluation.json')
  path.write_text(content)
  try:
    assert digits_run.evaluation is None
    with pytest.raises(UserError, match='has no evaluation'):
      digits_run.elbo(np.zeros((2, 8, 8)))
  finally:
    path.unlink()


def test_another_step_s_evaluation_gives_no_stddev(digits_run):
  path = pathlib.Path(digits_run.workdir, 'evaluation.json')
  path.write_text('{"step": 10, "sigma_opt": 0.1}')
  try:
    with pytest.raises(UserError, match='is of step 10, this is step 20; give'):
      digits_run.elbo(np.zeros((2, 8, 8)))
    digits_run.elbo(np.zeros((2, 8, 8)), stddev=0.1)
  finally:
    path.unlink()


@pytest.mark.parametrize('path', [None, 3, ['run'], b'run', 'a\0b'])
def test_what_is_no_path_is_refused(path):
  config = digits_vae.get_config()
  for door in (geco_jax.load, evaluate, lambda p: train(config, p)):
    with pytest.raises(UserError, match='a path must be a string, got'):
      door(path)


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({}, 'holds no run: config.json is missing'),
    ({'x.txt': 'x'}, 'holds no run: config.json is missing'),
    (
      {f'kappa_{i}/config.json': '{}' for i in range(7)},
      'holds folders of runs: kappa_0, .*kappa_4, ...$',
    ),
    (
      {'config.json': json.dumps({'seed': 0, 'label_smoothing': 0.1})},
      'holds a classifier, not a run',
    ),
  ],
)
def test_a_folder_that_is_no_run_s_is_refused(tmp_path, files, message):
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  with pytest.raises(UserError, match=message):
    geco_jax.load(tmp_path)


def test_bytes_bools_and_floats_are_the_same_images(digits_run):
  black_and_white = np.random.default_rng(0).random((3, 8, 8)) > 0.5
  latents = [
    digits_run.encode(images)
    for images in (
      black_and_white,
      black_and_white.astype(np.uint8) * 255,
      black_and_white[..., None].astype(float),
    )
  ]
  np.testing.assert_array_equal(latents[0], latents[1])
  np.testing.assert_array_equal(latents[0], latents[2])


@pytest.fixture(scope='module')
def digits_run(workdir_of):
  """Return a loaded run of the digits."""
  return geco_jax.load(workdir_of('mlp_vae'))


def test_no_images_have_no_elbo(digits_run):
  none = np.zeros((0, 8, 8, 1), np.uint8)
  assert digits_run.elbo(none, stddev=0.1).shape == (0,)


def test_contexts_are_asked_of_conditional_models_alone(digits_run):
  with pytest.raises(UserError, match='takes no context'):
    digits_run.sample(2, np.zeros((2, 8, 8, 1)))


def test_the_command_draws_what_its_flags_say(
  digits_run, tmp_path, monkeypatch
):
  paths = []
  for number in range(2):
    pixels = np.full((8, 8), 200 * number, np.uint8)
    paths.append(str(tmp_path / f'{number}.png'))
    Image.fromarray(pixels).save(paths[-1])
  monkeypatch.setenv('HOME', str(tmp_path))
  line = sample.draw(digits_run, 4, 0, ['~/0.png', '~/1.png'])
  expected = digits_run.interpolate(
    np.zeros((8, 8, 1), np.uint8), np.full((8, 8, 1), 200, np.uint8), 4
  )
  np.testing.assert_array_equal(line, expected)
  for seed in (0, 1):  # Whatever JAX's own generator is.
    with jax.default_prng_impl('rbg'):
      drawn = sample.draw(digits_run, 5, seed, [])
    same = digits_run.sample(5, key=keys.key_of(seed))
    np.testing.assert_array_equal(drawn, same)
  with pytest.raises(UserError, match='two images, got 1'):
    sample.draw(digits_run, 4, 0, paths[:1])
  Image.fromarray(np.zeros((9, 8), np.uint8)).save(paths[0])
  with pytest.raises(UserError, match='is 9x8, images of this run are 8x8'):
    sample.draw(digits_run, 4, 0, paths)
  with pytest.raises(UserError, match='no image that can be read'):
    sample.draw(digits_run, 4, 0, [str(tmp_path / 'none.png')] * 2)


def test_each_example_takes_a_context(workdir_of):
  run = geco_jax.load(workdir_of('conditional_conv_draw'))
  images = np.zeros((4, 8, 8, 1))
  contexts = np.zeros((5, *run.experiment.dataset.context_shape))
  for call in (
    lambda context: run.encode(images, context),
    lambda context: run.elbo(images, context, stddev=0.1),
    lambda context: run.sample(4, context),
    lambda context: run.decode(np.zeros((4, *run._latent_shape)), context),
  ):
    for num in (1, 3, 5):
      with pytest.raises(UserError, match=f'each of 4 .* a context, got {num}'):
        call(contexts[:num])


def test_the_elbo_is_that_of_the_nearest_levels(digits_run):
  """Between levels a quantized density is no likelihood."""
  levels = np.random.default_rng(0).integers(256, size=(3, 8, 8, 1))
  between = np.clip(levels + np.linspace(-0.4, 0.4, 8)[:, None], 0, 255) / 255
  expected = digits_run.elbo(levels.astype(np.uint8), stddev=0.01)
  np.testing.assert_allclose(
    digits_run.elbo(between.astype(np.float32), stddev=0.01), expected
  )


def test_use_needs_neither_the_constraints_networks_nor_a_shared_batch(
  tmp_path, monkeypatch
):
  """On another machine: three devices, and no classifier."""
  workdir, config = str(tmp_path / 'run'), config_of('mlp_vae')
  config.constraints = {'cla': {'kappa': 0.5, 'network': 'trained_elsewhere'}}
  network = Network(
    name='trained_elsewhere',
    image_shape=(8, 8, 1),
    num_classes=10,
    logits=lambda image: image.reshape(len(image), -1)[:, :10],
    features=lambda image, layer: image,
    feature_stddevs={},
  )
  with monkeypatch.context() as patch:
    patch.setattr('geco_jax.evaluation.measures.MIN_DRAWS', 1)
    patch.setattr(pretrained, 'load', lambda name: network)
    train(config, workdir, show_progress=False)
    evaluate(workdir)
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(parallel, 'num_devices', lambda: 3)
  run = geco_jax.load(workdir)
  images = run.sample(2)
  assert images.shape == run.reconstruct(images).shape == (2, 8, 8, 1)
  assert np.all(np.isfinite(run.elbo(images)))
  assert set(run.log_multipliers) == {'cla'}
  with pytest.raises(UserError, match='batch_size=8 is not divisible by the 3'):
    evaluate(workdir)


def test_images_of_a_data_set_of_ones_own_are_read_as_they_are(
  digits_run, tmp_path, monkeypatch
):
  config = digits_run.config.copy_and_resolve_references()
  with config.unlocked():
    del config['dataset']
  monkeypatch.setattr(digits_run, 'config', config)
  pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
  path = str(tmp_path / 'image.png')
  Image.fromarray(pixels).save(path)
  np.testing.assert_array_equal(
    sample.read_image(path, digits_run), pixels[..., None]
  )


def test_functions_of_images_can_be_transformed(digits_run):
  images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
  np.testing.assert_allclose(
    jax.jit(digits_run.reconstruct)(images),
    digits_run.reconstruct(images),
    atol=1e-6,
  )
  byte = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
  np.testing.assert_allclose(
    jax.vmap(lambda x: digits_run.encode(x[None])[0])(byte),
    digits_run.encode(byte),
    atol=1e-5,
  )
  gradient = jax.grad(lambda x: digits_run.encode(x).sum())(images)
  assert gradient.shape == images.shape and np.any(gradient)
  with pytest.raises(UserError, match='int32'):
    jax.jit(digits_run.encode)(np.zeros((2, 8, 8, 1), np.int32))


def test_a_run_is_read_while_another_process_trains_it(workdir_of, tmp_path):
  """And nothing in its folder changes, whoever reads."""
  workdir = tmp_path / 'run'
  shutil.copytree(workdir_of('mlp_vae'), workdir)
  unfinished = workdir / 'checkpoints' / '40.orbax-checkpoint-tmp'
  unfinished.mkdir()
  live = lock.Lock(str(workdir))
  before = sorted(workdir.rglob('*'))
  assert geco_jax.load(str(workdir)).step == 20
  assert sorted(workdir.rglob('*')) == before
  live.close()


def test_each_draw_of_an_elbo_is_another(digits_run):
  images = np.random.default_rng(0).integers(256, size=(3, 8, 8)).astype('u1')
  one, both = (
    digits_run.elbo(images, key=jax.random.key(1), num_draws=num, stddev=0.1)
    for num in (1, 2)
  )
  second = 2 * both - one
  assert (np.abs(second - one) > 1e-3 * np.abs(one)).all()
