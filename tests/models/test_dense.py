"""Platforms' products of linear layers against XLA's."""

import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.models import heads
from essl_jax.models.layers import dense

KEY = jax.random.key(0)
ROWS = (((1,), (0,)), ((), ()))


def _gradients(function, *arguments):
  value, pullback = jax.vjp(function, *arguments)
  return value, *pullback(jnp.cos(value))


@pytest.mark.parametrize("rows", [(5,), (3, 7), (1, 2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_gradients_equal_xlas(dtype, rows):
  x = jax.random.normal(KEY, (*rows, 12)).astype(dtype)
  numbers = (((len(rows),), (0,)), ((), ()))
  w = jax.random.normal(jax.random.key(1), (12, 10)).astype(dtype)
  ours, xlas = (
    jax.jit(
      lambda x, w, dot=dot: _gradients(lambda *a: dot(*a, numbers), x, w)
    )(x, w)
    for dot in (dense.cpu_dot_general, lax.dot_general)
  )
  for a, b in zip(ours, xlas, strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(
      a.astype(np.float32),
      b.astype(np.float32),
      rtol=1e-2,
      atol=1e-2 if dtype == "bfloat16" else 1e-5,
    )


def _contractions(head):
  """Returns which matrix axes a head's compiled gradients contract."""
  x = jnp.ones((4, 30))
  variables = head.init(KEY, x, train=False)
  loss = lambda p, x: head.apply(variables | {"params": p}, x, train=False)
  gradient = jax.grad(lambda *a: loss(*a).sum(), argnums=(0, 1))
  compiled = jax.jit(gradient).lower(variables["params"], x).compile()
  return re.findall(
    r" dot\(.*lhs_contracting_dims=\{(\d)\}, rhs_contracting_dims=\{(\d)\}",
    compiled.as_text(),
  )


def test_no_compiled_gradient_multiplies_by_a_transposed_matrix():
  make = functools.partial(heads.projector, (60, 50), last_norm="none")
  assert ("1", "1") in _contractions(make())
  ours = _contractions(make(dot_general=dense.cpu_dot_general))
  # The loss is a sum: the last layer's output is not needed.
  assert len(ours) == 5
  assert ("1", "1") not in ours


def test_axes_of_rows_become_one():
  x, w = jnp.ones((32, 9, 12)), jnp.ones((12, 10))
  numbers = (((2,), (0,)), ((), ()))
  product = lambda x: dense.cpu_dot_general(x, w, numbers)
  assert "f32[288,12]" in str(jax.make_jaxpr(product)(x))


def test_other_products_are_xlas():
  x = jnp.arange(24.0).reshape(2, 4, 3)
  w = jnp.arange(8.0).reshape(4, 2)
  numbers = (((1,), (0,)), ((), ()))
  np.testing.assert_array_equal(
    dense.cpu_dot_general(x, w, numbers), lax.dot_general(x, w, numbers)
  )
  wide = dense.cpu_dot_general(
    x[0].T.astype(jnp.bfloat16),
    w.astype(jnp.bfloat16),
    ROWS,
    preferred_element_type=jnp.float32,
  )
  assert wide.dtype == jnp.float32


def test_many_rows_are_left_to_xla():
  few, many = jnp.ones((25, 60)), jnp.ones((26, 60))
  w = jnp.ones((60, 50))
  product = lambda x: dense.cpu_dot_general(x, w, ROWS)
  assert "custom_vjp" in str(jax.make_jaxpr(product)(few))
  assert "custom_vjp" not in str(jax.make_jaxpr(product)(many))


def test_the_product_is_chosen_for_the_target():
  assert dense.default_dot_general() is dense.cpu_dot_general
  assert dense.default_dot_general("tpu") is lax.dot_general
  assert dense.default_dot_general("gpu") is lax.dot_general
