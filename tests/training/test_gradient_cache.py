"""Gradients by micro-batches against those of the whole batch."""

import dataclasses
import functools

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import step_helpers

from essl_jax.devices import parallel
from essl_jax.methods.method import Outputs
from essl_jax.training import gradient_cache
from essl_jax.training import networks as networks_lib
from essl_jax.training import views as views_lib

N = 16


# SimSiam's examples do not see each other: nothing could go wrong.
@pytest.fixture(scope="module", params=["simclr", "barlow_twins"])
def config(request, tiny_config):
  return tiny_config(request.param)


def _views():
  random = np.random.default_rng(0)
  images = {
    "first": random.standard_normal((N, 16, 16, 3)),
    "second": random.standard_normal((N, 16, 16, 3)),
    "transformed": random.standard_normal((4 * N, 8, 8, 3)),
  }
  labels = np.arange(4 * N, dtype=np.int32) % 4
  targets = {"transformed": {"labels": labels}}
  return views_lib.Views(
    images, targets | {"label": step_helpers.batch(N)["label"]}
  )


def _make_forward(networks, train):
  """What the step runs on its views."""

  def forward(params, batch_stats, views):
    outputs, updates = networks.apply(
      {"params": params, "batch_stats": batch_stats},
      views.images,
      views.targets,
      train=train,
      mutable=["batch_stats"],
    )
    return outputs, updates["batch_stats"]

  return forward


def _run(config, micro_batches, devices=1, train=False):
  """Loss, gradients, outputs and statistics in float64, averaged."""
  state = step_helpers.make_state(config)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  with jax.enable_x64(True):
    wide = dataclasses.replace(config, precision="float64")
    networks = networks_lib.make_networks(
      wide, step_helpers.make_parts(wide), axis_name=parallel.AXIS
    )
    state = jax.tree.map(lambda x: x.astype(np.float64), state)

    def objective(outputs):
      own, *_, logits = outputs
      loss = networks.method.loss(Outputs(own), axis_name=parallel.AXIS)
      loss += (logits**2).mean()
      return loss, loss

    def local(params, batch_stats, views):
      grads, loss, outputs, statistics = gradient_cache.gradients(
        _make_forward(networks, train),
        objective,
        params,
        batch_stats,
        views,
        examples=N // devices,
        micro_batches=micro_batches,
      )
      mean = functools.partial(jax.lax.pmean, axis_name=parallel.AXIS)
      return mean((loss, grads)), outputs, statistics

    mapped = jax.jit(
      jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(), P(parallel.AXIS)),
        out_specs=(P(), P(parallel.AXIS), P()),
        check_vma=False,
      )
    )
    return jax.device_get(mapped(state.params, state.batch_stats, _views()))


@pytest.fixture(scope="module")
def whole(config):
  return _run(config, 1)


@pytest.mark.parametrize(
  ("micro_batches", "devices"),
  [pytest.param(4, 1, marks=pytest.mark.slow), (2, 4)],
)
def test_gradients_are_the_whole_batchs(config, whole, micro_batches, devices):
  """With frozen statistics, to float error; the negatives are all there."""
  (wanted_loss, wanted), outputs, _ = whole
  (loss, grads), same_outputs, _ = _run(config, micro_batches, devices)
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  for (path, want), got in zip(
    jax.tree_util.tree_leaves_with_path(wanted),
    jax.tree.leaves(grads),
    strict=True,
  ):
    scale = max(np.max(np.abs(want)), 1e-3)
    np.testing.assert_allclose(
      got,
      want,
      rtol=0,
      atol=1e-5 * scale,
      err_msg=jax.tree_util.keystr(path),
    )
  if devices == 1:
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9),
      same_outputs,
      outputs,
    )


def test_batch_norm_sees_one_part_at_a_time(tiny_config):
  """Outputs are those of the parts alone; the statistics move twice."""
  config = tiny_config("simclr")
  state = step_helpers.make_state(config)
  networks = networks_lib.make_networks(config)
  views = jax.tree.map(lambda x: np.asarray(x, np.float32), _views())
  forward = _make_forward(networks, train=True)
  objective = lambda outputs: ((outputs[-1] ** 2).mean(), None)
  _, _, outputs, statistics = jax.jit(
    lambda params, stats: gradient_cache.gradients(
      forward, objective, params, stats, views, examples=N, micro_batches=2
    )
  )(state.params, state.batch_stats)
  expected = state.batch_stats
  alone = jax.jit(forward)
  for part in (0, 1):
    rows = np.arange(N).reshape(2, -1)[part]
    turned = np.arange(4 * N).reshape(4, 2, -1)[:, part].ravel()
    kept = {"first": rows, "second": rows, "transformed": turned}
    cut = {name: views.images[name][part] for name, part in kept.items()}
    wanted, expected = alone(state.params, expected, views_lib.Views(cut))
    (found, logits), (own, wanted_logits) = outputs, wanted
    np.testing.assert_allclose(
      found["projections"][0][rows], own["projections"][0], atol=1e-4
    )
    np.testing.assert_allclose(logits[turned], wanted_logits, atol=1e-4)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    statistics,
    expected,
  )


def test_parts_that_do_not_fit_are_refused(tiny_config):
  state = step_helpers.make_state(tiny_config("simclr"))
  with pytest.raises(ValueError, match="16 examples cannot be divided into 3"):
    gradient_cache.gradients(
      lambda *_: None,
      lambda _: None,
      state.params,
      {},
      _views(),
      examples=N,
      micro_batches=3,
    )


def _temporary_bytes(config):
  state = step_helpers.make_state(config)
  step = step_helpers.make_step(config, None)
  batch = {"image": step_helpers.images(64)}
  compiled = jax.jit(step).lower(state, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_falls_with_the_parts(tiny_config):
  """By XLA's own count; what is left are weights' gradients and the views."""
  config = tiny_config("simclr", batch_size=64)
  whole, quarter = (
    _temporary_bytes(dataclasses.replace(config, micro_batches=k))
    for k in (1, 4)
  )
  assert quarter < 0.45 * whole
