"""Full-split means against plain NumPy, and what is derived from them."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geco_jax import parallel
from geco_jax import step as steps
from geco_jax.build import build
from geco_jax.build import run_inputs
from geco_jax.datasets import compositions
from geco_jax.datasets import sources
from geco_jax.datasets.batches import fixed_batch
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.distributions import quantized_normal_log_prob
from geco_jax.evaluation import checkpoints
from geco_jax.evaluation import measures
from geco_jax.evaluation import pictures
from geco_jax.evaluation import restored
from geco_jax.io import by_products
from geco_jax.io import run_folder
from tests.small_networks import two_steps_of_conv_draw


@pytest.fixture
def run(tiny_config, monkeypatch, build_once):
  """Return an experiment, a run's inputs and its first state; few draws."""
  monkeypatch.setattr(measures, 'MIN_DRAWS', 30)
  config = tiny_config()
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  state = steps.init_state(experiment, inputs)
  return experiment, inputs, jax.tree.map(np.asarray, state)


def draws(experiment, state, split):
  """Return every draw's image and output, computed in one plain batch."""
  images = experiment.dataset.splits[split]
  n = len(images.image)
  indices = np.arange(n * math.ceil(30 / n))
  image = images.image[indices % n] / np.float32(255)

  @jax.jit
  def outputs(params):
    key_of = functools.partial(jax.random.fold_in, jax.random.key(0))
    return experiment.model.apply(params, jax.vmap(key_of)(indices), image)

  return image, outputs(state.params)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_means_are_over_every_example_of_a_split(run, split):
  experiment, _, state = run
  means = measures.split_means(experiment, likelihood=True)(
    parallel.replicate(state.params),
    parallel.replicate(experiment.dataset.splits[split]),
    0.3,
  )
  image, output = draws(experiment, state, split)
  squared = ((image - output.reconstruction) ** 2).sum(axis=(1, 2, 3)).mean()
  nll = -quantized_normal_log_prob(
    image, output.reconstruction, jnp.full(image.shape, 0.3)
  ).sum(axis=(1, 2, 3))
  assert means['squared_error'] == pytest.approx(float(squared), rel=1e-4)
  assert means['kl_nats'] == pytest.approx(float(output.kl.mean()), rel=1e-4)
  assert means['nll_nats'] == pytest.approx(float(nll.mean()), rel=1e-4)
  assert means['re'] == pytest.approx(float(squared), rel=1e-4)


def test_evaluate_builds_one_experiment_for_what_it_restores_and_reports(
  run, tiny_config, make_dataset, tmp_path, count_builds, monkeypatch, capsys
):
  _, _, state = run
  calls = []

  def restore_state(workdir, experiment, step):
    calls.append((workdir, step, restored.state_like(experiment)))
    return state

  run_folder.claim(str(tmp_path), tiny_config())
  monkeypatch.setattr(restored, 'build_dataset', lambda *_: make_dataset())
  monkeypatch.setattr(checkpoints, 'restore_state', restore_state)
  (tmp_path / 'evaluation.json').mkdir()  # It is set aside.
  record = checkpoints.evaluate(str(tmp_path), ['test'])
  assert len(count_builds) == 1
  first_line = capsys.readouterr().err.splitlines()[0]
  assert first_line.startswith('evaluating step ')
  assert f'on test, in {tmp_path}; the first draws compile' in first_line
  ((workdir, step, like),) = calls
  assert (workdir, step) == (str(tmp_path), None)
  assert jax.tree.map(jnp.shape, like) == jax.tree.map(jnp.shape, state)
  written = by_products.read(str(tmp_path / 'evaluation.json'), dict)
  assert written == record


@pytest.mark.parametrize(
  ('splits', 'label'),
  [
    (['test'], 'reconstructions'),  # No split that constraints are about.
    (['train', 'test'], 'reconstructions (not met)'),
    (['test', 'train'], 'reconstructions (not met)'),
  ],
)
def test_pictures_have_the_verdict_in_whatever_order_splits_come(
  run, splits, label, tiny_config, tmp_path, monkeypatch
):
  experiment, _, state = run
  monkeypatch.setattr(checkpoints, 'restore_state', lambda *_: state)
  run_folder.claim(str(tmp_path), tiny_config())
  labels, save_png = [], pictures.save_png

  def save(path, image, row_labels):
    labels.append(row_labels[1])
    save_png(path, image, row_labels)

  monkeypatch.setattr(pictures, 'save_png', save)
  evaluation = checkpoints.evaluate(
    str(tmp_path), splits, experiment=experiment, show_progress=False
  )
  assert not evaluation['constraints']['re']['holds']
  assert labels == [label] * len(splits)


