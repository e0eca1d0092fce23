"""From config to parts: every wrong value gets one clear sentence."""

import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import numpy as np
import pytest

from configs import digits_vae
from geco_jax.base_config import group
from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.build import check_config
from geco_jax.build import experiment_key
from geco_jax.build import MODELS
from geco_jax.build import run_inputs
from geco_jax.choices import COMPOSITIONS
from geco_jax.choices import SCHEDULES
from geco_jax.classifiers import pretrained
from geco_jax.classifiers.networks import CLASSIFIERS
from geco_jax.constraints import CONSTRAINTS
from geco_jax.datasets import sources
from geco_jax.datasets.images import Images
from geco_jax.datasets.images import ImageSet
from geco_jax.errors import UserError
from geco_jax.rules import MULTIPLIERS


def set_leaf(config, name, value):
  """Set a leaf by its dotted name, whatever its type."""
  *groups, leaf = name.split('.')
  with config.unlocked(), config.ignore_type():
    for group in groups:
      config = config[group]
    config[leaf] = value


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('model.name', 'mlp_va', 'mlp_va.*did you mean mlp_vae.*conv_vae, mlp_vae'),
    ('model.kwargs.latent_size', 0, 'config.model: latent_size'),
    (
      *('model.kwargs.latent', 3),
      "config.model.kwargs: unexpected 'latent' .did you mean latent_size",
    ),
    ('constraints.re.kappa', 0.0, 'config.constraints.re: kappa must be > 0'),
    ('constraints.re.kappa', -0.1, 'kappa must be > 0 .* got -0.1'),
    ('multipliers.name', 'gecko', 'gecko.*did you mean geco'),
    ('multipliers.kwargs.decay', 1.0, 'decay must be .*< 1, got 1.0'),
    ('multipliers.kwargs.decay', -0.1, 'decay must be .*>= 0.*got -0.1'),
    ('multipliers.kwargs.step_size', -1.0, 'step_size must be .*got -1.0'),
    ('multipliers.kwargs.initial', 0.0, 'initial must be > 0, got 0.0'),
    (
      *('multipliers.kwargs.initial', 1e9),
      r'initial must be in exp\(-10\) to exp\(14\), the log_.*, got 1e\+09',
    ),
    ('optimizer.kwargs.mu_dtype', 'x', "mu_dtype must be in .*got 'x'"),
    ('optimizer.name', 'adann', 'adann.*did you mean adan'),
    ('learning_rate.name', 'cos', "unknown name 'cos'.*choose from"),
    ('max_gradient_norm', 0.0, 'max_gradient_norm must be > 0, got 0.0'),
    ('policy', 'compute=float99', 'config.policy must be .*got "compute=fl'),
    ('policy', 'float16', 'float16 would need loss scaling'),
    ('num_steps', 0, 'num_steps must be >= 1, got 0'),
    ('num_steps', 42, 'num_steps must be a multiple of .*=5, got 42'),
    ('checkpoint_every', 7, 'checkpoint_every must be a multiple of'),
    ('batch_size', 0, 'batch_size must be >= 1, got 0'),
    ('batch_size', 2**29, r'must stay below 2\*\*31'),
    ('tolerance', -1.0, r'tolerance must be in \[0, 1\), got -1.0'),
    ('seed', -1, 'seed must be in'),
  ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
  name, value, message, tiny_config, make_dataset
):
  config = tiny_config()
  set_leaf(config, name, value)
  with pytest.raises(UserError, match=message):
    build(config, make_dataset())


@pytest.mark.parametrize(
  ('name', 'kwargs', 'message'),
  [
    (
      'piecewise_constant_schedule',
      {'init_value': 1e3, 'boundaries_and_scales': {'1': 1e3}},
      r'must be in \[0, 1000\], is 1e\+06 at step',
    ),
    (
      'exponential',
      dict(init_value=0.1, transition_steps=1, decay_rate=1000.0),
      r'is .* at step',
    ),
  ],
)
def test_what_a_schedule_s_arguments_come_to_is_checked(
  name, kwargs, message, tiny_config, make_dataset
):
  config = tiny_config()
  set_leaf(config, 'learning_rate', group(name, **kwargs))
  with pytest.raises(UserError, match=f'config.learning_rate.*{message}'):
    build(config, make_dataset())


