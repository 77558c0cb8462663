"""Networks against golden numbers, known sizes, and each other."""

import functools
import json
import pathlib

from flax import traverse_util
from golden.weights import golden_state_dict
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from essl_jax import convert
from essl_jax.models import heads, resnet

SHAPES = json.loads(
  (pathlib.Path(__file__).parent / "golden/state_dict_shapes.json").read_text()
)
KEY = jax.random.key(0)
HEADS = {
  "cifar_simclr_projector": heads.projector((2048, 2048), last_affine=False),
  "cifar_simsiam_projector": heads.projector((2048, 2048), last_affine=False),
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


def run(model, variables, x, train):
  """Output and new batch statistics, jitted."""

  @jax.jit
  def apply(variables, x):
    return model.apply(variables, x, train=train, mutable=["batch_stats"])

  return apply(variables, x)


def check_eval_train(model, variables, golden, name):
  """Compares both outputs; returns the statistics after the train pass."""
  x = golden[f"{name}/input"]
  for train, key in ((False, "eval"), (True, "train")):
    out, updates = run(model, variables, x, train)
    expected = golden[f"{name}/{key}"]
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
  return updates.get("batch_stats", {})


def check_statistics(before, after, expected, values_per_channel):
  """Compares with PyTorch's, whose running variance is unbiased.

  Args:
    before: Path to statistic before the pass.
    after: The same after it.
    expected: The same after it, by PyTorch.
    values_per_channel: Path to the number n of values per channel.
  """
  assert set(after) == set(expected)
  for path, value in after.items():
    if path[-1] == "var":
      n = values_per_channel(path)
      batch = (np.asarray(value) - 0.9 * before[path]) * n / (n - 1)
      value = 0.9 * before[path] + batch
    np.testing.assert_allclose(
      value, expected[path], rtol=1e-3, atol=1e-4, err_msg=str(path)
    )


@pytest.mark.parametrize("name", RESNETS)
def test_resnet_matches_golden(golden, name):
  golden = golden("networks")
  depth, stem = RESNETS[name]
  model = resnet.ResNet(
    depth=depth, stem=stem, conv_general_dilated=resnet.default_conv()
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


@pytest.mark.parametrize(
  ("depth", "stem", "parameters"),
  [
    # torchvision's totals without the classifier.
    (18, "imagenet", 11_176_512),
    (34, "imagenet", 21_284_672),
    (50, "imagenet", 23_508_032),
    (101, "imagenet", 42_500_160),
    (152, "imagenet", 58_143_808),
    # The 3x3 stem has 64*3*(49-9) weights fewer.
    (18, "cifar", 11_168_832),
  ],
)
def test_parameter_count_and_feature_size(depth, stem, parameters):
  model = resnet.ResNet(depth=depth, stem=stem)
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  out, variables = jax.eval_shape(
    functools.partial(model.init_with_output, train=False), KEY, x
  )
  leaves = jax.tree.leaves(variables["params"])
  assert sum(leaf.size for leaf in leaves) == parameters
  assert out.shape == (2, model.num_features)
  assert model.num_features == (512 if depth < 50 else 2048)


def test_width_scales_every_layer():
  model = resnet.ResNet(depth=50, stem="cifar", width=16)
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  out, variables = jax.eval_shape(
    functools.partial(model.init_with_output, train=False), KEY, x
  )
  assert out.shape == (2, model.num_features) == (2, 512)
  assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 16)
  kernel = variables["params"]["layer4_2"]["conv2"]["kernel"]
  assert kernel.shape == (3, 3, 128, 128)


@pytest.fixture(scope="module")
def small():
  """A narrow ResNet-18, its variables and 16 images."""
  model = resnet.ResNet(
    depth=18, stem="cifar", width=8, conv_general_dilated=resnet.cpu_conv
  )
  x = jax.random.normal(KEY, (16, 16, 16, 3))
  init = jax.jit(functools.partial(model.init, train=False))
  return model, init(KEY, x), x


def test_initial_weights(small):
  model, variables, x = small
  kernel = variables["params"]["layer4_1"]["conv2"]["kernel"]
  fan_out = 9 * 64
  np.testing.assert_allclose(jnp.std(kernel), (2 / fan_out) ** 0.5, rtol=0.02)
  # A truncated normal would stop at 2.3 deviations.
  assert jnp.abs(kernel).max() > 3 * (2 / fan_out) ** 0.5
  scale = variables["params"]["layer1_0"]["bn2"]["scale"]
  np.testing.assert_array_equal(scale, 1)

  zeroed = model.clone(zero_init_last_norm=True)
  init = jax.jit(functools.partial(zeroed.init, train=False))
  params = init(KEY, x)["params"]
  np.testing.assert_array_equal(params["layer1_0"]["bn2"]["scale"], 0)
  np.testing.assert_array_equal(params["layer1_0"]["bn1"]["scale"], 1)


def test_bfloat16_keeps_parameters_and_statistics_float32(small):
  model, variables, x = small
  low = model.clone(dtype=jnp.bfloat16)
  initial = jax.eval_shape(functools.partial(low.init, train=False), KEY, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {
    jnp.dtype(jnp.float32)
  }
  expected, _ = run(model, variables, x, True)
  out, updates = run(low, variables, x, True)
  assert out.dtype == jnp.float32
  for leaf in jax.tree.leaves(updates):
    assert leaf.dtype == jnp.float32
  assert np.all(np.isfinite(out))
  difference = jnp.linalg.norm(out - expected) / jnp.linalg.norm(expected)
  assert 0 < difference < 0.05


def test_eight_devices_equal_one(small):
  model, variables, x = small
  spec = PartitionSpec
  mapped = jax.shard_map(
    lambda variables, x: model.clone(axis_name="batch").apply(
      variables, x, train=True, mutable=["batch_stats"]
    ),
    mesh=Mesh(np.array(jax.devices()), ("batch",)),
    in_specs=(spec(), spec("batch")),
    out_specs=(spec("batch"), spec()),
    check_vma=False,
  )
  assert jax.device_count() == 8
  out, updates = jax.jit(mapped)(variables, x)
  expected, expected_updates = run(model, variables, x, True)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    updates,
    expected_updates,
  )


def test_head_on_eight_devices_equals_one():
  head = heads.projector((16, 8), last_affine=True, axis_name="batch")
  x = jax.random.normal(KEY, (16, 12))
  variables = head.init(KEY, x, train=False)
  spec = PartitionSpec
  mapped = jax.shard_map(
    lambda variables, x: head.apply(
      variables, x, train=True, mutable=["batch_stats"]
    ),
    mesh=Mesh(np.array(jax.devices()), ("batch",)),
    in_specs=(spec(), spec("batch")),
    out_specs=(spec("batch"), spec()),
    check_vma=False,
  )
  out, updates = jax.jit(mapped)(variables, x)
  single = head.clone(axis_name=None)
  expected, expected_updates = run(single, variables, x, True)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  for a, b in zip(
    jax.tree.leaves(updates), jax.tree.leaves(expected_updates), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("convolution", [resnet.im2col_conv, resnet.cpu_conv])
@pytest.mark.parametrize(
  ("size", "kernel", "stride", "padding"),
  [
    (8, 3, 1, ((1, 1), (1, 1))),
    (8, 3, 2, ((1, 1), (1, 1))),
    (2, 3, 1, ((1, 1), (1, 1))),
    (4, 3, 2, ((1, 1), (1, 1))),
    (8, 1, 1, ((0, 0), (0, 0))),
    (7, 1, 2, ((0, 0), (0, 0))),
    (15, 7, 2, ((3, 3), (3, 3))),
    (9, 3, 1, ((0, 1), (2, 0))),
  ],
)
def test_cpu_convolutions_equal_xla(convolution, size, kernel, stride, padding):
  x = jax.random.normal(KEY, (3, size, size + 1, 5))
  w = jax.random.normal(jax.random.key(1), (kernel, kernel, 5, 4))

  def outputs(function, x, w):
    def value(x, w):
      return function(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )

    y, pullback = jax.vjp(value, x, w)
    return y, pullback(jnp.cos(y))

  got = jax.jit(functools.partial(outputs, convolution))(x, w)
  expected = jax.jit(functools.partial(outputs, jax.lax.conv_general_dilated))(
    x, w
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_cpu_convolution_under_vmap_and_bfloat16():
  x = jax.random.normal(KEY, (2, 3, 2, 2, 5), jnp.bfloat16)
  w = jax.random.normal(KEY, (3, 3, 5, 4), jnp.bfloat16)
  convolve = functools.partial(
    resnet.cpu_conv,
    rhs=w,
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  out = jax.vmap(convolve)(x)
  assert out.dtype == jnp.bfloat16
  one_by_one = jnp.stack([convolve(images) for images in x])
  np.testing.assert_allclose(
    out.astype(jnp.float32), one_by_one.astype(jnp.float32), atol=0.1
  )


def test_default_conv_is_fast_on_cpu():
  assert jax.default_backend() == "cpu"
  assert resnet.default_conv() is resnet.cpu_conv


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rhs_dilation": (2, 2)}, "rhs_dilation"),
    ({"feature_group_count": 5}, "feature_group_count"),
    ({"dimension_numbers": ("NCHW", "OIHW", "NCHW")}, "NHWC"),
    ({"padding": "SAME"}, "SAME"),
  ],
)
def test_im2col_refuses_other_convolutions(options, message):
  arguments = {
    "padding": ((1, 1), (1, 1)),
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    **options,
  }
  with pytest.raises(ValueError, match=message):
    resnet.im2col_conv(
      jnp.ones((1, 5, 5, 5)), jnp.ones((5, 3, 5, 5)), (1, 1), **arguments
    )


def test_head_starts_as_torch_and_computes_in_its_dtype():
  head = heads.transformation_head((64, 64), 4, dtype=jnp.bfloat16)
  x = jax.random.normal(KEY, (8, 400))
  out, variables = head.init_with_output(KEY, x, train=False)
  assert out.dtype == jnp.float32
  np.testing.assert_array_equal(out, out.astype(jnp.bfloat16))
  dense = variables["params"]["dense_0"]
  for leaf in (dense["kernel"], dense["bias"]):
    assert leaf.dtype == jnp.float32
    assert 0.9 / 20 < jnp.abs(leaf).max() <= 1 / 20


def test_constructors_build_the_recipes_layers():
  x = jnp.zeros((2, 6))
  affine = heads.projector((8, 7, 5), last_affine=True).init(
    KEY, x, train=False
  )
  assert set(affine["params"]) == {
    *("dense_0", "norm_0", "dense_1", "norm_1", "dense_2", "norm_2")
  }
  assert set(affine["params"]["dense_2"]) == {"kernel"}
  predictor = heads.predictor(3, 6).init(KEY, x, train=False)["params"]
  assert set(predictor) == {"dense_0", "norm_0", "dense_1"}
  assert set(predictor["dense_0"]) == {"kernel"}
  assert set(predictor["dense_1"]) == {"kernel", "bias"}


@pytest.mark.parametrize(
  ("build", "message"),
  [
    (lambda: resnet.ResNet(depth=20), r"18, 34, 50, 101, 152.*20"),
    (lambda: resnet.ResNet(stem="mnist"), "cifar.*imagenet.*mnist"),
    (lambda: resnet.ResNet(width=0), "width.*0"),
    (lambda: heads.MLP(widths=()), "widths"),
    (lambda: heads.MLP(widths=(4, 0)), "widths.*0"),
    (lambda: heads.MLP(widths=(4,), norm="group"), "batch.*group"),
    (
      lambda: heads.MLP(widths=(4,), output_norm="layer"),
      "batch_not_affine.*layer",
    ),
    (
      lambda: resnet.ResNet().init(KEY, jnp.zeros((8, 8, 3)), train=True),
      r"\[N, H, W, C\].*\(8, 8, 3\)",
    ),
    (
      lambda: heads.predictor(2, 2).init(KEY, jnp.zeros((2, 2, 3)), train=True),
      r"\[N, F\].*\(2, 2, 3\)",
    ),
  ],
)
def test_wrong_inputs_name_the_offender(build, message):
  with pytest.raises(ValueError, match=message):
    build()
