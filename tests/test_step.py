"""The train step: golden trajectories, devices, pmap, precision."""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import convert, methods, optim, parallel, transformations
from essl_jax import step as step_lib
from essl_jax.models import resnet

GOLDEN_LOSS = 0.550063
GOLDEN_GRADIENT_NORM = 0.0
GOLDEN = pathlib.Path(__file__).parent / "golden"
TRAJECTORIES = ("simsiam_lambda0.4", "simsiam_lambda0.0", "simclr_lambda0.4")
# The PyTorch program registers encoder and projector twice; the tensors were
# filled under the second name and are recorded under the first.
FILLED = {
  "encoder": "net.0.",
  "projector": "net.1.net.",
  "predictor": "predictor.net.",
  "transformation_head": "predictor2.",
}
RECORDED = FILLED | {"encoder": "encoder.", "projector": "projector.net."}


def _golden_tensors(name):
  """The trajectory's initial PyTorch tensors by branch, without prefixes."""
  path = GOLDEN / "weights.py"
  spec = importlib.util.spec_from_file_location("golden_weights", path)
  weights = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(weights)
  shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())
  named = shapes[f"{name}/branch"] | shapes.get(f"{name}/predictor", {})
  branches = {}
  for branch, prefix in FILLED.items():
    branches[branch] = {
      key.removeprefix(prefix): weights.golden_array(key, tuple(shape))
      for key, shape in named.items()
      if key.startswith(prefix)
    }
  return {branch: tensors for branch, tensors in branches.items() if tensors}


def _golden_views(i, weight):
  random = np.random.default_rng([7, i])
  shapes = ((32, 32, 32, 3), (32, 32, 32, 3), (32, 16, 16, 3))
  first, second, third = (
    random.standard_normal(shape).astype(np.float32) for shape in shapes
  )
  if weight == 0:
    return (first, second)
  return (first, second, *transformations.four_fold_rotation(third))


def _golden_config(name):
  method, _, weight = name.partition("_lambda")
  return config_lib.parse(
    {
      "method": method,
      "batch_size": 32,
      "data": {"name": "digits"},
      "views": {
        "first": {"size": 32},
        "second": {"size": 32},
        "third": {"size": 16},
      },
      "equivariance": {
        "weight": float(weight),
        "last_hidden_relu": method == "simclr",
      },
      "predictor_hidden": 512 if method == "simsiam" else None,
      "temperature": 0.5 if method == "simclr" else None,
    }
  )


def _to_jax(branch, tensors):
  if branch == "encoder":
    return convert.from_torch_resnet(tensors)
  return convert.from_torch_mlp(tensors)


def _by_branch(variables, kind):
  return {k: v[kind] for k, v in variables.items() if v.get(kind)}


@pytest.fixture(scope="module", params=TRAJECTORIES)
def trajectory(request, golden):
  """Six full-width steps on the golden views: figures and tensors."""
  name = request.param
  config = _golden_config(name)
  weight = config.equivariance.weight
  base = 0.06 * 32 / 256
  schedule = optim.warmup_cosine(base, warmup_steps=2, total_steps=6)
  optimizer = optim.make_optimizer(
    schedule, predictor_learning_rate=base, weight_decay=5e-4, momentum=0.9
  )
  networks = methods.make_networks(
    config, conv_general_dilated=resnet.default_conv()
  )
  tensors = _golden_tensors(name)
  if weight == 0:
    del tensors["transformation_head"]
  variables = {k: _to_jax(k, v) for k, v in tensors.items()}
  params = _by_branch(variables, "params")
  state = step_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.zeros((), jnp.uint32),
    params=params,
    batch_stats=_by_branch(variables, "batch_stats"),
    opt_state=optimizer.init(params),
  )
  step = jax.jit(
    step_lib.make_train_step(
      networks,
      methods.make_loss(config, None),
      optimizer,
      schedule,
      lambda state, batch: step_lib.Views(*batch),
      equivariance_weight=weight,
    )
  )
  names = ("learning_rate", "loss", "loss_ssl", "loss_equivariance")
  rows = []
  for i in range(6):
    state, metrics = step(state, _golden_views(i, weight))
    rows.append([float(metrics.get(key, 0)) for key in names])
  expected = {
    key.removeprefix(name + "/"): value
    for key, value in golden("trajectories").items()
    if key.startswith(name + "/")
  }
  return np.array(rows), state, expected, tensors