def test_without_a_violation_clip_nothing_bounds_a_move(
  tiny_config, make_dataset
):
  config = tiny_config()
  moved = {}
  for clip in (1.0, None):
    config.multipliers.kwargs.violation_clip = clip
    rule = build(config, make_dataset()).multiplier_update({}, {'re': 0.2})
    start = {'re': jnp.float32(0)}
    change, _ = rule.update({'re': jnp.float32(10)}, rule.init(start), start)
    moved[clip] = float(change['re'])
  step_size = config.multipliers.kwargs.step_size
  assert moved[1.0] < step_size
  assert moved[None] == pytest.approx(step_size * 3 * np.arcsinh(10 / 3))


def test_an_unknown_constraint_is_named_with_the_choices(
  tiny_config, make_dataset
):
  config = tiny_config()
  with config.unlocked():
    config.constraints = {'rex': {'kappa': 0.1}}
  with pytest.raises(UserError, match="'rex'.*did you mean re.*nll, pncc, re"):
    build(config, make_dataset())


@pytest.mark.parametrize(
  ('name', 'group', 'message'),
  [
    ('pncc', {'kappa': 1.0}, r'constraints.pncc: kappa must be in \(0, 1\)'),
    (
      'pncc',
      {'kappa': 0.5, 'patch_size': 9},
      r'patch_size must be in \[1, 4\]',
    ),
    (
      'pncc',
      {'kappa': 0.5, 'patch_size': 2, 'stride': 0},
      'stride must be >= 1, got 0',
    ),
    ('fre_stats', {'kappa': 0.1, 'patch_size': 3}, 'patch_size must divide'),
    ('fre_stats', {'patch_size': 2}, 'constraints.fre_stats.kappa is missing'),
    (
      'fre',
      {'kappa': 0.5, 'network': 'absent', 'layer': 'stage_2'},
      r'no trained classifier at .*absent.*--config=\.\.\. --workdir=.*absent',
    ),
  ],
)
def test_wrong_options_of_a_constraint_are_named(
  name, group, message, tiny_config, make_dataset, monkeypatch, tmp_path
):
  monkeypatch.setenv('GECO_JAX_CACHE', str(tmp_path))
  config = tiny_config()
  with config.unlocked():
    config.constraints = {name: group}
  with pytest.raises(UserError, match=message):
    build(config, make_dataset())


@pytest.fixture
def network(tmp_path):
  """Return the folder of a small classifier of 4x4 images, untrained."""
  kwargs = dict(channels=(2,), hidden_size=3)
  classifier = CLASSIFIERS['cnn'](12, **kwargs)
  image = jnp.zeros((1, 4, 4, 1))
  params, state = classifier.init(jax.random.key(0), image)
  (_, features), _ = classifier.apply(params, state, image, is_training=False)
  folder = str(tmp_path)
  pretrained.save(
    folder,
    model={'name': 'cnn', 'kwargs': kwargs},
    image_shape=(4, 4, 1),
    num_classes=12,
    params=params,
    state=state,
    feature_stddevs={layer: np.ones(2) for layer in features},
  )
  return folder


def test_networks_of_constraints_are_found_by_path(
  network, tiny_config, make_dataset
):
  config = tiny_config()
  with config.unlocked():
    config.constraints = {
      're': {'kappa': 0.1},
      'cla': {'kappa': 0.9, 'network': network},
      'fre': {'kappa': 0.5, 'network': network, 'layer': 'conv_1'},
    }
  experiment = build(config, make_dataset())
  kappas = {'re': 0.1, 'cla': 0.9, 'fre': 0.5}
  assert run_inputs(config, experiment).kappas == kappas
  assert set(experiment.constraints) == kappas.keys()


def test_networks_of_other_images_are_refused(
  network, tiny_config, make_dataset
):
  config = tiny_config()
  with config.unlocked():
    config.constraints = {'cla': {'kappa': 0.9, 'network': network}}
  with pytest.raises(UserError, match=r'takes images of \(4, 4, 1\), got \(8'):
    build(config, make_dataset((8, 8, 1)))


