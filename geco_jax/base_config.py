"""What the config files share: the objectives and the keys of every config."""

from collections.abc import Mapping
from typing import Any

from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import placeholder

# Of RE, the constraint of Figure 4.
PAPER_KAPPAS = (0.06, 0.08, 0.1, 0.125, 0.175)
OBJECTIVES = ('geco', 'geco_literal', 'elbo', 'beta_vae', 'annealed_beta')


# Of ConvDRAW's models. The paper names neither; these are of the order of those
# that it cites (Gregor et al. 2016, Eslami et al. 2018).
CONV_DRAW_SIZES = {
  'quick': dict(
    num_steps=4,
    hidden_channels=32,
    latent_channels=4,
    kernel_size=3,
    reduction=4,
  ),
  'gpu': dict(
    num_steps=8,
    hidden_channels=64,
    latent_channels=8,
    kernel_size=5,
    reduction=2,
  ),
  'paper': dict(
    num_steps=12,
    hidden_channels=128,
    latent_channels=8,
    kernel_size=5,
    reduction=2,
  ),
}
_NO_CHANGES: Mapping[str, Any] = {}


def group(name: str, **kwargs: Any) -> ConfigDict:
  """Returns a choice by name and its arguments, all overridable."""
  return ConfigDict({'name': name, 'kwargs': kwargs})


def get_base_config(
  objective: str, kappa: float, num_steps: int, step_size: float = 1e-2
) -> ConfigDict:
  """Returns a config that lacks a data set and a model.

  Args:
    objective: one of `OBJECTIVES`. All are the same training step: they differ
      in the constraints and in how their multipliers move.
    kappa: of GECO's RE constraint, the RMSE per pixel to reach.
    num_steps: training steps; the learning rate's decay follows it, also where
      the command line changes it.
    step_size: of GECO's multiplier update on relative violations.

  Raises:
    ValueError: if the objective is unknown.
  """
  if objective not in OBJECTIVES:
    raise ValueError(
      f'unknown variant {objective!r} of the config; choose from '
      f'{", ".join(OBJECTIVES)}'
    )
  config = ConfigDict()
  config.seed = 0
  config.num_steps = num_steps
  config.batch_size = 128
  # Steps per call of the compiled program, and per line of the log.
  config.steps_per_dispatch = 100
  # Also how often the validation split is evaluated and pictures are drawn.
  config.checkpoint_every = 1_000
  # The precision of the model, in jmp's words.
  config.policy = 'params=float32,compute=float32,output=float32'
  # A constraint is reported to hold where C / scale is at most this.
  config.tolerance = 0.02
  config.constraints = _constraints(objective, kappa)
  config.multipliers = _multipliers(objective, step_size)
  if objective == 'annealed_beta':
    # The scheme's first tenth: 2e5 of 2e6 steps in Eslami et al. 2018.
    config.multipliers.kwargs.transition_steps = (
      config.get_oneway_ref('num_steps') // 10
    )
  config.optimizer = group('adam', b1=0.9, b2=0.999, eps=1e-8)
  config.learning_rate = group(
    'cosine',
    init_value=1e-3,
    decay_steps=config.get_oneway_ref('num_steps'),
    alpha=0.0,
  )
  config.max_gradient_norm = placeholder(float)
  return config


def get_conv_draw_config(
  variant: str,
  dataset: ConfigDict,
  *,
  conditional: bool = False,
  quick: Mapping[str, Any] = _NO_CHANGES,
  quick_steps: int = 5_000,
) -> ConfigDict:
  """Returns the config of ConvDRAW on a data set, in one of three sizes.

  Args:
    variant: 'quick', 'gpu' or 'paper', and after a comma one of `OBJECTIVES` if
      it is not to be geco, like 'quick,elbo'.
    dataset: group of the data set.
    conditional: whether the data set has contexts.
    quick: keyword arguments of the model that 'quick' has differently.
    quick_steps: training steps of 'quick'.

  Raises:
    ValueError: if the variant is unknown.
  """
  size, _, objective = variant.partition(',')
  objective = objective or 'geco'
  if size not in CONV_DRAW_SIZES:
    raise ValueError(
      f'unknown variant {variant!r} of the config; choose from '
      f'{", ".join(CONV_DRAW_SIZES)}, with an objective behind a comma if it '
      'is not geco'
    )
  num_steps = {'quick': quick_steps, 'gpu': 50_000, 'paper': 2_000_000}[size]
  config = get_base_config(objective, kappa=0.1, num_steps=num_steps)
  config.dataset = dataset
  config.model = group(
    'conv_draw',
    **{**CONV_DRAW_SIZES[size], **(quick if size == 'quick' else {})},
    conditional=conditional,
    likelihood_stddev=0.1,
    # Only the likelihood's own objectives train sigma.
    learn_likelihood_stddev=not objective.startswith('geco'),
  )
  config.batch_size = 64
  config.max_gradient_norm = 100.0
  if size == 'paper':
    config.learning_rate = group('constant', value=1e-5)
    config.checkpoint_every = 10_000
  return config


def _constraints(objective: str, kappa: float) -> ConfigDict:
  if objective.startswith('geco'):
    return ConfigDict({'re': {'kappa': kappa}})
  # The likelihood with its multiplier 1 / beta; kappa is only reported.
  return ConfigDict({'nll': {'kappa': 0.0}})


def _multipliers(objective: str, step_size: float) -> ConfigDict:
  geco: Mapping[str, Any] = dict(
    initial=1.0,
    relative=True,
    step_size=step_size,
    decay=0.99,
    log_multiplier_range=(-10.0, 14.0),
  )
  match objective:
    case 'geco':
      return group('geco', **geco, violation_clip=1.0, damping=100.0)
    case 'geco_literal':
      return group('geco', **geco)
    case 'elbo':
      return group('fixed', beta=1.0)
    case 'beta_vae':
      return group('fixed', beta=4.0)
    case _:
      return group(
        'annealed_beta',
        initial_beta=2.0,
        final_beta=0.7,
      )
