"""A convolution whose arithmetic is known, for the programs that count it."""

import jax
import jax.numpy as jnp


def trace_convolution(stride):
  """Traces both gradients of a sum over 3x3 kernels on two 9x9 images."""

  def value(kernel, images):
    out = jax.lax.conv_general_dilated(
      images,
      kernel,
      (stride, stride),
      ((1, 1), (1, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.sum(out**2)

  arguments = jnp.ones((3, 3, 5, 7)), jnp.ones((2, 9, 9, 5))
  return jax.jit(jax.grad(value, argnums=(0, 1))).trace(*arguments)
