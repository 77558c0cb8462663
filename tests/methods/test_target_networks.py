"""Target networks in the train step: golden steps, devices, resuming."""

import ema_helpers
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_helpers

from essl_jax import config as config_lib
from essl_jax import optim
from essl_jax.devices import parallel
from essl_jax.methods.byol import BYOL
from essl_jax.methods.dino import DINO, Prototypes
from essl_jax.methods.method import Projector
from essl_jax.methods.moco_v3 import MoCoV3
from essl_jax.storage import checkpoint
from essl_jax.training import networks as networks_lib
from essl_jax.training import problem as problem_lib
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib

HEADS = {
  "projector": Projector((20, 8), last_norm="none", bias=True),
  "predictor_hidden": 20,
  "target_decay": ema_helpers.BASE_COEFFICIENT,
}
METHODS = {"byol": BYOL(**HEADS), "mocov3": MoCoV3(**HEADS, temperature=0.2)}


def _problem(method, axis_name=None):
  common = {"dtype": jnp.float32, "axis_name": axis_name}
  rate = ema_helpers.LEARNING_RATE
  return problem_lib.Problem(
    networks_lib.Networks(
      encoder=ema_helpers.Encoder(axis_name=axis_name),
      method=method,
      asked=(("first", "second"),),
      common=common,
    ),
    optim.sgd(
      rate,
      weight_decay=ema_helpers.WEIGHT_DECAY,
      momentum=ema_helpers.MOMENTUM,
    ),
    lambda step: jnp.float32(rate),
    total_steps=ema_helpers.STEPS,
    axis_name=axis_name,
  )


def _initial_state(problem):
  variables = ema_helpers.initial_variables()
  params, statistics = (
    {name: part[collection] for name, part in variables.items()}
    for collection in ("params", "batch_stats")
  )
  state = step_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.zeros((), jnp.uint32),
    params=params,
    batch_stats=statistics,
    opt_state=problem.optimizer.init(params),
  )
  return step_lib.begin(state, problem.networks.method)


def _prepare(state, batch):
  del state
  return views_lib.Views(batch)


def _views(golden_file, step):
  first, second = ema_helpers.views(golden_file, step)
  return {
    "first": first.reshape(-1, 2, 2, 3),
    "second": second.reshape(-1, 2, 2, 3),
  }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("devices", [1, 4])
def test_golden_trajectory(golden, name, devices):
  """Compares losses, coefficients and every tensor, also the target's."""
  file, method = golden("ema_trajectories"), METHODS[name]
  problem = _problem(method, parallel.AXIS)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  step = parallel.map_step(step_lib.make_train_step(problem, _prepare), mesh)
  state = parallel.replicate(_initial_state(problem), mesh)
  losses, coefficients = [], []
  for k in range(ema_helpers.STEPS):
    momentum = method.target_momentum(jnp.int32(k), ema_helpers.STEPS)
    coefficients.append(float(momentum))
    state, metrics = step(state, parallel.shard(_views(file, k), mesh))
    losses.append(float(metrics["loss"]))
  ema_helpers.assert_rows(file, name, losses, coefficients)
  for prefix, params, statistics in (
    ("", state.params, state.batch_stats),
    ("target_", state.target["params"], state.target["batch_stats"]),
  ):
    for part in params:
      ema_helpers.assert_variables(
        file,
        name,
        prefix + part,
        {"params": params[part], "batch_stats": statistics[part]},
      )


# Colour operations take long to compile.
CROP = {"size": 16, "jitter_probability": 0.0, "grayscale": 0.0}
CHEAP = {
  "views": {
    **dict.fromkeys(("first", "second"), CROP),
    "small": CROP | {"size": 8, "scale": (0.05, 0.4)},
  },
  "encoder": {"blocks": (1,)},
  "equivariance": {"weight": 0.0},
}


