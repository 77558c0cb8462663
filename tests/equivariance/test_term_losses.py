"""Losses of equivariance terms: golden numbers, devices, dtypes, inputs."""

import doctest
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from term_helpers import OF_ONE_EXAMPLE, OF_PAIR

from essl_jax.equivariance import augself, care, equimod, sie, stl
from essl_jax.evaluation import ranks as ranks_lib

pytestmark = pytest.mark.quick


def _pair(dtype=np.float32):
  pair = np.random.default_rng(0).normal(size=(2, 8, 6))
  return tuple(np.asarray(z, dtype) for z in pair)


@functools.cache
def _expected(name):
  return jax.jit(jax.value_and_grad(OF_PAIR[name], (0, 1)))(*_pair())


def _assert_close(found, expected, relative=1e-5):
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    scale = np.max(np.abs(y))
    np.testing.assert_allclose(x, y, rtol=0, atol=relative * scale)


def _on(name, axis_name):
  options = {} if name in OF_ONE_EXAMPLE else {"axis_name": axis_name}
  return functools.partial(OF_PAIR[name], **options)


def test_golden_equimod(golden):
  file = golden("equivariance_terms")
  loss = functools.partial(equimod.loss, temperature=0.2)
  found = jax.jit(jax.value_and_grad(loss, (0, 1)))(
    file["equimod_embeddings"], file["equimod_predicted"]
  )
  names = ("loss", "grad_embeddings", "grad_predicted")
  expected = [file[f"equimod_t0.2_{name}"] for name in names]
  _assert_close((found[0], *found[1]), expected, 1e-4)


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("devices", [None, 2, 8])
def test_golden_care(golden, chunks, devices):
  """Also where a chunk is on several devices."""
  file = golden("equivariance_terms")
  pair = file["care_embeddings1"], file["care_embeddings2"]
  loss = functools.partial(care.loss, chunks=chunks)
  if devices:
    loss = functools.partial(loss, axis_name="i")
    pair = [x.reshape(devices, -1, 24) for x in pair]
  run = jax.value_and_grad(loss, (0, 1))
  value, gradients = jax.jit(jax.vmap(run, axis_name="i") if devices else run)(
    *pair
  )
  gradients = [x.reshape(32, 24) / (devices or 1) for x in gradients]
  names = ("loss", "grad_embeddings1", "grad_embeddings2")
  expected = [file[f"care_{chunks}chunks_{name}"] for name in names]
  _assert_close((np.mean(value), *gradients), expected, 1e-4)


def test_golden_ranks(golden):
  file = golden("equivariance_terms")
  given = [file[f"rank_{x}"] for x in ("predicted", "candidates", "true_index")]
  found = np.asarray(jax.jit(ranks_lib.ranks)(*given))
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, file["rank_ranks"])
  np.testing.assert_allclose(np.mean(1 / found), file["rank_mrr"], rtol=1e-6)
  for k in (1, 2, 5, 10):
    assert np.mean(found <= k) == file[f"rank_hits_at_{k}"]
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  placed = jax.device_put(given, NamedSharding(mesh, P("a")))
  spread = jax.jit(ranks_lib.ranks)(*placed)
  np.testing.assert_array_equal(spread, found)


def test_ranks_of_a_predictor_that_says_nothing():
  """Equal candidates, and predictions of zeros, are found last."""
  candidates = np.ones((2, 5, 3), np.float32)
  predicted = np.array([[1, 2, 3], [0, 0, 0]], np.float32)
  found = ranks_lib.ranks(predicted, candidates, np.array([0, 4]))
  np.testing.assert_array_equal(found, [5, 5])
  broken = ranks_lib.ranks(np.nan * predicted, candidates, np.array([0, 4]))
  np.testing.assert_array_equal(broken, [5, 5])
  for wrong in (predicted[:1], predicted[:, :2], predicted[0]):
    with pytest.raises(ValueError, match=r"candidates \[N, K, D\], not empty"):
      ranks_lib.ranks(wrong, candidates, np.array([0, 4]))
  with pytest.raises(ValueError, match=r"labels must be in \[0, 4\], got 0 to"):
    ranks_lib.ranks(predicted, candidates, np.array([0, 5]))


@pytest.mark.parametrize("name", OF_PAIR)
@pytest.mark.parametrize("spec", [P("a"), P(("a", "b"))])
def test_explicit_shardings_change_nothing(name, spec):
  mesh = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
  placed = jax.device_put(_pair(), NamedSharding(mesh, spec))
  loss = jax.jit(jax.value_and_grad(OF_PAIR[name], (0, 1)))
  found = loss(*placed)
  _assert_close(found, _expected(name))
  assert found[1][0].sharding.is_equivalent_to(placed[0].sharding, 2)
  if spec == P("a"):
    with jax.set_mesh(mesh):
      _assert_close(loss(*placed), _expected(name))


