"""Winograd's convolution against the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.models.layers import convolution, winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")
SAME = ((1, 1), (1, 1))


def _plain(images, kernel, padding):
  return jax.lax.conv_general_dilated(
    images, kernel, (1, 1), padding, dimension_numbers=_LAYOUT
  )


def _make(n, height, width, channels, outputs, dtype=np.float64):
  random = np.random.default_rng(0)
  images = random.standard_normal((n, height, width, channels))
  kernel = random.standard_normal((3, 3, channels, outputs))
  return images.astype(dtype), kernel.astype(dtype)


@pytest.mark.parametrize(
  ("n", "height", "width", "padding"),
  [
    (2, 8, 8, SAME),
    (3, 5, 7, SAME),  # not a multiple of a tile
    (1, 1, 1, SAME),
    (1, 3, 9, ((0, 0), (0, 0))),
    (2, 4, 6, ((0, 2), (2, 1))),
    (5, 32, 32, SAME),  # four images and one
    (8, 32, 32, SAME),  # in a loop, several images at a time
    (13, 32, 32, SAME),  # in a loop with a rest
  ],
)
def test_sums_and_gradients_are_those_of_the_plain_convolution(
  n, height, width, padding
):
  """Compares in float64, where both are exact to 12 digits."""
  with jax.enable_x64(True):
    images, kernel = map(jnp.asarray, _make(n, height, width, 4, 3))
    expected, pullback = jax.vjp(
      functools.partial(_plain, padding=padding), images, kernel
    )
    cotangent = jnp.cos(expected)
    d_images, d_kernel = pullback(cotangent)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-11)
    close(
      jax.jit(winograd.convolve, static_argnums=2)(images, kernel, padding),
      expected,
    )
    close(winograd.image_gradient(cotangent, kernel, padding), d_images)
    close(winograd.kernel_gradient(images, cotangent, padding), d_kernel)


def test_float32_errs_by_no_more_than_the_docstring_says():
  images, kernel = _make(8, 16, 16, 64, 64)
  exact = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
  with jax.enable_x64(True):
    expected = np.asarray(_plain(*exact, SAME))
  found = winograd.convolve(*(jnp.asarray(x, jnp.float32) for x in exact), SAME)
  error = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
  assert 1e-8 < error < 5e-6


@pytest.mark.parametrize(
  ("channels", "dtype", "stride", "precision", "is_winograd"),
  [
    (64, jnp.float32, 1, None, True),
    (32, jnp.float32, 1, None, False),
    (64, jnp.bfloat16, 1, None, False),
    (64, jnp.float32, 2, None, False),
    (64, jnp.float32, 1, jax.lax.Precision.HIGHEST, False),
  ],
)
def test_cpu_conv_chooses_by_shape_dtype_and_precision(
  channels, dtype, stride, precision, is_winograd
):
  def value(images, kernel):
    out = convolution.cpu_conv(
      images,
      kernel,
      (stride, stride),
      SAME,
      dimension_numbers=_LAYOUT,
      precision=precision,
    )
    return jnp.sum(out.astype(jnp.float32) ** 2)

  images, kernel = _make(2, 8, 8, channels, channels)
  arguments = jnp.asarray(images, dtype), jnp.asarray(kernel, dtype)
  text = jax.jit(jax.grad(value, (0, 1))).lower(*arguments).as_text()
  assert ("stablehlo.convolution" in text) != is_winograd


def test_cpu_conv_of_many_channels_has_the_gradients_of_xla():
  images, kernel = _make(3, 6, 6, 64, 64, np.float32)

  def run(convolve):
    convolve = functools.partial(
      convolve,
      window_strides=(1, 1),
      padding=SAME,
      dimension_numbers=_LAYOUT,
    )
    value = lambda images, kernel: jnp.sum(jnp.tanh(convolve(images, kernel)))
    return jax.jit(jax.grad(value, (0, 1)))(images, kernel / 24)

  expected = run(jax.lax.conv_general_dilated)
  for found, one in zip(run(convolution.cpu_conv), expected, strict=True):
    limit = 1e-5 * np.abs(one).max()
    np.testing.assert_allclose(found, one, rtol=0, atol=limit)


def test_images_that_no_loop_divides_are_still_done_a_few_at_a_time():
  def temporaries(n):
    images, kernel = _make(n, 32, 32, 64, 64, np.float32)
    convolve = jax.jit(winograd.convolve, static_argnums=2)
    compiled = convolve.lower(images, kernel, SAME).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  result = 61 * 32 * 32 * 64 * 4  # the loop's results before concatenation
  assert temporaries(61) < temporaries(64) + 1.5 * result


@pytest.mark.parametrize(
  ("images", "kernel", "padding", "message"),
  [
    ((2, 8, 8, 4), (5, 5, 4, 4), SAME, r"\[3, 3, C, C'\]"),
    ((2, 8, 8, 4), (3, 3, 5, 4), SAME, r"\(3, 3, 5, 4\)"),
    ((2, 8, 8, 4), (3, 3, 4, 4), ((3, 3), (1, 1)), "0 to 2 pixels"),
    ((0, 8, 8, 4), (3, 3, 4, 4), SAME, "one image and one"),
    ((2, 2, 8, 4), (3, 3, 4, 4), ((0, 0), (1, 1)), "one image and one"),
  ],
)
def test_other_convolutions_are_refused(images, kernel, padding, message):
  with pytest.raises(ValueError, match=message):
    winograd.convolve(jnp.ones(images), jnp.ones(kernel), padding)
  with pytest.raises(ValueError, match="floating point"):
    winograd.convolve(
      jnp.ones((2, 8, 8, 4), jnp.uint8), jnp.ones((3, 3, 4, 4)), SAME
    )
