"""Six steps of BYOL and MoCo v3 in plain JAX, compared with PyTorch."""

import functools

import ema_helpers
import jax
import numpy as np
import optax
import pytest

from essl_jax import losses, optim

LOSSES = {
  "byol": losses.byol,
  "mocov3": functools.partial(losses.moco_v3, temperature=0.2),
}


def _forward(networks, params, statistics, x, names):
  """Applies networks in sequence; returns output and running statistics."""
  statistics = dict(statistics)
  for name in names:
    x, updates = networks[name].apply(
      {"params": params[name], "batch_stats": statistics[name]},
      x,
      train=True,
      mutable=["batch_stats"],
    )
    statistics[name] = updates["batch_stats"]
  return x, statistics


def _both(networks, params, statistics, views, names):
  """Returns the outputs of both views in order, and the statistics."""
  outputs = []
  for view in views:
    output, statistics = _forward(networks, params, statistics, view, names)
    outputs.append(output)
  return outputs, statistics


def _make_step(networks, loss_of_pair, optimizer, coefficient):
  """Makes a step that updates the trained networks, then the target."""

  def loss(params, statistics, targets, views):
    predictions, statistics = _both(
      networks, params, statistics, views, ema_helpers.NETWORKS
    )
    first = loss_of_pair(predictions[0], targets[1])
    return first + loss_of_pair(predictions[1], targets[0]), statistics

  @jax.jit
  def step(state, k, views):
    targets, target_statistics = _both(
      networks, *state["target"], views, ema_helpers.TARGETS
    )
    params, statistics = state["trained"]
    (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(
      params, statistics, targets, views
    )
    updates, moments = optimizer.update(gradients, state["moments"], params)
    params = optax.apply_updates(params, updates)
    kept = coefficient(k)
    followed = {name: params[name] for name in ema_helpers.TARGETS}
    target = optax.incremental_update(followed, state["target"][0], 1 - kept)
    state = {
      "trained": (params, statistics),
      "target": (target, target_statistics),
      "moments": moments,
    }
    return state, value, kept

  return step


@pytest.mark.parametrize("method", LOSSES)
def test_golden_trajectory(golden, method):
  """Compares losses, coefficients and every tensor, also the target's."""
  file = golden("ema_trajectories")
  variables = ema_helpers.initial_variables()
  params, statistics = (
    {name: part[collection] for name, part in variables.items()}
    for collection in ("params", "batch_stats")
  )
  optimizer = optim.sgd(
    ema_helpers.LEARNING_RATE,
    weight_decay=ema_helpers.WEIGHT_DECAY,
    momentum=ema_helpers.MOMENTUM,
  )
  copies = (
    {name: tree[name] for name in ema_helpers.TARGETS}
    for tree in (params, statistics)
  )
  state = {
    "trained": (params, statistics),
    "target": tuple(copies),
    "moments": optimizer.init(params),
  }
  step = _make_step(
    ema_helpers.make_networks(),
    LOSSES[method],
    optimizer,
    optim.momentum_coefficient(ema_helpers.BASE_COEFFICIENT, ema_helpers.STEPS),
  )
  rows = []
  for k in range(ema_helpers.STEPS):
    state, *row = step(state, k, ema_helpers.views(file, k))
    rows.append(row)
  ema_helpers.assert_rows(file, method, *np.array(rows).T)
  for prefix, part in (("", "trained"), ("target_", "target")):
    params, statistics = state[part]
    for name in params:
      ema_helpers.assert_variables(
        file,
        method,
        prefix + name,
        {"params": params[name], "batch_stats": statistics[name]},
      )
