"""Convolutions by platform, in the form that `flax.linen.Conv` expects.

On CPUs, XLA's convolution is slow for some shapes and does all multiplications
of 3x3 kernels. On NVIDIA GPUs, it does not use tensor cores for few channels.
TPUs need none of this.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.models.layers import winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_Window = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]

# Precisions that permit Winograd's rounding.
_DEFAULT_PRECISION = "jax_default_matmul_precision"
_FAST = (None, "default", "fastest", jax.lax.Precision.DEFAULT)
# With fewer channels, the transforms cost more than they save.
_WINOGRAD_CHANNELS = 64


@inputs.any_sharding(by_example=True)
def im2col_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Convolves by one matrix product of shifted slices of the images.

  Args:
    lhs: Images, `[N, H, W, C]`.
    rhs: Kernel, `[height, width, C, C']`.
    window_strides: The two strides.
    padding: `((top, bottom), (left, right))`.
    **options: other options of `jax.lax.conv_general_dilated`; only `precision`
      may have a value other than the default.

  Returns:
    `[N, H', W', C']`.

  Raises:
    ValueError: For any other kind of convolution.
  """
  if fault := _find_fault(lhs, rhs, **options):
    raise ValueError(f"im2col_conv takes {fault}.")
  height, width = _output_size(lhs, rhs, window_strides, padding)
  images = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
  stride_y, stride_x = window_strides
  slices = [
    images[
      :,
      y : y + max(0, (height - 1) * stride_y + 1) : stride_y,
      x : x + max(0, (width - 1) * stride_x + 1) : stride_x,
    ]
    for y in range(rhs.shape[0])
    for x in range(rhs.shape[1])
  ]
  patches = jnp.concatenate(slices, axis=-1)
  out = jnp.matmul(
    patches.reshape(-1, patches.shape[-1]),
    rhs.reshape(-1, rhs.shape[-1]),
    precision=options.get("precision"),
  )
  return out.reshape(lhs.shape[0], height, width, rhs.shape[-1])


