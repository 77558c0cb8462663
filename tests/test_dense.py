"""Linear layers' products by platform against XLA's own."""

import jax
from jax import lax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.models import dense, heads

KEY = jax.random.key(0)
ROWS = (((1,), (0,)), ((), ()))


def _gradients(function, *arguments):
  value, pullback = jax.vjp(function, *arguments)
  return value, *pullback(jnp.cos(value))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_gradients_equal_xlas(dtype):
  x = jax.random.normal(KEY, (5, 7)).astype(dtype)
  w = jax.random.normal(jax.random.key(1), (7, 3)).astype(dtype)
  ours, xlas = (
    jax.jit(lambda x, w, dot=dot: _gradients(lambda *a: dot(*a, ROWS), x, w))(
      x, w
    )
    for dot in (dense.cpu_dot_general, lax.dot_general)
  )
  for a, b in zip(ours, xlas, strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(
      a.astype(np.float32), b.astype(np.float32), rtol=1e-2, atol=1e-6
    )


def _contractions(jaxpr):
  """Which axes products contract, those of functions inside included."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive is lax.dot_general_p:
      found.append(equation.params["dimension_numbers"][0])
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      found += _contractions(inner)
  return found


def test_no_gradient_multiplies_by_a_transposed_matrix():
  head = lambda **options: heads.projector((6, 5), last_norm="none", **options)
  x = jnp.ones((4, 3))
  variables = head().init(KEY, x, train=False)

  def contractions(head):
    loss = lambda p, x: head.apply(variables | {"params": p}, x, train=False)
    gradient = jax.grad(lambda *a: loss(*a).sum(), argnums=(0, 1))
    traced = jax.make_jaxpr(gradient)(variables["params"], x)
    return _contractions(traced.jaxpr)

  by_columns = ((1,), (1,))
  assert by_columns in contractions(head())
  ours = contractions(head(dot_general=dense.cpu_dot_general))
  assert len(ours) == 6
  assert by_columns not in ours


def test_other_products_are_xlas():
  x = jnp.arange(24.0).reshape(2, 3, 4)
  w = jnp.arange(8.0).reshape(4, 2)
  numbers = (((2,), (0,)), ((), ()))
  np.testing.assert_array_equal(
    dense.cpu_dot_general(x, w, numbers), lax.dot_general(x, w, numbers)
  )
  wide = dense.cpu_dot_general(
    x[0].astype(jnp.bfloat16),
    w.astype(jnp.bfloat16),
    ROWS,
    preferred_element_type=jnp.float32,
  )
  assert wide.dtype == jnp.float32


def test_the_product_is_chosen_for_the_target():
  assert dense.default_dot_general() is dense.cpu_dot_general
  assert dense.default_dot_general("tpu") is lax.dot_general
  assert dense.default_dot_general("gpu") is lax.dot_general