@pytest.mark.parametrize("name", OF_PAIR)
@pytest.mark.parametrize("check_vma", [False, True])
def test_shares_of_four_devices_are_one_device(name, check_vma):
  """Chunks of 8, 4 and 2 rows on shares of 2."""
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  run = lambda *pair: jax.tree.map(
    jnp.atleast_1d, jax.value_and_grad(_on(name, "a"), (0, 1))(*pair)
  )
  mapped = jax.shard_map(
    run, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=check_vma
  )
  placed = jax.device_put(_pair(), NamedSharding(mesh, P("a")))
  values, gradients = jax.jit(mapped)(*placed)
  found = np.mean(values), [x / 4 for x in gradients]
  _assert_close(found, _expected(name))


@pytest.mark.parametrize("name", OF_PAIR)
def test_mean_of_losses_is_differentiated_under_check_vma(name):
  """As the docstring of `losses` says for `jax.shard_map` with its defaults."""
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  weights = np.eye(6, dtype=np.float32) + np.float32(0.1)

  def loss(weights, *pair):
    own = _on(name, "a")(*(z @ weights for z in pair))
    return jax.lax.pmean(own, "a")

  mapped = jax.shard_map(
    jax.value_and_grad(loss),
    mesh=mesh,
    in_specs=(P(), P("a"), P("a")),
    out_specs=P(),
  )
  one = lambda weights, *pair: OF_PAIR[name](*(z @ weights for z in pair))
  expected = jax.jit(jax.value_and_grad(one))(weights, *_pair())
  placed = jax.device_put(_pair(), NamedSharding(mesh, P("a")))
  _assert_close(jax.jit(mapped)(weights, *placed), expected)


@pytest.mark.parametrize("name", OF_PAIR)
def test_pmap_and_vmap(name):
  split = [z.reshape(4, 2, 6) for z in _pair()]
  for run in (
    jax.pmap(_on(name, "i"), axis_name="i", devices=jax.devices()[:4]),
    jax.jit(jax.vmap(_on(name, "i"), axis_name="i")),
  ):
    values = run(*split)
    np.testing.assert_allclose(np.mean(values), _expected(name)[0], rtol=1e-5)
  stacked = [np.stack([z, -z, z[::-1]]) for z in _pair()]
  values = jax.jit(jax.vmap(OF_PAIR[name]))(*stacked)
  expected = [jax.jit(OF_PAIR[name])(*x) for x in zip(*stacked, strict=True)]
  np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("name", OF_PAIR)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_other_dtypes_are_computed_in_float32(name, dtype):
  with jax.enable_x64(dtype == np.float64):
    pair = _pair(dtype)
    value, gradients = jax.jit(jax.value_and_grad(OF_PAIR[name], (0, 1)))(*pair)
    wide = jax.jit(OF_PAIR[name])(*(z.astype(np.float32) for z in pair))
  assert value.dtype == jnp.float32
  assert {x.dtype for x in gradients} == {np.dtype(dtype)}
  # The pair of STL and AugSelf is prepared in its own dtype.
  rtol = 2e-2 if dtype == jnp.bfloat16 else 3e-3
  np.testing.assert_allclose(value, wide, rtol=rtol)


@pytest.mark.parametrize("name", OF_PAIR)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_gradients_of_extreme_rows_are_finite(name, dtype):
  loss = jax.jit(jax.value_and_grad(OF_PAIR[name], (0, 1)))
  z1, z2 = _pair(dtype)
  for value in (0, jnp.finfo(dtype).smallest_subnormal, 1e-7, 2e4):
    if value == 2e4 and name == "sie":  # its fourth power is too much
      continue
    z1[0], z1[3] = value, -value
    for pair in ((z1, z2), (z2, z1), (z1, z1)):
      for x in jax.tree.leaves(loss(*pair)):
        assert np.isfinite(np.float32(x)).all(), value


def test_care_is_what_its_formula_says():
  """Against loops; a rotation of a chunk is free."""
  z1, z2 = _pair(np.float64)
  units = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2)]
  for chunks in (1, 2, 4):
    total = 0
    for first, second in zip(
      *(np.split(z, chunks) for z in units), strict=True
    ):
      total += np.linalg.norm(first @ first.T - second @ second.T) ** 2
    found = care.loss(*units, chunks=chunks)
    np.testing.assert_allclose(found, 2 / 8 * total, rtol=1e-5)
  turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
  turned = np.concatenate([units[0][:4] @ turn, units[0][4:]])
  assert care.loss(units[0], turned, chunks=2) < 1e-10
  assert care.loss(units[0], turned, chunks=1) > 0.1


