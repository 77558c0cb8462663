"""What heads predict: products, pairs of copies; also without an SSL loss."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import step_helpers

from essl_jax import augment, losses, transformations
from essl_jax import config as config_lib
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.equivariance import elements
from essl_jax.equivariance.prediction import Prediction
from essl_jax.errors import UsageError
from essl_jax.evaluation import transformation
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import gradient_cache
from essl_jax.training import networks as networks_lib


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).random((5, 6, 6, 3), np.float32)


SIZES = {"first": {"size": 16}, "second": {"size": 16}, "third": {"size": 8}}


def _keys(n):
  return jax.random.split(jax.random.key(1), n)


def test_all_elements_alone(images):
  asked = elements.make("jigsaw")
  copies, targets = asked.all_elements(images, _keys(5))
  assert copies.shape == (24 * 5, 6, 6, 3) and set(targets) == {"labels"}
  np.testing.assert_array_equal(targets["labels"], np.repeat(np.arange(24), 5))
  assert asked.heads == {"jigsaw": 24}


def test_separate_heads_of_a_product():
  asked = elements.make("rotation*horizontal_flip", heads="each")
  assert asked.heads == {"rotation": 4, "horizontal_flip": 2}
  random = np.random.default_rng(0)
  logits = random.standard_normal((8, 6)).astype(np.float32)
  labels = np.arange(8)
  of = losses.transformation_prediction
  expected = of(logits[:, :4], labels // 2) + of(logits[:, 4:], labels % 2)
  np.testing.assert_allclose(asked.loss(logits, labels), expected, rtol=1e-6)
  named = 2 * logits[:, :4].argmax(1) + logits[:, 4:].argmax(1)
  np.testing.assert_array_equal(asked.classify(logits), named)
  joint = elements.make("rotation*horizontal_flip")
  logits = random.standard_normal((8, 8)).astype(np.float32)
  np.testing.assert_allclose(
    joint.loss(logits, labels), of(logits, labels), rtol=1e-6
  )
  np.testing.assert_array_equal(joint.classify(logits), logits.argmax(1))
  with pytest.raises(ValueError, match=r"must be \[M, 8\] .* \(8, 6\)"):
    joint.loss(logits[:, :6], labels)


@pytest.mark.parametrize("draw", ["all_elements", "random_elements"])
def test_explicit_shardings_change_no_pairs(draw):
  """Copies, labels and partners, and the features side by side."""
  asked = elements.make("rotation", relative=True)
  images = np.random.default_rng(0).random((8, 4, 4, 3), np.float32)

  def pairs(images, keys):
    copies, targets = getattr(asked, draw)(images, keys)
    features = copies.mean(axis=(1, 2))
    return (
      copies,
      targets,
      elements.pair_features(features, targets["partners"]),
    )

  expected = jax.jit(pairs)(images, _keys(8))
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  share = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
  found = jax.jit(pairs)(*jax.device_put((images, _keys(8)), share))
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("heads", ["joint", "each"])
@pytest.mark.parametrize("label", [-1, 8, 2**31 - 1])
def test_labels_out_of_range(heads, label):
  """Known ones are refused, traced ones give NaN; none wraps."""
  asked = elements.make("rotation*horizontal_flip", heads=heads)
  logits = np.zeros((2, sum(asked.heads.values())), np.float32)
  labels = np.array([3, label], np.int32)
  with pytest.raises(ValueError, match=r"labels must be in \[0, 7\], got"):
    asked.loss(logits, labels)
  assert np.isnan(jax.jit(asked.loss)(logits, labels))


@pytest.mark.parametrize("name", ["rotation", "rotation*horizontal_flip"])
@pytest.mark.parametrize("draw", ["all_elements", "random_elements"])
def test_a_label_leads_from_the_partner_to_the_copy(images, name, draw):
  asked = elements.make(name, relative=True)
  copies, targets = jax.jit(getattr(asked, draw))(images, _keys(5))
  partners = targets["partners"]
  number = {"all_elements": asked.group.num_classes, "random_elements": 2}[draw]
  assert partners.shape == (5, number)
  assert copies.shape == (number * 5, 6, 6, 3)
  by_copy = np.asarray(copies).reshape(number, 5, 6, 6, 3)
  labels = np.asarray(targets["labels"]).reshape(number, 5)
  for copy in range(number):
    for i in range(5):
      partner = by_copy[partners[i, copy], i][None]
      element = asked.group.elements[labels[copy, i]]
      np.testing.assert_array_equal(element(partner)[0], by_copy[copy, i])


def test_pairs_of_features_survive_micro_batches():
  random = np.random.default_rng(0)
  features = random.standard_normal((3 * 4, 2)).astype(np.float32)
  partners = random.integers(0, 3, (4, 3)).astype(np.int32)
  whole = np.asarray(elements.pair_features(features, partners))
  for k in range(3):
    for i in range(4):
      other = features[4 * partners[i, k] + i]
      expected = np.concatenate([other, features[4 * k + i]])
      np.testing.assert_array_equal(whole[4 * k + i], expected)
  parts = [gradient_cache.divide(x, 4, 2) for x in (features, partners)]
  paired = jax.vmap(elements.pair_features)(*parts)
  np.testing.assert_array_equal(gradient_cache.join(paired, 2), whole)
  with pytest.raises(ValueError, match=r"4 x 3 rows .* \(11, 2\)"):
    elements.pair_features(features[:11], partners)


@pytest.mark.parametrize(
  ("equivariance", "expected"),
  [
    ({"group": "shear"}, "config.equivariance: unknown transformation group"),
    ({"group": "any_roll"}, "any_roll has too many elements to predict"),
    ({"heads": "each"}, "heads=each needs a product of groups, and rotation"),
    ({"group": "blur", "relative": True}, "blur is not a group"),
    (
      {"group": "rotation*inversion", "heads": "each", "relative": True},
      "relative predictions have one head",
    ),
    ({"group": "jigsaw*half_swap"}, "elements that do the same"),
  ],
)
def test_predictions_that_cannot_be_made(tiny_config, equivariance, expected):
  with pytest.raises(UsageError, match=expected) as error:
    networks_lib.check_parts(tiny_config("simclr", equivariance=equivariance))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("method", "equivariance", "copies", "metrics"),
  [
    ("simclr", {"relative": True}, 4, {"loss_ssl", "embedding_std"}),
    (
      "none",
      {
        "group": "rotation*horizontal_flip",
        "heads": "each",
        "all_elements": False,
        "hidden_widths": (),
      },
      1,
      {"loss_ssl"},
    ),
  ],
)
def test_a_step_of_every_kind(
  tiny_config, method, equivariance, copies, metrics
):
  config = tiny_config(method, equivariance=equivariance)
  networks_lib.check_parts(config)
  batch = step_helpers.batch()
  source = ArraySource(*[batch["image"], batch["label"]] * 2)
  experiment = experiment_lib.build(config, source)
  state = experiment.create_state()
  views = jax.eval_shape(step_helpers.make_views(config), state, batch)
  assert views.images["transformed"].shape == (copies * 16, 8, 8, 3)
  assert ("first" in views.images) == (method != "none")
  (start,) = [jax.device_get(state.params["encoder"])]
  step, batches = experiment.make_step(), experiment.batches(0)
  found = []
  for _ in range(3):
    state, measured = step(state, next(batches))
    found.append(float(measured["loss_equivariance"]))
  assert metrics < set(measured) and np.isfinite(found).all()
  assert ("embedding_std" in measured) == (method != "none")
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), start, state.params["encoder"]
  )
  assert max(jax.tree.leaves(moved)) > 0


def test_without_an_ssl_loss_there_must_be_something_to_learn(tiny_config):
  for changes, expected in (
    (
      {"equivariance": {"weight": 0.0}},
      "has a weight above 0: set config.equivariance.weight above 0",
    ),
    ({"online_classifier": True}, "view 1, which config.method=none does not"),
    ({"views": SIZES | {"extra": "flips"}}, "config.views.extra applies to"),
  ):
    with pytest.raises(UsageError, match=expected):
      networks_lib.check_parts(tiny_config("none", **changes))


def test_extra_transforms_half_of_both_ssl_views(tiny_config):
  plain = {
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter_probability": 0.0,
    "grayscale": 0.0,
  }
  views = {name: {"size": 16, **plain} for name in ("first", "second", "third")}
  config = tiny_config("simclr", views={**views, "extra": "vertical_flip"})
  batch = {"image": step_helpers.images(64)}
  state = step_helpers.make_state(config)
  made = jax.jit(step_helpers.make_views(config))(state, batch)
  bare = tiny_config("simclr", views=views)
  same = jax.jit(step_helpers.make_views(bare))(state, batch)
  flip = transformations.GROUPS["vertical_flip"].elements[1]
  flipped = {}
  for name in ("first", "second"):
    image, other = same.images[name], made.images[name]
    is_same, is_flipped = (
      np.abs(x - other).max(axis=(1, 2, 3)) < 1e-5 for x in (image, flip(image))
    )
    assert np.all(is_same != is_flipped) and 16 < is_flipped.sum() < 48
    flipped[name] = is_flipped
  assert np.any(flipped["first"] != flipped["second"])
  np.testing.assert_allclose(
    made.images["transformed"], same.images["transformed"], atol=1e-5
  )


def test_copies_of_an_image_stay_together_in_micro_batches(tiny_config):
  """Also where the views hold nothing but copies: K rows for each image."""
  config = tiny_config("none", micro_batches=2, equivariance={"weight": 1.0})
  state = step_helpers.make_state(config)
  views = jax.jit(step_helpers.make_views(config))(state, step_helpers.batch())
  seen = []

  def forward(params, statistics, views):
    labels = views.targets["transformed"]["labels"]
    seen.append(labels.shape)
    return {"labels": labels.astype("float32")}, statistics

  _, _, outputs, _ = gradient_cache.gradients(
    forward,
    lambda outputs: (outputs["labels"].sum(), None),
    {},
    {},
    views,
    examples=16,
    micro_batches=2,
  )
  labels = views.targets["transformed"]["labels"]
  np.testing.assert_array_equal(outputs["labels"], labels)
  for part in np.asarray(gradient_cache.divide(labels, 16, 2)):
    assert np.bincount(part).tolist() == [8, 8, 8, 8]
  assert set(seen) == {(32,)}


@pytest.mark.parametrize(
  "changes",
  [
    {"equivariance": {"relative": True}},
    {"equivariance": {"relative": True, "all_elements": False}},
    {"views": SIZES | {"extra": "jigsaw"}},
    {"views": SIZES | {"extra": "any_roll"}},
  ],
)
def test_views_of_eight_devices_are_those_of_one(tiny_config, changes):
  config = tiny_config("simclr", **changes)
  state, batch = step_helpers.make_state(config), step_helpers.batch()
  shard = jax.sharding.PartitionSpec(parallel.AXIS)
  spread = jax.jit(
    jax.shard_map(
      step_helpers.make_views(config, parallel.AXIS),
      mesh=parallel.make_mesh(jax.devices()[:8]),
      in_specs=(jax.sharding.PartitionSpec(), shard),
      out_specs=shard,
    )
  )(state, batch)
  whole = jax.jit(step_helpers.make_views(config))(state, batch)
  targets, expected = (x.targets["transformed"] for x in (spread, whole))
  copies = expected["labels"].shape[0] // 16

  def in_order(x):
    """Copies of all devices in the order of one device's."""
    by_device = np.asarray(x).reshape(8, copies, 2, *x.shape[1:])
    return np.moveaxis(by_device, 0, 1).reshape(copies * 16, *x.shape[1:])

  images, expected_images = spread.images, whole.images
  np.testing.assert_allclose(
    images["first"], expected_images["first"], atol=1e-5
  )
  np.testing.assert_array_equal(in_order(targets["labels"]), expected["labels"])
  np.testing.assert_allclose(
    in_order(images["transformed"]), expected_images["transformed"], atol=1e-5
  )
  assert ("partners" in expected) == ("equivariance" in changes)
  if "partners" in expected:
    np.testing.assert_array_equal(targets["partners"], expected["partners"])


