"""The marginal KL agrees with integrals, however the work is cut up."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from geco_jax import parallel
from geco_jax.build import build
from geco_jax.datasets import compositions
from geco_jax.datasets import sources
from geco_jax.datasets.batches import as_dataset
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.evaluation import aggregate_posterior
from geco_jax.evaluation.aggregate_posterior import choose_tiles
from geco_jax.evaluation.aggregate_posterior import estimate
from geco_jax.evaluation.aggregate_posterior import marginal_kl
from geco_jax.evaluation.aggregate_posterior import Tiles
from geco_jax.io import files
from geco_jax.io import run_folder
from geco_jax.models.base import Posterior
from geco_jax.training.loop import train

# Posteriors are one-dimensional Gaussians, read off each data point's pixels.
MEANS = np.array([-1.5, -0.9, 0.1, 0.4, 2.0])
STDDEVS = np.array([0.3, 0.7, 0.2, 0.9, 0.4])
_TO_PIXEL = 50


def dataset_of(means, stddevs):
  """Return a data set of images of two pixels that tell mean and stddev."""
  pixels = np.stack([128 + _TO_PIXEL * means, _TO_PIXEL * stddevs], axis=-1)
  image = np.round(pixels).astype(np.uint8)[:, np.newaxis, :, np.newaxis]
  images = Images(image, np.zeros(len(means), np.int32))
  splits = dict.fromkeys(('train', 'validation', 'test'), images)
  return as_dataset(ImageSet('gaussians', splits))


def gaussian_posterior():
  """Return q(z|x) = N(z; mean, stddev^2) of the image's pixels."""

  def condition(params, image):
    del params
    mean = (image[:, 0, :1, 0] * 255 - 128) / _TO_PIXEL
    return mean, image[:, 0, 1:, 0] * 255 / _TO_PIXEL

  def sample(params, keys, conditions):
    del params
    mean, stddev = conditions
    noise = jax.vmap(lambda key: jax.random.normal(key, [1]))(keys)
    return mean + stddev * noise

  def log_prob(params, z, conditions):
    del params
    mean, stddev = (x[:, 0][jnp.newaxis] for x in conditions)
    return jax.scipy.stats.norm.logpdf(z, mean, stddev)

  return Posterior(
    condition=condition,
    sample=sample,
    log_prob=log_prob,
    log_prior=lambda params, z: jax.scipy.stats.norm.logpdf(z)[:, 0],
  )


def run(means=MEANS, stddevs=STDDEVS, num_samples=4_000, **kwargs):
  dataset = dataset_of(means, stddevs)
  return marginal_kl(
    gaussian_posterior(),
    {},
    dataset,
    dataset.splits['train'],
    num_samples,
    **{'show_progress': False, **kwargs},
  )


def integrated(means, stddevs):
  """Return KL[mixture of Gaussians; N(0, 1)] by quadrature."""

  def integrand(z):
    log_q = scipy.special.logsumexp(
      scipy.stats.norm.logpdf(z, means, stddevs)
    ) - math.log(len(means))
    return math.exp(log_q) * (log_q - scipy.stats.norm.logpdf(z))

  return scipy.integrate.quad(integrand, -8, 8, limit=500)[0]


@pytest.mark.parametrize('num_data', [2, 3, 5])
def test_agrees_with_numerical_integration(num_data):
  means, stddevs = MEANS[:num_data], STDDEVS[:num_data]
  result = run(means, stddevs)
  expected = integrated(means, stddevs)
  assert abs(result.marginal_kl - expected) < 3 * result.marginal_kl_error
  assert 0 < result.marginal_kl_error < 0.05
  average = np.mean(0.5 * (means**2 + stddevs**2 - 1) - np.log(stddevs))
  assert abs(result.average_kl - average) < 3 * result.average_kl_error


def test_the_information_is_at_most_ln_n_and_is_that_where_none_overlap():
  result = run(np.array([-2.0, 0.0, 2.0]), np.full(3, 0.1))
  information = result.average_kl - result.marginal_kl
  assert information == pytest.approx(math.log(3), abs=1e-4)