def test_classification_needs_labels(network, tiny_config, make_dataset):
  config = tiny_config()
  with config.unlocked():
    config.constraints = {'cla': {'kappa': 0.9, 'network': network}}
  dataset = make_dataset()
  dataset.splits['train'].label[:] = -1
  with pytest.raises(UserError, match='constraints.cla: .* has no labels'):
    build(config, dataset)


def test_no_constraint_at_all_is_an_error(tiny_config, make_dataset):
  config = tiny_config()
  with config.unlocked():
    config.constraints = {}
  with pytest.raises(UserError, match='config.constraints is empty'):
    build(config, make_dataset())


@pytest.mark.parametrize('dataset', [None, 'digits', np.zeros((9, 4, 4, 1))])
def test_what_is_no_data_set_is_refused(dataset, tiny_config):
  with pytest.raises(UserError, match='a data set must be what build_dataset'):
    build(tiny_config(), dataset)


@pytest.mark.parametrize(
  ('part', 'value', 'message'),
  [
    ('placement', 'moon', "must be device or host, got 'moon'"),
    ('placement', None, 'must be device or host, got None'),
    ('splits', None, 'splits of a data set must be Images by name'),
    ('splits', {'train': np.ones((9, 4, 4, 1))}, 'must be Images by name'),
    ('choose', None, 'choose of a data set must be a function'),
    ('compose', 3, 'compose of a data set must be a function'),
    ('image_shape', None, 'image_shape of a data set must be three integers'),
    ('image_shape', (8, 8), 'must be three integers, .* got .8, 8.'),
    ('image_shape', (9, 9, 1), 'must be that of its images, .* got .9, 9, 1'),
    ('context_shape', 'x', 'context_shape of a data set must be three integ'),
  ],
)
def test_a_data_set_that_was_changed_is_checked(
  part, value, message, tiny_config, make_dataset
):
  with pytest.raises(UserError, match=message):
    build(tiny_config(), make_dataset()._replace(**{part: value}))


@pytest.mark.parametrize('config', [None, 3, {'dataset': {}}, np.zeros(2)])
def test_what_is_no_config_builds_no_data_set(config):
  with pytest.raises(UserError, match='config must be a'):
    build_dataset(config)


def test_what_is_no_experiment_has_no_inputs(tiny_config):
  with pytest.raises(UserError, match='an experiment must be what build retu'):
    run_inputs(tiny_config(), None)


def test_a_batch_that_the_devices_cannot_share_is_an_error(
  tiny_config, make_dataset, monkeypatch
):
  monkeypatch.setattr('jax.device_count', lambda: 3)
  with pytest.raises(UserError, match='batch_size=8 is not divisible by the 3'):
    build(tiny_config(), make_dataset())


def test_an_unknown_data_set_is_named_with_close_ones(tiny_config):
  config = tiny_config()
  config.dataset.name = 'mnistt'
  with pytest.raises(UserError, match="unknown data set 'mnistt'.*mnist"):
    build_dataset(config)


@pytest.mark.parametrize(
  ('name', 'hint'),
  [('blobs', ''), ('image_foldr', r' \(did you mean image_folder\?\)')],
)
def test_options_of_an_unknown_data_set_do_not_hide_its_name(
  name, hint, tiny_config
):
  config = tiny_config()
  config.dataset = group(name, path='pictures', image_size=8)
  with pytest.raises(
    UserError,
    match=f"unknown name '{name}'{hint}; a set of TFDS takes no 'path'; choose "
    'from .*image_folder.* or name the module of your own one',
  ):
    check_config(config)


