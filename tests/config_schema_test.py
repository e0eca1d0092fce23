"""The form of a config: what is wrong is named in a sentence."""

from collections.abc import Callable, Mapping, Sequence
import copy
import typing
from typing import Any, Literal

import jax
from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import required_placeholder
import numpy as np
import pytest

from geco_jax import base_config
from geco_jax import choices
from geco_jax import config_schema
from geco_jax import config_types
from geco_jax.build import check_classifier_config
from geco_jax.build import check_config
from geco_jax.config_tree import flatten
from geco_jax.config_tree import without_sweep
from geco_jax.errors import UserError

# What no leaf and no group may be.
JUNK = {
  'function': len,
  'array': np.ones(2),
  'float32': np.float32(1),
  'class': dict,
  'bytes': b'x',
  'set': {1},
  'complex': 1j,
  'object': object(),
  'nan': float('nan'),
  'infinity': float('inf'),
  'huge': 10**300,
  'list of arrays': [np.ones(2)],
  'nested nan': ((1.0, float('nan')),),
  'infinite number of float32': 1e39,
  'zero of float32': 1e-50,
}
RATES = {
  'constant': dict(value=1e-3),
  'exponential': dict(init_value=1e-3, transition_steps=10, decay_rate=0.5),
  'linear': dict(init_value=1e-3, end_value=0.0, transition_steps=10),
  'warmup_cosine': dict(
    init_value=0.0, peak_value=1e-3, warmup_steps=10, decay_steps=100
  ),
}


def with_value(config, name, value):
  """Return a config with a leaf or group by its dotted name."""
  config = copy.deepcopy(config)
  *groups, leaf = name.split('.')
  config.unlock()  # To lock it again would compute all values.
  with config.ignore_type():
    holder = config
    for group in groups:
      holder = holder[group]
    if value is KeyError:
      del holder[leaf]
    else:
      holder[leaf] = value
  return config


def names(config, prefix=''):
  """Yield the dotted names of all groups and leaves."""
  for key in config:
    yield f'{prefix}{key}'
    if isinstance(config[key], ConfigDict):
      yield from names(config[key], f'{prefix}{key}.')


def refusal(config, check=check_config):
  """Return the sentence that refuses a config."""
  with pytest.raises(UserError) as caught:
    check(config)
  assert len(str(caught.value)) < 400 and '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('junk', JUNK)
def test_what_could_not_stand_in_json_is_refused_wherever_it_is(
  tiny_config, junk
):
  config = tiny_config()
  for name in names(config):
    assert f'config.{name}' in refusal(with_value(config, name, JUNK[junk]))


def test_what_holds_itself_is_refused(tiny_config):
  circle = []
  circle.append(circle)
  deep = [[]]
  for _ in range(5_000):
    deep = [deep]
  for junk in (circle, deep):
    config = tiny_config()
    with config.unlocked():
      config.sweep = junk
    assert refusal(config).startswith('config.sweep holds itself, or ')


def test_every_key_must_be_there_and_is_named_if_it_is_not(tiny_config):
  config = tiny_config()
  # Python may pass a data set, earlier versions had no imports.
  optional = {'sweep', 'dataset', 'imports'}
  for name in names(config):
    if name.count('.') < 2 and '.re' not in name and name not in optional:
      message = refusal(with_value(config, name, KeyError))
      assert message == f'config.{name} is missing'
  for name in optional:
    check_config(with_value(config, name, KeyError))


