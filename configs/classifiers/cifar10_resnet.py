r"""A residual network for CIFAR-10, whose features make the FRE constraint.

  python -m geco_jax.train_classifier \
      --config=configs/classifiers/cifar10_resnet.py

takes 12 minutes on one CPU core and should read 76.6% of the test images right;
the mean probability of the right label is 0.65. Variants, after a colon: quick
(the default), gpu (not run yet; three blocks a stage and four times the
channels).
"""

from ml_collections.config_dict import ConfigDict

from geco_jax import base_config


def get_config(variant: str = 'quick') -> ConfigDict:
  """Return the config; `variant` is quick or gpu."""
  if variant not in ('quick', 'gpu'):
    raise ValueError(
      f'unknown variant {variant!r} of the config; choose from quick, gpu'
    )
  quick = variant == 'quick'
  config = base_config.get_classifier_config(
    dataset=base_config.group('cifar10'),
    model=base_config.group(
      'resnet',
      channels=(16, 32, 64) if quick else (64, 128, 256),
      blocks_per_stage=1 if quick else 3,
    ),
    num_steps=3_000 if quick else 60_000,
    max_shift=4,
    flip=True,
  )
  config.optimizer = base_config.group('sgdw', momentum=0.9, nesterov=True)
  config.learning_rate.kwargs.peak_value = 0.1
  return config
