"""Convolutions with 3x3 kernels in a third of the multiplications, for CPUs.

Winograd's minimal filtering F(m, 3) computes m adjacent outputs with m + 2
products; the plain sum takes 3 m. This module uses F(2, 3) down the columns and
F(4, 3) along the rows: 24 products for 8 outputs of a channel, where the plain
sum takes 72. Each of these products is one matrix product over all tiles and
channels. The transforms before and after it are sums of shifted slices. Only a
few images are processed at a time, which keeps intermediate results in the
cache.

In float32, results differ from the exact sums by about 5e-6 of the largest
output. With F(4, 3) in both directions it would be 2e-5, and hardly faster.

Reference: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
CVPR 2016 (arXiv 1509.09308), section 4.
"""

import functools
from typing import Any

import jax
from jax import lax
from jax.experimental import xla_metadata
import jax.numpy as jnp

from essl_jax.models.layers.filtering import (
  F2,
  F4,
  Filtering,
  combine,
  interleave,
  slices,
  transpose,
)

Padding = tuple[tuple[int, int], ...]

# Tiles per pass: enough for the matrix products, few enough for the cache.
_TILES = 512


_DOWN, _ALONG = F2, F4


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
  images: jax.Array, kernel: jax.Array, padding: Padding, precision: Any = None
) -> jax.Array:
  """Convolves with stride 1; the two functions below are its gradients.

  Args:
    images: `[N, H, W, C]`, floating point.
    kernel: `[3, 3, C, C']`.
    padding: `((top, bottom), (left, right))` in pixels, 0 to 2.
    precision: precision of the matrix products.

  Returns:
    `[N, H', W', C']`.

  Raises:
    ValueError: for other shapes, dtypes or paddings.
  """
  _check(images, kernel, padding)
  return _convolve(images, kernel, padding, precision)


def image_gradient(
  cotangent: jax.Array,
  kernel: jax.Array,
  padding: Padding,
  precision: Any = None,
) -> jax.Array:
  """Differentiates `convolve` with respect to its images.

  Args:
    cotangent: cotangent of the result, `[N, H', W', C']`.
    kernel: as in `convolve`.
    padding: as in `convolve`.
    precision: precision of the matrix products.

  Returns:
    `[N, H, W, C]`.
  """
  around = tuple((2 - low, 2 - high) for low, high in padding)
  return _convolve(cotangent, kernel, around, precision, is_back=True)


# Layers share few shapes, so jit traces and lowers each shape once.
@functools.partial(jax.jit, static_argnums=(2, 3), static_argnames="is_back")
def _convolve(
  images: jax.Array,
  kernel: jax.Array,
  padding: Padding,
  precision: Any,
  is_back: bool = False,
) -> jax.Array:
  """Convolves with a kernel or, back from C' to C, with its mirror image."""
  height, width = _output_size(images, padding)
  kernels = _transform_kernel(kernel[::-1, ::-1] if is_back else kernel)

  def product(tile: jax.Array, kernel: jax.Array) -> jax.Array:
    over = ((3,), (1 if is_back else 0,)), ((), ())
    return lax.dot_general(tile, kernel, over, precision=precision)

  def some(images: jax.Array) -> jax.Array:
    rows = []
    for tiles, column in zip(
      _transform_images(images, padding), kernels, strict=True
    ):
      products = list(map(product, tiles, column))
      rows.append(interleave(combine(_DOWN.to_output, products), axis=1))
    outputs = combine(_ALONG.to_output, written_once(rows))
    return interleave(outputs, axis=2)[:, :height, :width]

  parts, rest = _divide(images, _some_images(images, padding))
  found = list(map(some, rest))
  if len(parts):
    together = lax.map(some, parts)
    found.insert(0, together.reshape(-1, *together.shape[2:]))
  return jnp.concatenate(found)


@functools.partial(jax.jit, static_argnums=(2, 3))
def kernel_gradient(
  images: jax.Array,
  cotangent: jax.Array,
  padding: Padding,
  precision: Any = None,
) -> jax.Array:
  """Differentiates `convolve` with respect to its kernel.

  Args:
    images: as in `convolve`.
    cotangent: cotangent of the result, `[N, H', W', C']`.
    padding: as in `convolve`.
    precision: precision of the matrix products.

  Returns:
    `[3, 3, C, C']`.
  """

  def product(tile: jax.Array, cotangent: jax.Array) -> jax.Array:
    over = (0, 1, 2)
    return lax.dot_general(
      tile, cotangent, ((over, over), ((), ())), precision=precision
    )

  def some(images: jax.Array, cotangent: jax.Array) -> list[list[jax.Array]]:
    tiles = _transform_images(images, padding)
    return jax.tree.map(product, tiles, _transform_cotangent(cotangent))

  size = _some_images(images, padding)
  parts, rest = _divide(images, size)
  parts_after, rest_after = _divide(cotangent, size)
  add = lambda total, part: jax.tree.map(jnp.add, total, some(*part))
  zeros = jnp.zeros((images.shape[3], cotangent.shape[3]), cotangent.dtype)
  products = [[zeros] * _DOWN.products for _ in range(_ALONG.products)]
  if len(parts):
    products, _ = lax.scan(
      lambda *x: (add(*x), None), products, (parts, parts_after)
    )
  for part in zip(rest, rest_after, strict=True):
    products = add(products, part)
  columns = zip(*products, strict=True)
  along = [combine(transpose(_ALONG.to_kernel), list(x)) for x in columns]
  down = zip(*written_once(along), strict=True)
  taps = [combine(transpose(_DOWN.to_kernel), list(x)) for x in down]
  return jnp.stack([jnp.stack(x) for x in taps], axis=1)


