"""What the config files share: the objectives and the keys of every config."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections.config_dict import ConfigDict
from ml_collections.config_dict import placeholder

from geco_jax.constraints import CONSTRAINTS
from geco_jax.own_parts import import_all
from geco_jax.sizes import ModelSize
from geco_jax.sizes import Size
from geco_jax.sizes import SIZES

# Kappas of the RE constraint in Figure 4.
PAPER_KAPPAS = (0.06, 0.08, 0.1, 0.125, 0.175)
OBJECTIVES = ('geco', 'geco_literal', 'elbo', 'beta_vae', 'annealed_beta')
_NO_CHANGES: Mapping[str, Any] = {}


def group(name: str, **kwargs: Any) -> ConfigDict:
  """Return a choice by name and its arguments, all overridable."""
  return ConfigDict({'name': name, 'kwargs': kwargs})


def own_pictures() -> ConfigDict:
  """Return the group of a folder of pictures, whose path must be given."""
  return group(
    'image_folder',
    path='',
    image_size=32,
    channels=placeholder(int),
    white=255,
  )


def get_base_config(
  objective: str,
  kappa: float,
  num_steps: int,
  constraints: Mapping[str, Mapping[str, Any]] = _NO_CHANGES,
  imports: Sequence[str] = (),
) -> ConfigDict:
  """Return a config that lacks a data set and a model.

  Args:
    objective: one of `OBJECTIVES`. All are the same training step: they differ
      in the constraints and in how their multipliers move. GECO's may be
      followed by constraints: 'geco+cla', 'geco+re+pncc'; none is 're'.
    kappa: of GECO's RE constraint, the RMSE per pixel to reach.
    num_steps: training steps; the learning rate's decay follows it, also where
      the command line changes it.
    constraints: changes to their `Entry.defaults`, by name.
    imports: modules with parts of one's own, which the objective may name.

  Raises:
    ValueError: if the objective or a constraint is unknown.
    UserError: if a module is not there or fails.
  """
  import_all(imports)
  objective, *names = objective.split('+')
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
  # The precision of the model, in jmp's words; its outputs are float32 always.
  config.policy = 'params=float32,compute=float32,output=float32'
  # A constraint is reported to hold where C / scale is at most this.
  config.tolerance = 0.02
  config.constraints = _constraints(
    objective, names, {'re': {'kappa': kappa}, **constraints}
  )
  config.multipliers = _multipliers(objective)
  if objective == 'geco':
    # The largest change of log lambda per step: it may travel 40 nepers a run.
    # (0 steps are refused by `build`, not here by a division.)
    config.multipliers.kwargs.step_size = 40.0 / (
      config.get_oneway_ref('num_steps').to_float() + 1e-30
    )
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
  # Modules with parts of one's own (docs/own_parts.md).
  config.imports = tuple(imports)
  # The runs of `geco_jax.sweep`; a single run takes no notice of it.
  config.sweep = ()
  if 're' in config.constraints:
    config.sweep = ({'constraints.re.kappa': list(PAPER_KAPPAS)},)
  return config


def get_conv_draw_config(
  variant: str,
  dataset: ConfigDict,
  *,
  conditional: bool = False,
  quick: Mapping[str, Any] = _NO_CHANGES,
  quick_steps: int = SIZES['quick'].conv_draw.num_steps,
) -> ConfigDict:
  """Return the config of ConvDRAW on a data set, in one of `SIZES`.

  Large sizes compute in bfloat16; parameters, canvas, distributions and KL are
  float32. On an H200 'quick' on CIFAR-10 (kappa 0.1, 3,000 steps, one run each,
  results/gpu_bfloat16.json) ended at 79.2 nats and RMSE 0.1000 in bfloat16, its
  weights then drawn in that type too, at 78.4 and 0.0999 in float32, whose
  products are tf32.

  Args:
    variant: the size, and after a comma the objective if it is not to be geco,
      like 'quick,elbo' or 'quick,geco+pncc'.
    dataset: group of the data set.
    conditional: whether the data set has contexts.
    quick: changes to the model's keyword arguments in 'quick'.
    quick_steps: training steps of 'quick'.

  Raises:
    ValueError: if the variant is unknown.
  """
  size, objective = split_variant(variant, SIZES)
  model = SIZES[size].conv_draw
  if size == 'quick':
    model = model._replace(
      kwargs={**model.kwargs, **quick}, num_steps=quick_steps
    )
  config = _sized_config(size, objective, dataset, 'conv_draw', model)
  config.model.kwargs.conditional = conditional
  config.batch_size = 64
  if SIZES[size].is_large:
    config.policy = 'params=float32,compute=bfloat16,output=float32'
  return config


def get_nvp_config(variant: str, dataset: ConfigDict) -> ConfigDict:
  """Return the config of VAE+NVP on a data set, in one of `SIZES`.

  All compute in float32: on an H200 'quick' on CIFAR-10 (kappa 0.1, 10,000
  steps, one run each, of rectified units, results/gpu_bfloat16.json) ended at
  166.5 nats and RMSE 0.0970 in bfloat16, at 149.1 and 0.0967 in float32, whose
  products are tf32.

  Args:
    variant: the size, and after a comma the objective if it is not to be geco,
      like 'quick,elbo'.
    dataset: group of the data set.

  Raises:
    ValueError: if the variant is unknown.
  """
  size, objective = split_variant(variant, SIZES)
  return _sized_config(size, objective, dataset, 'vae_nvp', SIZES[size].nvp)


def get_classifier_config(
  dataset: ConfigDict,
  model: ConfigDict,
  num_steps: int,
  max_shift: int,
  flip: bool = False,
  label_smoothing: float = 0.05,
  fade: bool = False,
) -> ConfigDict:
  """Return the config of `geco_jax.train_classifier`.

  Args:
    dataset: group of a labeled data set.
    model: group of a classifier.
    num_steps: training steps; the learning rate's schedule follows it.
    max_shift: pixels by which training images are moved.
    flip: whether half of them are mirrored.
    label_smoothing: share of the target spread evenly over all classes, in
      [0, 1). CLA needs some: the gradient of a probability vanishes where a
      classifier is sure, and a model that starts with wrong digits would keep
      them.
    fade: whether half of the images are blended with noise, and their targets
      with uncertainty.
  """
  config = ConfigDict()
  config.seed = 0
  config.num_steps = num_steps
  config.batch_size = 128
  config.steps_per_dispatch = 100
  config.checkpoint_every = 1_000
  config.dataset = dataset
  config.model = model
  config.max_shift = max_shift
  config.flip = flip
  config.label_smoothing = label_smoothing
  config.fade = fade
  config.optimizer = group('adamw', weight_decay=0.05)
  steps = config.get_oneway_ref('num_steps')
  config.learning_rate = group(
    'warmup_cosine',
    init_value=1e-4,
    peak_value=3e-3,
    warmup_steps=steps // 5,
    decay_steps=steps,
  )
  config.max_gradient_norm = placeholder(float)
  config.imports = ()
  return config


def size_of(variant: str) -> Size:
  """Return the size that a variant names.

  Raises:
    ValueError: if it names none.
  """
  return SIZES[split_variant(variant, SIZES)[0]]


def split_variant(variant: str, sizes: Iterable[str]) -> tuple[str, str]:
  """Return the size and the objective of 'size' or 'size,objective'.

  Raises:
    ValueError: if the size is unknown.
  """
  size, _, objective = variant.partition(',')
  if size not in sizes:
    raise ValueError(
      f'unknown variant {variant!r} of the config; choose from '
      f'{", ".join(sizes)}, with an objective behind a comma if it is not geco'
    )
  return size, objective or 'geco'


def constraints_of(dataset: ConfigDict) -> Mapping[str, Mapping[str, Any]]:
  """Return a data set's changes to the constraints' defaults, by name."""
  if 'digits' not in (dataset.name, dataset.kwargs.get('base')):
    return _NO_CHANGES
  return {n: entry.digits for n, entry in CONSTRAINTS.items() if entry.digits}


def likelihood_of(objective: str) -> dict[str, Any]:
  """Return a model's arguments for its likelihood.

  Sigma is learned only where the likelihood is the objective: GECO measures it.
  """
  return dict(
    likelihood_stddev=0.1, learn_likelihood_stddev=not _is_geco(objective)
  )


def _is_geco(objective):
  return objective.startswith('geco')


def _sized_config(
  size: str,
  objective: str,
  dataset: ConfigDict,
  name: str,
  model: ModelSize,
) -> ConfigDict:
  """Return the part that the configs of the paper's models share."""
  config = get_base_config(
    objective,
    kappa=0.1,
    num_steps=model.num_steps,
    constraints=constraints_of(dataset),
  )
  config.dataset = dataset
  config.model = group(
    name,
    **model.kwargs,
    **likelihood_of(objective),
  )
  config.max_gradient_norm = 100.0
  config.checkpoint_every = SIZES[size].checkpoint_every
  if model.learning_rate is not None:
    config.learning_rate = group('constant', value=model.learning_rate)
  return config