def test_wrong_inputs_are_named():
  z = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  for chunks in (0, -1, 4, 6, 12):
    with pytest.raises(ValueError, match=f"the 6 rows .* got {chunks}"):
      care.loss(z, z, chunks=chunks)
  for name in set(OF_PAIR) - {"augself", "care_4"}:
    with pytest.raises(ValueError, match=r"the same shape \[N, D\]"):
      OF_PAIR[name](z, z[:4])
  with pytest.raises(ValueError, match="equally many rows, got"):
    sie.loss(z[:4], z[:4], z, z, z, weights=(1, 1, 1, 1))
  with pytest.raises(ValueError, match="predicted and equivariant2 must"):
    sie.loss(z, z, z, z, z[:, :3], weights=(1, 1, 1, 1))
  for loss in (
    lambda **x: stl.loss(z, z, z, z, z, z, temperature=0.2, **x),
    lambda **x: sie.loss(z, z, z, z, z, **x),
  ):
    for weights in ((1, 1), 1.0, {"invariance": 1}, np.ones(())):
      with pytest.raises(ValueError, match="for each of invariance, "):
        loss(weights=weights)
  with pytest.raises(ValueError, match=r"weights\['variance'\] must be finite"):
    sie.loss(z, z, z, z, z, weights=(1, 1, -1, 1))
  with pytest.raises(ValueError, match="temperature must be finite and above"):
    equimod.loss(z, z, temperature=0.0)
  for chunks in (2.0, "2", None):
    with pytest.raises(ValueError, match="chunks must divide"):
      care.loss(z, z, chunks=chunks)
  one = z[:1]
  for loss in (
    lambda: sie.loss(one, one, one, one, one, weights=(1, 1, 1, 1)),
    lambda: equimod.loss(one, one, temperature=0.2),
  ):
    with pytest.raises(ValueError, match="compares examples and got only 1"):
      loss()


def test_weights_are_by_name_or_in_order():
  """Known ones, and ones that are traced."""
  z1, z2 = _pair()
  by_order = jax.jit(
    lambda weights: sie.loss(z1, z2, z1, z2, z1, weights=weights)
  )
  names = dict(zip(sie.PARTS, (10.0, 45.0, 10.0, 1.0), strict=True))
  found = [
    by_order(x) for x in (names, tuple(names.values()), [*names.values()])
  ]
  assert found[0] == found[1] == found[2]
  assert by_order(np.array([10.0, 45.0, 10.0, 1.0])) == found[0]
  parts = [by_order(tuple(x)) for x in np.eye(4)]
  np.testing.assert_allclose(np.dot([10, 45, 10, 1], parts), found[0], 1e-6)


def test_differences_are_each_learned_in_their_way():
  """Against NumPy; what has no weight is not looked at."""
  random = np.random.default_rng(0)
  scores = {
    "crop": random.normal(size=(8, 4)),
    "sol": random.normal(size=(8, 1)),
    "flip": random.normal(size=(8, 1)),
    "rot": random.normal(size=(8, 4)),
  }
  truth = {
    "crop": random.normal(size=(8, 4)),
    "sol": random.normal(size=8),
    "flip": np.arange(8) % 2 == 0,
    "rot": np.arange(8) % 4,
    "blur": None,
  }
  probability = 1 / (1 + np.exp(-scores["flip"][:, 0]))
  is_same = np.where(truth["flip"], probability, 1 - probability)
  shares = np.exp(scores["rot"]) / np.exp(scores["rot"]).sum(1, keepdims=True)
  expected = {
    "crop": np.mean((np.tanh(scores["crop"]) - truth["crop"]) ** 2),
    "sol": np.mean((np.tanh(scores["sol"][:, 0]) - truth["sol"]) ** 2),
    "flip": -np.mean(np.log(is_same)),
    "rot": -np.mean(np.log(shares[np.arange(8), truth["rot"]])),
  }
  for name, value in expected.items():
    found = augself.loss(scores, truth, weights={name: 2.0})
    np.testing.assert_allclose(found, 2 * value, rtol=1e-5)
  every = augself.loss(scores, truth, weights=dict.fromkeys(expected, 1.0))
  np.testing.assert_allclose(every, sum(expected.values()), rtol=1e-5)
  wrong = {
    "blur": (r"weights\['blur'\] needs .* this name; there are crop, flip"),
    "hue": (r"weights\['hue'\] .* there are blur, color, crop, flip, rot, sol"),
  }
  for name, expected in wrong.items():
    with pytest.raises(ValueError, match=expected):
      augself.loss(scores, truth, weights={name: 1.0})
  with pytest.raises(ValueError, match=r"\['crop'\] must have one shape"):
    augself.loss(scores, truth | {"crop": np.ones(8)}, weights={"crop": 1.0})
  with pytest.raises(ValueError, match=r"labels must be in \[0, 3\]"):
    augself.loss(scores, truth | {"rot": np.full(8, 4)}, weights={"rot": 1.0})


def test_examples_in_docstrings():
  for module in (augself, care, equimod, sie, stl, ranks_lib):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed, module