def test_number_of_draws_is_a_multiple_of_the_examples():
  assert measures.num_draws(55_000, 784) == 55_000
  assert measures.num_draws(180, 3_072) % 180 == 0
  assert measures.num_draws(180, 3_072) >= measures.MIN_DRAWS


def test_sets_of_large_images_are_drawn_less_often():
  num_pixels = 128 * 128 * 3
  draws = measures.num_draws(500, num_pixels)
  assert 2**28 <= draws * num_pixels < 2**28 + 500 * num_pixels
  assert measures.num_draws(18_000, num_pixels) == 18_000
  assert measures.num_draws(3, 2**30) == 3


def test_active_units_are_latents_of_a_mean_kl_above_a_hundredth(run):
  experiment, inputs, state = run
  _, output = draws(experiment, state, 'train')
  kl = np.asarray(output.kl_by_latent).mean(axis=0)
  record = measures.evaluate_state(experiment, inputs, state, ['train'])
  assert record['active_units'] == int((kl > 0.01).sum())
  assert measures.active_units([0.5, 0.011, 0.009, 0.0]) == 2
  assert measures.active_units(None) is None


def test_a_bar_counts_the_draws_and_is_gone_where_it_is_not_wanted(run, capfd):
  # 45 of sigma's pass, 45 and 39 of the splits.
  measures.evaluate_state(*run, ['train', 'test'])
  *_, last = capfd.readouterr().err.split('\r')
  assert '| 129/129 ' in last and 'draw/s, test]' in last
  measures.evaluate_state(*run, ['train'], show_progress=False)
  assert capfd.readouterr().err == ''


def test_it_does_not_matter_how_many_draws_a_call_takes(run, monkeypatch):
  experiment, _, state = run
  params = parallel.replicate(state.params)
  images = measures.placed(experiment, experiment.dataset.splits['train'])
  means, seen = [], []
  for at_once in (1, 10**6):
    monkeypatch.setattr(measures, '_EXAMPLES_PER_CPU_CALL', at_once)
    experiment.programs.clear()
    sum_up = measures.split_means(experiment, likelihood=True)
    means.append(sum_up(params, images, 0.3, seen.append))
  # Batches of 8, two in the smallest call; the last are filled up.
  assert seen == [16, 32, 45, 45]
  assert means[0] == means[1]


def test_records_hold_together(run):
  record = measures.evaluate_state(*run, ['train', 'test'])
  assert set(record['other_splits']) == {'test'}
  for r, split, n in (
    (record, 'train', 45),
    (record['other_splits']['test'], 'test', 13),
  ):
    assert (r['split'], r['num_examples'], r['step']) == (split, n, 0)
    bits = r['nll_nats_per_dim'] / math.log(2)
    assert r['nll_bits_per_dim'] == pytest.approx(bits)
    elbo = -16 * r['nll_nats_per_dim'] - r['kl_nats']
    assert r['elbo_nats'] == pytest.approx(elbo)
    re = r['constraints']['re']
    assert re['value'] == pytest.approx(r['rmse'], rel=1e-5)
    assert re['violation'] == pytest.approx(
      (r['rmse'] / 0.2) ** 2 - 1, rel=1e-4
    )
    # Where GECO starts: a tenth of the natural multiplier, 1 / (2 kappa^2).
    assert re['multiplier'] == pytest.approx(0.1 / (2 * 0.2**2))
    assert re['saturation'] == pytest.approx(0.1)
    assert re['holds'] == (re['violation'] <= 0.02)
    assert re['tolerance'] == 0.02
    # Eq. 1 speaks of the training data.
    assert ('verdict' in re) == (split == 'train')
  re = record['constraints']['re']
  assert (re['verdict'] == 'met') == re['holds']
  assert record['sigma_opt'] == pytest.approx(record['rmse'])
  test = record['other_splits']['test']
  assert test['sigma_opt'] == record['sigma_opt']


