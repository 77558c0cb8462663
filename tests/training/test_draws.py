"""Draws that images share, and the parameters that parts get."""

import functools
import types

import folder_helpers
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest
import step_helpers

from essl_jax.augment import (
  View,
  ViewRequest,
  apply_view,
  normalize,
  window_name,
)
from essl_jax.devices import parallel
from essl_jax.equivariance.term import Term
from essl_jax.errors import UsageError
from essl_jax.evaluation import pictures
from essl_jax.methods.simclr import SimCLR
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import views as views_lib

# Crops and flips alone: colours take long to compile.
FLIPPED = View(size=8, scale=(0.1, 0.5), jitter_probability=0, grayscale=0)
LAID = View(
  size=8, jitter_probability=0, grayscale=0, solarize=0.5, groups=("rotation",)
)
BATCH = {"image": step_helpers.images(8)}
tell = functools.partial(ViewRequest, parameters=True)


def part(*requests):
  """A part that asks for some views."""
  return types.SimpleNamespace(requests=lambda _: list(requests))


def state():
  """Of step 4 and seed 1."""
  return step_helpers.step_lib.TrainState(
    jnp.int32(4), jnp.uint32(1), {}, {}, ()
  )


def draw(*requests, batch=None):
  """The views of eight images."""
  return jax.jit(views_lib.make_views(requests))(state(), batch or BATCH)


def told(*requests):
  """How they were drawn, by name; nothing else is computed."""
  prepare = views_lib.make_views(requests)
  run = jax.jit(lambda *x: prepare(*x).targets["parameters"])
  return {name: x.parameters for name, x in run(state(), BATCH).items()}


def assert_groups(parameters, size):
  """Groups of consecutive images share their draws, and others do not."""
  for leaf in jax.tree.leaves(parameters):
    groups = np.asarray(leaf).reshape(-1, size, *leaf.shape[1:])
    assert (groups == groups[:, :1]).all()
  firsts = np.asarray(parameters.crop)[::size]
  assert len(np.unique(firsts, axis=0)) == len(firsts)


def test_views_come_with_their_parameters():
  """They reproduce the views from the images, draw by draw."""
  requests = [
    tell("first", LAID, extra="rotation"),
    tell("small", FLIPPED, draws=2),
    ViewRequest("second", FLIPPED),
  ]
  found = draw(*requests)
  drawn = found.targets["parameters"]
  assert drawn.keys() == {"first", "small"}
  first, small = drawn["first"], drawn["small"]
  assert (first.view, first.extra) == (LAID, "rotation")
  assert first.parameters.elements.keys() == {"rotation", "rotation 2"}
  assert small.parameters.flip.shape == (16,)
  again = jax.jit(
    lambda x, images: apply_view(
      images, x.parameters, x.view, extra=x.extra, normalized=False
    )
  )
  for drawn, copies, name in ((first, 1, "first"), (small, 2, "small")):
    images = np.concatenate([BATCH["image"]] * copies)
    expected = normalize(again(drawn, images), drawn.view.mean, drawn.view.std)
    np.testing.assert_allclose(found.images[name], expected, atol=1e-6)


def test_nobody_pays_for_parameters_that_nobody_asks_for():
  """Without a request, operations and bytes stay the same."""
  make = lambda request: views_lib.make_views([request("first", FLIPPED)])
  costs = []
  for run in (
    lambda *x: make(ViewRequest)(*x).images,
    lambda *x: make(tell)(*x).images,
    make(tell),
  ):
    compiled = jax.jit(run).lower(state(), BATCH).compile()
    cost = compiled.cost_analysis()
    costs.append((cost["flops"], cost["bytes accessed"]))
  assert costs[0] == costs[1] != costs[2]
  assert "parameters" not in draw(ViewRequest("first", FLIPPED)).targets


def test_parts_ask_for_one_view_each_in_their_way():
  """If one of them shares draws or needs parameters, both do."""
  asked = [
    part(ViewRequest("first", FLIPPED), tell("second", FLIPPED)),
    part(ViewRequest("first", FLIPPED, shared_by=2)),
    part(tell("first", FLIPPED, shared_by=4)),
  ]
  first, second = views_lib.union(asked, None)
  assert first == tell("first", FLIPPED, shared_by=4)
  assert second == tell("second", FLIPPED)
  for other in (
    ViewRequest("first", FLIPPED, shared_by=3),
    ViewRequest("first", FLIPPED, chunks=2),
  ):
    with pytest.raises(UsageError, match="a view 'first' that differs"):
      views_lib.union([*asked, part(other)], None)


def test_groups_share_draws_and_leave_others_alone():
  alone = told(tell("first", FLIPPED), tell("second", FLIPPED))
  shared = told(
    tell("first", FLIPPED, shared_by=4),
    tell("second", FLIPPED),
    tell("chunk", FLIPPED, chunks=4),
    tell("plain", FLIPPED, draw_of="chunk"),
  )
  assert_groups(shared["first"], 4)
  assert_groups(shared["chunk"], 2)
  equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)
  equal(shared["chunk"], shared["plain"])
  equal(shared["second"], alone["second"])
  # The first image of a group keeps its own.
  equal(*(jax.tree.map(lambda x: x[::4], y["first"]) for y in (alone, shared)))