def _rule(change):
  """Return a constructor of multipliers, changed."""
  return lambda naturals: change(MULTIPLIERS['fixed'](naturals))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda rule: None, 'must return a geco_jax.rules.Multipliers, got None'),
    (lambda rule: tuple(rule), 'must return a .*Multipliers, got tuple'),
    (
      lambda rule: rule._replace(transformation=3),
      'must return a .*GradientTransformation, got int',
    ),
    (
      lambda rule: rule._replace(initial_log_multipliers={'fre': 0.0}),
      'an initial log-multiplier for each of nll, got fre',
    ),
  ],
)
def test_a_rule_of_another_form_is_refused(
  change, message, tiny_config, make_dataset, monkeypatch
):
  monkeypatch.setitem(MULTIPLIERS, 'own', _rule(change))
  config = tiny_config('elbo')
  config.multipliers = group('own')
  with pytest.raises(UserError, match=f'config.multipliers: .*{message}'):
    build(config, make_dataset())


def test_a_schedule_that_is_no_function_is_refused(
  tiny_config, make_dataset, monkeypatch
):
  monkeypatch.setitem(SCHEDULES, 'own', lambda: 3)
  config = tiny_config()
  config.learning_rate = group('own')
  with pytest.raises(UserError, match='learning_rate: .*Callable, got int'):
    build(config, make_dataset())


def test_a_constraint_that_nothing_can_violate_is_refused(
  tiny_config, make_dataset, monkeypatch
):
  entry = CONSTRAINTS['re']
  own = entry._replace(
    make=lambda shape: entry.make(shape)._replace(scale=lambda kappa: 0.0)
  )
  monkeypatch.setitem(CONSTRAINTS, 'own', own)
  config = tiny_config()
  config.constraints = {'own': {'kappa': 0.2}}
  with pytest.raises(UserError, match='constraints.own: its budget must be >'):
    build(config, make_dataset())


def test_digits_are_built_without_options(tiny_config):
  dataset = build_dataset(tiny_config())
  assert dataset.name == 'digits'
  assert dataset.image_shape == (8, 8, 1)


@pytest.mark.parametrize(
  ('name', 'channels', 'context_channels'),
  [
    ('color_mnist', 3, None),
    ('micro_mnist', 1, None),
    ('mnist_rotate', 1, 2),
    ('mnist_sum', 1, 2),
    ('mnist_sum_hard', 2, 1),
    ('mnist_triplets', 3, None),
  ],
)
def test_compositions_are_built_of_the_base_that_is_named(
  name, channels, context_channels
):
  config = ConfigDict({'dataset': group(name, base='digits')})
  dataset = build_dataset(config)
  assert dataset.name == f'{name} of digits'
  assert dataset.image_shape == (8, 8, channels)
  assert dataset.context_shape == (
    None if context_channels is None else (8, 8, context_channels)
  )


def test_compositions_are_of_mnist_in_data_dir_unless_told_otherwise(
  monkeypatch,
):
  asked = []

  def tfds_images(name, data_dir):
    asked.append((name, data_dir))
    return sources.digits()

  monkeypatch.setattr('geco_jax.datasets.sources.tfds_images', tfds_images)
  build_dataset(ConfigDict({'dataset': group('mnist_sum')}), 'some/folder')
  assert asked == [('mnist', 'some/folder')]


@pytest.mark.parametrize('name', COMPOSITIONS)
@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'base': 'digitz'}, "unknown data set 'digitz'.*digits"),
    ({'bass': 'digits'}, "config.dataset.kwargs: unexpected 'bass'.*base"),
  ],
)
def test_a_composition_names_what_is_wrong_with_its_options(
  name, kwargs, message
):
  config = ConfigDict({'dataset': group(name, **kwargs)})
  with pytest.raises(UserError, match=message):
    build_dataset(config)


def test_a_base_that_cannot_be_composed_is_the_configs_fault(
  make_images, monkeypatch
):
  splits = dict.fromkeys(
    ['train', 'validation', 'test'], make_images(8, (4, 4, 3))
  )
  monkeypatch.setattr(
    'geco_jax.datasets.sources.tfds_images',
    lambda name, data_dir: ImageSet(name, splits),
  )
  config = ConfigDict({'dataset': group('mnist_sum', base='cifar10')})
  with pytest.raises(UserError, match='config.dataset: cifar10 .* 3 channels'):
    build_dataset(config)