@pytest.mark.parametrize(
  'value', ['x', 3, 2.5, True, None, [], [1], {}, {'name': 'x'}, ()]
)
def test_groups_must_be_groups_and_leaves_must_not(tiny_config, value):
  config = tiny_config()
  for name in names(config):
    old = config
    for key in name.split('.'):
      old = old[key]
    if isinstance(old, ConfigDict) != isinstance(value, dict):
      fits = type(value) is type(old) or name == 'sweep' and value in ([], ())
      numbers = {type(value), type(old)} <= {int, float}
      if not fits and not numbers and value is not None:
        assert f'config.{name}' in refusal(with_value(config, name, value))


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('model', 3, 'config.model must be a group of values, got 3 (int)'),
    ('model', {}, 'config.model.name is missing'),
    ('model', {'name': 'mlp_vae'}, 'config.model.kwargs is missing'),
    ('model.name', ['mlp_vae'], "name must be a string, got ['mlp_vae']"),
    (
      'dataset.placement',
      'gpu',
      "config.dataset.placement must be device or host, got 'gpu'",
    ),
    ('model.size', 3, 'config.model.size: no such key; arguments stand in'),
    ('model.kwargs', [3], 'config.model.kwargs must be a group'),
    ('model.kwargs.latent_size', '3', "must be an integer, got '3' (str)"),
    ('model.kwargs.latent_size', True, 'latent_size must be an integer'),
    ('model.kwargs.latent_size', 3.0, 'must be an integer, got 3.0 (float)'),
    ('model.kwargs.hidden_sizes', 3, 'hidden_sizes must be a list of values'),
    ('model.kwargs.hidden_sizes', (64.0, 32.0), 'each an integer, got (64.0'),
    ('model.kwargs.learn_likelihood_stddev', 1, 'must be true or false'),
    ('model.kwargs.likelihood_stddev', 1e-30, 'must be in [1e-9, 1e9]'),
    ('dataset', 'digits', 'config.dataset must be a group of values'),
    ('dataset.kwargs.size', 3, "unexpected 'size'; digits takes no arguments"),
    ('constraints', 3, 'config.constraints must be a group of values'),
    ('constraints', {}, 'config.constraints is empty'),
    ('constraints.re', 0.1, 'config.constraints.re must be a group'),
    ('constraints.re', {}, 'config.constraints.re.kappa is missing'),
    ('constraints.re.kappa', '0.1', "kappa must be a number, got '0.1'"),
    ('constraints.re.kappa', 1e-23, 'at least 1e-06 from the ends'),
    ('constraints.re.kappa', 1e19, 'kappa must be within 1e+06'),
    ('constraints.re.kappa', 1e30, 'kappa must be within 1e+06'),
    ('constraints.re.kapa', 0.1, "unexpected 'kapa' (did you mean kappa?)"),
    ('optimizer.name', 'ADAM', "'ADAM' (did you mean adam?)"),
    ('constraints.pncc', {'kappa': 1 - 1e-9}, 'from the ends of (0, 1)'),
    ('constraints.cla', {'kappa': 0.9}, 'constraints.cla.network is missing'),
    ('constraints.cla', {'kappa': 0.9, 'network': 3}, 'must be a string'),
    ('multipliers.kwargs.error', 3, 'error must be a string, got 3'),
    (
      *('multipliers.kwargs.log_multiplier_range', (-10.0,)),
      'must be 2 values, each a number',
    ),
    ('multipliers.kwargs.log_multiplier_range', (-1e9, 1e9), 'in [-80, 80]'),
    ('multipliers.kwargs.gain', 3.0, "unexpected 'gain'"),
    ('optimizer.kwargs.b1', 1.0, 'optimizer.kwargs.b1 must be in [0, 1)'),
    ('optimizer.kwargs.b2', -0.1, 'optimizer.kwargs.b2 must be in [0, 1)'),
    ('optimizer.kwargs.eps', 0.0, 'optimizer.kwargs.eps must be in (0, 1000]'),
    ('optimizer.kwargs.eps', None, 'eps must be a number, got None'),
    ('learning_rate.kwargs.init_value', -1e-3, 'be in [0, 1000], got -0'),
    ('learning_rate.kwargs.init_value', 1e30, 'must be in [0, 1000], got 1e+'),
    ('multipliers.kwargs.step_size', 1e30, 'must be in [0, 1000], got 1e+30'),
    ('multipliers.kwargs.damping', 1e30, 'must be in [0, 1e6], got 1e+30'),
    ('tolerance', 1e30, 'config.tolerance must be in [0, 1), got 1e+30'),
    ('tolerance', -1e-9, 'config.tolerance must be in [0, 1), got -1e-09'),
    ('tolerance', True, 'config.tolerance must be in [0, 1), got 1.0'),
    *(
      (f'{group}.kwargs.{name}', 3, f'{name} is set by the builder of {owner};')
      for group, name, owner in (
        ('multipliers', 'natural_multiplier', 'geco'),
        ('multipliers', 'naturals', 'geco'),
        ('model', 'image_shape', 'mlp_vae'),
        ('model', 'policy', 'mlp_vae'),
        ('optimizer', 'learning_rate', 'adam'),
      )
    ),
    (
      'constraints.re.image_shape',
      3,
      'image_shape is set by the builder of re',
    ),
    (
      'optimizer.name',
      'sgd',
      "unexpected 'b1', 'b2', 'eps'; sgd takes momentum, nesterov, "
      'accumulator_dtype; where the name was changed, those of the former one '
      "are to go: write config.optimizer = base_config.group('sgd', ...) in a",
    ),
    (
      'model.name',
      'conv_draw',
      'where the name was changed, those of the former',
    ),
    ('multipliers.name', 'fixed', "config.multipliers = base_config.group('fi"),
    ('learning_rate.name', 'constant', "_config.group('constant', ...) in a c"),
    ('learning_rate.kwargs.decay_steps', 0, 'decay_steps must be in [1, inf)'),
    ('learning_rate.kwargs.decay_steps', 9.5, 'must be an integer'),
    ('learning_rate.kwargs', {}, 'kwargs.init_value is missing'),
    ('max_gradient_norm', 'x', "must be a number or None, got 'x'"),
    ('num_steps', 2.5, 'config.num_steps must be an integer, got 2.5'),
    pytest.param(
      'num_steps', 10**400, 'config.num_steps must be within 2**32', id='huge'
    ),
    ('seed', None, 'config.seed must be an integer, got None'),
    ('policy', 3, 'config.policy must be a string, got 3'),
    ('policy', 'params=float64', 'float64 would be float32 without JAX_ENABL'),
    ('policy', 'compute=f32,output=f64', 'float64 would be float32 without'),
    ('policy', 'p=f32,c=f32,o=f16', 'float16 would need loss scaling'),
    ('policy', 'params=int8', 'config.policy must be one of jmp, like'),
    ('policy', 'compute=f32,c=bf16', 'config.policy names a part twice'),
    ('sweep', 3, 'config.sweep must be a list, got 3'),
    ('tolerence', 0.1, 'tolerence: no such key (did you mean tolerance?)'),
    ('seed', required_placeholder(int), 'config.seed cannot be computed'),
  ],
)
def test_a_wrong_form_is_answered_by_its_name(
  tiny_config, name, value, message
):
  assert message in refusal(with_value(tiny_config(), name, value))


