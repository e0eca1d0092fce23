"""The VAEs and GECO's training step as one would write them in PyTorch."""

from collections.abc import Sequence
import math

import torch
from torch import nn


class Vae(nn.Module):
  """A VAE with a unit Gaussian prior; the encoder gives mean, log stddev."""

  def __init__(self, encoder: nn.Module, decoder: nn.Module):
    super().__init__()
    self.encoder = encoder
    self.decoder = decoder

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return reconstructions and the per-example KL in nats."""
    mean, log_stddev = self.encoder(x).chunk(2, dim=1)
    z = mean + log_stddev.exp() * torch.randn_like(mean)
    kl = 0.5 * (mean**2 + (2 * log_stddev).exp() - 1) - log_stddev
    return torch.sigmoid(self.decoder(z)), kl.sum(dim=1)


def mlp_vae(
  image_shape: tuple[int, int, int],
  latent_size: int,
  hidden_sizes: Sequence[int],
) -> Vae:
  """Return the counterpart of `geco_jax.models.vae.mlp_vae`."""

  def layers(sizes):
    result = [nn.Linear(sizes[0], sizes[1])]
    for i in range(1, len(sizes) - 1):
      result += [nn.ReLU(), nn.Linear(sizes[i], sizes[i + 1])]
    return result

  num_dims = math.prod(image_shape)
  height, width, channels = image_shape
  return Vae(
    nn.Sequential(
      nn.Flatten(), *layers([num_dims, *hidden_sizes, 2 * latent_size])
    ),
    nn.Sequential(
      *layers([latent_size, *reversed(hidden_sizes), num_dims]),
      nn.Unflatten(1, (channels, height, width)),
    ),
  )


def conv_vae(
  image_shape: tuple[int, int, int],
  latent_size: int,
  channels: Sequence[int],
  hidden_size: int,
) -> Vae:
  """Return the counterpart of `geco_jax.models.vae.conv_vae`, kernels 4x4."""
  height, width, image_channels = image_shape
  reduction = 2 ** len(channels)
  grid = (channels[-1], height // reduction, width // reduction)
  encoder = []
  for size_in, size_out in zip(
    [image_channels, *channels], channels, strict=False
  ):
    encoder += [nn.Conv2d(size_in, size_out, 4, 2, padding=1), nn.ELU()]
  encoder += [nn.Flatten(), nn.Linear(math.prod(grid), hidden_size), nn.ELU()]
  encoder += [nn.Linear(hidden_size, 2 * latent_size)]
  decoder = [nn.Linear(latent_size, hidden_size), nn.ELU()]
  decoder += [nn.Linear(hidden_size, math.prod(grid)), nn.ELU()]
  decoder += [nn.Unflatten(1, grid)]
  sizes = [*reversed(channels), image_channels]
  for size_in, size_out in zip(sizes, sizes[1:], strict=False):
    decoder += [
      nn.ConvTranspose2d(size_in, size_out, 4, 2, padding=1),
      nn.ELU(),
    ]
  return Vae(nn.Sequential(*encoder), nn.Sequential(*decoder[:-1]))


class Trainer:
  """GECO (Algorithm 1) with Adam on images that are on the device."""

  def __init__(
    self,
    model: nn.Module,
    images: torch.Tensor,
    batch_size: int,
    *,
    kappa: float,
    learning_rate: float = 1e-3,
    step_size: float = 1e-2,
    decay: float = 0.99,
    fused_adam: bool = False,
    autocast: bool = False,
  ):
    """Prepare a run.

    Args:
      model: on the images' device.
      images: uint8 [n, channels, height, width].
      batch_size: examples per step.
      kappa: RMSE per pixel to reach.
      learning_rate: of Adam.
      step_size: of log lambda on relative violations.
      decay: of the moving average of the constraint.
      fused_adam: whether to use PyTorch's fused kernel.
      autocast: whether the model computes in bfloat16 where PyTorch thinks it
        right; its parameters, the loss and Adam stay in float32.
    """
    self._model = model
    self._autocast = autocast
    self._images = images
    self._batch_size = batch_size
    self._budget = images[0].numel() * kappa**2
    self._optimizer = torch.optim.Adam(
      model.parameters(), lr=learning_rate, fused=fused_adam
    )
    self._step_size = step_size
    self._decay = decay
    self._log_multiplier = torch.zeros([], device=images.device)
    self._moving_average = None
    self._batches = iter(())

  def run(self, num_steps: int) -> float:
    """Take training steps; return the last loss once all are done."""
    loss = torch.zeros([])
    for _ in range(num_steps):
      loss = self._step(self._next_batch())
    return loss.item()

  def _next_batch(self) -> torch.Tensor:
    indices = next(self._batches, None)
    if indices is None or len(indices) < self._batch_size:
      order = torch.randperm(len(self._images), device=self._images.device)
      self._batches = iter(order.split(self._batch_size))
      indices = next(self._batches)
    return self._images[indices].float() / 255

  def _step(self, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=self._autocast):
      reconstruction, kl = self._model(x)
    squared_error = (x - reconstruction).square().flatten(1).sum(dim=1)
    constraint = squared_error.mean() - self._budget
    loss = kl.mean() + self._log_multiplier.exp() * constraint
    self._optimizer.zero_grad()
    loss.backward()
    self._optimizer.step()
    self._update_multiplier(constraint.detach() / self._budget)
    return loss.detach()

  @torch.no_grad()
  def _update_multiplier(self, violation: torch.Tensor) -> None:
    if self._moving_average is None:
      self._moving_average = violation
    self._moving_average = torch.lerp(
      violation, self._moving_average, self._decay
    )
    self._log_multiplier += self._step_size * self._moving_average.clamp(-1, 1)
    self._log_multiplier.clamp_(-20, 20)