@inputs.any_sharding(by_example=True)
def cpu_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Convolves with the code that is fastest on a CPU for the given shapes.

  XLA's own code is fast except around images of at most 2x2 pixels (as output,
  or as its gradient). There it takes up to a hundred times as long as matrix
  products; the last stage of a ResNet on 16x16 images has such shapes. 1x1
  kernels use plain matrix products, and 3x3 kernels with many channels use
  Winograd's filtering. XLA computes whatever `im2col_conv` does not support.

  Differentiable only in reverse mode, and inside `jax.shard_map` only with
  `check_vma=False`.
  """
  if _find_fault(lhs, rhs, **options):
    return jax.lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, **options
    )
  size = _output_size(lhs, rhs, window_strides, padding)
  lhs = winograd.written_once(lhs)
  strides = tuple(window_strides)
  sides = tuple((low, high) for low, high in padding)
  precision = options.get("precision")
  if _is_winograd(lhs, rhs, (strides, sides), precision):
    return winograd.convolve(lhs, rhs, sides, precision)
  if min(size) <= 2 or rhs.shape[:2] == (1, 1):
    return im2col_conv(lhs, rhs, window_strides, padding, **options)
  return _conv(lhs, rhs, (strides, sides), precision)


def _is_winograd(
  lhs: jax.Array, rhs: jax.Array, window: _Window, precision: Any
) -> bool:
  """Tells whether Winograd's filtering applies and pays off."""
  strides, padding = window
  size = _output_size(lhs, rhs, strides, padding)
  return (
    strides == (1, 1)
    and rhs.shape[:2] == (3, 3)
    and min(rhs.shape[2:]) >= _WINOGRAD_CHANNELS
    and len(lhs) > 0
    and min(size) > 0
    and max(size) > 1  # one pixel would use only an eighth of a tile
    and all(0 <= side <= 2 for sides in padding for side in sides)
    and lhs.dtype == rhs.dtype == jnp.float32
    and (precision or getattr(jax.config, _DEFAULT_PRECISION)) in _FAST
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(
  lhs: jax.Array, rhs: jax.Array, window: _Window, precision: Any
) -> jax.Array:
  """Convolves, with gradients that are also convolutions of NHWC by HWIO.

  XLA calls its fast code only for this layout. It converts other layouts, but
  not inside loops, where weight gradients then take a hundred times as long.
  """
  strides, padding = window
  return jax.lax.conv_general_dilated(
    lhs,
    rhs,
    strides,
    padding,
    dimension_numbers=_LAYOUT,
    precision=precision,
  )


def _conv_forward(
  lhs: jax.Array, rhs: jax.Array, window: _Window, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _conv(lhs, rhs, window, precision), (lhs, rhs)


def _conv_backward(
  window: _Window,
  precision: Any,
  saved: tuple[jax.Array, jax.Array],
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  lhs, rhs = saved
  strides, padding = window
  convolve = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1),
    dimension_numbers=_LAYOUT,
    precision=precision,
  )
  around, behind = [], []
  for i, stride in enumerate(strides):
    low, _ = padding[i]
    size, kernel = lhs.shape[1 + i], rhs.shape[i]
    last = (cotangent.shape[1 + i] - 1) * stride  # start of the last window
    around.append((kernel - 1 - low, size - 1 - last + low))
    behind.append((low, last + kernel - size - low))
  gradient = convolve(
    cotangent,
    jnp.swapaxes(rhs[::-1, ::-1], 2, 3),
    padding=around,
    lhs_dilation=strides,
  )
  kernel_gradient = convolve(
    jnp.transpose(lhs, (3, 1, 2, 0)),
    jnp.transpose(cotangent, (1, 2, 0, 3)),
    padding=behind,
    rhs_dilation=strides,
  )
  return gradient, jnp.transpose(kernel_gradient, (1, 2, 0, 3))


_conv.defvjp(_conv_forward, _conv_backward)


def gpu_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Zero-pads the channels of narrow bfloat16 inputs and convolves.

  The result does not change. Tensor cores need multiples of eight channels for
  fast convolutions on NVIDIA GPUs, or four channels of images with stride two.
  XLA pads float16 by itself. All other convolutions are XLA's own. Arguments
  and result are as in `im2col_conv`.

  Reference: NVIDIA, Convolutional Layers User's Guide, "Channels In And Out".
  """
  lacking = (4 if max(window_strides) > 1 else 8) - lhs.shape[-1]
  is_narrow = lhs.dtype == jnp.bfloat16 and lacking > 0
  if is_narrow and not _find_fault(lhs, rhs, **options):
    none = (0, 0)
    lhs = jnp.pad(lhs, (none, none, none, (0, lacking)))
    rhs = jnp.pad(rhs, (none, none, (0, lacking), none))
  return jax.lax.conv_general_dilated(
    lhs, rhs, window_strides, padding, **options
  )


def default_conv(platform: str | None = None) -> Callable[..., jax.Array]:
  """Returns the fast convolution of a platform.

  Args:
    platform: platform that will run it, such as "tpu"; by default that of the
      default backend.

  Returns:
    `cpu_conv` on a CPU, `gpu_conv` on a GPU, else
    `jax.lax.conv_general_dilated`.
  """
  own = {"cpu": cpu_conv, "gpu": gpu_conv, "cuda": gpu_conv}
  return own.get(
    platform or jax.default_backend(), jax.lax.conv_general_dilated
  )


def _output_size(
  lhs: jax.Array, rhs: jax.Array, strides: Sequence[int], padding: Any
) -> list[int]:
  if isinstance(padding, str):
    raise ValueError(f"Padding must be given in pixels, got {padding!r}.")
  padded = [lhs.shape[1 + i] + sum(padding[i]) for i in (0, 1)]
  return [max(0, (padded[i] - rhs.shape[i]) // strides[i] + 1) for i in (0, 1)]


def _find_fault(lhs: jax.Array, rhs: jax.Array, **options: Any) -> str | None:
  """Says what a plain convolution must have that this one lacks, or None."""
  if lhs.ndim != 4 or rhs.ndim != 4 or lhs.shape[-1] != rhs.shape[-2]:
    return (
      "[N, H, W, C] images and [height, width, C, C'] kernels, got shapes"
      f" {lhs.shape} and {rhs.shape}"
    )
  numbers = options.pop("dimension_numbers", None)
  given, plain = (
    jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, layout)
    for layout in (numbers, _LAYOUT)
  )
  if given != plain:
    return f"NHWC and HWIO, got {given}"
  options.pop("precision", None)
  for name, value in options.items():
    if value is not None and set(np.ravel(value)) != {1}:
      return f"no {name}={value}"
  return None
