"""Platforms' convolutions against XLA's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.models.layers import convolution

KEY = jax.random.key(0)


def _with_gradients(convolve, x, w, *, stride, padding):
  value = lambda x, w: convolve(
    x,
    w,
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  y, pullback = jax.vjp(value, x, w)
  return y, pullback(jnp.cos(y))


@pytest.mark.parametrize(
  "convolve", [convolution.im2col_conv, convolution.cpu_conv]
)
@pytest.mark.parametrize(
  ("size", "kernel", "stride", "padding"),
  [
    (8, 3, 1, ((1, 1), (1, 1))),
    (8, 3, 2, ((1, 1), (1, 1))),
    (2, 3, 1, ((1, 1), (1, 1))),
    (4, 3, 2, ((1, 1), (1, 1))),
    (8, 1, 1, ((0, 0), (0, 0))),
    (7, 1, 2, ((0, 0), (0, 0))),
    (15, 7, 2, ((3, 3), (3, 3))),
    (9, 3, 1, ((0, 1), (2, 0))),
  ],
)
def test_cpu_convolutions_equal_xla(convolve, size, kernel, stride, padding):
  x = jax.random.normal(KEY, (3, size, size + 1, 5))
  w = jax.random.normal(jax.random.key(1), (kernel, kernel, 5, 4))

  run = functools.partial(_with_gradients, stride=stride, padding=padding)
  got = jax.jit(functools.partial(run, convolve))(x, w)
  expected = jax.jit(functools.partial(run, jax.lax.conv_general_dilated))(x, w)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_cpu_convolution_under_vmap_and_bfloat16():
  x = jax.random.normal(KEY, (2, 3, 2, 2, 5), jnp.bfloat16)
  w = jax.random.normal(KEY, (3, 3, 5, 4), jnp.bfloat16)
  convolve = functools.partial(
    convolution.cpu_conv,
    rhs=w,
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  out = jax.vmap(convolve)(x)
  assert out.dtype == jnp.bfloat16
  one_by_one = jnp.stack([convolve(images) for images in x])
  np.testing.assert_allclose(
    out.astype(jnp.float32), one_by_one.astype(jnp.float32), atol=0.1
  )


@pytest.mark.parametrize(
  ("channels", "dtype", "stride", "counted"),
  [
    (3, "bfloat16", 1, 8),
    (3, "bfloat16", 2, 4),
    (1, "bfloat16", 1, 8),
    (4, "bfloat16", 2, 4),
    (9, "bfloat16", 1, 9),
    (3, "float16", 1, 3),
    (3, "float32", 1, 3),
  ],
)
def test_gpu_convolutions_of_few_channels_are_padded_with_zeros(
  channels, dtype, stride, counted
):
  x = jax.random.normal(KEY, (2, 6, 7, channels)).astype(dtype)
  w = jax.random.normal(jax.random.key(1), (3, 3, channels, 4)).astype(dtype)

  run = functools.partial(
    _with_gradients, stride=stride, padding=((1, 1), (0, 1))
  )
  ours = functools.partial(run, convolution.gpu_conv)
  xlas = functools.partial(run, jax.lax.conv_general_dilated)
  found = jax.tree.leaves(ours(x, w))
  for a, b in zip(found, jax.tree.leaves(xlas(x, w)), strict=True):
    assert a.dtype == b.dtype == x.dtype
    np.testing.assert_allclose(
      a.astype(np.float32), b.astype(np.float32), rtol=0.02, atol=1e-2
    )
  first = next(
    equation
    for equation in jax.make_jaxpr(ours)(x, w).eqns
    if equation.primitive.name == "conv_general_dilated"
  )
  assert first.invars[0].aval.shape == (2, 6, 7, counted)
  assert first.invars[1].aval.shape == (3, 3, counted, 4)


def test_default_conv_is_fast_on_cpu():
  assert jax.default_backend() == "cpu"
  assert convolution.default_conv() is convolution.cpu_conv


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rhs_dilation": (2, 2)}, "rhs_dilation"),
    ({"feature_group_count": 5}, "feature_group_count"),
    ({"dimension_numbers": ("NCHW", "OIHW", "NCHW")}, "NHWC"),
    ({"padding": "SAME"}, "SAME"),
  ],
)
def test_im2col_refuses_other_convolutions(options, message):
  arguments = {
    "padding": ((1, 1), (1, 1)),
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    **options,
  }
  with pytest.raises(ValueError, match=message):
    convolution.im2col_conv(
      jnp.ones((1, 5, 5, 5)), jnp.ones((5, 3, 5, 5)), (1, 1), **arguments
    )


def test_weight_gradients_read_activations_that_were_computed_once():
  # Otherwise XLA fuses whole blocks' norms and ReLUs into each transposition.
  def value(w, x):
    hidden = jnp.maximum(x * 2 + 1, 0)
    out = convolution.cpu_conv(
      hidden,
      w,
      (1, 1),
      ((1, 1), (1, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.sum(out**2)

  w, x = jnp.ones((3, 3, 5, 4)), jnp.ones((2, 8, 8, 5))
  compiled = jax.jit(jax.grad(value)).lower(w, x).compile().as_text()
  assert compiled.count(" maximum(") == 1


@pytest.mark.parametrize(
  ("images", "kernel", "options"),
  [
    ((2, 6, 6, 8), (3, 3, 4, 8), {"feature_group_count": 2}),
    ((2, 6, 6, 64), (3, 3, 64, 64), {"rhs_dilation": (2, 2)}),
    ((2, 6, 6, 64), (3, 3, 64, 64), {"lhs_dilation": [1, 1]}),
    ((0, 6, 6, 64), (3, 3, 64, 64), {}),
    ((2, 2, 6, 64), (3, 3, 64, 64), {"padding": ((0, 0), (1, 1))}),
    ((2, 1, 1, 64), (3, 3, 64, 64), {}),
    ((2, 1, 1, 5), (3, 3, 5, 4), {"padding": ((0, 0), (0, 0))}),
    (
      (2, 1, 6, 5),
      (3, 3, 5, 4),
      {"padding": ((0, 0), (0, 0)), "window_strides": (3, 2)},
    ),
  ],
)
def test_cpu_conv_takes_what_xla_takes(images, kernel, options):
  x = jax.random.normal(KEY, images)
  w = jax.random.normal(jax.random.key(1), kernel)
  arguments = {
    "window_strides": (1, 1),
    "padding": ((1, 1), (1, 1)),
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    **options,
  }
  expected = jax.lax.conv_general_dilated(x, w, **arguments)
  found = convolution.cpu_conv(x, w, **arguments)
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_default_precision_decides_whether_rounding_may_grow():
  x, w = jnp.ones((2, 8, 8, 64)), jnp.ones((3, 3, 64, 64))

  def text():
    convolve = functools.partial(
      convolution.cpu_conv,
      window_strides=(1, 1),
      padding=((1, 1), (1, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.jit(lambda x, w: convolve(x, w)).lower(x, w).as_text()

  assert "stablehlo.convolution" not in text()
  with jax.default_matmul_precision("highest"):
    assert "stablehlo.convolution" in text()