def test_sigma_opt_is_the_best_sigma_of_a_gaussian(run):
  """Eq. 26 with the division by D: the minimum of the training NLL."""
  experiment, inputs, state = run
  record = measures.evaluate_state(experiment, inputs, state, ['train'])
  image, output = draws(experiment, state, 'train')
  squared = ((image - output.reconstruction) ** 2).mean()

  def nll(sigma):
    return 0.5 * squared / sigma**2 + math.log(sigma)

  best = nll(record['sigma_opt'])
  assert best < nll(record['sigma_opt'] * 1.05)
  assert best < nll(record['sigma_opt'] * 0.95)


def test_sums_are_added_up_in_float64(run, monkeypatch):
  """In float32 ones would be lost beside 2^24."""
  experiment, _, state = run
  sums = {'kl_nats': np.array([2.0**24] + 29 * [1.0], np.float32)}
  calls = [(30, parallel.replicate(sums))]
  monkeypatch.setattr(
    measures,
    '_on_devices',
    lambda *_: lambda *_: (30, iter(calls)),
  )
  experiment.programs.clear()
  means = measures.split_means(experiment, likelihood=False)
  total = means(state.params, None)['kl_nats'] * 30
  experiment.programs.clear()
  assert total == pytest.approx(2**24 + 29, abs=1e-6)


def test_a_record_says_how_often_an_example_was_drawn(run):
  record = measures.evaluate_state(*run, ['train', 'test'])
  # 30 draws at least: 45 examples have one each, 13 have three.
  test = record['other_splits']['test']
  assert (record['draws_per_example'], test['draws_per_example']) == (1, 3)


def test_the_kl_by_step_is_in_the_steps_order(
  tiny_config, build_once, draw_once
):
  config = tiny_config()
  with config.unlocked():
    config.model = two_steps_of_conv_draw()
  experiment = build_once(config)
  inputs = run_inputs(config, experiment)
  state = jax.tree.map(np.asarray, steps.init_state(experiment, inputs))
  record = measures.evaluate_state(experiment, inputs, state, ['test'])
  images = experiment.dataset.splits['test']
  image = images.image / np.float32(255)
  keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(
    np.arange(len(image))
  )
  output = jax.jit(experiment.model.apply)(state.params, keys, image)
  by_step = np.asarray(output.kl_by_step).mean(axis=0)
  assert by_step[0] != pytest.approx(by_step[1], rel=0.01)
  np.testing.assert_allclose(record['kl_nats_by_step'], by_step, rtol=1e-4)


def test_sigma_opt_is_the_training_split_s_whatever_is_asked(run):
  sigmas = [
    measures.evaluate_state(*run, splits)['sigma_opt']
    for splits in (['train'], ['test', 'train'], ['test'])
  ]
  assert sigmas == [sigmas[0]] * 3


def test_all_draws_of_an_example_are_of_one_composition(
  tiny_config, monkeypatch
):
  """The squared error of black is that of the 40 examples, drawn thrice."""
  monkeypatch.setattr(measures, 'MIN_DRAWS', 120)
  digits = sources.digits()
  few = Images(*(x[:40] for x in digits.splits['train']))
  dataset = compositions.color_mnist(
    ImageSet('few', dict.fromkeys(digits.splits, few))
  )
  experiment = build(tiny_config(), dataset)
  model = experiment.model

  def black(params, keys, image, context):
    output = model.apply(params, keys, image, context)
    return output._replace(reconstruction=jnp.zeros_like(image))

  experiment = dataclasses.replace(
    experiment, model=model._replace(apply=black), programs={}
  )
  state = steps.init_state(experiment, run_inputs(tiny_config(), experiment))
  images = dataset.splits['train']
  means = measures.split_means(experiment, likelihood=False)(
    parallel.replicate(state.params), parallel.replicate(images)
  )
  image = np.asarray(fixed_batch(dataset, images, jnp.arange(40)).image)
  expected = (image**2).sum(axis=(1, 2, 3)).mean()
  assert means['squared_error'] == pytest.approx(expected, rel=1e-5)