def _forward(
  images: jax.Array, kernel: jax.Array, padding: Padding, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return convolve(images, kernel, padding, precision), (images, kernel)


def _backward(
  padding: Padding,
  precision: Any,
  saved: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  images, kernel = saved
  return (
    image_gradient(cotangent, kernel, padding, precision),
    kernel_gradient(images, cotangent, padding, precision),
  )


convolve.defvjp(_forward, _backward)


def written_once(tree: Any) -> Any:
  """Keeps XLA from recomputing arrays wherever they are read.

  An `optimization_barrier` alone does not help, because XLA for CPUs removes it
  before fusing. A call that it must not inline does.
  """
  with xla_metadata.set_xla_metadata(inlineable="false"):
    return jax.jit(lax.optimization_barrier)(tree)


def _transform_kernel(kernel: jax.Array) -> list[list[jax.Array]]:
  """Returns `[C, C']` per product, along the rows and then down the columns."""
  along = [combine(_ALONG.to_kernel, list(row)) for row in kernel]
  return [combine(_DOWN.to_kernel, list(x)) for x in zip(*along, strict=True)]


def _transform_images(
  images: jax.Array, padding: Padding
) -> list[list[jax.Array]]:
  """Returns `[N, tiles down, tiles along, C]` per product of the kernel."""
  height, width = _output_size(images, padding)
  (top, bottom), (left, right) = padding
  images = jnp.pad(
    images,
    (
      (0, 0),
      (top, bottom + -height % _DOWN.outputs),
      (left, right + -width % _ALONG.outputs),
      (0, 0),
    ),
  )
  columns = slices(images, 2, _ALONG, _ALONG.products)
  columns = written_once(combine(_ALONG.to_input, columns))
  return [
    combine(_DOWN.to_input, slices(x, 1, _DOWN, _DOWN.products))
    for x in columns
  ]


def _transform_cotangent(cotangent: jax.Array) -> list[list[jax.Array]]:
  """Returns `[N, tiles down, tiles along, C']` per product of the kernel."""
  height, width = cotangent.shape[1:3]
  cotangent = jnp.pad(
    cotangent,
    (
      (0, 0),
      (0, -height % _DOWN.outputs),
      (0, -width % _ALONG.outputs),
      (0, 0),
    ),
  )
  columns = slices(cotangent, 2, _ALONG, _ALONG.outputs)
  columns = written_once(combine(transpose(_ALONG.to_output), columns))
  back = transpose(_DOWN.to_output)
  return [combine(back, slices(x, 1, _DOWN, _DOWN.outputs)) for x in columns]


def _output_size(images: jax.Array, padding: Padding) -> tuple[int, int]:
  height, width = (images.shape[1 + i] + sum(padding[i]) - 2 for i in (0, 1))
  return height, width


def _tiles(size: int, filtering: Filtering) -> int:
  return -(-size // filtering.outputs)


def _some_images(images: jax.Array, padding: Padding) -> int:
  """Returns how many images have enough tiles, if possible a divisor of N."""
  height, width = _output_size(images, padding)
  tiles = _tiles(height, _DOWN) * _tiles(width, _ALONG)
  number, least = len(images), -(-_TILES // tiles)
  some = range(least, min(2 * least, number))
  return next((n for n in some if number % n == 0), min(least, number))


def _divide(x: jax.Array, size: int) -> tuple[jax.Array, list[jax.Array]]:
  """Splits images into parts of `size` to loop over, and a rest outside it."""
  number = len(x) // size
  looped = number * size if number > 1 else 0
  parts = x[:looped].reshape(-1, size, *x.shape[1:])
  return parts, [x[i : i + size] for i in range(looped, len(x), size)]


def _check(images: jax.Array, kernel: jax.Array, padding: Padding) -> None:
  is_kernel = images.ndim == kernel.ndim == 4 and kernel.shape[:2] == (3, 3)
  if not is_kernel or images.shape[3] != kernel.shape[2]:
    raise ValueError(
      "winograd.convolve takes [N, H, W, C] images and [3, 3, C, C'] kernels,"
      f" got shapes {images.shape} and {kernel.shape}."
    )
  if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (images, kernel)):
    raise ValueError(
      "winograd.convolve takes floating point numbers, got"
      f" {images.dtype} and {kernel.dtype}."
    )
  if not all(0 <= side <= 2 for sides in padding for side in sides):
    raise ValueError(f"winograd.convolve pads by 0 to 2 pixels, got {padding}.")
  if images.size == 0 or min(_output_size(images, padding)) < 1:
    raise ValueError(
      "winograd.convolve needs at least one image and one output pixel, got"
      f" images {images.shape} padded by {padding}."
    )
