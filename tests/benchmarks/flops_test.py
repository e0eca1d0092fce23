"""Operations are those of the shapes, forward and backward."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import contenders
from benchmarks import flops
from benchmarks import gpu_programs
from geco_jax.models.layers.convolution import conv2d


def test_matrix_products_count_two_operations_a_term():
  a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
  assert flops.count(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6


def test_a_convolutions_gradients_cost_what_it_costs():
  x, w = jnp.ones((2, 8, 6, 3)), jnp.ones((5, 5, 3, 7))
  forward = 2 * (2 * 8 * 6) * (5 * 5 * 3) * 7
  assert flops.count(conv2d, x, w) == forward
  both = jax.value_and_grad(lambda x, w: (conv2d(x, w) ** 2).sum(), (0, 1))
  assert flops.count(both, x, w) == 3 * forward
  runs = jax.vmap(both)
  assert flops.count(runs, jnp.stack([x] * 4), jnp.stack([w] * 4)) == (
    4 * 3 * forward
  )


def test_loops_multiply_and_of_branches_the_dearest_counts():
  x = jnp.ones((4, 4))
  product = 2 * 4**3

  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]

  assert flops.count(jax.jit(loop), x) == 5 * product

  def branch(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert flops.count(branch, x) == 2 * product


def test_a_loop_that_nobody_can_count_is_an_error():
  def endless(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

  with pytest.raises(ValueError, match='while loop'):
    flops.count(endless, jnp.ones((2, 2)))


def test_step_of_an_mlp_is_three_passes_less_the_images_gradient():
  model = 'MLP VAE'
  config = gpu_programs.config_of(model, 'tf32', tiny=True)
  images = contenders.random_images((28, 28, 1), 4)
  width, latent = 16, 4
  layers = [(784, width), (width, 2 * latent), (latent, width), (width, 784)]
  forward = 2 * config.batch_size * sum(a * b for a, b in layers)
  image_gradient = 2 * config.batch_size * 784 * width
  assert contenders.flops_of_step(config, images) == (
    3 * forward - image_gradient
  )
