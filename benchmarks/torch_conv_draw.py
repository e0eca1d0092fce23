"""ConvDRAW as one would write it in PyTorch, the counterpart of ours."""

import torch
from torch import nn
from torch.nn import functional


class ConvLstm(nn.Module):
  """A ConvLSTM cell, its four gates one convolution."""

  def __init__(
    self,
    in_channels: int,
    hidden_channels: int,
    kernel_size: int,
    hidden_to_hidden: bool,
  ):
    super().__init__()
    self.hidden_to_hidden = hidden_to_hidden
    if hidden_to_hidden:
      in_channels += hidden_channels
    self.gates = nn.Conv2d(
      in_channels, 4 * hidden_channels, kernel_size, padding=kernel_size // 2
    )

  def forward(
    self, inputs: list[torch.Tensor], state: tuple[torch.Tensor, torch.Tensor]
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next (hidden, cell)."""
    hidden, cell = state
    if self.hidden_to_hidden:
      inputs = [*inputs, hidden]
    write, forget, candidate, read = self.gates(torch.cat(inputs, dim=1)).chunk(
      4, dim=1
    )
    cell = torch.sigmoid(forget + 1) * cell
    cell = cell + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(read) * torch.tanh(cell), cell


class ConvDraw(nn.Module):
  """The counterpart of `geco_jax.models.conv_draw.conv_draw`."""

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    *,
    num_steps: int,
    hidden_channels: int,
    latent_channels: int,
    kernel_size: int = 5,
    reduction: int = 2,
    hidden_to_hidden: bool = True,
  ):
    super().__init__()
    height, width, channels = image_shape
    self.grid = (height // reduction, width // reduction)
    self.num_steps = num_steps
    self.hidden_channels = hidden_channels
    self.reduction = reduction
    patch = channels * reduction**2

    def convolution(in_channels, out_channels):
      return nn.Conv2d(
        in_channels, out_channels, kernel_size, padding=kernel_size // 2
      )

    self.encoder = ConvLstm(
      2 * patch + hidden_channels,
      hidden_channels,
      kernel_size,
      hidden_to_hidden,
    )
    self.decoder = ConvLstm(
      patch + latent_channels, hidden_channels, kernel_size, hidden_to_hidden
    )
    self.posterior = convolution(hidden_channels, 2 * latent_channels)
    self.prior = convolution(hidden_channels, 2 * latent_channels)
    self.write = convolution(hidden_channels, patch)
    self.initial_canvas = nn.Parameter(torch.full((patch, 1, 1), 0.5))

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return reconstructions and the per-example KL in nats."""
    batch = len(x)
    x = functional.pixel_unshuffle(x, self.reduction)
    zeros = x.new_zeros(batch, self.hidden_channels, *self.grid)
    encoder, decoder = (zeros, zeros), (zeros, zeros)
    canvas = self.initial_canvas.expand_as(x)
    kl = x.new_zeros(batch)
    for _ in range(self.num_steps):
      encoder = self.encoder([x, x - canvas, decoder[0]], encoder)
      mean, log_stddev = self.posterior(encoder[0]).chunk(2, dim=1)
      prior_mean, prior_log_stddev = self.prior(decoder[0]).chunk(2, dim=1)
      z = mean + log_stddev.exp() * torch.randn_like(mean)
      log_ratio = log_stddev - prior_log_stddev
      distance = (mean - prior_mean) * (-prior_log_stddev).exp()
      divergence = 0.5 * (distance**2 + (2 * log_ratio).exp() - 1) - log_ratio
      kl = kl + divergence.flatten(1).sum(dim=1)
      decoder = self.decoder([z, canvas], decoder)
      canvas = canvas + self.write(decoder[0])
    return functional.pixel_shuffle(canvas, self.reduction), kl