@pytest.mark.parametrize(
  ("name", "fields"), [("byol", {}), ("dino", {"small_views": 2})]
)
def test_target_follows_and_is_restored(name, fields, tiny_config, tmp_path):
  """It starts as a copy, moves between old and new, and resumes exactly."""
  config = tiny_config(name, **CHEAP, **fields)
  method = config_lib.method(config)
  state = step_helpers.make_state(config)
  assert set(state.target["params"]) == {"encoder", *method.target_heads}
  _assert_equal(state.target["params"]["encoder"], state.params["encoder"])
  step = jax.jit(step_helpers.make_step(config, None))
  batch = {"image": step_helpers.images()}
  for _ in range(2):  # the first step is warm-up: the rate is still 0
    before = state
    state, _ = step(state, batch)
  kept = float(method.target_momentum(before.step, 60))
  leaf = lambda tree: np.asarray(tree["projector"]["dense_1"]["kernel"])
  wanted = kept * leaf(before.target["params"])
  wanted += (1 - kept) * leaf(state.params)
  np.testing.assert_allclose(
    leaf(state.target["params"]), wanted, rtol=1e-6, atol=1e-8
  )
  assert np.any(leaf(state.target["params"]) != leaf(state.params))
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, state, wait=True)
    restored = checkpoints.restore(step_helpers.make_state(config))
  _assert_equal(restored, state)
  _assert_equal(step(restored, batch)[0], step(state, batch)[0])


def _assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_target_has_no_stochastic_depth():
  """The trained network drops images as configured; the target drops none."""

  class Dropping(nn.Module):
    """A linear layer that drops images at random."""

    stochastic_depth: float = 0.0

    @nn.compact
    def __call__(self, x, *, train, image_keys):
      """Returns features [N, 4]."""
      kept = jax.vmap(jax.random.uniform)(image_keys) >= self.stochastic_depth
      x = x.reshape(len(x), -1)
      return nn.Dense(4)(jnp.where(kept[:, None] | (not train), x, 0))

  method = BYOL(projector=Projector((4,), last_norm="none"))
  networks = networks_lib.Networks(
    Dropping(stochastic_depth=1.0), method, asked=(("first", "second"),)
  )
  images = jnp.arange(24.0).reshape(2, 2, 2, 3)
  views = dict.fromkeys(("first", "second"), images)
  options = {"train": True, "image_keys": jax.random.split(jax.random.key(0))}
  variables = networks.init(jax.random.key(0), views, {}, **options)

  def run(networks):
    found, _ = networks.apply(
      variables, views, {}, mutable=["batch_stats"], **options
    )
    return found[0]["projections"]

  own, found = run(networks), run(networks.as_target())
  options["train"] = False
  wanted = run(networks.as_target())
  assert not np.any(own[0])
  assert np.any(wanted[0])
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("name", ["byol", "dino"])
def test_micro_batches_of_a_network_without_norms(name):
  """Without batch norm, micro-batches change neither gradient nor target."""

  class Plain(nn.Module):
    """Linear features, no batch norm."""

    @nn.compact
    def __call__(self, x):
      """Returns features [N, 16]."""
      return nn.Dense(16)(x.reshape(len(x), -1))

  class PlainBYOL(BYOL):
    """BYOL with linear heads."""

    def make_heads(self, **common):
      """Makes two linear layers."""
      del common
      return {"projector": nn.Dense(8), "predictor": nn.Dense(8)}

  class PlainDINO(DINO):
    """DINO with a linear projector."""

    def make_heads(self, **common):
      """Makes a linear layer before the prototypes."""
      del common
      return {"projector": nn.Dense(8), "prototypes": Prototypes(12)}

  method = PlainBYOL(small_views=3)
  if name == "dino":
    method = PlainDINO(small_views=3, prototypes=12)
  random = np.random.default_rng(0)
  views = {
    name: random.standard_normal((rows, 2, 2, 3)).astype(np.float32)
    for name, rows in (("first", 8), ("second", 8), ("small", 24))
  }
  found = []
  for parts in (1, 4):
    problem = problem_lib.Problem(
      networks_lib.Networks(Plain(), method, asked=(tuple(views),)),
      optim.sgd(0.1, weight_decay=0.0, momentum=0.9),
      lambda step: jnp.float32(0.1),
      micro_batches=parts,
    )
    blank = jax.tree.map(jnp.asarray, views)
    variables = problem.networks.init(jax.random.key(0), blank, {}, train=False)
    params = variables["params"]
    state = step_lib.TrainState(
      step=jnp.int32(0),
      seed=jnp.uint32(0),
      params=params,
      batch_stats={},
      opt_state=problem.optimizer.init(params),
    )
    state = step_lib.begin(state, problem.networks.method)
    step = jax.jit(step_lib.make_train_step(problem, _prepare))
    found.append(jax.device_get(step(state, views)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found
  )