@pytest.mark.parametrize("devices", [2, 4])
def test_shared_draws_do_not_depend_on_the_devices(devices):
  """Also for chunks that are larger than a device's share."""
  requests = [
    tell("pair", FLIPPED, shared_by=2),
    tell("chunk", FLIPPED, chunks=2),
  ]
  mesh = Mesh(np.array(jax.devices()[:devices]), ("rows",))
  share = PartitionSpec("rows")
  mapped = jax.shard_map(
    views_lib.make_views(requests, "rows"),
    mesh=mesh,
    in_specs=(PartitionSpec(), share),
    out_specs=share,
    check_vma=False,
  )
  expected, found = draw(*requests), jax.jit(mapped)(state(), BATCH)
  jax.tree.map(
    np.testing.assert_array_equal,
    expected.targets["parameters"],
    found.targets["parameters"],
  )
  for name, images in expected.images.items():
    np.testing.assert_allclose(found.images[name], images, atol=1e-5)
  assert_groups(found.targets["parameters"]["chunk"].parameters, 4)


def test_pictures_of_few_images_do_not_share():
  """A report shows fewer images than a batch has chunks."""
  request = ViewRequest("first", FLIPPED, chunks=16)
  ((_, copies),) = pictures.seen([request], BATCH["image"], state())
  assert len(copies) == 1 and copies[0].shape == (8, 8, 8, 3)


def test_crops_of_the_host_bring_their_windows(tiny_config, tmp_path):
  """Pairs share their draws there too."""
  source = folder_helpers.open_folder(folder_helpers.write_folder(tmp_path))
  still = {"size": 16, "jitter_probability": 0, "grayscale": 0}
  config = tiny_config(
    "simclr",
    batch_size=8,
    micro_batches=2,
    terms=("test_draws:Told", "test_draws:Pairs"),
    views={"first": still, "second": still},
  )
  # Building tries a whole step on the shapes of such a batch.
  mesh = parallel.make_mesh(jax.devices()[:2])
  experiment = experiment_lib.build(config, source, mesh)
  batch = next(experiment.batches(0))
  names = {"first", "second"}
  assert batch.keys() == {*names, *map(window_name, names), "label"}
  windows = np.asarray(batch["window of first"])
  views = views_lib.make_views(experiment.requests)
  prepare = jax.jit(lambda *x: views(*x).targets["parameters"])
  found = prepare(state(), batch)
  assert found.keys() == names
  first = found["first"].parameters
  np.testing.assert_array_equal(first.crop, windows[:, :4])
  np.testing.assert_array_equal(first.image_size, windows[:, 4:])
  assert (first.flip[::2] == first.flip[1::2]).all()
  del batch["window of first"]
  with pytest.raises(ValueError, match="need 'window of first' in a batch"):
    prepare(state(), batch)


class Told(Term):
  """Gets the parameters of the first two views, in `forward` and `loss`."""

  def requests(self, views):
    """Both views of the method."""
    return [
      tell("first", views.first, views.extra),
      tell("second", views.second, views.extra),
    ]

  def make_heads(self, **_):
    """None."""
    return {}

  def forward(self, heads, features, targets):
    """The features of flipped images."""
    told = targets["parameters"]["first"].parameters
    return jnp.where(told.flip[:, None], features["first"], 0)

  def loss(self, outputs, targets, *, axis_name=None):
    """And how bright the others are."""
    told = targets["parameters"]["second"].parameters
    return jnp.mean(outputs) + jnp.mean(told.brightness), {}


class Pairs(Told):
  """Wants pairs to share draws."""

  section = "pairs"

  def requests(self, views):
    """The first view of the method, in pairs."""
    return [ViewRequest("first", views.first, views.extra, shared_by=2)]

  def forward(self, heads, features, targets):
    """The features."""
    return features["first"]

  def loss(self, outputs, targets, *, axis_name=None):
    """Any."""
    return jnp.mean(outputs), {}


class Quads(Pairs):
  """Wants four images to share draws."""

  section = "quads"

  def requests(self, views):
    """The first view of the method, in fours."""
    return [ViewRequest("first", views.first, views.extra, shared_by=4)]


@pytest.mark.parametrize(
  ("term", "fields", "expected"),
  [
    (
      "Quads",
      {"batch_size": 16},
      r"config.quads: groups of 4 images .* device has 2 at a time: give",
    ),
    (
      "Quads",
      {"batch_size": 64, "micro_batches": 4},
      r"config.quads: groups of 4 images .* device has 2 at a time: give",
    ),
    (
      "care",
      {"care": {"chunks": 7}},
      r"chunks=7 of .* divide the batch size 16",
    ),
    ("stl", {"batch_size": 24}, r"config.stl.*a device has 3 at a time"),
  ],
)
def test_batches_that_groups_do_not_fill(tiny_config, term, fields, expected):
  name = f"test_draws:{term}" if term[0].isupper() else term
  config = tiny_config("simclr", terms=(name,), **fields)
  with pytest.raises(UsageError, match=expected) as error:
    experiment_lib.build(config)
  assert "\n" not in str(error.value)


class Weighed(SimCLR):
  """A method whose loss and metrics read how its views were drawn."""

  def requests(self, views):
    """Both, told."""
    return [tell(x.name, x.view, x.extra) for x in super().requests(views)]

  def loss(self, outputs, *, axis_name=None):
    """Larger where views are brighter."""
    told = outputs.parameters["first"].parameters
    own = super().loss(outputs, axis_name=axis_name)
    return own + jnp.mean(told.brightness)

  def metrics(self, outputs, mean):
    """How bright they are."""
    told = outputs.parameters["first"].parameters
    return {"brightness": mean(jnp.mean(told.brightness))}


def test_methods_are_told_too(tiny_config):
  config = tiny_config("test_draws:Weighed", terms=(), temperature=0.5)
  networks = networks_lib.make_networks(config)
  assert isinstance(networks.method, Weighed)
  step = step_helpers.make_step(config, None)
  state = jax.eval_shape(lambda: step_helpers.make_state(config))
  _, metrics = jax.eval_shape(step, state, step_helpers.batch())
  assert metrics["brightness"].shape == metrics["loss_ssl"].shape == ()