def test_integers_are_bounded_below_too(tiny_config):
  message = refusal(with_value(tiny_config(), 'seed', -(2**40)))
  assert message == 'config.seed must be within 2**32, got one of 41 bits'


def test_a_number_without_text_is_shown_by_its_type(tiny_config):
  message = refusal(with_value(tiny_config(), 'policy', 10**5_000))
  assert message == 'config.policy must be a string, got a value of type int'


@pytest.mark.parametrize(
  ('interval', 'inside', 'outside'),
  [
    ('[0, 1)', (0, 0.5), (-1e-9, 1, 2)),
    ('(0, 1]', (1e-9, 1), (0, 1.1)),
    ('[1, inf)', (1, 1e30), (0, float('inf'))),
    ('[0, 1]', (0, 1, (0, 1)), ((0.5, 2), [-1, 1])),
  ],
)
def test_an_interval_has_the_ends_that_it_is_written_with(
  interval, inside, outside
):
  for value in inside:
    config_schema.check_range('x', value, interval)
  for value in outside:
    with pytest.raises(UserError, match='x must be in'):
      config_schema.check_range('x', value, interval)


@pytest.mark.parametrize(
  ('group', 'name', 'kwargs'),
  [
    ('optimizer', 'adam', {'eps_root': -1.0}),
    ('optimizer', 'adan', {'b3': 1.0}),
    (
      *('learning_rate', 'cosine_onecycle_schedule'),
      {'pct_start': 1.5, 'transition_steps': 10, 'peak_value': 1.0},
    ),
    (
      *('learning_rate', 'polynomial_schedule'),
      {'power': 0.0, **RATES['linear']},
    ),
    ('multipliers', 'fixed', {'beta': 1e10}),
    (
      *('multipliers', 'annealed_beta'),
      {'initial_beta': 1e10, 'final_beta': 1.0, 'transition_steps': 1},
    ),
    ('model', 'vae_nvp', {'log_scale_bound': 81.0}),
  ],
)
def test_what_no_constructor_checks_has_a_range(
  group, name, kwargs, tiny_config
):
  changed = base_config.group(name, **kwargs)
  message = refusal(with_value(tiny_config(), group, changed))
  assert message.startswith(f'config.{group}.kwargs.{[*kwargs][0]} must be in')