@pytest.mark.parametrize(
  'tiles',
  [
    Tiles(samples=1, data=1, data_per_call=1),
    Tiles(samples=7, data=2, data_per_call=1),
    Tiles(samples=64, data=3, data_per_call=5),
    Tiles(samples=500, data=100, data_per_call=2),
  ],
)
def test_tiles_change_nothing(tiles):
  expected = run(num_samples=100, tiles=Tiles(samples=100, data=5))
  result = run(num_samples=100, tiles=tiles)
  np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_tiles_are_those_asked_for_or_those_that_suit_the_devices(monkeypatch):
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: False)
  on_cpu = choose_tiles()
  assert choose_tiles(3) == on_cpu._replace(samples=3)
  assert choose_tiles(data=5) == on_cpu._replace(data=5)
  monkeypatch.setattr(parallel, 'on_accelerator', lambda: True)
  assert choose_tiles().samples > on_cpu.samples
  assert choose_tiles(3) == on_cpu._replace(samples=3)


def test_of_one_data_point_it_is_the_plain_kl():
  result = run(MEANS[:1], STDDEVS[:1], num_samples=50)
  assert result.marginal_kl == pytest.approx(result.average_kl, rel=1e-6)


def test_of_the_prior_it_is_zero():
  result = run(np.zeros(4), np.ones(4))
  assert result.marginal_kl == pytest.approx(0, abs=1e-6)
  assert result.average_kl == pytest.approx(0, abs=1e-6)


def test_of_fewer_data_it_is_their_mixtures():
  result = run(num_data=2)
  assert abs(result.marginal_kl - integrated(MEANS[:2], STDDEVS[:2])) < (
    3 * result.marginal_kl_error
  )
  assert result.num_data == 2


def color_mnist_of_40_images():
  digits = sources.digits()
  images = Images(*(x[:40] for x in digits.splits['train']))
  return compositions.color_mnist(
    ImageSet('few', dict.fromkeys(digits.splits, images))
  )


def test_composed_sets_have_more_examples_than_images():
  dataset = color_mnist_of_40_images()
  batch = fixed_batch(dataset, dataset.splits['train'], jnp.array([3, 43]))
  first, again = np.asarray(batch.image)
  np.testing.assert_array_equal(first[..., 0], again[..., 0])
  assert not np.array_equal(first, again)


def test_more_composed_examples_than_images_make_the_aggregate():
  dataset = color_mnist_of_40_images()

  def condition(params, image):
    del params
    mean = 100 * image.mean(axis=(1, 2, 3))[:, jnp.newaxis]
    return mean, jnp.full_like(mean, 1e-3)

  result = marginal_kl(
    gaussian_posterior()._replace(condition=condition),
    {},
    dataset,
    dataset.splits['train'],
    50,
    num_data=80,
    show_progress=False,
  )
  # So narrow that nearly all are told apart: of 40 it would be at most log 40.
  information = result.average_kl - result.marginal_kl
  assert np.log(60) < information <= np.log(80) + 1e-3


def test_an_interrupted_estimate_goes_on(tmp_path, monkeypatch):
  tiles = Tiles(samples=8, data=1, data_per_call=1)
  kwargs = dict(num_samples=32, tiles=tiles, resume_key='a')
  expected = run(**kwargs)
  partial = str(tmp_path / 'partial.npz')

  def killed(self, step, text):
    if step == 3:
      raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr('geco_jax.console.Progress.update', killed)
    with pytest.raises(KeyboardInterrupt):
      run(resume_from=partial, **kwargs)
  with np.load(partial) as file:
    assert file['start'] == 3
  starts = []
  monkeypatch.setattr(
    'geco_jax.evaluation.aggregate_posterior.Progress',
    lambda n, first, *args, **kwargs: starts.append(first) or _Silent(),
  )
  assert run(resume_from=partial, **kwargs) == expected
  # Sums under another key are not used.
  assert run(resume_from=partial, **{**kwargs, 'resume_key': 'b'}) == expected
  assert starts == [3, 0]


