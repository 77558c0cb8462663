"""Tests losses against golden values, properties, and 1 against n devices."""

import doctest
import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from losses_helpers import OF_ONE_EXAMPLE, OF_SIZE, PAIRWISE
import numpy as np
import pytest

from essl_jax import losses
from essl_jax.devices import parallel
from essl_jax.losses import (
  common,
  contrastive,
  distillation,
  predictive,
  redundancy,
)

pytestmark = pytest.mark.quick

TEMPERATURES = (0.1, 0.2, 0.5)
FIXED_TARGETS = PAIRWISE | {"mocov3_t0.2": PAIRWISE["moco_v3"]}


@pytest.fixture(scope="module")
def pair(golden):
  file = golden("losses")
  return jnp.asarray(file["z1"]), jnp.asarray(file["z2"])


def _assert_close(actual, expected, relative=1e-4):
  scale = np.max(np.abs(expected))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)


@pytest.mark.parametrize(
  ("name", "loss"),
  [
    *(
      (f"info_nce_t{t}", functools.partial(losses.info_nce, temperature=t))
      for t in TEMPERATURES
    ),
    ("nt_xent_t0.1", PAIRWISE["nt_xent"]),
    ("barlow_twins_w0.0051", PAIRWISE["barlow_twins"]),
  ],
)
def test_golden_pairwise(golden, pair, name, loss):
  file = golden("losses")
  value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*pair)
  np.testing.assert_allclose(value, file[f"{name}_loss"], rtol=1e-4)
  _assert_close(gradients[0], file[f"{name}_grad_z1"])
  _assert_close(gradients[1], file[f"{name}_grad_z2"])


@pytest.mark.parametrize(
  ("file", "name", "of_p"),
  [
    ("losses", "negative_cosine", "p"),
    ("modern_losses", "byol", "p"),
    ("modern_losses", "mocov3_t0.2", "query"),
  ],
)
def test_golden_fixed_targets(golden, file, name, of_p):
  file = golden(file)
  pair = file["z1"], file["z2"]
  value, gradients = jax.jit(
    jax.value_and_grad(FIXED_TARGETS[name], argnums=(0, 1))
  )(*pair)
  np.testing.assert_allclose(value, file[f"{name}_loss"], rtol=1e-5)
  _assert_close(gradients[0], file[f"{name}_grad_{of_p}"], 1e-5)
  assert not np.any(gradients[1]), "the targets' gradient must be stopped"


def test_transformation_prediction_against_numpy():
  logits = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  labels = np.arange(12) % 4
  shifted = np.exp(logits - logits.max(1, keepdims=True))
  chances = shifted / shifted.sum(1, keepdims=True)
  expected = -np.mean(np.log(chances[np.arange(12), labels]))
  actual = jax.jit(losses.transformation_prediction)(logits, labels)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


WEIGHTS = np.eye(96, dtype=np.float32) + np.float32(0.01)


@functools.cache
def _one_device(name):
  """Returns the loss and gradients of a linear layer on the whole batch."""

  def one(weights, z1, z2):
    return PAIRWISE[name](z1 @ weights, z2 @ weights)

  return jax.jit(jax.value_and_grad(one))


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("check_vma", [False, True])
def test_devices_agree_with_one(pair, name, devices, check_vma):
  """The pmean of local gradients is the gradient of the global batch."""
  keywords = {} if name in OF_ONE_EXAMPLE else {"axis_name": parallel.AXIS}

  def local(weights, z1, z2):
    return PAIRWISE[name](z1 @ weights, z2 @ weights, **keywords)

  def step(weights, z1, z2):
    if check_vma:  # varying weights get local gradients, as without the check
      weights = jax.lax.pcast(weights, parallel.AXIS, to="varying")
    return jax.lax.pmean(
      jax.value_and_grad(local)(weights, z1, z2), parallel.AXIS
    )

  mesh = parallel.make_mesh(jax.devices()[:devices])
  specs = (P(), P(parallel.AXIS), P(parallel.AXIS))
  mapped = jax.jit(
    jax.shard_map(
      step, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma
    )
  )
  expected = _one_device(name)(WEIGHTS, *pair)
  actual = mapped(WEIGHTS, *pair)
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
  _assert_close(actual[1], expected[1], 1e-5)


