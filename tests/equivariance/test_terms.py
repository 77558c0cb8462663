"""Equivariance terms in steps of SimCLR: alone, together, on n devices."""

import functools

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import step_helpers
from term_helpers import SMALL, head_functions
import xla_flags

from essl_jax.config import parts
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.equivariance import stl
from essl_jax.errors import UsageError
from essl_jax.storage import checkpoint
from essl_jax.training import checks
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import views as views_lib


@pytest.fixture(scope="module")
def config_of(tiny_config):
  """Makes configs of SimCLR with terms of small heads."""

  def make(*terms, **fields):
    own = {x: SMALL[x] | fields.pop(x, {}) for x in terms}
    encoder = {"name": "term_helpers:Encoder"}
    return tiny_config("simclr", terms=terms, encoder=encoder, **own, **fields)

  return make


def test_every_term_is_tried_here():
  assert {*SMALL, "prediction"} == set(parts.TERM.names())


@pytest.fixture(scope="module")
def all_terms(config_of):
  """A config with all terms, and its views of a step on one device."""
  config = config_of(*SMALL)
  state = step_helpers.make_state(config)
  make = jax.jit(
    step_helpers.make_views(config), compiler_options=xla_flags.EMITTERS
  )
  return config, state, make(state, step_helpers.batch())


@pytest.mark.parametrize("name", SMALL)
def test_a_step(all_terms, config_of, name):
  """Finite; gradients reach all heads; its weight multiplies its loss."""
  config = config_of(name, **{name: {"weight": 0.5}})
  networks_lib.check_parts(config)
  names = [x.name for x in step_helpers.make_requests(config)]
  views = all_terms[2]
  views = views._replace(images={x: views.images[x] for x in names})
  state = step_helpers.make_state(config)
  step = step_helpers.make_step(config, None, lambda state, batch: batch)
  after, metrics = jax.jit(step)(state, views)
  own = metrics[f"loss_{name}"]
  np.testing.assert_allclose(
    metrics["loss"], metrics["loss_ssl"] + 0.5 * own, rtol=1e-5
  )
  for x in jax.tree.leaves((after.opt_state, metrics)):
    assert np.isfinite(x).all()
  for path, x in jax.tree_util.tree_leaves_with_path(after.opt_state):
    where = jax.tree_util.keystr(path)
    if name in where or "encoder" in where:
      assert np.abs(x).max() > 0, where


def test_shared_draws_do_not_depend_on_devices(all_terms):
  config, state, whole = all_terms
  spread = jax.jit(
    jax.shard_map(
      step_helpers.make_views(config, parallel.AXIS),
      mesh=parallel.make_mesh(jax.devices()[:8]),
      in_specs=(P(), P(parallel.AXIS)),
      out_specs=P(parallel.AXIS),
    ),
    compiler_options=xla_flags.EMITTERS,
  )(state, step_helpers.batch())
  for name, images in whole.images.items():
    np.testing.assert_allclose(spread.images[name], images, atol=1e-5)
  told = [x.targets["parameters"] for x in (spread, whole)]
  assert set(told[0]) == {"first", "second"}
  for x, y in zip(*map(jax.tree.leaves, told), strict=True):
    np.testing.assert_array_equal(x, y)