def _constraints(
  objective: str,
  names: Sequence[str],
  changes: Mapping[str, Mapping[str, Any]],
) -> ConfigDict:
  if not _is_geco(objective):
    if names:
      raise ValueError(
        f'{objective} takes no constraints, got {", ".join(names)}'
      )
    # The likelihood with its multiplier 1 / beta; kappa is only reported.
    return ConfigDict({'nll': {**CONSTRAINTS['nll'].defaults}})
  for name in names:
    if name not in CONSTRAINTS:
      raise ValueError(
        f'unknown constraint {name!r} in the variant of the config; choose '
        f'from {", ".join(CONSTRAINTS)}'
      )
  return ConfigDict(
    {
      name: {**CONSTRAINTS[name].defaults, **changes.get(name, {})}
      for name in names or ['re']
    }
  )


def _multipliers(objective: str) -> ConfigDict:
  shared: Mapping[str, Any] = dict(
    relative=True, log_multiplier_range=(-10.0, 14.0)
  )
  match objective:
    case 'geco':
      # None is derived: the first multiplier from the natural one
      # (`rules.INITIAL_SHARE`), the rest from the step size.
      return group(
        'geco',
        initial=placeholder(float),
        decay=placeholder(float),
        damping=placeholder(float),
        violation_clip=1.0,
        **shared,
      )
    case 'geco_literal':
      return group(
        'algorithm_1', initial=1.0, step_size=1e-2, decay=0.99, **shared
      )
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
