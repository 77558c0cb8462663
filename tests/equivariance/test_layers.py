"""Terms that see an inner layer of the encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import step_helpers

from essl_jax.augment import ViewRequest
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.equivariance.term import Term
from essl_jax.errors import UsageError
from essl_jax.methods.simclr import SimCLR
from essl_jax.models.resnet import ResNet
from essl_jax.models.vit import ViT
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib

RESNET = ResNet(stem="cifar", width=4, blocks=(1, 1))
VIT = ViT(image_size=8, patch=4, width=8, depth=2, heads=2)


class Seen(Term):
  """A loss on the features that the term sees, unchanged."""

  def requests(self, views):
    """The first view."""
    return [ViewRequest("first", views.first)]

  def make_heads(self, **common):
    """None."""
    return {}

  def forward(self, heads, features, targets):
    """The features."""
    assert set(features) == {"first"}
    return features["first"]

  def loss(self, outputs, targets, *, axis_name=None):
    """Of their squares."""
    return jnp.mean(outputs**2), {}


class OfOutput(SimCLR):
  """Returns the features that a method sees."""

  def forward(self, heads, features):
    """The features."""
    return features["first"]


def _found(encoder, layer, images):
  """The features of a method and a term, and the term's encoder gradient."""
  networks = networks_lib.Networks(
    encoder,
    OfOutput(temperature=0.5),
    terms=(Seen(layer=layer), Seen()),
    asked=(("first",),) * 3,
    common={"dtype": jnp.float32, "dot_general": jax.lax.dot_general},
  )

  @jax.jit
  def run():
    encoded = encoder.init_with_output(
      jax.random.key(0), images, train=False, method="inner_features"
    )
    (features, inner), variables = encoded
    wrapped = {kind: {"encoder": x} for kind, x in variables.items()}

    def loss(params):
      found = networks.apply(
        wrapped | {"params": params}, {"first": images}, {}, train=False
      )
      return jnp.sum(found[1] ** 2), found

    gradient, found = jax.grad(loss, has_aux=True)(wrapped["params"])
    return features, inner, found, gradient["encoder"]

  return run()


@pytest.mark.parametrize(
  ("encoder", "layer", "above"),
  [
    (RESNET, "layer1", ("layer2_0",)),
    (VIT, "blocks_0", ("blocks_1", "norm")),
    (VIT.clone(pool="mean"), "blocks_0", ("blocks_1", "norm")),
  ],
  ids=["resnet", "vit", "vit_mean"],
)
def test_a_layer_is_what_the_encoder_has_there(encoder, layer, above):
  """Gradients reach that layer and what is below; others see the output."""
  images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
  features, inner, found, gradient = _found(encoder, layer, images)
  there = np.asarray(inner[layer])
  if there.ndim == 4:
    expected = there.mean(axis=(1, 2))
  else:
    is_mean = encoder.pool == "mean"
    expected = there[:, 1:].mean(axis=1) if is_mean else there[:, 0]
  of_method, of_layer, of_output = found
  np.testing.assert_allclose(of_layer, expected, rtol=1e-5, atol=1e-6)
  for x in (of_method, of_output):
    np.testing.assert_allclose(x, features, rtol=1e-5, atol=1e-6)
  assert np.abs(of_layer - expected[:, ::-1]).max() > 1e-3
  for name, tree in gradient.items():
    size = max(np.abs(x).max() for x in jax.tree.leaves(tree))
    assert (size == 0) == (name in above), name


@pytest.fixture(scope="module")
def config_of(tiny_config):
  def make(method="byol", layer="layer1", **encoder):
    encoder = encoder or {"width": 4, "stem": "cifar", "blocks": (1, 1)}
    own = {"encoder": encoder, "equivariance": {"layer": layer}}
    own["equivariance"]["hidden_widths"] = (16,)
    return tiny_config(method, **own)

  return make


def _first_step(config, devices):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  with jax.enable_x64(True):
    state, step = step_helpers.exact_parts(config)
    mapped = parallel.map_step(step, mesh)
    batch = next(step_helpers.view_batches(config))
    state = parallel.replicate(state, mesh)
    return jax.device_get(mapped(state, parallel.shard(batch, mesh)))


LAYERED = {"name": "term_helpers:Layered", "width": 4}


@pytest.mark.parametrize(
  "encoder",
  [LAYERED, pytest.param({}, marks=pytest.mark.slow, id="resnet")],
)
def test_a_step_on_one_and_on_four_devices(config_of, encoder):
  """With a target network, which has no terms; momenta are gradients."""
  config = config_of(**encoder)
  expected, wanted = _first_step(config, 1)
  actual, found = _first_step(config, 4)
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
  traces = [
    x.opt_state.inner_states["weights"].inner_state[1][0].trace
    for x in (actual, expected)
  ]
  for name, tree in traces[1].items():
    pairs = zip(*(jax.tree.leaves(x[name]) for x in traces), strict=True)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(tree))
    for x, y in pairs:
      np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * largest)
    assert largest > 0, name
  # The first layer's four channels, not the output's eight.
  shapes = [
    x.shape for x in jax.tree.leaves(expected.params["transformation_head"])
  ]
  assert (4, 16) in shapes
  assert "encoder" in expected.target["params"]


def test_layers_that_there_are_not(config_of):
  images = np.zeros((32, 16, 16, 3), np.uint8)
  source = ArraySource(images, np.arange(32) % 4, images, np.arange(32) % 4)
  build = lambda config: experiment_lib.build(config, source)
  with pytest.raises(UsageError, match="layer=layer9: ResNet has the layers"):
    build(config_of(layer="layer9"))
  vit = {"name": "vit", "image_size": 16, "patch": 8, "depth": 2}
  with pytest.raises(UsageError, match="the layers blocks_0, blocks_1: name"):
    build(config_of(layer="layer1", width=8, heads=2, **vit))
  with pytest.raises(UsageError, match="equivariance.layer=x: Encoder has no"):
    build(config_of(layer="x", name="term_helpers:Encoder"))