def test_pairs_and_chunks_share_draws(all_terms, config_of):
  """If all images are the same, equal views show shared draws."""
  config, state, views = all_terms
  batch = step_helpers.batch()
  same = {"image": np.repeat(batch["image"][:1], 16, axis=0)}
  images = jax.jit(step_helpers.make_views(config))(state, same).images
  for name, size in (
    ("first", 2),
    ("second", 2),
    ("care_first", 4),
    ("care_second", 4),
  ):
    groups = np.asarray(images[name]).reshape(16 // size, size, -1)
    np.testing.assert_array_equal(groups[:, 1:], groups[:, :-1])
    assert len(np.unique(groups[:, 0].round(4), axis=0)) == 16 // size
  drawn = views.targets["parameters"]["first"].parameters
  np.testing.assert_array_equal(drawn.hue[::2], drawn.hue[1::2])
  assert np.any(images["first"] != images["care_first"])
  alone = config_of("augself")
  made = jax.jit(step_helpers.make_views(alone))(state, same)
  assert len(np.unique(made.images["first"].round(4), axis=0)) == 16


@pytest.mark.parametrize("name", SMALL)
def test_shares_are_those_of_the_whole(all_terms, config_of, name):
  """Loss and gradients of four shares are those of the whole batch."""
  config, _, views = all_terms
  (term,) = networks_lib.active_terms(config_of(name))
  names = [x.name for x in term.requests(config.views)]
  random = np.random.default_rng(0)
  features = {x: random.normal(size=(16, 16)).astype("f") for x in names}
  targets = {"parameters": views.targets["parameters"]}

  def run(features, targets, axis_name=None):
    heads = head_functions(term, {}, axis_name)
    outputs = term.forward(heads, features, targets)
    return term.loss(outputs, targets, axis_name=axis_name)[0]

  value, expected = jax.jit(jax.value_and_grad(run))(features, targets)
  divide = lambda x: x.reshape(4, 4, *x.shape[1:])
  share = jax.value_and_grad(functools.partial(run, axis_name="i"))
  losses, found = jax.jit(jax.vmap(share, axis_name="i"))(
    *jax.tree.map(divide, (features, targets))
  )
  np.testing.assert_allclose(np.mean(losses), value, rtol=1e-5)
  for key, wanted in expected.items():
    gradient = found[key].reshape(16, 16) / 4
    bound = 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=bound)


