"""Import and export of PyTorch weights."""

import json
import pathlib

from flax import traverse_util
from golden.weights import golden_state_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import convert
from essl_jax.models import heads, resnet

SHAPES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / "golden/state_dict_shapes.json"
  ).read_text()
)


@pytest.fixture(scope="module")
def narrow():
  """The state dict of a ResNet-18 of width 4, with counters and fc."""
  model = resnet.ResNet(depth=18, stem="cifar", width=4)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes
  )
  state_dict = convert.to_torch_resnet(variables)
  return state_dict, variables


def assert_equal_trees(a, b):
  a, b = traverse_util.flatten_dict(a), traverse_util.flatten_dict(b)
  assert set(a) == set(b)
  for path in a:
    np.testing.assert_array_equal(a[path], b[path], err_msg=str(path))


@pytest.mark.parametrize("name", ["cifar_resnet18_32px", "resnet50_96px"])
def test_round_trip_is_exact(name):
  state_dict = golden_state_dict(SHAPES[name])
  back = convert.to_torch_resnet(convert.from_torch_resnet(state_dict))
  kept = {k: v for k, v in state_dict.items() if not k.endswith("tracked")}
  assert set(back) == set(kept)
  for key, value in kept.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_kernels_are_transposed(narrow):
  state_dict, _ = narrow
  variables = convert.from_torch_resnet(state_dict)
  kernel = variables["params"]["layer2_0"]["downsample_conv"]["kernel"]
  assert kernel.shape == (1, 1, 4, 8)
  torch_kernel = state_dict["layer2.0.downsample.0.weight"]
  assert kernel[0, 0, 1, 2] == torch_kernel[2, 1, 0, 0]
  np.testing.assert_array_equal(
    variables["batch_stats"]["layer2_0"]["downsample_bn"]["var"],
    state_dict["layer2.0.downsample.1.running_var"],
  )


@pytest.mark.parametrize("prefix", ["module.", "module.encoder.", "backbone."])
def test_prefix_classifier_and_counters_are_dropped(narrow, prefix):
  state_dict, variables = narrow
  extended = {
    **state_dict,
    "fc.weight": np.zeros((10, 32)),
    "fc.bias": np.zeros(10),
    "bn1.num_batches_tracked": np.zeros((), np.int64),
  }
  prefixed = {prefix + key: value for key, value in extended.items()}
  assert_equal_trees(convert.from_torch_resnet(prefixed), variables)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"layer3.0.bn1.bias": None}, "missing tensors: layer3.0.bn1.bias"),
    ({"bn1.running_var": None}, "missing tensors: bn1.running_var"),
    ({"head.weight": np.zeros(3)}, "unexpected tensors: head.weight"),
    (
      {"layer1.0.bn1.bias": np.zeros(5)},
      r"layer1.0.bn1.bias \(5,\) instead of \(4,\)",
    ),
    ({"conv1.weight": None}, r"conv1.weight must be"),
    ({"conv1.weight": np.zeros((4, 3, 5, 5))}, r"\(4, 3, 5, 5\)"),
    ({"layer1.0.conv1.weight": None}, "layer1.0.conv1.weight"),
    ({"layer4.2.conv1.weight": np.zeros(1)}, r"\(2, 2, 2, 3\)"),
  ],
)
def test_wrong_state_dicts_are_refused(narrow, change, message):
  state_dict = {**narrow[0], **change}
  state_dict = {k: v for k, v in state_dict.items() if v is not None}
  with pytest.raises(ValueError, match=message):
    convert.from_torch_resnet(state_dict)


def test_tensors_outside_the_prefix_are_named(narrow):
  state_dict = {f"encoder.{key}": value for key, value in narrow[0].items()}
  with pytest.raises(ValueError, match="'encoder.'.*projector.0.weight"):
    convert.from_torch_resnet({**state_dict, "projector.0.weight": 0})


def test_to_torch_refuses_other_variables(narrow):
  _, variables = narrow
  with pytest.raises(ValueError, match="batch_stats"):
    convert.to_torch_resnet({"params": variables["params"]})
  head = {"params": {"dense_0": {"kernel": np.zeros((2, 2))}}}
  with pytest.raises(ValueError, match="conv1.weight"):
    convert.to_torch_resnet({**head, "batch_stats": {}})


@pytest.mark.parametrize(
  ("name", "head"),
  [
    (
      "cifar_simclr_projector",
      heads.projector((2048, 2048)),
    ),
    (
      "cifar_simclr_rotation_head",
      heads.transformation_head((2048, 2048), 4),
    ),
    (
      "cifar_simsiam_rotation_head",
      heads.transformation_head((2048, 2048), 4, last_hidden_relu=False),
    ),
    ("cifar_simsiam_predictor", heads.predictor(512, 2048)),
  ],
)
def test_mlp_has_the_modules_structure(name, head):
  state_dict = golden_state_dict(SHAPES[name])
  variables = convert.from_torch_mlp(state_dict)
  fan_in = next(iter(SHAPES[name].values()))[1]
  expected = jax.eval_shape(
    lambda: head.init(jax.random.key(0), jnp.zeros((2, fan_in)), train=False)
  )
  expected = {"batch_stats": {}, **expected}
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)


@pytest.mark.parametrize(
  ("state_dict", "message"),
  [
    ({"conv.weight": np.zeros((2, 2))}, "conv.weight"),
    (
      {"a.0.weight": np.zeros((2, 2)), "b.0.weight": np.zeros((2, 2))},
      r"\['a.', 'b.'\]",
    ),
    ({}, "one prefix"),
    (
      {"0.weight": np.zeros((3, 2)), "1.weight": np.zeros(4)},
      "Layer 1.*width 3",
    ),
    (
      {"0.weight": np.zeros((3, 2)), "1.running_mean": np.zeros(3)},
      "Layer 1.*running",
    ),
  ],
)
def test_wrong_sequentials_are_refused(state_dict, message):
  with pytest.raises(ValueError, match=message):
    convert.from_torch_mlp(state_dict)
