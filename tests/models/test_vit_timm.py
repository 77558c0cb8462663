"""Vision transformers at other sizes, and their inner features, against timm.

`golden/vit_timm.npz` was written by timm 1.0.31 with PyTorch 2.13.0 on a CPU:
`VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=3,
num_heads=3, num_classes=0, dynamic_img_size=True)` with the weights of
`vit_32px_patch4`, `resample_abs_pos_embed`, and `forward_intermediates`.
"""

import json
import pathlib

from golden.weights import golden_state_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_vit_golden import GOLDEN, NETWORKS, assert_close, from_timm

from essl_jax.models import resnet
from essl_jax.models.layers import patches
from essl_jax.training import applying

NAME = "vit_32px_patch4"
KINDS = ("token", "mean", "last_3")


@pytest.fixture(scope="module")
def network(golden):
  """Returns the network, its variables, images, and timm's results."""
  path = pathlib.Path(GOLDEN) / "modern_state_dict_shapes.json"
  shapes = json.loads(path.read_text())[NAME]
  variables = from_timm(golden_state_dict(shapes, salt=NAME + "/"))
  images = golden("vit")[f"{NAME}/input"]
  return NETWORKS[NAME], variables, images, golden("vit_timm")


@pytest.fixture(scope="module")
def kinds(network):
  """Returns the features of each kind, the output, and each block's tokens."""
  model, variables, images, _ = network

  @jax.jit
  def run(variables, images):
    found = {
      kind: applying.make_apply(model, train=False, features=kind)(
        variables, images
      )
      for kind in KINDS
    }
    output, inner = model.apply(
      variables, images, train=False, method="inner_features"
    )
    return found | {"output": output}, inner

  return run(variables, images)


@pytest.mark.parametrize("grid", [(7, 7), (2, 2), (3, 5), (6, 2), (4, 4)])
def test_golden_interpolated_positions(golden, grid):
  learned = np.random.default_rng(11).standard_normal((1, 17, 6))
  learned = jnp.asarray(learned, jnp.float32)
  actual = patches.interpolate(learned, 4, *grid)
  if grid == (4, 4):
    np.testing.assert_array_equal(actual, learned)
    return
  expected = golden("vit_timm")["positions_{}x{}".format(*grid)]
  np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


def test_golden_features_at_other_sizes(network):
  model, variables, _, expected = network
  random = np.random.default_rng(12)
  for size in ((48, 48), (16, 16), (24, 40)):
    x = random.standard_normal((2, *size, 3)).astype(np.float32)
    actual = model.apply(variables, x, train=False)
    assert_close(actual, expected["features_{}x{}".format(*size)], 1e-5)


@pytest.mark.parametrize("kind", ["mean", "last_3"])
def test_golden_features_for_evaluations(kinds, network, kind):
  found, _ = kinds
  assert found[kind].dtype == jnp.float32
  assert_close(found[kind], network[3][kind], 1e-5)


def test_golden_pooled_mean(network):
  """The norm comes after the mean, unlike for `mean`."""
  model, variables, images, expected = network
  actual = model.clone(pool="mean").apply(variables, images, train=False)
  assert_close(actual, expected["pooled_mean"], 1e-5)


def test_golden_inner_features(kinds, network):
  """Compares the tokens after each block, before the last norm."""
  _, inner = kinds
  assert list(inner) == ["blocks_0", "blocks_1", "blocks_2"]
  for tokens, expected in zip(
    inner.values(), network[3]["blocks"], strict=True
  ):
    assert tokens.shape == (4, 65, 48)
    assert_close(tokens[:2, ::16], expected, 1e-5)


def test_the_class_token_is_the_output(kinds, network):
  """They are equal bit for bit, and `last_3` ends with the same token."""
  found, _ = kinds
  model, variables, images, _ = network
  output = jax.jit(lambda v, x: model.apply(v, x, train=False))(
    variables, images
  )
  np.testing.assert_array_equal(found["output"], output)
  np.testing.assert_array_equal(found["token"], output)
  np.testing.assert_array_equal(found["last_3"][:, -48:], output)


@pytest.mark.parametrize("kind", ["last_4", "last_0", "last_", "mean_token"])
def test_unknown_features_are_named(network, kind):
  model, variables, images, _ = network
  with pytest.raises(ValueError, match=f"last_1 to last_3; got '{kind}'"):
    model.apply(variables, images, kind=kind, method="evaluation_features")


def test_inner_features_of_a_resnet():
  """There is one entry per stage; features are the mean of the last maps."""
  model = resnet.ResNet(depth=18, stem="cifar", width=4, blocks=(1, 1))
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  variables = model.init(jax.random.key(1), x, train=False)
  features, inner = model.apply(
    variables, x, train=False, method="inner_features"
  )
  shapes = {name: maps.shape for name, maps in inner.items()}
  assert shapes == {"layer1": (2, 8, 8, 4), "layer2": (2, 4, 4, 8)}
  np.testing.assert_array_equal(
    features, model.apply(variables, x, train=False)
  )
  np.testing.assert_allclose(features, inner["layer2"].mean((1, 2)), rtol=1e-6)