@pytest.mark.parametrize('rate', RATES)
def test_no_schedule_takes_a_rate_below_zero_or_no_steps(tiny_config, rate):
  config = with_value(
    tiny_config(), 'learning_rate', base_config.group(rate, **RATES[rate])
  )
  check_config(config)
  for name, value in RATES[rate].items():
    for wrong in (-1, 'x', None, 0 if value == 10 else -1e-3):
      if (name, wrong) != ('warmup_steps', 0):
        leaf = f'learning_rate.kwargs.{name}'
        assert f'config.{leaf} ' in refusal(with_value(config, leaf, wrong))


def test_float64_is_a_policy_where_jax_has_64_bits(tiny_config):
  with jax.enable_x64(True):
    check_config(with_value(tiny_config(), 'policy', 'params=float64'))


@pytest.mark.parametrize(
  ('scales', 'message'),
  [
    ({'10': 0.1, '010': 0.5}, "must be steps, like 1000, got '010'"),
    ({'1e3': 0.1}, "must be steps, like 1000, got '1e3'"),
    ({'-10': 0.1}, "must be steps, like 1000, got '-10'"),
    ({'٣': 0.1}, "must be steps, like 1000, got '٣'"),
    ({'9' * 12: 0.1}, "must be steps, like 1000, got '9999"),
    ({'10': 'x'}, r"scales\[10\] must be in \[0, 1000\], got 'x'"),
    ({'10': True}, r'must be in \[0, 1000\], got True'),
    ({'10': -0.1}, r'must be in \[0, 1000\], got -0.1'),
    ({'10': 1e30}, r'must be in \[0, 1000\], got 1e\+30'),
  ],
)
@pytest.mark.parametrize('name', ['constant', 'interpolate'])
def test_keys_of_steps_are_written_in_one_way(name, scales, message):
  kwargs = {'init_value': 1.0, 'boundaries_and_scales': scales}
  if name == 'interpolate':
    kwargs['interpolate_type'] = 'linear'
  with pytest.raises(ValueError, match=message):
    choices.SCHEDULES[f'piecewise_{name}_schedule'](**kwargs)
  kwargs['boundaries_and_scales'] = {'0': 1.0, '10': 0.5, '9': 0.1}
  choices.SCHEDULES[f'piecewise_{name}_schedule'](**kwargs)


def test_rates_of_schedules_within_lists_are_checked(tiny_config):
  cycle = {'init_value': 0.0, 'peak_value': -1.0, 'decay_steps': 10}
  group = base_config.group('sgdr_schedule', cosine_kwargs=[cycle])
  message = refusal(with_value(tiny_config(), 'learning_rate', group))
  leaf = 'config.learning_rate.kwargs.cosine_kwargs[0].peak_value'
  assert message.startswith(f'{leaf} must be ')


@pytest.mark.parametrize(
  ('optimizer', 'kwargs'),
  [
    ('sgd', {'momentum': 1.5}),
    ('sgdw', {'weight_decay': -0.1}),
    ('sgdw', {'momentum': 'x'}),
    ('adamw', {'weight_decay': -0.1}),
    ('rmsprop', {'decay': 1.5}),
    ('rmsprop', {'initial_scale': -1.0}),
    ('rmsprop', {'nesterov': 1}),
    ('radam', {'threshold': -1.0}),
    ('lars', {'trust_coefficient': -1.0}),
    ('adafactor', {'clipping_threshold': -1.0}),
    ('adam', {'mu_dtype': 'int32'}),
    ('sgd', {'accumulator_dtype': 'bool'}),
    ('adamw', {'mask': 'x'}),
    ('adamw', {'mask': -1}),
  ],
)
def test_no_optimizer_takes_a_number_out_of_its_range(
  tiny_config, optimizer, kwargs
):
  group = base_config.group(optimizer, **kwargs)
  (name,) = kwargs
  message = refusal(with_value(tiny_config(), 'optimizer', group))
  assert message.startswith(f'config.optimizer.kwargs.{name} must be ')