def test_barlow_twins_sums_its_correlation_once():
  """Forward only: at 8192 dimensions each exchange moves 256 MiB."""
  loss = functools.partial(PAIRWISE["barlow_twins"], axis_name=parallel.AXIS)
  mesh = parallel.make_mesh(jax.devices()[:4])
  gradient = jax.jit(
    jax.shard_map(
      lambda z1, z2: jax.grad(loss)(z1, z2),
      mesh=mesh,
      in_specs=P(parallel.AXIS),
      out_specs=P(parallel.AXIS),
      check_vma=False,
    )
  )
  z = jnp.zeros((16, 24))
  text = gradient.lower(z, z).as_text()
  exchanged = re.findall(r"\}\) : \(tensor<([\dx]+)xf32>\)", text)
  assert exchanged.count("24x24") == 1, exchanged


@pytest.mark.parametrize("name", PAIRWISE)
def test_pmap(pair, name):
  keywords = {} if name in OF_ONE_EXAMPLE else {"axis_name": "i"}
  split = [z.reshape(4, 12, 96) for z in pair]
  local = jax.pmap(
    lambda a, b: PAIRWISE[name](a, b, **keywords),
    axis_name="i",
    devices=jax.devices()[:4],
  )(*split)
  whole = jax.jit(PAIRWISE[name])(*pair)
  np.testing.assert_allclose(np.mean(local), whole, rtol=1e-5)


@pytest.mark.parametrize("name", PAIRWISE)
def test_vmap_and_dtypes(pair, name):
  loss = jax.jit(PAIRWISE[name])
  stacked = [np.stack([z, -z, z[::-1]]) for z in map(np.asarray, pair)]
  values = jax.jit(jax.vmap(PAIRWISE[name]))(*stacked)
  expected = [loss(a, b) for a, b in zip(*stacked, strict=True)]
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  halves = [z.astype(jnp.bfloat16) for z in pair]
  value, gradient = jax.jit(jax.value_and_grad(PAIRWISE[name]))(*halves)
  assert value.dtype == jnp.float32
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(value, loss(*pair), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", PAIRWISE)
def test_properties(pair, name):
  loss = jax.jit(PAIRWISE[name])
  z1, z2 = map(np.asarray, pair)
  order = np.random.default_rng(0).permutation(len(z1))
  value = loss(z1, z2)
  np.testing.assert_allclose(loss(z1[order], z2[order]), value, rtol=1e-5)
  # Barlow Twins adds an epsilon to the variance, as batch norm does.
  rtol = 1e-3 if name == "barlow_twins" else 1e-5
  if name not in OF_SIZE:
    np.testing.assert_allclose(
      loss(3 * z1, 0.1 * z2), value, rtol=rtol, atol=1e-6
    )
  gradient = jax.jit(jax.grad(loss))(np.zeros_like(z1), z2)
  assert np.all(np.isfinite(gradient)), "a dead embedding must not give nan"


def test_negatives_come_from_the_positives_only(pair):
  """Moving other anchors does not change one anchor's InfoNCE term."""
  z1, z2 = map(np.asarray, pair)
  info_nce = functools.partial(losses.info_nce, temperature=0.2)
  moved = np.concatenate([z1[:1], -z1[1:]])
  gradient = jax.jit(jax.grad(info_nce))
  first = gradient(z1, z2)[0]
  np.testing.assert_allclose(gradient(moved, z2)[0], first)


def test_wrong_inputs_are_named():
  z = jnp.zeros((4, 8))
  for name in set(PAIRWISE) - {"dino"}:
    with pytest.raises(ValueError, match=r"\(4, 8\) and \(3, 8\)"):
      PAIRWISE[name](z, z[:3])
  with pytest.raises(ValueError, match="above 0, got -1"):
    losses.info_nce(z, z, temperature=-1)
  with pytest.raises(ValueError, match="at least 0, got -1"):
    losses.barlow_twins(z, z, redundancy_weight=-1)
  with pytest.raises(ValueError, match="integers"):
    losses.transformation_prediction(z, jnp.zeros(4))
  with pytest.raises(ValueError, match=r"\(5,\)"):
    losses.transformation_prediction(z, jnp.zeros(5, jnp.int32))


def test_examples_in_docstrings():
  modules = (common, contrastive, distillation, predictive, redundancy)
  for module in modules:
    assert doctest.testmod(module).failed == 0
  for name in losses.__all__:
    assert ">>>" in getattr(losses, name).__doc__, name
