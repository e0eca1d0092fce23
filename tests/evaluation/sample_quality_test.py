"""Sample quality is measured on sets of one size, in terms that are written."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import sample_quality as command
from geco_jax.classifiers import pretrained
from geco_jax.datasets import compositions
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.evaluation import frechet
from geco_jax.evaluation import sample_quality
from geco_jax.evaluation.checkpoints import evaluate
from geco_jax.evaluation.sample_quality import estimate
from geco_jax.evaluation.sample_quality import frechet_distances
from geco_jax.evaluation.sample_quality import importance_nll
from geco_jax.evaluation.sample_quality import read
from geco_jax.evaluation.sample_quality import Sizes
from geco_jax.models.base import Model
from geco_jax.training.loop import train
from tests.small_networks import save_classifier


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """Return the path of a classifier of 4x4 images, with 3 features."""
  folder = tmp_path_factory.mktemp('classifier')
  return save_classifier(folder, side=4, channels=4, seed=3)


def experiment_of(dataset, apply=None, sample=None):
  """Return the data set and a model of these functions."""
  nothing = dict.fromkeys(('init', 'reconstruct', 'encode', 'decode'))
  model = Model(
    apply=apply or (lambda params, keys, image, context: seen(image)),
    sample=sample or (lambda params, keys, context: noise(keys)),
    **nothing,
  )
  return types.SimpleNamespace(dataset=dataset, model=model, programs={})


def seen(image):
  return types.SimpleNamespace(reconstruction=image)


def noise(keys):
  return jax.vmap(lambda key: jax.random.uniform(key, (4, 4, 1)))(keys)


def distances(experiment, network, num_samples=None, seed=0, layer=None):
  return frechet_distances(
    experiment, {}, network, layer, num_samples, seed, show_progress=False
  )


def test_of_a_run_it_is_written_beside_it(
  tiny_config, tmp_path, network, build_once
):
  config, workdir = tiny_config(), str(tmp_path)
  experiment = build_once(config)
  kwargs = dict(experiment=experiment, show_progress=False)
  train(config, workdir, **kwargs)
  with pytest.raises(UserError, match='no evaluation of step 20, .*evaluate'):
    estimate(workdir, network, **kwargs)
  evaluation = evaluate(workdir, ('test',), **kwargs)
  with pytest.raises(UserError, match='num_images .* at most 13, .* got 14'):
    estimate(workdir, network, sizes=Sizes(num_images=14), **kwargs)
  result = estimate(workdir, network, **kwargs)
  assert json.loads((tmp_path / 'sample_quality.json').read_text()) == result
  assert [result[k] for k in ('split', 'step', 'seed')] == ['test', 20, 0]
  measured = result['frechet']
  assert (measured['network'], measured['layer']) == (network, 'hidden')
  assert (measured['num_features'], measured['num_samples']) == (3, 13)
  assert len(measured['network_sha256']) == 64
  likelihood = result['importance']
  assert (likelihood['num_images'], likelihood['num_draws']) == (13, 100)
  assert likelihood['sigma_opt'] == evaluation['sigma_opt']
  elbo = evaluation['elbo_nats']
  assert likelihood['elbo_nats'] == pytest.approx(elbo, abs=0.2)
  assert likelihood['nll_nats'] < -likelihood['elbo_nats']
  bits = likelihood['nll_nats'] / 16 / np.log(2)
  assert likelihood['nll_bits_per_dim'] == pytest.approx(bits)
  table = command.table(result)
  for number in (
    *(f'{measured[k]:.4f}' for k in ('samples', 'reconstructions', 'train')),
    f'{likelihood["nll_nats"]:.2f} nats',
  ):
    assert number in table
  assert estimate(workdir, network, **kwargs) == result
  assert read(workdir, 20) == result
  assert read(workdir, 10) is None
  other = estimate(workdir, network, seed=1, sizes=Sizes(12, 5), **kwargs)
  assert other['frechet']['samples'] != measured['samples']
  numbers = [other['importance'][k] for k in ('num_images', 'num_draws')]
  assert [other['frechet']['num_samples'], *numbers] == [12, 5, 100]


@pytest.mark.parametrize(
  'content',
  ['', '[]', '{"step": 20}', '{"step": 20, "frechet": {"samples": "low"}}'],
)
def test_a_damaged_file_is_passed_over(tmp_path, caplog, content):
  assert read(str(tmp_path), 20) is None
  (tmp_path / 'sample_quality.json').write_text(content)
  assert read(str(tmp_path), 20) is None
  assert 'is damaged and passed over' in caplog.text


def test_distances_are_to_the_test_split(make_dataset, network):
  dataset = make_dataset()
  result = distances(experiment_of(dataset), network)
  assert result['reconstructions'] == pytest.approx(0, abs=1e-9)
  assert result['samples'] > 0
  _, features, _ = frechet.extractor(
    pretrained.load(network), None, dataset.image_shape
  )
  # Expected: 13 of the 45 training images, as many as there are test images.
  test, train_split = (
    np.asarray(features(jnp.asarray(dataset.splits[k].image) / 255))
    for k in ('test', 'train')
  )
  chosen = np.sort(np.random.default_rng(0).permutation(45)[:13])
  expected = frechet.distance(
    frechet.moments(train_split[chosen]), frechet.moments(test)
  )
  assert result['train'] == pytest.approx(expected, rel=1e-4)


def test_no_example_counts_twice_where_a_batch_is_padded(
  make_dataset, network, monkeypatch
):
  experiment = experiment_of(make_dataset())
  whole = distances(experiment, network)
  monkeypatch.setattr(sample_quality, '_BATCH', 5)  # 13 are 5, 5 and 3.
  in_parts = distances(experiment, network)
  for name in ('samples', 'reconstructions', 'train'):
    assert in_parts[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-9)


def test_another_seed_takes_other_training_images(make_dataset, network):
  experiment = experiment_of(make_dataset())
  first, second = (distances(experiment, network, seed=s) for s in (0, 1))
  assert first['train'] != pytest.approx(second['train'])


def test_conditional_models_are_given_the_test_splits_contexts(
  make_dataset, network
):
  plain = make_dataset()

  def compose(image, label):
    batch = plain.compose(image, label)
    return batch._replace(context=batch.image)

  dataset = plain._replace(compose=compose, context_shape=(4, 4, 1))
  experiment = experiment_of(dataset, sample=lambda params, keys, c: c)
  assert distances(experiment, network)['samples'] == pytest.approx(0, abs=1e-9)
  result = importance_nll(experiment, {}, 0.1, None, 100, 0)
  assert result is None
  measured = {'frechet': distances(experiment, network), 'importance': result}
  table = command.table(measured)
  assert 'NLL: none, for q(z|x) depends on a context' in table


def test_composed_sets_have_more_examples_than_images(make_images, network):
  sizes = {'train': 45, 'validation': 11, 'test': 13}
  splits = {
    k: make_images(n, (4, 4, 1))._replace(label=np.arange(n) % 10)
    for k, n in sizes.items()
  }
  dataset = compositions.color_mnist(ImageSet('few', splits))
  colored = experiment_of(
    dataset, sample=lambda params, keys, c: jnp.repeat(noise(keys), 3, axis=-1)
  )
  result = distances(colored, network)
  assert (result['num_features'], result['num_samples']) == (9, 90)


def test_composed_sets_have_as_many_examples_as_are_wanted(make_images):
  splits = {
    k: make_images(120, (4, 4, 1))._replace(label=np.arange(120) % 10)
    for k in ('train', 'validation', 'test')
  }
  dataset = compositions.color_mnist(ImageSet('many', splits))
  # All images, since ten for each of nine features are fewer.
  assert sample_quality._num_samples(dataset, None, 'hidden', 9) == 120
  assert sample_quality._num_samples(dataset, 500, 'hidden', 9) == 500
  assert sample_quality._num_images(dataset, 500) == 500


@pytest.mark.parametrize(
  ('num_samples', 'layer', 'message'),
  [
    (14, None, 'num_samples must be at most 13, .* one size .* got 14'),
    (3, None, 'must be greater than 3, the features of layer hidden.* got 3'),
    (None, 'deep', "has no layer 'deep'"),
  ],
)
def test_wrong_sets_are_refused(
  make_dataset, network, num_samples, layer, message
):
  with pytest.raises(ValueError, match=message):
    distances(experiment_of(make_dataset()), network, num_samples, layer=layer)


def test_samples_that_are_no_numbers_are_refused(make_dataset, network):
  experiment = experiment_of(
    make_dataset(), sample=lambda params, keys, context: jnp.nan * noise(keys)
  )
  with pytest.raises(ValueError, match='samples: features must be finite'):
    distances(experiment, network)


def test_the_command_needs_a_network(monkeypatch):
  monkeypatch.setattr(command.cli, 'workdir', lambda: 'run')
  flags = types.SimpleNamespace(network=None)
  monkeypatch.setattr(command.flags, 'FLAGS', flags)
  with pytest.raises(UserError, match='--network is missing'):
    command.main([])


def test_a_network_that_is_not_there_is_refused(make_dataset, tmp_path):
  with pytest.raises(UserError, match='no trained classifier at'):
    distances(experiment_of(make_dataset()), str(tmp_path / 'none'))


@pytest.mark.parametrize('num_images', [0, 14])
def test_wrong_numbers_of_images_are_refused(make_dataset, num_images):
  experiment = experiment_of(make_dataset())
  experiment.model = experiment.model._replace(posterior=())
  with pytest.raises(ValueError, match=f'at most 13, .* got {num_images}'):
    importance_nll(experiment, {}, 0.1, num_images, 100, 0)


def test_the_error_of_the_nll_is_that_of_a_mean(make_dataset, monkeypatch):
  def brightness(params, keys, image, stddev):
    return image.mean(axis=(1, 2, 3))[:, None]

  monkeypatch.setattr(
    sample_quality.importance, 'log_weights', lambda *_: brightness
  )
  dataset = make_dataset()
  experiment = experiment_of(dataset)
  experiment.model = experiment.model._replace(posterior=())
  values = dataset.splits['test'].image.mean(axis=(1, 2, 3)) / 255
  for batch_size in (32, 5):
    monkeypatch.setattr(sample_quality, '_NLL_BATCH', batch_size)
    result = importance_nll(
      experiment, {}, 0.1, None, 1, 0, show_progress=False
    )
    assert result['nll_nats'] == pytest.approx(-values.mean(), rel=1e-5)
    error = values.std(ddof=1) / np.sqrt(13)
    assert result['nll_error_nats'] == pytest.approx(error, rel=1e-4)
  one = importance_nll(experiment, {}, 0.1, 1, 1, 0, show_progress=False)
  assert one['nll_error_nats'] is None


def test_the_likelihood_is_of_the_step_that_was_evaluated(
  tiny_config, tmp_path, network, build_once
):
  """Since sigma is the evaluation's."""
  config, workdir = tiny_config(), str(tmp_path)
  kwargs = dict(experiment=build_once(config), show_progress=False)
  train(config, workdir, **kwargs)
  evaluate(workdir, ('test',), **kwargs)
  with pytest.raises(UserError, match='no evaluation of step 10, .*evaluate'):
    estimate(workdir, network, step=10, **kwargs)
  assert not (tmp_path / 'sample_quality.json').exists()
