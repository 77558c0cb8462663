"""Further small views of each image, and the methods that see them."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_helpers

from essl_jax import config as config_lib
from essl_jax import losses
from essl_jax.augment import View, ViewRequest
from essl_jax.config import parts
from essl_jax.errors import UsageError
from essl_jax.methods.barlow_twins import BarlowTwins
from essl_jax.methods.byol import BYOL
from essl_jax.methods.method import Outputs
from essl_jax.methods.moco_v3 import MoCoV3
from essl_jax.methods.simclr import SimCLR
from essl_jax.methods.simclr_nt_xent import SimCLRNTXent
from essl_jax.methods.simsiam import SimSiam
from essl_jax.methods.vicreg import VICReg
from essl_jax.training import views as views_lib

VIEWS = {
  **dict.fromkeys(("first", "second"), {"size": 16}),
  "small": {"size": 8, "scale": (0.05, 0.4)},
  "third": {"size": 8},
}
PAIRED = {
  "simclr": SimCLR,
  "simclr_nt_xent": SimCLRNTXent,
  "simsiam": SimSiam,
  "barlow_twins": BarlowTwins,
  "vicreg": VICReg,
  "byol": BYOL,
  "moco_v3": MoCoV3,
}


def _arrays(number, seed=0):
  random = np.random.default_rng(seed)
  return tuple(random.standard_normal((number, 8, 6)).astype(np.float32))


@pytest.mark.parametrize("name", PAIRED)
def test_loss_is_the_mean_over_pairs(name):
  """Pairs join a full view and any other, in both directions if possible."""
  method = PAIRED[name]()
  z, p = _arrays(5), _arrays(5, seed=1)
  k = _arrays(2, seed=2)
  target = {"projections": k}

  def loss(views):
    own = {"projections": z[:views], "predictions": p[:views]}
    return method.loss(Outputs(own, target))

  def of_pair(full, other):
    own = {
      "projections": (z[full], z[other]),
      "predictions": (p[full], p[other]),
    }
    both = {"projections": (k[full], k[other])} if other < 2 else None
    if both is None and name in ("byol", "moco_v3"):
      return 2 * method.towards(p[other], k[full])
    return method.loss(Outputs(own, both))

  pairs = [(0, 1), (1, 0), *itertools.product((0, 1), (2, 3, 4))]
  wanted = np.mean([of_pair(*pair) for pair in pairs])
  np.testing.assert_allclose(loss(5), wanted, rtol=1e-5)
  np.testing.assert_allclose(loss(2), of_pair(0, 1), rtol=1e-6)


def test_pairs_of_simclr_by_hand():
  """Two full views and a small one make three pairs; the first counts twice."""
  z = _arrays(3)
  info_nce = lambda a, b: (
    losses.info_nce(a, b, temperature=0.5)
    + losses.info_nce(b, a, temperature=0.5)
  )
  pairs = 2 * info_nce(z[0], z[1]) + info_nce(z[0], z[2]) + info_nce(z[1], z[2])
  found = SimCLR().loss(Outputs({"projections": z}))
  np.testing.assert_allclose(found, pairs / 8, rtol=1e-6)


def test_requests(tiny_config):
  """There are none by default; all small views of an image are one request."""
  plain = tiny_config("simclr")
  assert [x.name for x in step_helpers.make_requests(plain)] == [
    "first",
    "second",
    "transformed",
  ]
  config = tiny_config("simclr", small_views=3, views=VIEWS)
  small = step_helpers.make_requests(config)[2]
  assert (small.name, small.draws, small.view.size) == ("small", 3, 8)
  assert small.draw_names == ("small 1", "small 2", "small 3")
  # The fields of an unused view are not kept.
  unused = tiny_config(
    "simclr", views=VIEWS | {"small": {"scale": (0.05, 0.4)}}
  )
  assert unused.views == dataclasses.replace(
    config.views, small=plain.views.small
  )


def _state():
  return step_helpers.step_lib.TrainState(
    jnp.int32(4), jnp.uint32(1), {}, {}, ()
  )


# Only crops and flips: colour operations take long to compile.
CROPPED = View(size=8, scale=(0.1, 0.5), jitter_probability=0, grayscale=0)


def _pixels(images):
  """Converts normalised images back to [0, 1]."""
  std, mean = (np.array(x, np.float32) for x in (CROPPED.std, CROPPED.mean))
  return np.asarray(images) * std + mean


def _draw(requests, batch):
  return jax.jit(views_lib.make_views(requests))(_state(), batch)


def test_draws_differ_and_depend_on_nothing_else():
  """Draws are copies in order, and other views do not change."""
  batch = {"image": step_helpers.images(4)}
  first = ViewRequest("first", CROPPED)
  make = lambda draws: (
    _draw([first, ViewRequest("small", CROPPED, draws=draws)], batch).images
  )
  two, three = make(2), make(3)
  assert three["small"].shape == (12, 8, 8, 3)
  np.testing.assert_allclose(two["small"], three["small"][:8], atol=1e-6)
  np.testing.assert_allclose(two["first"], three["first"], atol=1e-6)
  apart = np.split(np.asarray(three["small"]), 3)
  for a, b in itertools.combinations(apart, 2):
    assert np.mean(np.abs(a - b)) > 0.1


def test_host_crops_are_flipped_draw_by_draw():
  """The host cuts each draw's crop; the device does the rest."""
  request = ViewRequest("small", CROPPED, draws=2)
  assert views_lib.crops([request]) == dict.fromkeys(
    ("small 1", "small 2"), CROPPED
  )
  random = np.random.default_rng(0)
  crop = lambda: random.integers(0, 256, (4, 8, 8, 3), np.uint8)
  batch = {"small 1": crop(), "small 2": crop()}
  found = _draw([request], batch).images["small"]
  alone = _draw([ViewRequest(name, CROPPED) for name in batch], batch).images
  for name, drawn in zip(batch, np.split(found, 2), strict=True):
    np.testing.assert_allclose(drawn, alone[name], atol=1e-5)
    pixels = batch[name] / np.float32(255)
    mirrored = np.any(np.abs(_pixels(drawn) - pixels) > 1e-3, axis=(1, 2, 3))
    np.testing.assert_allclose(
      _pixels(drawn),
      np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels),
      atol=1e-5,
    )


