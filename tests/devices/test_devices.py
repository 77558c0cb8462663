"""Compares a step on n devices, and under pmap, with the step on one."""

import types

import jax
import numpy as np
import pytest
import step_helpers

from essl_jax.config import parts
from essl_jax.devices import parallel
from essl_jax.errors import UsageError

SMALL = "dino, small views"
METHODS = [*parts.METHOD.names(), SMALL]
METHODS_SLOW = [
  "simclr",
  pytest.param("simsiam", marks=pytest.mark.slow),
  pytest.param("barlow_twins", marks=pytest.mark.slow),
]


def _three_steps(config, devices):
  """Runs three steps on a number of devices; returns state and metrics."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  with jax.enable_x64(True):
    state, step = step_helpers.exact_parts(config)
    mapped = parallel.map_step(step, mesh)
    state = parallel.replicate(state, mesh)
    history = []
    for batch in step_helpers.view_batches(config):
      state, metrics = mapped(state, parallel.shard(batch, mesh))
      history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def _assert_trees_close(actual, expected, relative, least=1e-3):
  """Asserts an error below `relative` times the largest entry, or `least`."""
  leaves = jax.tree_util.tree_leaves_with_path(expected)
  for (path, wanted), got in zip(leaves, jax.tree.leaves(actual), strict=True):
    # Means of normalised values are 0 except for rounding of about 1e-9 in
    # the heads' float32 outputs.
    scale = max(np.max(np.abs(wanted)), least)
    np.testing.assert_allclose(
      got,
      wanted,
      rtol=0,
      atol=relative * scale,
      err_msg=jax.tree_util.keystr(path),
    )


def _assert_same_run(actual, expected):
  """Asserts states and metrics to 1e-5; momenta stand for gradients."""
  for got, wanted in zip(actual[1], expected[1], strict=True):
    assert set(got) == set(wanted)
    for name, value in wanted.items():
      # SimSiam's SSL loss starts at 0, but its terms are of order 1.
      np.testing.assert_allclose(
        got[name], value, rtol=1e-5, atol=1e-6, err_msg=name
      )
  for kind in ("params", "batch_stats", "opt_state", "target", "extra"):
    # BYOL's float32 cosines start near 0, so the gradient of the projector's
    # last bias is mostly rounding.
    least = 2e-3 if expected[0].target is not None else 1e-3
    _assert_trees_close(
      getattr(actual[0], kind), getattr(expected[0], kind), 1e-5, least
    )


@pytest.fixture(scope="module")
def one_device(request, tiny_config):
  method, *small = request.param.split(", ")
  config = tiny_config(method, **({"small_views": 2} if small else {}))
  return config, _three_steps(config, 1)


@pytest.mark.parametrize(
  ("one_device", "devices"),
  [
    # Only eight devices: more runs take long.
    pytest.param(
      method, devices, marks=() if devices == 8 else pytest.mark.slow
    )
    for method in METHODS
    for devices in (2, 4, 8)
  ],
  indirect=["one_device"],
)
def test_devices_agree_with_one(one_device, devices):
  config, expected = one_device
  _assert_same_run(_three_steps(config, devices), expected)


@pytest.mark.parametrize("one_device", METHODS_SLOW, indirect=True)
def test_step_runs_under_pmap(one_device):
  config, expected = one_device
  with jax.enable_x64(True):
    state, step = step_helpers.exact_parts(config)
    mapped = jax.pmap(
      step,
      parallel.AXIS,
      in_axes=(None, 0),
      out_axes=None,
      devices=jax.devices()[:4],
    )
    history = []
    for batch in step_helpers.view_batches(config):
      split = {k: v.reshape(4, -1, *v.shape[1:]) for k, v in batch.items()}
      state, metrics = mapped(state, split)
      history.append(jax.device_get(metrics))
    _assert_same_run((jax.device_get(state), history), expected)


def _one_step(config, devices):
  """Returns state and metrics after a float32 step with augmentation."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  mapped = parallel.map_step(
    step_helpers.make_step(config, parallel.AXIS), mesh
  )
  state = parallel.replicate(step_helpers.make_state(config), mesh)
  batch = parallel.shard(step_helpers.batch(), mesh)
  return jax.device_get(mapped(state, batch))


VIT = {
  "name": "vit",
  "image_size": 16,
  "patch": 4,
  "width": 16,
  "depth": 2,
  "heads": 2,
}


def test_stochastic_depth_is_drawn_for_each_image(tiny_config):
  """Draws do not depend on devices and micro-batches, also for copies."""

  def step(devices, micro_batches, rate=0.5):
    config = tiny_config(
      "simclr",
      micro_batches=micro_batches,
      encoder=VIT | {"stochastic_depth": rate},
      # No batch norm, which would see one micro-batch at a time, and no ReLU.
      projector={"widths": (16,), "last_norm": "none"},
      equivariance={"hidden_widths": ()},
    )
    return _one_step(config, devices)

  expected, wanted = step(1, 1)
  for devices, micro_batches in ((4, 1), (4, 2)):
    actual, got = step(devices, micro_batches)
    for name in ("loss", "loss_ssl", "loss_equivariance", "gradient_norm"):
      np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5)
    _assert_trees_close(actual.opt_state, expected.opt_state, 1e-4)
  _, whole = step(1, 1, rate=0.0)
  assert abs(whole["gradient_norm"] / wanted["gradient_norm"] - 1) > 1e-2


@pytest.mark.parametrize("method", METHODS_SLOW)
def test_devices_agree_in_float32_with_augmentation(method, tiny_config):
  """Runs the whole step; its views do not depend on the devices.

  A pre-activation within rounding of zero can fall on either side of a ReLU, so
  float32 cannot meet float64's tolerance of 1e-5.
  """
  config = tiny_config(method)
  runs = []
  for devices in (1, 8):
    runs.append(_one_step(config, devices))
  (expected, wanted), (actual, got) = runs
  for name in (name for name in wanted if name.startswith("loss")):
    np.testing.assert_allclose(
      got[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=name
    )
  np.testing.assert_allclose(
    got["gradient_norm"], wanted["gradient_norm"], rtol=2e-3
  )
  _assert_trees_close(actual.batch_stats, expected.batch_stats, 1e-4)


def test_devices_of_several_processes_are_counted():
  def mesh(*processes):
    devices = [types.SimpleNamespace(process_index=i) for i in processes]
    return types.SimpleNamespace(devices=np.array(devices), size=len(devices))

  parallel.check_batch_size(8, mesh(0, 0, 1, 1))
  with pytest.raises(UsageError, match="6 is not .* 4 devices of 2 processes"):
    parallel.check_batch_size(6, mesh(0, 0, 1, 1))
  with pytest.raises(UsageError, match="process 1 has 3, process 0 has 1"):
    parallel.check_batch_size(8, mesh(0, 1, 1, 1))
