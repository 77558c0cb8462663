"""Vision transformers against numbers from timm."""

import functools
import json
import pathlib

from flax import traverse_util
from golden.weights import golden_state_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vit_helpers import block_output, layer_norm

from essl_jax.models import vit
from essl_jax.models.layers import dense, patches

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NETWORKS = {
  "vit_32px_patch4": vit.ViT(
    image_size=32, patch=4, width=48, depth=3, heads=3
  ),
  "vit_64px_patch16": vit.ViT(
    image_size=64, patch=16, width=64, depth=2, heads=4
  ),
}


def from_timm(state_dict):
  """Converts a state dict of timm's `VisionTransformer` to `ViT` variables."""
  flat = {}
  for name, value in state_dict.items():
    name = name.replace("blocks.", "blocks_").replace("embed.proj", "embed")
    *modules, leaf = name.split(".")
    if leaf == "weight":
      leaf = "scale" if value.ndim == 1 else "kernel"
      if value.ndim == 4:  # [out, in, height, width], patches by pixels
        value = value.transpose(0, 2, 3, 1).reshape(len(value), -1)
      value = value.T
    flat["params", *modules, leaf] = value
  return traverse_util.unflatten_dict(flat)


def assert_close(actual, expected, relative):
  scale = np.max(np.abs(expected))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_network(golden, name):
  """Compares tokens after the last norm, features and image gradients."""
  shapes = json.loads((GOLDEN / "modern_state_dict_shapes.json").read_text())
  variables = from_timm(golden_state_dict(shapes[name], salt=name + "/"))
  model = NETWORKS[name].clone(dot_general=dense.default_dot_general())
  expected = {
    key.removeprefix(f"{name}/"): value
    for key, value in golden("vit").items()
    if key.startswith(name)
  }

  @jax.jit
  def run(variables, x):
    features, pullback = jax.vjp(
      lambda x: model.apply(variables, x, train=True), x
    )
    tokens = block_output(model, variables, x)
    return features, pullback(2 * features)[0], tokens

  features, gradient, tokens = run(variables, expected["input"])
  assert features.dtype == jnp.float32
  tokens = layer_norm(tokens, variables["params"]["norm"])
  assert_close(tokens, expected["tokens"], 1e-5)
  assert_close(features, expected["features"], 1e-5)
  assert_close(gradient, expected["grad_input_of_sum_of_squares"], 1e-5)


@pytest.mark.parametrize(
  ("name", "rows", "columns"),
  # MoCo v3 swaps rows and columns: its 4 x 6 grid is 6 x 4 here.
  [("8x8_48", 8, 8), ("14x14_384", 14, 14), ("4x6_64", 6, 4)],
)
def test_golden_sincos_positions(golden, name, rows, columns):
  expected = golden("vit")[f"sincos_{name}"][0]
  actual = patches.sincos_positions(rows, columns, expected.shape[-1])
  assert actual.dtype == np.float32
  np.testing.assert_allclose(actual, expected[1:], rtol=0, atol=1e-6)
  assert not np.any(expected[0]), "the class token has no position"


@pytest.mark.parametrize(
  ("fields", "parameters"),
  [
    # timm's totals for ViT-S/16, -Ti and -B without the classifier.
    ({}, 21_665_664),
    ({"width": 192, "heads": 3}, 5_524_416),
    ({"width": 768, "heads": 12}, 85_798_656),
    # Without the 197 learned positions.
    ({"positions": "sincos"}, 21_665_664 - 197 * 384),
  ],
)
def test_parameter_count_and_feature_size(fields, parameters):
  model = vit.ViT(**fields)
  x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  out, variables = jax.eval_shape(
    functools.partial(model.init_with_output, train=False), jax.random.key(0), x
  )
  leaves = jax.tree.leaves(variables)
  assert set(variables) == {"params"}
  assert sum(leaf.size for leaf in leaves) == parameters
  assert out.shape == (2, model.num_features) == (2, fields.get("width", 384))