def test_golden_losses(trajectory):
  rows, _, expected, _ = trajectory
  wanted = expected["lr_total_ssl_rotation"]
  np.testing.assert_allclose(rows[:, 0], wanted[:, 0], atol=1e-6)
  np.testing.assert_allclose(rows[:, 1:], wanted[:, 1:], atol=2e-3)


def test_golden_tensors(trajectory):
  """All tensors after six steps; PyTorch's running variance is unbiased."""
  _, state, expected, tensors = trajectory
  checked = 0
  for branch, initial in tensors.items():
    like = _to_jax(branch, initial)
    flat_names = _torch_names(branch, initial, like)
    final = {
      "params": state.params[branch],
      "batch_stats": state.batch_stats.get(branch, {}),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(final):
      name = flat_names[jax.tree_util.keystr(path)]
      value = np.asarray(leaf)
      if name.endswith("running_var"):
        passes = 2 + (branch == "encoder" and "transformation_head" in tensors)
        value = _unbiased(branch, name, initial[name], value, passes)
      norm = expected[f"norm/{RECORDED[branch]}{name}"]
      np.testing.assert_allclose(
        np.linalg.norm(value), norm, rtol=1e-3, err_msg=name
      )
      checked += 1
  recorded = [key for key in expected if key.startswith("norm/")]
  own = ("norm/encoder.", "norm/projector.", "norm/predictor")
  wanted = [k for k in recorded if k.startswith(own)]
  if "transformation_head" not in tensors:
    wanted = [k for k in wanted if not k.startswith("norm/predictor2")]
  assert checked == len([k for k in wanted if "num_batches" not in k])


def _torch_names(branch, initial, like):
  """Which PyTorch tensor a leaf of our tree is, found by a marked copy."""
  names = list(initial)
  marked = {
    name: np.full(initial[name].shape, i, np.float32)
    for i, name in enumerate(names)
  }
  tree = _to_jax(branch, marked)
  assert jax.tree.structure(tree) == jax.tree.structure(like)
  return {
    jax.tree_util.keystr(path): names[int(np.ravel(leaf)[0])]
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _unbiased(branch, name, initial, value, passes):
  """Scales what the batches added to a running variance by n / (n - 1).

  Every pass of the encoder has the same n at a given layer: 128 images of half
  the side stand against 32.
  """
  n = 32
  if branch == "encoder":
    side = 32
    if name.startswith("layer"):
      side = 32 // 2 ** (int(name[5]) - 1)
    n = 32 * side * side
  kept = initial * 0.9 ** (6 * passes)
  return kept + (value - kept) * n / (n - 1)


# ---------------------------------------------------------------- small nets


def _images(n=16):
  """Coarse random patterns: unlike noise, they differ in their features."""
  coarse = np.random.default_rng(3).integers(0, 250, (n, 4, 4, 3), np.uint8)
  return coarse.repeat(4, axis=1).repeat(4, axis=2)


def _parts(config, axis_name, prepare=None):
  schedule = optim.warmup_cosine(0.05, warmup_steps=1, total_steps=60)
  optimizer = optim.make_optimizer(
    schedule, predictor_learning_rate=0.05, weight_decay=5e-4, momentum=0.9
  )
  networks = methods.make_networks(config, axis_name=axis_name)
  step = step_lib.make_train_step(
    networks,
    methods.make_loss(config, axis_name),
    optimizer,
    schedule,
    prepare or step_lib.make_views(config, axis_name),
    equivariance_weight=config.equivariance.weight,
    axis_name=axis_name,
  )
  state = step_lib.create_state(
    networks, optimizer, seed=config.seed, image_shape=(16, 16, 3)
  )
  return state, step


def _double(tree):
  to_double = lambda x: x.astype(jnp.float64)
  is_float = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  return jax.tree.map(lambda x: to_double(x) if is_float(x) else x, tree)


def _exact_parts(config):
  """State and per-device step in float64, on given views.

  In float32 a pre-activation within rounding of zero can fall on either side
  of a ReLU, and the gradients of n devices then differ from one's in the
  fourth digit. Float64 leaves what is to be tested: the semantics.
  """
  state, _ = _parts(config, parallel.AXIS)
  config = dataclasses.replace(config, precision="float64")
  prepare = lambda state, batch: step_lib.Views(**batch)
  _, step = _parts(config, parallel.AXIS, prepare)
  return _double(state), step


def _view_batches():
  """Three batches of float64 views and labels, 16 images each."""
  for i in range(3):
    random = np.random.default_rng(i)
    batch = {
      "first": random.standard_normal((16, 16, 16, 3)),
      "second": random.standard_normal((16, 16, 16, 3)),
      "transformed": random.standard_normal((64, 8, 8, 3)),
      "labels": np.arange(64, dtype=np.int32) % 4,
    }
    yield batch


def _three_steps(config, devices):
  """Three steps over a mesh of so many devices: state and metrics."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  with jax.enable_x64(True):
    state, step = _exact_parts(config)
    mapped = parallel.map_step(step, mesh)
    state = parallel.replicate(state, mesh)
    history = []
    for batch in _view_batches():
      state, metrics = mapped(state, parallel.shard(batch, mesh))
      history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def _assert_trees_close(actual, expected, relative):
  """Every tensor within `relative` of its largest entry."""
  leaves = jax.tree_util.tree_leaves_with_path(expected)
  for (path, wanted), got in zip(leaves, jax.tree.leaves(actual), strict=True):
    scale = max(np.max(np.abs(wanted)), 1e-6)
    np.testing.assert_allclose(
      got,
      wanted,
      rtol=0,
      atol=relative * scale,
      err_msg=jax.tree_util.keystr(path),
    )


def _assert_same_run(actual, expected):
  """States and metrics within 1e-5 relative; momenta stand for gradients."""
  for got, wanted in zip(actual[1], expected[1], strict=True):
    assert set(got) == set(wanted)
    for name, value in wanted.items():
      # The SSL loss of SimSiam starts at 0: its terms are of order 1.
      np.testing.assert_allclose(
        got[name], value, rtol=1e-5, atol=1e-6, err_msg=name
      )
  for kind in ("params", "batch_stats", "opt_state"):
    _assert_trees_close(
      getattr(actual[0], kind), getattr(expected[0], kind), 1e-5
    )


@pytest.fixture(scope="module", params=["simclr", "simsiam"])
def one_device(request, tiny_config):
  config = tiny_config(request.param)
  return config, _three_steps(config, 1)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_agree_with_one(one_device, devices):
  config, expected = one_device
  _assert_same_run(_three_steps(config, devices), expected)


def test_step_runs_under_pmap(one_device):
  config, expected = one_device
  with jax.enable_x64(True):
    state, step = _exact_parts(config)
    mapped = jax.pmap(
      step,
      parallel.AXIS,
      in_axes=(None, 0),
      out_axes=None,
      devices=jax.devices()[:4],
    )
    history = []
    for batch in _view_batches():
      split = {k: v.reshape(4, -1, *v.shape[1:]) for k, v in batch.items()}
      state, metrics = mapped(state, split)
      history.append(jax.device_get(metrics))
    _assert_same_run((jax.device_get(state), history), expected)


@pytest.mark.parametrize("method", ["simclr", "simsiam"])
def test_devices_agree_in_float32_with_augmentation(method, tiny_config):
  """The whole step as it is used; its views do not depend on the devices."""
  config = tiny_config(method)
  metrics = []
  for devices in (1, 8):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    state, step = _parts(config, parallel.AXIS)
    mapped = parallel.map_step(step, mesh)
    batch = parallel.shard({"image": _images()}, mesh)
    metrics.append(mapped(parallel.replicate(state, mesh), batch)[1])
  for name in ("loss", "loss_ssl", "loss_equivariance"):
    np.testing.assert_allclose(
      metrics[1][name], metrics[0][name], rtol=1e-4, atol=1e-5, err_msg=name
    )


def test_one_step_golden(tiny_config):
  """One step of a tiny E-SimSiam, recorded.

  Update these numbers only when the meaning of a step changes on purpose:
  initialisation, augmentation, objective or optimiser. Then trained results
  change as well, and CHANGELOG.md has to say so.
  """
  state, step = _parts(tiny_config("simsiam"), None)
  _, metrics = jax.jit(step)(state, {"image": _images()})
  recorded = {"loss": GOLDEN_LOSS, "gradient_norm": GOLDEN_GRADIENT_NORM}
  for name, value in recorded.items():
    np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)


def test_baseline_has_no_head_and_no_third_view(tiny_config):
  config = tiny_config("simsiam", equivariance={"weight": 0.0})
  state, step = _parts(config, None)
  assert "transformation_head" not in state.params
  _, metrics = jax.jit(step)(state, {"image": _images()})
  assert metrics["loss"] == metrics["loss_ssl"]
  assert "loss_equivariance" not in metrics


def test_weight_multiplies_the_equivariance_term(tiny_config):
  config = tiny_config("simclr", equivariance={"weight": 2.5})
  state, step = _parts(config, None)
  _, metrics = jax.jit(step)(state, {"image": _images()})
  np.testing.assert_allclose(
    metrics["loss"],
    metrics["loss_ssl"] + 2.5 * metrics["loss_equivariance"],
    rtol=1e-6,
  )


def test_one_random_element_per_image(tiny_config):
  config = tiny_config("simclr", equivariance={"all_elements": False})
  state, step = _parts(config, None)
  views = step_lib.make_views(config)(state, {"image": _images()})
  assert views.transformed.shape == (16, 8, 8, 3)
  assert set(np.asarray(views.labels)) <= set(range(4))
  assert len(set(np.asarray(views.labels))) > 1
  _, metrics = jax.jit(step)(state, {"image": _images()})
  assert np.isfinite(metrics["loss"])


def test_views_differ_by_step_and_not_by_anything_else(tiny_config):
  config = tiny_config("simclr")
  state, _ = _parts(config, None)
  prepare = jax.jit(step_lib.make_views(config))
  batch = {"image": _images()}
  views = prepare(state, batch)
  again = prepare(state, batch)
  later = prepare(state.replace(step=state.step + 1), batch)
  other = prepare(state.replace(seed=state.seed + 1), batch)
  for kind in ("first", "second", "transformed"):
    np.testing.assert_array_equal(getattr(views, kind), getattr(again, kind))
    assert np.any(getattr(views, kind) != getattr(later, kind))
    assert np.any(getattr(views, kind) != getattr(other, kind))
  assert np.any(views.first != views.second)


def test_bfloat16_keeps_parameters_and_losses_in_float32(tiny_config):
  full = tiny_config("simsiam")
  half = tiny_config("simsiam", precision="bfloat16")
  losses = []
  for config in (full, half):
    state, step = _parts(config, None)
    state, metrics = jax.jit(step)(state, {"image": _images()})
    floats = [x for x in jax.tree.leaves(state) if x.dtype != jnp.int32]
    assert {x.dtype.name for x in floats} == {"float32", "uint32"}
    assert {x.dtype.name for x in metrics.values()} == {"float32"}
    losses.append(float(metrics["loss"]))
  assert losses[0] != losses[1], "bfloat16 was not used"
  np.testing.assert_allclose(losses[0], losses[1], atol=0.05)


def test_embedding_std():
  spread = np.random.default_rng(0).standard_normal((4096, 64))
  value = step_lib.embedding_std(jnp.asarray(spread))
  np.testing.assert_allclose(value, 1 / 8, rtol=0.02)
  collapsed = jnp.ones((16, 64))
  np.testing.assert_allclose(step_lib.embedding_std(collapsed), 0, atol=1e-3)


def test_training_lowers_the_loss(tiny_config):
  """Forty steps on one batch: its rotations are learned."""
  state, step = _parts(tiny_config("simclr"), None)
  step = jax.jit(step, donate_argnums=0)
  history = []
  for _ in range(40):
    state, metrics = step(state, {"image": _images()})
    history.append(jax.device_get(metrics))
  for name in ("loss", "loss_equivariance"):
    first = np.mean([float(m[name]) for m in history[:5]])
    last = np.mean([float(m[name]) for m in history[-5:]])
    assert last < first - 0.1, name