def test_transforms_and_shared_draws_of_several():
  """A transform sees all draws; a view that shares them has as many."""
  seen = []

  def halve(images, keys):
    seen.append((images.shape, keys.shape))
    return images / 2, jax.vmap(jax.random.uniform)(keys)

  plain = ViewRequest("small", CROPPED, draws=2)
  shared = ViewRequest(
    "darker", CROPPED, draw_of="small", transform=halve, draws=2
  )
  requests = views_lib.union([_part(plain, shared)], None)
  batch = {"image": step_helpers.images(4)}
  found = _draw(requests, batch)
  assert seen == [((8, 8, 8, 3), (8,))]
  assert len(set(np.asarray(found.targets["darker"]).tolist())) == 8
  darker, small = (_pixels(found.images[x]) for x in ("darker", "small"))
  np.testing.assert_allclose(darker, small / 2, atol=1e-5)
  one = dataclasses.replace(shared, draws=1)
  with pytest.raises(UsageError, match="has 1 draws and shares those of"):
    views_lib.union([_part(plain, one)], None)
  with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
    ViewRequest("small", CROPPED, draws=0)


def _part(*requests):
  class Part:
    """Requests some views."""

    def requests(self, views):
      """Returns all requests."""
      del views
      return list(requests)

  return Part()


def test_a_target_network_does_not_encode_them(tiny_config):
  """The trained networks encode them in one pass, the target does not."""
  config = tiny_config(
    "byol", small_views=3, views=VIEWS, equivariance={"weight": 0.0}
  )
  networks = step_helpers.make_problem(config).networks
  views = views_lib.blank(step_helpers.make_requests(config), 3).images
  seen = []

  def watch(call, args, kwargs, context):
    if context.module is networks_of[-1] and context.method_name == "__call__":
      seen.append(args[0].shape[:2])
    return call(*args, **kwargs)

  networks_of = []

  def run(networks):
    def call(networks):
      networks_of.append(networks.encoder)
      return networks(views, {}, train=False)

    seen.clear()
    with nn.intercept_methods(watch):
      jax.eval_shape(nn.init(call, networks), jax.random.key(0))
    return list(seen)

  assert run(networks) == [(2, 16), (2, 16), (6, 8)]
  target = networks.as_target()
  assert run(target) == [(2, 16), (2, 16)]


def _parse(**raw):
  return config_lib.parse({"data": {"name": "digits"}} | raw)


def test_who_has_none_refuses_them():
  """Refuses `small_views` or `views.small` if the method does not use them."""
  with pytest.raises(UsageError, match="none does not read config.small_views"):
    _parse(method="none", small_views=2)
  small = {"size": 20, "scale": (0.05, 0.4)}
  for view in (small, {"size": 20}, 3):
    with pytest.raises(UsageError, match=r"config\.views\.small belongs to no"):
      _parse(method="none", views={"small": view, "first": {"size": 24}})
  alike = {"first": {"size": 20}, "small": {"size": 20}}
  assert _parse(method="none", views=alike).views.first.size == 20


@pytest.mark.parametrize(
  ("method", "fields", "message"),
  [
    ("simclr", {"prototypes": 9}, "simclr does not read config.prototypes"),
    ("dino", {"prototypes": 1}, "prototypes must be at least 2; got 1"),
    ("dino", {"teacher_temperature": 0.0}, "teacher_temperature must be above"),
    ("dino", {"student_temperature": -1.0}, "student_temperature must be abo"),
    ("dino", {"center_momentum": 1.5}, "center_momentum must be at most 1"),
    ("dino", {"freeze_epochs": -1}, "freeze_epochs must be at least 0"),
    ("moco_v3", {"predictor_norm": "layer"}, "predictor_norm must be one of"),
    ("vicreg", {"variance_weight": -1.0}, "variance_weight must be at least 0"),
    ("byol", {"small_views": 101}, "small_views must be at most 100; got 101"),
  ],
)
def test_wrong_fields_are_one_line(method, fields, message):
  with pytest.raises(UsageError, match=message) as error:
    _parse(method=method, **fields)
  assert "\n" not in str(error.value)


def test_every_two_view_method_is_tested():
  known = {parts.METHOD.find(x).__name__ for x in parts.METHOD.names()}
  paired = {x.__name__ for x in PAIRED.values()}
  assert known - paired == {"TermsAlone", "DINO"}
