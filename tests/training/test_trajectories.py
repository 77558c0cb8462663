"""Six full-width steps against the PyTorch program's, tensor by tensor."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_helpers
import xla_flags

from essl_jax import config as config_lib
from essl_jax import convert, optim, transformations
from essl_jax.models.layers import convolution
from essl_jax.training import networks as networks_lib
from essl_jax.training import problem as problem_lib
from essl_jax.training import step as step_lib

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# Each compiles for minutes. By default test_ema_trajectories follows the
# PyTorch program's steps with small networks, and test_models_golden its
# networks at full width.
pytestmark = pytest.mark.slow
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
  views = {"first": first, "second": second}
  if weight:
    turned, labels = transformations.four_fold_rotation(third)
    views |= {"transformed": turned, "labels": labels}
  return views


def _golden_config(name):
  method, _, weight = name.partition("_lambda")
  own = {"temperature": 0.5} if method == "simclr" else {}
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
      "encoder": {"stem": "cifar"},
      **own,
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
  rate = base if config.method == "simsiam" else None
  optimizer = optim.make_optimizer(step_helpers.sgd_groups(schedule, rate))
  networks = networks_lib.make_networks(
    config, conv_general_dilated=convolution.default_conv()
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
      problem_lib.Problem(networks, optimizer, schedule),
      lambda state, batch: step_helpers.to_views(batch),
    ),
    compiler_options=xla_flags.OPTIMISED,
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
