"""A trained run in a program's hands: encode, decode, sample, interpolate."""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections.config_dict import ConfigDict
import numpy as np

from geco_jax.build import build
from geco_jax.build import build_dataset
from geco_jax.datasets import pixels
from geco_jax.datasets import shapes
from geco_jax.distributions import quantized_normal_log_prob
from geco_jax.errors import UserError
from geco_jax.evaluation.restored import restore_state
from geco_jax.experiment import Experiment
from geco_jax.io import by_products
from geco_jax.io import files
from geco_jax.io import logs
from geco_jax.io import run_folder
from geco_jax.io.paths import local_path
from geco_jax.io.paths import output_path
from geco_jax.keys import IMPL
from geco_jax.keys import key_of
from geco_jax.models.base import Model
from geco_jax.step import TrainState


def load(
  workdir: str, *, step: int | None = None, data_dir: str | None = None
) -> 'TrainedRun':
  """Return the run in a folder; `geco_jax.load`.

  It reads no data set: the folder records what the model needs to know about
  its images. Folders of earlier versions, which lack this, need their data set.

  Args:
    workdir: the run's directory.
    step: checkpoint to load; None is the latest that is intact.
    data_dir: TFDS data directory, for folders of earlier versions.

  Raises:
    UserError: if there is no such run or checkpoint.
  """
  workdir = local_path(workdir)
  config = run_folder.read_config(workdir)
  dataset = shapes.read(workdir)
  if dataset is None:
    dataset = build_dataset(config, data_dir)
  experiment = build(config, dataset, inference_only=True)
  state = restore_state(workdir, experiment, step)
  return TrainedRun(workdir, config, experiment, state)