@pytest.mark.parametrize(
  ('name', 'kwargs'), [('mnist', {}), ('mnist_sum', {'base': 'mnist'})]
)
@pytest.mark.parametrize(
  ('size', 'levels', 'message'),
  [
    (40, 2, 'train split reach 1 of 255 only'),
    (0, 256, 'train split(: there are none| .* has the labels .., at least 0)'),
  ],
)
def test_what_sources_read_is_checked_too(
  name, kwargs, size, levels, message, monkeypatch
):
  image = np.arange(16 * size).reshape(size, 4, 4, 1) % levels
  images = Images(image.astype(np.uint8), np.arange(size, dtype=np.int32) % 10)
  splits = dict.fromkeys(['train', 'validation', 'test'], images)
  monkeypatch.setattr(
    'geco_jax.datasets.sources.tfds_images',
    lambda name, data_dir: ImageSet(name, splits),
  )
  config = ConfigDict({'dataset': group(name, **kwargs)})
  with pytest.raises(UserError, match=message):
    build_dataset(config)


def test_runs_that_differ_in_kappa_seed_or_step_size_share_an_experiment():
  config = digits_vae.get_config('geco+re+cla')
  other = digits_vae.get_config('geco+re+cla')
  other.seed = 7
  other.constraints.re.kappa = 0.3
  other.multipliers.kwargs.step_size = 0.5
  other.learning_rate.kwargs.init_value = 0.5
  assert experiment_key(other) == experiment_key(config)


@pytest.mark.parametrize(
  ('variants', 'change'),
  [
    (('geco+cla', 'geco+re+cla'), {}),
    (('geco+re', 'elbo'), {}),
    (('geco', 'geco'), {'batch_size': 64}),
    (('geco', 'geco'), {'model.kwargs.latent_size': 3}),
  ],
)
def test_runs_that_differ_in_anything_else_do_not(variants, change):
  first, second = (digits_vae.get_config(variant) for variant in variants)
  second.update_from_flattened_dict(change)
  assert experiment_key(first) != experiment_key(second)


def test_every_choice_is_a_function_with_a_docstring_or_private():
  constructors = {name: entry.make for name, entry in CONSTRAINTS.items()}
  for choices in (MODELS, COMPOSITIONS, constructors, MULTIPLIERS):
    for name, function in choices.items():
      assert callable(function), name
      assert function.__doc__ or function.__name__.startswith('_'), name


def test_what_a_rule_of_ones_own_is_given_may_be_compiled(monkeypatch):
  """Only the rules of the package are known to put it into the start alone."""
  for rule, name in (('fixed', 'beta'), ('geco', 'initial')):
    keys = []
    for own in ('', 'own_'):
      with monkeypatch.context() as patch:
        patch.setitem(MULTIPLIERS, f'own_{rule}', MULTIPLIERS[rule])
        for value in (0.5, 2.0):
          config = digits_vae.get_config('elbo' if rule == 'fixed' else 'geco')
          config.multipliers.name = own + rule
          with config.multipliers.kwargs.unlocked():
            config.multipliers.kwargs[name] = value
          keys.append(experiment_key(config))
    assert keys[0] == keys[1]
    assert keys[2] != keys[3]


def test_the_largest_seed_and_number_of_examples_are_those_of_32_bits(
  tiny_config,
):
  config = tiny_config()
  config.seed = 2**32 - 1
  config.steps_per_dispatch = config.checkpoint_every = 1
  config.num_steps, config.batch_size = 2**28 - 1, 8
  check_config(config)
  config.num_steps = 2**28
  with pytest.raises(UserError, match=r'stay below 2\*\*31 examples'):
    check_config(config)
  config.num_steps, config.seed = 1, 2**32
  with pytest.raises(UserError, match=r'seed must be in \[0, 2\*\*32\)'):
    check_config(config)


def test_where_images_are_placed_is_a_program_of_its_own():
  """On a device they are, where a config does not say so."""
  config = digits_vae.get_config()
  key = experiment_key(config)
  for placement, is_same in (('device', True), ('host', False)):
    with config.dataset.unlocked():
      config.dataset.placement = placement
    assert (experiment_key(config) == key) == is_same
