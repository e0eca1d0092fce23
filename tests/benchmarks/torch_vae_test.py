"""PyTorch's models are the same functions as ours."""

import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

from geco_jax.models import vae

torch = pytest.importorskip('torch')
torch_vae = pytest.importorskip('benchmarks.torch_vae')

SHAPE = (8, 8, 1)
GRID = (2, 2, 6)
LATENT_SIZE = 3
# Our layers in PyTorch's order.
LAYERS = {
  'mlp': [
    f'{part}/~/linear_{i}' for part in ('encoder', 'decoder') for i in range(3)
  ],
  'conv': [
    'conv2_d',
    'conv2_d_1',
    'linear',
    'linear_1',
    'linear_2',
    'linear_3',
    'conv2_d_transpose',
    'conv2_d_transpose_1',
  ],
}


def _models(name):
  policy = jmp.get_policy('float32')
  if name == 'mlp':
    return (
      vae.mlp_vae(SHAPE, policy, latent_size=LATENT_SIZE, hidden_sizes=(7, 5)),
      torch_vae.mlp_vae(SHAPE, LATENT_SIZE, [7, 5]),
    )
  return (
    vae.conv_vae(
      SHAPE, policy, latent_size=LATENT_SIZE, channels=(4, 6), hidden_size=5
    ),
    torch_vae.conv_vae(SHAPE, LATENT_SIZE, [4, 6], 5),
  )


def _weight(layer, w):
  """Return a torch layer's weight as our layer's layout has it."""
  if isinstance(layer, torch.nn.Conv2d):
    return w.transpose(2, 3, 1, 0)
  if isinstance(layer, torch.nn.ConvTranspose2d):
    return w[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
  return w.T


def _channels_last(name, w, b):
  """Reorders the units next to the grid of a convolutional VAE."""
  order = np.arange(np.prod(GRID)).reshape(GRID[2], *GRID[:2])
  order = order.transpose(1, 2, 0).ravel()
  if name == 'conv' and w.ndim == 2 and w.shape[0] == len(order):
    w = w[order]
  if name == 'conv' and w.ndim == 2 and w.shape[1] == len(order):
    w, b = w[:, order], b[order]
  return w, b


def _our_params(name, params, network):
  """Return our params with the torch network's values, layer by layer."""
  layers = [layer for layer in network.modules() if hasattr(layer, 'weight')]
  result = {}
  for module, layer in zip(LAYERS[name], layers, strict=True):
    w, b = (p.detach().numpy() for p in (layer.weight, layer.bias))
    w, b = _channels_last(name, _weight(layer, w), b)
    assert w.shape == params[module]['w'].shape
    result[module] = {'w': jnp.asarray(w), 'b': jnp.asarray(b)}
  assert result.keys() == params.keys()
  return result


@pytest.mark.parametrize('name', ['mlp', 'conv'])
def test_kl_and_reconstruction_equal_ours(name):
  ours, network = _models(name)
  # A posterior so narrow that the noise does not matter.
  with torch.no_grad():
    network.encoder[-1].bias[LATENT_SIZE:] = -15.0
  image = np.random.default_rng(0).random((4, *SHAPE), np.float32)
  keys = jax.random.split(jax.random.key(0), 4)
  params = _our_params(
    name, ours.init(jax.random.key(1), keys, jnp.asarray(image)), network
  )
  output = ours.apply(params, keys, jnp.asarray(image))
  with torch.no_grad():
    reconstruction, kl = network(torch.from_numpy(image).permute(0, 3, 1, 2))
  np.testing.assert_allclose(output.kl, kl.numpy(), rtol=1e-4)
  np.testing.assert_allclose(
    output.reconstruction,
    reconstruction.permute(0, 2, 3, 1).numpy(),
    atol=1e-5,
  )


def test_geco_lowers_the_reconstruction_error():
  torch.manual_seed(0)
  images = torch.zeros(100, 1, *SHAPE[:2], dtype=torch.uint8)
  network = torch_vae.mlp_vae(SHAPE, LATENT_SIZE, [16])
  trainer = torch_vae.Trainer(network, images, 16, kappa=0.1)
  first = trainer.run(1)
  assert trainer.run(100) < first