class TrainedRun:
  """The functions of a run's model, at the parameters of a checkpoint.

  Images go in as uint8, bool or float in [0, 1], [n, height, width, channels],
  or without the axis of a single channel. They come out as float32 in [0, 1].
  Contexts, which only conditional models take, are like images. Random
  functions take a key; `encode` and `reconstruct` without one use the center of
  q(z|x).

  Attributes:
    workdir: the folder.
    config: the run's config.
    experiment: its model and the form of its images; its constraints are
      placeholders.
    params: Haiku's parameters, NumPy arrays.
    step: training steps taken.
    log_multipliers: by constraint.
  """

  def __init__(
    self,
    workdir: str,
    config: ConfigDict,
    experiment: Experiment,
    state: TrainState,
  ):
    """Take a state that was restored; see `load`."""
    self.workdir = workdir
    self.config = config
    self.experiment = experiment
    self.params = state.params
    self.step = int(state.step)
    self.log_multipliers = {
      name: float(value) for name, value in state.log_multipliers.items()
    }
    self._call = {
      k: jax.jit(f) for k, f in _functions(experiment.model).items()
    }

  @property
  def evaluation(self) -> Mapping[str, Any] | None:
    """What `geco_jax.evaluate` wrote, None if it has not been run."""
    path = os.path.join(self.workdir, 'evaluation.json')
    return by_products.read(path, _checked_evaluation)

  def metrics(self) -> dict[str, np.ndarray]:
    """Return the log: arrays [lines] by name, `step` among them.

    NaN stands where a line does not have a number; `pandas.DataFrame` takes it.
    """
    return logs.read_metrics(self.workdir)

  def encode(
    self, images: Any, context: Any = None, *, key: jax.Array | None = None
  ) -> Any:
    """Return latents: the center of q(z|x), or a draw of it.

    Args:
      images: [n, ...].
      context: [n, ...], for conditional models.
      key: of a draw; None is the center, step by step where there are several.

    Returns:
      [n, ...]; ConvDRAW's are [n, steps, height, width, channels].
    """
    images = self._images(images)
    context = self._context(context, len(images))
    if key is None:
      return self._call['encode'](self.params, images, context)
    keys = jax.random.split(_checked_key(key), len(images))
    return self._call['draw'](self.params, keys, images, context)

  def decode(self, latents: Any, context: Any = None) -> jax.Array:
    """Return the images of latents, the means of p(x|z) [n, ...]."""
    if not isinstance(latents, jax.Array):
      latents = pixels.as_array('latents', latents)
    if latents.shape[1:] != self._latent_shape or not _is_real(latents):
      raise UserError(
        f'latents must be [n, {", ".join(map(str, self._latent_shape))}], as '
        f'encode returns them, got {latents.dtype} {latents.shape}'
      )
    context = self._context(context, len(latents))
    return self._call['decode'](self.params, latents, context)

  def reconstruct(
    self, images: Any, context: Any = None, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Return the images of `encode`'s latents [n, ...]."""
    return self.decode(self.encode(images, context, key=key), context)

  def sample(
    self, num: int, context: Any = None, *, key: jax.Array | None = None
  ) -> jax.Array:
    """Return means of p(x|z) for z of the prior [num, ...].

    Args:
      num: how many.
      context: [num, ...], for conditional models.
      key: of the draws; None is that of seed 0.
    """
    num = _at_least(1, 'num', num)
    keys = jax.random.split(_checked_key(key), num)
    return self._call['sample'](self.params, keys, self._context(context, num))

  def interpolate(
    self, first: Any, last: Any, num: int, context: Any = None
  ) -> jax.Array:
    """Return images along a line of latents, from `first` to `last`.

    Args:
      first: one image [height, width, channels].
      last: another.
      num: images in all, >= 2; the ends are the reconstructions of the two.
      context: of all of them [height, width, channels].

    Returns:
      [num, height, width, channels].
    """
    weights = jnp.linspace(0.0, 1.0, _at_least(2, 'num', num))
    ends = [self._images([x])[0] for x in (first, last)]
    contexts = self._context(None if context is None else [context], 1)
    one = None if contexts is None else contexts[0]
    return self._call['interpolate'](self.params, *ends, weights, one)

  def elbo(
    self,
    images: Any,
    context: Any = None,
    *,
    key: jax.Array | None = None,
    num_draws: int = 1,
    stddev: float | None = None,
  ) -> jax.Array:
    """Return E_q[log p(x|z)] - KL per image, in nats [n] (Appendix D).

    p(x|z) is the normal quantized to 256 levels.

    Args:
      images: [n, ...]; floats are rounded to the nearest level.
      context: [n, ...], for conditional models.
      key: of the draws of z; None is that of seed 0.
      num_draws: draws of z per image, over which the mean is taken.
      stddev: sigma of p(x|z); None is the evaluation's sigma_opt.

    Raises:
      UserError: if there is no stddev, for want of an evaluation of this step.
    """
    if stddev is None:
      evaluation = self.evaluation
      if evaluation is None:
        raise UserError(
          f'{self.workdir} has no evaluation, whose sigma_opt is the default '
          'of stddev; run geco-jax evaluate, or give one'
        )
      if evaluation['step'] != self.step:
        raise UserError(
          f'the evaluation in {self.workdir}, whose sigma_opt is the default '
          f'of stddev, is of step {evaluation["step"]}, this is step '
          f'{self.step}; give a stddev'
        )
      stddev = evaluation['sigma_opt']
    is_number = isinstance(
      stddev, (int, float, np.number, np.ndarray, jax.Array)
    )
    if (
      not (is_number and np.ndim(stddev) == 0)
      or isinstance(stddev, bool)
      or not (_is_real(stddev) and 0 < stddev < np.inf)
    ):
      raise UserError(f'stddev must be a number > 0, got {stddev!r}')
    images = self._images(images)
    context = self._context(context, len(images))
    key = _checked_key(key)
    total = jnp.zeros(len(images))
    if not len(images):
      return total
    for draw in range(_at_least(1, 'num_draws', num_draws)):
      keys = jax.random.split(jax.random.fold_in(key, draw), len(images))
      total += self._call['elbo'](
        self.params, images, keys, jnp.float32(stddev), context
      )
    return total / num_draws

  def export(self, name: str, path: str) -> None:
    """Write a function as a portable program, its parameters within.

    `jax.export.deserialize` reads it: a later JAX runs it on CPUs, GPUs and
    TPUs, without this package. It takes any number n of examples.

    Args:
      name: name of the function. All take float32, except keys as their data,
        uint32 [n, 2]: 'encode' images, 'decode' latents, 'reconstruct' images,
        'sample' keys, 'elbo' images, keys of z and the stddev of p(x|z) [],
        'interpolate' the first image and the last [height, width, channels] and
        the last one's weights [n]. Conditional models take contexts [n, ...]
        after these (an interpolation takes one).
      path: the file's path.

    Raises:
      UserError: if there is no such function.
    """
    (n,) = jax.export.symbolic_shape('n')
    float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    dataset, model = self.experiment.dataset, self.experiment.model
    image, images = dataset.image_shape, (n, *dataset.image_shape)
    keys = jax.ShapeDtypeStruct((n, 2), jnp.uint32)
    arguments = {
      'encode': [float32(images)],
      'decode': [float32((n, *self._latent_shape))],
      'reconstruct': [float32(images)],
      'sample': [keys],
      'elbo': [float32(images), keys, float32(())],
      'interpolate': [float32(image), float32(image), float32((n,))],
    }
    if not isinstance(name, str) or name not in arguments:
      raise UserError(
        f'no {name!r} to export; choose from {", ".join(arguments)}'
      )
    if model.conditional and dataset.context_shape:
      size = () if name == 'interpolate' else (n,)
      arguments[name].append(float32((*size, *dataset.context_shape)))
    params = jax.tree.map(jnp.asarray, self.params)

    def program(*values):
      values = (
        jax.random.wrap_key_data(x, impl=IMPL) if x.dtype == jnp.uint32 else x
        for x in values
      )
      return self._call[name](params, *values)

    exported = jax.export.export(
      jax.jit(program), platforms=('cpu', 'cuda', 'tpu')
    )(*arguments[name])
    files.write_bytes(output_path(path), bytes(exported.serialize()))

  def save_params(self, path: str) -> None:
    """Write the parameters as a NumPy archive, 'module/parameter' by name."""
    arrays = {
      f'{module}/{name}': value
      for module, parameters in self.params.items()
      for name, value in parameters.items()
    }
    files.write_npz(output_path(path), arrays)

  @functools.cached_property
  def _latent_shape(self) -> tuple[int, ...]:
    dataset, model = self.experiment.dataset, self.experiment.model
    images, contexts = (
      shape and jax.ShapeDtypeStruct((1, *shape), jnp.float32)
      for shape in (
        dataset.image_shape,
        dataset.context_shape if model.conditional else None,
      )
    )
    latents = jax.eval_shape(
      self._call['encode'], self.params, images, contexts
    )
    return latents.shape[1:]

  def _images(self, images):
    return shapes.as_pixels(
      'images', images, self.experiment.dataset.image_shape
    )

  def _context(self, context, num):
    shape = self.experiment.dataset.context_shape
    if shape is None or not self.experiment.model.conditional:
      if context is not None:
        raise UserError(
          'this model takes no context; a key is given by its name, key=...'
        )
      return None
    if context is None:
      raise UserError(f'this model needs contexts, [n, {shape}]')
    contexts = shapes.as_pixels('contexts', context, shape)
    if len(contexts) != num:
      raise UserError(
        f'each of {num} examples takes a context, got {len(contexts)}'
      )
    return contexts


def _functions(model: Model) -> dict[str, Callable]:
  """Return a model's functions of parameters first and contexts last."""

  def draw(params, keys, images, context=None):
    return model.apply(params, keys, images, context).latents

  def encode(params, images, context=None):
    return model.encode(params, images, context)

  def decode(params, latents, context=None):
    return model.decode(params, latents, context)

  def reconstruct(params, images, context=None):
    return decode(params, encode(params, images, context), context)

  def sample(params, keys, context=None):
    return model.sample(params, keys, context)

  def interpolate(params, first, last, weights, context=None):
    def repeat(num):
      if context is None:
        return None
      return jnp.broadcast_to(context, (num, *context.shape))

    ends = encode(params, jnp.stack([first, last]), repeat(2))
    weights = weights.reshape(-1, *[1] * (ends.ndim - 1))
    latents = (1 - weights) * ends[:1] + weights * ends[1:]
    return decode(params, latents, repeat(latents.shape[0]))

  def elbo(params, images, keys, stddev, context=None):
    images = jnp.round(images * 255) / 255  # Others have no likelihood.
    output = model.apply(params, keys, images, context)
    log_prob = quantized_normal_log_prob(images, output.reconstruction, stddev)
    return log_prob.sum(axis=(1, 2, 3)) - output.kl

  return {
    function.__name__: function
    for function in (
      draw,
      encode,
      decode,
      reconstruct,
      sample,
      interpolate,
      elbo,
    )
  }


def _is_real(values: Any) -> bool:
  """Return whether values are real numbers, or true and false."""
  dtype = values.dtype if hasattr(values, 'dtype') else np.asarray(values).dtype
  kinds = (jnp.bool_, jnp.integer, jnp.floating)
  return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _checked_evaluation(content: Any) -> Mapping[str, Any]:
  """Return what evaluation.json holds; refuse anything but an evaluation."""
  by_products.check(content, dict, 'the content')
  by_products.check(content['step'], int, 'step')
  by_products.check(content['sigma_opt'], (int, float), 'sigma_opt')
  if not 0 < content['sigma_opt'] < np.inf:
    raise ValueError(f'sigma_opt is {content["sigma_opt"]}')
  return content


def _checked_key(key: Any) -> jax.Array:
  """Return a random key, that of seed 0 for None; refuse anything else."""
  if key is None:
    return key_of(0)
  try:
    is_one = jnp.ndim(jax.random.split(key, 1)) in (1, 2)  # Raw ones are [2].
  except (TypeError, ValueError):
    is_one = False
  if not is_one:
    raise UserError(f'key must be one of jax.random.key, got {key!r}')
  return key


def _at_least(least: int, name: str, num: Any) -> int:
  """Return a requested number; refuse an invalid one."""
  if isinstance(num, bool) or not isinstance(num, (int, np.integer)):
    raise UserError(f'{name} must be an integer, got {num!r}')
  if num < least:
    raise UserError(f'{name} must be at least {least}, got {num}')
  return int(num)
