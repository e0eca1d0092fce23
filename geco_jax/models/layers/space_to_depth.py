"""Images as grids of patches, and back."""

import jax


def space_to_depth(image: jax.Array, block: int) -> jax.Array:
  """Rearrange images [batch, height, width, channels] into a grid of patches.

  They are [batch, height / block, width / block, block^2 * channels].
  """
  batch, height, width, channels = image.shape
  grid = (height // block, width // block)
  blocks = image.reshape(batch, grid[0], block, grid[1], block, channels)
  return blocks.swapaxes(2, 3).reshape(batch, *grid, block**2 * channels)


def depth_to_space(patches: jax.Array, block: int) -> jax.Array:
  """Rearrange a grid of patches into images, which undoes `space_to_depth`."""
  batch, rows, columns, depth = patches.shape
  shape = (batch, rows, columns, block, block, depth // block**2)
  rearranged = patches.reshape(shape).swapaxes(2, 3)
  return rearranged.reshape(batch, rows * block, columns * block, shape[-1])
