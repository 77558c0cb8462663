"""Losses of sharded, small, huge and wrong inputs."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from losses_helpers import OF_ONE_EXAMPLE, OF_SIZE, PAIRWISE
import numpy as np
import pytest

from essl_jax import losses

pytestmark = pytest.mark.quick

LABELS = np.arange(8) % 6


def _pair(dtype=np.float32):
  pair = np.random.default_rng(0).normal(size=(2, 8, 6))
  return tuple(np.asarray(z, dtype) for z in pair)


def _prediction(logits, z2):
  unused = 0 * jnp.sum(z2, dtype=jnp.float32)
  return losses.transformation_prediction(logits, LABELS) + unused


OF_DIRECTION = [name for name in PAIRWISE if name not in OF_SIZE]
ALL = PAIRWISE | {"prediction": _prediction}


@functools.cache
def _expected(name):
  return jax.jit(jax.value_and_grad(ALL[name], (0, 1)))(*_pair())


def _assert_close(found, expected):
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spec", [P("a"), P("a", "b"), P(None, "b")])
def test_explicit_shardings_change_nothing(name, spec):
  """Values and gradients match one device's, and gradients stay sharded."""
  mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
  assert mesh.axis_types == (jax.sharding.AxisType.Explicit,) * 2
  placed = jax.device_put(_pair(), NamedSharding(mesh, spec))
  loss = jax.jit(jax.value_and_grad(ALL[name], (0, 1)))
  found = loss(*placed)
  _assert_close(found, _expected(name))
  assert found[1][0].sharding.is_equivalent_to(placed[0].sharding, 2)
  if spec == P("a"):
    with jax.set_mesh(mesh):
      _assert_close(loss(*placed), _expected(name))
    _assert_close(ALL[name](*placed), _expected(name)[0])


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("is_divided", [False, True])
def test_vmap_with_an_axis_is_one_device(name, is_divided):
  """Averages local gradients, as under pmap.

  JAX hides a mapped axis that is sharded over an explicit mesh.
  """
  keywords = {} if name in OF_ONE_EXAMPLE else {"axis_name": "i"}
  loss = functools.partial(PAIRWISE[name], **keywords)
  split = [z.reshape(4, 2, 6) for z in _pair()]
  if is_divided:
    mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
    split = jax.device_put(split, NamedSharding(mesh, P("a")))
  local = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), axis_name="i"))
  value, gradients = local(*split)
  found = np.mean(value), [g.reshape(8, 6) / 4 for g in gradients]
  _assert_close(found, _expected(name))


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("check_vma", [False, True])
def test_two_mapped_axes_are_one_device(name, check_vma):
  """A tuple of names works like one name, with and without check_vma."""
  keywords = {} if name in OF_ONE_EXAMPLE else {"axis_name": ("a", "b")}
  loss = functools.partial(PAIRWISE[name], **keywords)
  mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
  share = P(("a", "b"))
  mapped = jax.shard_map(
    lambda *pair: jax.tree.map(jnp.atleast_1d, jax.value_and_grad(loss)(*pair)),
    mesh=mesh,
    in_specs=share,
    out_specs=share,
    check_vma=check_vma,
  )
  placed = jax.device_put(_pair(), NamedSharding(mesh, share))
  values, gradient = jax.jit(mapped)(*placed)
  value, (expected, _) = _expected(name)
  _assert_close((np.mean(values), gradient / 4), (value, expected))


def _is_finite(tree):
  return all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", PAIRWISE)
def test_gradients_of_extreme_rows_are_finite(name, dtype):
  """Rows of zeros, of subnormal numbers and of large ones, in either view."""
  loss = jax.jit(jax.value_and_grad(PAIRWISE[name], (0, 1)))
  z1, z2 = _pair(dtype)
  small, large = jnp.finfo(dtype).smallest_subnormal, 6e4
  for value in (0, small, 1e-7, large):
    z1[0], z1[3] = value, -value
    for pair in ((z1, z2), (z2, z1), (z1, z1)):
      assert _is_finite(loss(*pair)), value
  zeros = np.zeros_like(z1)
  assert _is_finite(loss(zeros, zeros))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", PAIRWISE)
def test_derivatives_forward_are_those_backward(name, dtype):
  pair = _pair(dtype)
  loss = PAIRWISE[name]
  _, found = jax.jit(functools.partial(jax.jvp, loss))(pair, pair[::-1])
  gradients = jax.jit(jax.grad(loss, (0, 1)))(*pair)
  expected = sum(
    np.sum(np.float32(a) * np.float32(b))
    for a, b in zip(gradients, pair[::-1], strict=True)
  )
  size = sum(np.abs(np.float32(g)).sum() for g in gradients)
  np.testing.assert_allclose(found, expected, atol=1e-2 * size)