def test_optional_values_and_integers_for_numbers_are_taken(tiny_config):
  config = tiny_config()
  for name, value in (
    ('max_gradient_norm', None),
    ('max_gradient_norm', 1),
    ('tolerance', 0),
    ('multipliers.kwargs.violation_clip', None),
    ('multipliers.kwargs.initial', 1),
    ('model.kwargs.hidden_sizes', [16]),
    ('optimizer', base_config.group('sgd', momentum=None)),
  ):
    check_config(with_value(config, name, value))
  check_config(without_sweep(config))


@pytest.mark.parametrize(
  ('annotation', 'fits', 'unfit'),
  [
    (dict[str, int], {}, 3),
    (dict[str, int] | None, None, [1]),
    (float | np.ndarray | bool | None, 3, True),
    (list[int] | None, [1, 2], [1.5]),
    (tuple[int, ...], (1, 2, 3), (1, 'x')),
    (tuple[int, str], (1, 'b'), ('b', 1)),
    (tuple[int, int], [1, 2], [1, 2, 3]),
    (list | None, [16], 16),
    (float | str, 'auto', None),
    (dict | None, {'a': 1}, 3),
    (Mapping[str, float] | None, {'a': 1.0}, 3),
    (Sequence, (1, 'x'), 'x'),
    (typing.Sequence, (1, 'x'), 'x'),
    (list, [1], 1),
    (tuple, [1], 1),
    (Literal['a', 'b'] | None, 'a', 'c'),
    (str | type[Any] | np.dtype, 'float32', 3),
    (Callable[[int], int] | None, None, 3),
  ],
)
def test_an_annotation_says_which_values_fit(annotation, fits, unfit):
  accepts, _ = config_types.kind_of(annotation)
  assert accepts(fits) and not accepts(unfit)


def test_arguments_that_are_passed_on_are_listed_once():
  def target(rate, *, decay=0.1, mask: bool = True):
    return rate, decay, mask

  @config_schema.passes_to(target, filled_in=('mask',))
  def function(rate, decay: float = 0.5, **kwargs):
    return target(rate, decay=decay, **kwargs)

  known = config_schema.parameters(function, 1)
  assert [*known] == ['decay']
  assert known['decay'].default == 0.5


def test_a_group_that_is_empty_is_a_leaf():
  config = ConfigDict({'a': {'b': 1, 'c': {}}, 'd': (2,)})
  assert flatten(config) == {'a.b': 1, 'a.c': {}, 'd': [2]}


def test_the_config_of_a_single_run_is_a_copy(tiny_config):
  config = tiny_config()
  assert 'sweep' not in without_sweep(config)
  assert config.sweep == tiny_config().sweep


@pytest.mark.parametrize('config', [3, None, 'x', [1]])
def test_a_config_must_be_a_group(config):
  assert 'config must be a group of values' in refusal(config)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('checkpoint_every', 0, 'checkpoint_every must be a multiple of'),
    ('steps_per_dispatch', 0, 'config.steps_per_dispatch must be >= 1, got 0'),
    ('seed', -1, r'config.seed must be in [0, 2**32), got -1'),
    ('max_shift', -1, 'config.max_shift must be in [0, inf), got -1'),
    ('max_shift', 1.0, 'config.max_shift must be an integer'),
    ('label_smoothing', 1.0, 'config.label_smoothing must be in [0, 1)'),
    ('flip', 'x', 'config.flip must be true or false'),
    ('model.name', 'mlp_vae', "unknown name 'mlp_vae'; choose from cnn, resn"),
    ('model.kwargs.channels', (3.5,), 'each an integer, got (3.5,)'),
    ('tolerance', 0.1, 'config.tolerance: no such key'),
    ('fade', KeyError, 'config.fade is missing'),
  ],
)
def test_classifiers_configs_are_checked_alike(name, value, message):
  config = base_config.get_classifier_config(
    base_config.group('digits'), base_config.group('cnn'), 100, max_shift=1
  )
  check_classifier_config(config)
  changed = with_value(config, name, value)
  assert message in refusal(changed, check_classifier_config)
