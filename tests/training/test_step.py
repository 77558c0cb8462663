"""The train step: its terms, views and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_helpers

from essl_jax.methods import method as method_lib


@pytest.fixture(scope="module")
def simsiam_step(tiny_config):
  """State and metrics after one step of a tiny E-SimSiam in float32."""
  config = tiny_config("simsiam")
  state = step_helpers.make_state(config)
  step = step_helpers.make_step(config, None)
  return jax.jit(step)(state, {"image": step_helpers.images()})


def test_baseline_has_no_head_and_no_third_view(tiny_config):
  config = tiny_config("simsiam", equivariance={"weight": 0.0})
  state = step_helpers.make_state(config)
  step = step_helpers.make_step(config, None)
  assert "transformation_head" not in state.params
  _, metrics = jax.jit(step)(state, {"image": step_helpers.images()})
  assert metrics["loss"] == metrics["loss_ssl"]
  assert "loss_equivariance" not in metrics


@pytest.fixture(scope="module")
def simclr_steps(tiny_config):
  """Metrics of forty steps of a tiny E-SimCLR on one batch."""
  config = tiny_config("simclr")
  state = step_helpers.make_state(config)
  step = jax.jit(step_helpers.make_step(config, None))
  history = []
  for _ in range(40):
    state, metrics = step(state, {"image": step_helpers.images()})
    history.append(jax.device_get(metrics))
  return history


@pytest.fixture(scope="module")
def random_elements(tiny_config):
  """One element an image and a weight of 2.5: config, state, metrics."""
  config = tiny_config(
    "simclr", equivariance={"weight": 2.5, "all_elements": False}
  )
  state = step_helpers.make_state(config)
  step = step_helpers.make_step(config, None)
  _, metrics = jax.jit(step)(state, {"image": step_helpers.images()})
  return config, state, metrics


def test_weight_multiplies_the_equivariance_term(random_elements):
  _, _, metrics = random_elements
  np.testing.assert_allclose(
    metrics["loss"],
    metrics["loss_ssl"] + 2.5 * metrics["loss_equivariance"],
    rtol=1e-6,
  )


def test_one_random_element_per_image(random_elements):
  config, state, metrics = random_elements
  prepare = jax.jit(step_helpers.make_views(config))
  views = prepare(state, {"image": step_helpers.images()})
  labels = np.asarray(views.targets["transformed"]["labels"])
  assert views.images["transformed"].shape == (16, 8, 8, 3)
  assert set(labels) <= set(range(4))
  assert len(set(labels)) > 1
  assert np.isfinite(metrics["loss"])


def test_views_differ_by_step_and_not_by_anything_else(tiny_config):
  config = tiny_config("simclr")
  state = step_helpers.make_state(config)
  prepare = jax.jit(step_helpers.make_views(config))
  batch = {"image": step_helpers.images()}
  views = prepare(state, batch)
  again = prepare(state, batch)
  later = prepare(state.replace(step=state.step + 1), batch)
  other = prepare(state.replace(seed=state.seed + 1), batch)
  for kind in ("first", "second", "transformed"):
    drawn = views.images[kind]
    np.testing.assert_array_equal(drawn, again.images[kind])
    assert np.any(drawn != later.images[kind])
    assert np.any(drawn != other.images[kind])
  assert np.any(views.images["first"] != views.images["second"])


def test_bfloat16_keeps_parameters_and_losses_in_float32(
  tiny_config, simsiam_step
):
  config = tiny_config("simsiam", precision="bfloat16")
  state = step_helpers.make_state(config)
  step = step_helpers.make_step(config, None)
  half_step = jax.jit(step)(state, {"image": step_helpers.images()})
  losses = []
  for state, metrics in (simsiam_step, half_step):
    floats = [x for x in jax.tree.leaves(state) if x.dtype != jnp.int32]
    assert {x.dtype.name for x in floats} == {"float32", "uint32"}
    assert {x.dtype.name for x in metrics.values()} == {"float32"}
    losses.append(float(metrics["loss"]))
  assert losses[0] != losses[1], "bfloat16 was not used"
  np.testing.assert_allclose(losses[0], losses[1], atol=0.05)


def test_embedding_std():
  spread = np.random.default_rng(0).standard_normal((4096, 64))
  value = method_lib.embedding_std(jnp.asarray(spread))
  np.testing.assert_allclose(value, 1 / 8, rtol=0.02)
  collapsed = jnp.ones((16, 64))
  np.testing.assert_allclose(method_lib.embedding_std(collapsed), 0, atol=1e-3)


def test_online_classifier_learns_and_leaves_the_encoder_alone(tiny_config):
  """Its gradient stops at the features; it trains on the same batches."""
  config = tiny_config("barlow_twins", equivariance={"weight": 0.0})
  state = step_helpers.make_state(config)
  step = jax.jit(step_helpers.make_step(config, None))
  batch = step_helpers.batch()
  other = {"image": batch["image"], "label": (batch["label"] + 1) % 4}
  state, _ = step(state, batch)  # of the warm-up: the rate is still 0
  results = [step(state, b) for b in (batch, other)]
  for name in ("encoder", "projector"):
    got, wanted = (new.params[name] for new, _ in results)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
  kernels = [new.params["classifier"]["kernel"] for new, _ in results]
  assert np.any(kernels[0] != kernels[1])
  assert results[0][1]["loss"] == results[1][1]["loss"]
  history = []
  for _ in range(40):
    state, metrics = step(state, batch)
    history.append(float(metrics["loss_online"]))
  assert np.mean(history[-10:]) < np.mean(history[:10])


def test_crops_of_the_host_are_coloured_here(tiny_config):
  """Crops by view name stand in for whole images; a wrong size is named."""
  config = tiny_config("simclr")
  state = step_helpers.make_state(config)
  random = np.random.default_rng(0)
  crop = lambda n: random.integers(0, 256, (4, n, n, 3), np.uint8)
  batch = {"first": crop(16), "second": crop(16), "transformed": crop(8)}
  views = jax.jit(step_helpers.make_views(config))(state, batch)
  drawn = views.images
  assert drawn["first"].shape == (4, 16, 16, 3)
  assert drawn["transformed"].shape == (16, 8, 8, 3)
  assert np.any(np.abs(drawn["first"] - drawn["second"]) > 0.1)
  with pytest.raises(ValueError, match="of size 8 must be"):
    step_helpers.make_views(config)(state, batch | {"transformed": crop(9)})


def test_training_lowers_the_loss(simclr_steps):
  """Forty steps on one batch, freshly augmented at each."""
  losses = [float(metrics["loss"]) for metrics in simclr_steps]
  assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