@pytest.mark.parametrize("name", OF_DIRECTION)
@pytest.mark.parametrize("scale", [1e10, 1e18, 3e37])
def test_large_embeddings_are_those_of_size_one(name, scale):
  """Their squares overflow float32; gradients shrink as numbers grow."""
  loss = jax.jit(jax.value_and_grad(PAIRWISE[name], (0, 1)))
  z1, z2 = _pair()
  value, gradients = loss(scale * z1, z2 * scale)
  expected, wanted = loss(1e3 * z1, 1e3 * z2)  # large beside the epsilons
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for found, right in zip(gradients, wanted, strict=True):
    if scale < 1e30:  # else they underflow float32
      np.testing.assert_allclose(
        found * (scale / 1e3), right, rtol=1e-3, atol=1e-7
      )
    assert _is_finite(found)
  z1[0] *= scale  # one large row among others
  if name != "barlow_twins":
    np.testing.assert_allclose(loss(z1, z2)[0], _expected(name)[0], rtol=1e-5)


@pytest.mark.parametrize("largest", [2.0**126, float(np.finfo(np.float32).max)])
def test_rows_of_the_largest_numbers_have_gradients(largest):
  for name in OF_DIRECTION:
    z1, z2 = _pair()
    z1[0], z1[1, :2] = largest, (largest, -largest)
    z1[:, 3] = largest * np.sign(z1[:, 3])
    for pair in ((z1, z2), (z2, z1), (z1, z1)):
      loss = jax.jit(jax.value_and_grad(PAIRWISE[name], (0, 1)))
      assert _is_finite(loss(*pair)), name
  long = losses.unit_length(np.array([[largest, -largest]], np.float32))
  np.testing.assert_allclose(long, [[0.5**0.5, -(0.5**0.5)]], rtol=1e-6)
  assert np.isnan(losses.unit_length(np.array([[np.inf, 1]]))).any()


def test_large_columns_are_alike_on_devices():
  """A column is scaled by its largest value on any device."""
  loss = functools.partial(PAIRWISE["barlow_twins"], axis_name="i")
  z1, z2 = (1e3 * z for z in _pair())
  expected = PAIRWISE["barlow_twins"](z1, z2)
  z1[:, 0] *= 1e20
  z1[4:, 1] *= 1e20  # on some devices only
  one = jax.jit(PAIRWISE["barlow_twins"])(z1, z2)
  split = [z.reshape(4, 2, 6) for z in (z1, z2)]
  found = jax.jit(jax.vmap(loss, axis_name="i"))(*split)
  np.testing.assert_allclose(found, np.full(4, one), rtol=1e-5)
  z1[4:, 1] /= 1e20
  np.testing.assert_allclose(
    PAIRWISE["barlow_twins"](z1, z2), expected, rtol=1e-4
  )


def test_one_example_alone_is_refused():
  """It has nothing to compare to, so its loss is constant."""
  z = np.ones((1, 4), np.float32)
  for name in set(PAIRWISE) - set(OF_ONE_EXAMPLE):
    with pytest.raises(ValueError, match="the loss compares examples and got"):
      PAIRWISE[name](z, z)
    loss = functools.partial(PAIRWISE[name], axis_name="i")
    mapped = jax.vmap(loss, axis_name="i")
    assert _is_finite(mapped(np.stack([z, -z]), np.stack([z, z])))
    with pytest.raises(ValueError, match="got only 1"):
      mapped(z[None], z[None])


def test_numbers_alone_have_no_direction():
  """Scaled to length one, only their sign remains, which has no gradient."""
  z = np.arange(1.0, 5)[:, None]
  for name in set(OF_DIRECTION) - {"barlow_twins"}:
    with pytest.raises(ValueError, match="must have 2 or more dimensions"):
      PAIRWISE[name](z, z)
  for name in ("barlow_twins", "vicreg"):
    assert PAIRWISE[name](z, z) < 1e-6


@pytest.mark.parametrize("check_vma", [False, True])
def test_float16_gradients_are_finite_on_devices(check_vma):
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  loss = functools.partial(PAIRWISE["info_nce"], axis_name="a")
  mapped = jax.shard_map(
    jax.grad(loss),
    mesh=mesh,
    in_specs=P("a"),
    out_specs=P("a"),
    check_vma=check_vma,
  )
  z1, z2 = _pair(np.float16)
  z1[:] = 0
  placed = jax.device_put((z1, z2), NamedSharding(mesh, P("a")))
  gradient = jax.jit(mapped)(*placed)
  assert _is_finite(gradient) and np.abs(np.float32(gradient)).max() > 0


