"""Networks against golden numbers from PyTorch."""

import json
import pathlib

from flax import traverse_util
from golden.weights import golden_state_dict
from golden_helpers import check_eval_train, check_statistics
import pytest

from essl_jax import convert
from essl_jax.models import heads, resnet
from essl_jax.models.layers import convolution

SHAPES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / "golden/state_dict_shapes.json"
  ).read_text()
)
HEADS = {
  "cifar_simclr_projector": heads.projector((2048, 2048)),
  "cifar_simsiam_projector": heads.projector((2048, 2048)),
  "cifar_simclr_rotation_head": heads.transformation_head((2048, 2048), 4),
  "cifar_simsiam_rotation_head": heads.transformation_head(
    (2048, 2048), 4, last_hidden_relu=False
  ),
  "cifar_simsiam_predictor": heads.predictor(512, 2048),
}
RESNETS = {
  "cifar_resnet18_32px": (18, "cifar"),
  "cifar_resnet18_16px": (18, "cifar"),
  "resnet18_64px": (18, "imagenet"),
  "resnet50_96px": (50, "imagenet"),
}


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_matches_golden(golden, name):
  golden = golden("networks")
  depth, stem = RESNETS[name]
  model = resnet.ResNet(
    depth=depth, stem=stem, conv_general_dilated=convolution.default_conv()
  )
  state_dict = golden_state_dict(SHAPES[name])
  variables = convert.from_torch_resnet(state_dict)
  after = check_eval_train(model, variables, golden, name)

  buffers = {
    key.removeprefix(f"{name}/after/"): value
    for key, value in golden.items()
    if key.startswith(f"{name}/after/")
  }
  expected = convert.from_torch_resnet({**state_dict, **buffers})
  count, size = golden[f"{name}/input"].shape[:2]

  def values_per_channel(path):
    stride = 1 if stem == "cifar" else 2
    if path[0] != "bn1":
      stage, block = path[0].removeprefix("layer").split("_")
      stride *= 1 if stem == "cifar" else 2
      stride *= 2 ** (int(stage) - 1)
      # A bottleneck's first norm comes before its strided convolution.
      if depth >= 50 and path[1] == "bn1" and block == "0" and stage != "1":
        stride //= 2
    return count * (size // stride) ** 2

  flatten = traverse_util.flatten_dict
  check_statistics(
    flatten(variables["batch_stats"]),
    flatten(after),
    flatten(expected["batch_stats"]),
    values_per_channel,
  )


@pytest.mark.parametrize("name", HEADS)
def test_head_matches_golden(golden, name):
  golden = golden("networks")
  state_dict = golden_state_dict(SHAPES[name])
  variables = convert.from_torch_mlp(state_dict)
  after = check_eval_train(HEADS[name], variables, golden, name)
  buffers = {
    key.removeprefix(f"{name}/after/"): value
    for key, value in golden.items()
    if key.startswith(f"{name}/after/")
  }
  expected = convert.from_torch_mlp({**state_dict, **buffers})
  count = len(golden[f"{name}/input"])
  flatten = traverse_util.flatten_dict
  check_statistics(
    flatten(variables["batch_stats"]),
    flatten(after),
    flatten(expected["batch_stats"]),
    lambda path: count,
  )
