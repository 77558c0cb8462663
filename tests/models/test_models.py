"""ResNets and heads: sizes, initial weights, dtypes, devices, errors."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from essl_jax.models import heads, resnet
from essl_jax.models.layers import convolution

KEY = jax.random.key(0)


def run(model, variables, x, train):
  """Returns output and new batch statistics, jitted."""

  @jax.jit
  def apply(variables, x):
    return model.apply(variables, x, train=train, mutable=["batch_stats"])

  return apply(variables, x)


@pytest.mark.parametrize(
  ("depth", "stem", "parameters"),
  [
    # torchvision's totals without the classifier.
    (18, "imagenet", 11_176_512),
    (34, "imagenet", 21_284_672),
    (50, "imagenet", 23_508_032),
    (101, "imagenet", 42_500_160),
    (152, "imagenet", 58_143_808),
    # The 3x3 stem has 64*3*(49-9) fewer weights.
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
  """Makes a narrow ResNet-18, its variables and 16 images."""
  model = resnet.ResNet(
    depth=18, stem="cifar", width=8, conv_general_dilated=convolution.cpu_conv
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
  head = heads.projector((16, 8), last_norm="batch", axis_name="batch")
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
  affine = heads.projector((8, 7, 5), last_norm="batch").init(
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


def test_rematerialized_blocks_keep_less_for_the_same_gradients():
  """The backward pass gets the blocks' inputs, not their inner arrays."""
  images = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
  kept, gradients = [], []
  for rematerialize in (False, True):
    model = resnet.ResNet(
      depth=18, stem="cifar", width=8, rematerialize=rematerialize
    )
    variables = jax.jit(functools.partial(model.init, train=False))(
      jax.random.key(1), images
    )

    def loss(params, model=model, statistics=variables["batch_stats"]):
      features, _ = model.apply(
        {"params": params, "batch_stats": statistics},
        images,
        train=True,
        mutable=["batch_stats"],
      )
      return jnp.sum(features**2)

    pullback = jax.eval_shape(
      lambda p: jax.vjp(loss, p)[1], variables["params"]
    )
    kept.append(sum(x.size for x in jax.tree.leaves(pullback)))
    gradients.append(jax.jit(jax.grad(loss))(variables["params"]))
  assert kept[1] < 0.6 * kept[0]
  for got, wanted in zip(*map(jax.tree.leaves, gradients), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-3 * np.abs(wanted).max())