@pytest.mark.parametrize('content', ['', 'PK', 'cut', 'other'])
def test_a_damaged_file_of_sums_begins_anew(tmp_path, caplog, content):
  path = tmp_path / 'partial.npz'
  sums = np.zeros((2, 4), np.float32)
  files.write_npz(path, {'log_sums': sums, 'start': 5, 'key': 'a'})
  restored, start = aggregate_posterior._restore(str(path), 'a', (2, 4))
  assert start == 5 and (restored == 0).all()
  match content:
    case 'cut':
      path.write_bytes(path.read_bytes()[:200])
    case 'other':
      files.write_npz(path, {'numbers': sums})
    case _:
      path.write_text(content)
  restored, start = aggregate_posterior._restore(str(path), 'a', (2, 4))
  assert start == 0 and (restored == -np.inf).all()
  assert 'begins anew' in caplog.text


class _Silent:
  def update(self, step, text):
    pass

  def close(self):
    pass


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (dict(num_samples=1), 'num_samples must be > 1, got 1'),
    (dict(tiles=Tiles(samples=16, data=0)), 'tiles must be >= 1'),
    (dict(num_data=6), 'num_data must be at most 5, .* gaussians, got 6'),
  ],
)
def test_wrong_numbers_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    run(**kwargs)


def test_of_a_run_it_is_written_beside_it(tiny_config, tmp_path, build_once):
  config = tiny_config()
  experiment = build_once(config)
  train(config, str(tmp_path), experiment=experiment, show_progress=False)
  result = estimate(
    str(tmp_path), 20, experiment=experiment, split='test', show_progress=False
  )
  assert json.loads((tmp_path / 'marginal_kl.json').read_text()) == result
  assert (result['split'], result['num_data']) == ('test', 13)
  assert result['ln_n_nats'] == pytest.approx(math.log(13))
  assert result['marginal_kl_nats'] < result['average_kl_nats']
  assert not (tmp_path / aggregate_posterior.PARTIAL).exists()


def test_conditional_models_have_none(tiny_config, make_dataset, tmp_path):
  config = tiny_config()
  with config.unlocked():
    config.model = {
      'name': 'conv_draw',
      'kwargs': {'num_steps': 1, 'hidden_channels': 2, 'conditional': True},
    }
  run_folder.claim(str(tmp_path), config)
  conditional = make_dataset()._replace(context_shape=(4, 4, 1))
  experiment = build(run_folder.read_config(str(tmp_path)), conditional)
  with pytest.raises(UserError, match='no marginal KL'):
    estimate(str(tmp_path), 20, experiment=experiment, show_progress=False)


def test_a_seed_draws_samples_of_its_own():
  one, other = (run(num_samples=50, seed=seed) for seed in (0, 1))
  assert one == run(num_samples=50, seed=0)
  assert one.average_kl != pytest.approx(other.average_kl, rel=1e-3)


def test_sums_of_other_tiles_begin_anew(tmp_path, caplog):
  path = str(tmp_path / 'partial.npz')
  sums = np.zeros((2, 4), np.float32)
  files.write_npz(path, {'log_sums': sums, 'start': 5, 'key': 'a'})
  restored, start = aggregate_posterior._restore(path, 'a', (4, 2))
  assert start == 0 and restored.shape == (4, 2)
  assert (restored == -np.inf).all()
  assert 'is of other tiles: the estimate begins anew' in caplog.text


def test_an_estimate_never_goes_on_with_the_sums_of_another(
  tiny_config, tmp_path, build_once, monkeypatch
):
  """Whatever makes its samples, q(z) or its terms is in the sums' key."""
  config = tiny_config()
  experiment = build_once(config)
  train(config, str(tmp_path), experiment=experiment, show_progress=False)
  keys = []

  def interrupted(*args, resume_key, **kwargs):
    keys.append(resume_key)
    raise ValueError('interrupted')

  monkeypatch.setattr(aggregate_posterior, 'marginal_kl', interrupted)
  changes = (
    dict(split='test'),
    dict(step=config.checkpoint_every),
    dict(seed=1),
    dict(num_samples=21),
    dict(num_data=7),
  )
  for change in ({}, {}, *changes):
    with pytest.raises(UserError, match='interrupted'):
      estimate(
        str(tmp_path),
        **{'num_samples': 20, 'experiment': experiment, **change},
        show_progress=False,
      )
  assert keys[0] == keys[1]
  assert len(set(keys)) == 1 + len(changes)
