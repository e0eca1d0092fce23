"""What the config files share: the objectives and the keys of every config."""

from collections.abc import Mapping
from typing import Any

from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import placeholder

OBJECTIVES = ('geco', 'geco_literal', 'elbo', 'beta_vae', 'annealed_beta')


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