@pytest.mark.parametrize(
  ("dtype", "label"),
  [
    *((np.int8, label) for label in (-1, 4)),
    *((np.int32, label) for label in (-1, 4, 2**31 - 1)),
    (np.uint8, 4),
    *((np.uint32, label) for label in (4, 2**31 - 1)),
  ],
)
def test_labels_out_of_range(dtype, label):
  """Known ones raise ValueError; traced ones make the loss NaN."""
  logits = np.zeros((3, 4), np.float32)
  labels = np.array([0, label, 3], dtype)
  for given in (labels, jnp.asarray(labels)):
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\], got"):
      losses.transformation_prediction(logits, given)
  loss = jax.jit(losses.transformation_prediction)
  assert np.isnan(loss(logits, labels))
  np.testing.assert_allclose(loss(logits, labels * 0), np.log(4), rtol=1e-6)


def test_known_labels_are_known_under_explicit_sharding():
  mesh = jax.make_mesh((2,), ("a",), devices=jax.devices()[:2])
  place = lambda x: jax.device_put(x, NamedSharding(mesh, P("a")))
  logits, labels = place((np.zeros((2, 4), np.float32), np.array([0, 4])))
  with pytest.raises(ValueError, match=r"labels must be in \[0, 3\], got"):
    losses.transformation_prediction(logits, labels)
  assert np.isnan(jax.jit(losses.transformation_prediction)(logits, labels))


def test_lists_are_arrays():
  found = losses.transformation_prediction([[0.0, 0.0]], [1])
  np.testing.assert_allclose(found, np.log(2), rtol=1e-6)
  assert losses.negative_cosine_similarity([[1.0, 0.0]], [[2.0, 0.0]]) == -1
  with pytest.raises(ValueError, match="got 2"):
    losses.transformation_prediction([[0.0, 0.0]], [2])


def test_small_integers_name_many_classes():
  """Labels in int8 and uint8 do not wrap around with 300 classes."""
  logits = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
  loss = jax.jit(losses.transformation_prediction)
  expected = loss(logits, np.array([1, 2, 100], np.int32))
  for dtype in (np.int8, np.uint8, np.int16):
    found = loss(logits, np.array([1, 2, 100], dtype))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", PAIRWISE)
def test_pairs_that_are_none(name):
  z = np.zeros((4, 8), np.float32)
  for wrong in (z[:0], z[:, :0], z[0], z[None]):
    match = r"must be \[S N, K\]" if name == "dino" else "have the same shape"
    with pytest.raises(ValueError, match=match):
      PAIRWISE[name](wrong, wrong)
  with pytest.raises(ValueError, match="must be real, got complex64"):
    PAIRWISE[name](z.astype(np.complex64), z)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, 1e300, 1e-300])
def test_temperatures_are_finite_and_above_0(value):
  z = np.eye(4, dtype=np.float32)
  for loss in (losses.info_nce, losses.nt_xent, losses.moco_v3):
    with pytest.raises(
      ValueError, match="temperature must be finite and above"
    ):
      loss(z, z, temperature=value)
  with pytest.raises(ValueError, match="one number, got shape"):
    losses.info_nce(z, z, temperature=np.ones(4))
  if not value >= 0 or value > 1e38:
    with pytest.raises(ValueError, match="redundancy_weight must be finite"):
      losses.barlow_twins(z, z, redundancy_weight=value)


@pytest.mark.parametrize("name", ALL)
def test_64_bits_give_the_loss_of_32(name):
  """Also with a NumPy temperature, which JAX does not type weakly."""
  expected = _expected(name)
  with jax.enable_x64(True):
    for dtype in (np.float32, np.float64):
      pair = tuple(np.asarray(z, dtype) for z in _pair())
      value, gradients = jax.jit(jax.value_and_grad(ALL[name], (0, 1)))(*pair)
      assert value.dtype == jnp.float32
      assert {g.dtype for g in gradients} == {np.dtype(dtype)}
      _assert_close((value, gradients), expected)
    z1, z2 = _pair()
    for loss in (losses.info_nce, losses.nt_xent, losses.moco_v3):
      value = jax.jit(loss)(z1, z2, temperature=np.float64(0.2))
      assert value.dtype == jnp.float32