def _first_step(config, views, devices):
  """State and metrics after one step in float64 on given views."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  with jax.enable_x64(True):
    state, step = step_helpers.exact_parts(config, lambda state, batch: batch)
    mapped = parallel.map_step(step, mesh)
    state = parallel.replicate(state, mesh)
    return jax.device_get(mapped(state, parallel.shard(views, mesh)))


@pytest.mark.slow
def test_devices_agree_with_one(all_terms):
  """Losses and gradients of the first step, whose momenta are these."""
  config, _, views = all_terms
  views = jax.device_get(views)
  images = {name: np.float64(x) for name, x in views.images.items()}
  views = views_lib.Views(images, views.targets)
  expected, wanted = _first_step(config, views, 1)
  actual, found = _first_step(config, views, 4)
  assert {f"loss_{name}" for name in SMALL} < set(found)
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
  leaves = jax.tree_util.tree_leaves_with_path(expected.opt_state)
  assert len(leaves) > 60
  for (path, x), y in zip(
    leaves, jax.tree.leaves(actual.opt_state), strict=True
  ):
    np.testing.assert_allclose(
      y,
      x,
      rtol=0,
      atol=1e-5 * max(np.abs(x).max(), 1e-3),
      err_msg=jax.tree_util.keystr(path),
    )


STILL = {
  "size": 16,
  "scale": (1.0, 1.0),
  "ratio": (1.0, 1.0),
  "flip": 0.0,
  "jitter_probability": 0.0,
  "grayscale": 0.0,
}


@pytest.mark.parametrize(
  ("name", "fields", "changes", "expected"),
  [
    (
      "stl",
      {},
      {"batch_size": 24},
      "config.stl: groups of 2 .* has 3 at a time",
    ),
    (
      "stl",
      {},
      {"micro_batches": 2},
      "config.stl: groups of 2 .* has 1 at a time",
    ),
    (
      "stl",
      dict.fromkeys((f"{x}_weight" for x in stl.PARTS), 0.0),
      {},
      "config.stl gives no part a weight above 0",
    ),
    (
      "care",
      {"chunks": 3},
      {},
      "config.care: chunks=3 of the view 'care_first' must divide the batch",
    ),
    ("care", {"chunks": 16}, {}, "chunks=16 must have 2 or more images each"),
    (
      "sie",
      {"equivariant_features": 16},
      {},
      "equivariant_features 16 must be fewer than the 16 features of the enco",
    ),
    (
      "augself",
      {"blur": 1.0},
      {},
      "config.augself.blur=1 needs .* they draw color, crop, flip: set it to 0",
    ),
    (
      "augself",
      {"crop": 0.0, "color": 0.0, "flip": 0.0},
      {},
      "config.augself gives no difference a weight above 0",
    ),
    *(
      (
        name,
        {},
        {"views": {"first": STILL, "second": STILL}},
        f"{kind}.forward: the views draw nothing in which they could",
      )
      for name, kind in (("equimod", "EquiMod"), ("sie", "SIE"))
    ),
  ],
)
def test_wrong_inputs_are_refused_in_one_line(
  config_of, name, fields, changes, expected
):
  """Before anything is computed."""
  batch = step_helpers.batch(24)
  source = ArraySource(*[batch["image"], batch["label"]] * 2)
  with pytest.raises(UsageError, match=expected) as error:
    config = config_of(name, **{name: fields}, **changes)
    experiment_lib.build(config, source).state_shapes()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("name", "fields", "changes", "expected"),
  [
    ("stl", {}, {"batch_size": 24}, "a device has 3 at a time"),
    ("care", {"chunks": 3}, {}, "chunks=3 of .* divide the batch size 16"),
    ("sie", {"equivariant_features": 20}, {}, "20 must be fewer than the 16"),
    ("sie", {"equivariant_features": 15}, {}, ""),
  ],
)
def test_batches_and_features_are_checked_before_data_are_opened(
  config_of, name, fields, changes, expected
):
  """The config and the devices suffice."""
  config = config_of(name, **{name: fields}, **changes)

  def check():
    networks_lib.check_parts(config)
    checks.check_batch(config, parallel.make_mesh())

  if expected:
    with pytest.raises(UsageError, match=f"config.{name}.*{expected}"):
      check()
  else:
    check()


CROPS = STILL | {"scale": (0.2, 1.0), "flip": 0.5}


@pytest.mark.parametrize(
  "terms",
  [("equimod", "stl"), pytest.param(tuple(SMALL), marks=pytest.mark.slow)],
)
def test_a_resumed_training_is_the_uninterrupted_one(
  config_of, tmp_path, terms
):
  """Equal bit for bit after a checkpoint, with the same shared draws."""
  batch = step_helpers.batch(64)
  source = ArraySource(*[batch["image"], batch["label"]] * 2)
  own = {"augself": {"color": 0.0}} if "augself" in terms else {}
  views = {"first": CROPS, "second": CROPS}
  config = config_of(*terms, views=views, **own)
  mesh = parallel.make_mesh(jax.devices()[:1])
  experiment = experiment_lib.build(config, source, mesh)
  step = experiment.make_step()

  def train(state, start, stop):
    batches = experiment.batches(start)
    for _ in range(start, stop):
      state, metrics = step(state, next(batches))
    return state, metrics

  whole, expected = train(experiment.create_state(), 0, 4)
  half, _ = train(experiment.create_state(), 0, 2)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, half, wait=True)
    restored = checkpoints.restore(experiment.create_state())
  found, metrics = train(restored, 2, 4)
  assert {f"loss_{name}" for name in terms} < set(metrics)
  jax.tree.map(
    np.testing.assert_array_equal, (found, metrics), (whole, expected)
  )


def test_terms_without_weight_change_nothing(config_of):
  """Neither views nor heads nor shared draws."""
  config = config_of("stl", "augself", stl={"weight": 0.0})
  assert [x.section for x in networks_lib.active_terms(config)] == ["augself"]
  requests = step_helpers.make_requests(config)
  assert [(x.shared_by, x.parameters) for x in requests] == [(1, True)] * 2