def test_recognition_is_told_by_what_leads_to_a_copy(tiny_config):
  """A head that is always right is right for every element, for any pairs."""
  term = Prediction(group="rotation", relative=True)

  class Perfect:
    terms = (term,)

    def apply(self, variables, number, images, targets, **_):
      assert self.terms[number] is term
      _, wanted = term.question.all_elements(
        variables["crops"], variables["keys"]
      )
      partners = targets["transformed"]["partners"]
      np.testing.assert_array_equal(partners, wanted["partners"])
      assert len(set(np.asarray(partners[:, 0]).tolist())) > 1
      return jax.nn.one_hot(wanted["labels"], 4)

  views = tiny_config("simclr").views
  images = step_helpers.images()
  keys = jax.random.split(jax.random.PRNGKey(0), 16)
  crops = augment.random_view(keys, images, views.third, normalized=False)
  partner_keys = jax.vmap(jax.random.fold_in, (0, None))(
    jax.random.wrap_key_data(keys), transformation.PARTNERS
  )
  predict = transformation.make_predict(Perfect(), 0, views)
  named = predict({"crops": crops, "keys": partner_keys}, (images, keys))
  np.testing.assert_array_equal(named, np.tile(np.arange(4), (16, 1)))


def test_names_of_products_are_checked_before_jax_starts():
  """Several processes must meet before a backend starts."""
  code = """
import runpy
from essl_jax import config
raw = runpy.run_path("configs/cifar_simclr.py")["get_config"]().to_dict()
raw["views"]["extra"] = "rotation*inversion"
raw["measures"]["groups"] = ("rotation*horizontal_flip",)
assert config.parse(raw).views.extra == "rotation*inversion"
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_views_that_cannot_be_transformed_are_refused(tiny_config):
  source = ArraySource(*[step_helpers.images(), np.arange(16) % 4] * 2)
  sizes = lambda third: {
    "first": {"size": 16},
    "second": {"size": 16},
    "third": {"size": third},
  }
  for changes, expected in (
    (
      {"views": sizes(9), "equivariance": {"group": "jigsaw"}},
      "config.equivariance, view transformed .* even sides.*views.third.size",
    ),
    (
      {"views": sizes(8) | {"first": {"size": 15}, "extra": "half_swap"}},
      "config.views.first, half_swap: .* even sides",
    ),
  ):
    with pytest.raises(UsageError, match=expected):
      experiment_lib.build(tiny_config("simclr", **changes), source)
  config = tiny_config("simclr", views=sizes(8) | {"extra": "shear"})
  with pytest.raises(UsageError, match="config.views.extra: unknown .*'shear'"):
    experiment_lib.build(config, source)


@pytest.mark.parametrize(
  ("group", "views", "expected"),
  [
    ("rotation", {}, []),
    ("horizontal_flip", {}, ["first.flip", "second.flip", "third.flip"]),
    ("rotation", {"extra": "rotation"}, ["views.extra"]),
    ("inversion * rotation", {"extra": "inversion"}, ["views.extra"]),
    ("jigsaw", {"extra": "any_roll"}, ["views.extra"]),
    ("half_swap", {"extra": "vertical_half_swap"}, []),
    ("grayscale", {}, [f"{x}.grayscale" for x in ("first", "second", "third")]),
  ],
)
def test_what_is_predicted_and_drawn_at_random_is_warned_of(
  tiny_config, group, views, expected
):
  config = tiny_config(
    "simclr", equivariance={"group": group}, views=SIZES | views
  )
  source = ArraySource(*[step_helpers.images(), np.arange(16) % 4] * 2)
  warnings = experiment_lib.build(config, source).warnings
  assert len(warnings) == len(expected)
  for line, name in zip(warnings, expected, strict=True):
    assert name in line and "leave one out" in line


def test_config_of_products_and_pairs_is_parsed(tiny_config):
  config = tiny_config(
    "simclr",
    equivariance={"group": "rotation*vertical_flip", "heads": "each"},
  )
  assert config.equivariance.heads == "each"
  assert config_lib.to_dict(config)["views"]["extra"] is None
  with pytest.raises(UsageError, match="heads must be one of joint, each"):
    tiny_config("simclr", equivariance={"heads": "two"})
