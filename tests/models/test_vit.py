"""Vision transformers: positions, stochastic depth, dtypes, errors."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from vit_helpers import block_output, layer_norm

from essl_jax import optim
from essl_jax.models import vit
from essl_jax.models.layers import patches, transformer

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def small():
  """Makes a small network, its variables and 8 images of its `image_size`."""
  model = vit.ViT(image_size=16, patch=4, width=24, depth=2, heads=2)
  x = jax.random.normal(KEY, (8, 16, 16, 3))
  return model, initialise(model, x), x


@functools.cache
def _apply(model, train):
  return jax.jit(functools.partial(model.apply, train=train))


def run(model, variables, x, train=False):
  """Returns features; compiles once per model."""
  return _apply(model, train)(variables, x)


def initialise(model, x):
  """Initialises the variables in one program."""
  return jax.jit(functools.partial(model.init, train=False))(KEY, x)


def test_initial_weights():
  model = vit.ViT(image_size=32, patch=4, width=192, depth=1, heads=2)
  x = jnp.zeros((1, 32, 32, 3))
  params = initialise(model, x)["params"]
  for x in (params["pos_embed"], params["blocks_0"]["mlp"]["fc1"]["kernel"]):
    np.testing.assert_allclose(jnp.std(x), 0.02, rtol=0.05)
    assert jnp.abs(x).max() > 0.06, "not truncated at two deviations"
  np.testing.assert_array_equal(params["blocks_0"]["attn"]["qkv"]["bias"], 0)
  assert jnp.abs(params["cls_token"]).max() < 1e-5
  for x in params["patch_embed"].values():  # as in PyTorch's convolution
    assert 0.9 * 48**-0.5 < jnp.abs(x).max() <= 48**-0.5


def only_positions(variables, positions):
  """Makes variables for which every token remains its position."""
  params = jax.tree.map(jnp.zeros_like, variables["params"])
  return {"params": params | {"pos_embed": positions}}


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (3, 3), (2, 6)])
def test_learned_positions_are_interpolated(small, grid):
  """Pillow's bicubic filter equals PyTorch's with antialias."""
  model, variables, _ = small
  positions = jax.random.normal(jax.random.key(3), (1, 17, 24))
  images = jnp.zeros((1, 4 * grid[0], 4 * grid[1], 3))
  actual = block_output(model, only_positions(variables, positions), images)
  np.testing.assert_array_equal(actual[0, 0], positions[0, 0])
  if grid == (4, 4):
    np.testing.assert_array_equal(actual, positions)
  channels = np.moveaxis(np.asarray(positions[0, 1:]).reshape(4, 4, 24), 2, 0)
  expected = [
    Image.fromarray(channel).resize(grid[::-1], Image.Resampling.BICUBIC)
    for channel in channels
  ]
  expected = np.stack(expected, -1).reshape(-1, 24)
  np.testing.assert_allclose(actual[0, 1:], expected, rtol=0, atol=1e-5)


def test_fixed_positions_are_computed_for_every_size():
  model = vit.ViT(
    image_size=16, patch=4, width=24, depth=1, heads=2, positions="sincos"
  )
  x = jax.random.normal(KEY, (2, 8, 24, 3))
  variables = initialise(model, jnp.zeros((1, 16, 16, 3)))
  assert "pos_embed" not in variables["params"]
  other = model.clone(image_size=64)
  np.testing.assert_array_equal(
    run(model, variables, x), run(other, variables, x)
  )
  zero = jax.tree.map(jnp.zeros_like, variables)
  tokens = block_output(model, zero, x)
  np.testing.assert_array_equal(tokens[0, 0], 0)
  np.testing.assert_array_equal(
    tokens[0, 1:], patches.sincos_positions(2, 6, 24)
  )


def test_images_do_not_see_each_other(small):
  model, variables, x = small
  features = run(model, variables, x)
  order = np.random.default_rng(0).permutation(len(x))
  np.testing.assert_allclose(
    run(model, variables, x[order]), features[order], atol=1e-5
  )
  moved = run(model, variables, x.at[1:].set(0))
  np.testing.assert_allclose(moved[0], features[0], atol=1e-5)
  assert not np.allclose(moved[1], features[1], atol=1e-2)


def test_mean_of_the_patches(small):
  model, variables, x = small
  tokens = block_output(model, variables, x)
  expected = layer_norm(tokens[:, 1:].mean(1), variables["params"]["norm"])
  actual = run(model.clone(pool="mean"), variables, x)
  np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_bfloat16_keeps_parameters_and_features_float32(small):
  model, variables, x = small
  low = model.clone(dtype=jnp.bfloat16)
  initial = jax.eval_shape(functools.partial(low.init, train=False), KEY, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {
    jnp.dtype(jnp.float32)
  }
  assert block_output(low, variables, x).dtype == jnp.bfloat16
  expected = run(model, variables, x)
  actual = run(low, variables, x)
  assert actual.dtype == jnp.float32
  difference = jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected)
  assert 0 < difference < 0.05


def test_stochastic_depth_keeps_the_expectation():
  """An example skips the part, or gets it divided by the keep probability."""
  block = transformer.Block(heads=1, hidden=4, stochastic_depth=0.25)
  x = jax.random.normal(KEY, (2000, 3, 4))
  variables = jax.jit(block.init)(KEY, x)
  params = variables["params"]
  kernel = jnp.eye(4, 12, 8)  # values are the inputs
  params["attn"]["qkv"]["kernel"] = kernel
  params["attn"]["proj"]["kernel"] = jnp.eye(4)
  params["mlp"]["fc2"]["kernel"] = jnp.zeros((4, 4))
  apply = jax.jit(block.apply)
  part = apply(variables, x) - x
  drawn = apply(variables, x, jax.random.split(KEY, 2000)) - x
  kept = np.any(np.asarray(drawn) != 0, axis=(1, 2))
  # 4 standard deviations of a binomial.
  np.testing.assert_allclose(kept.mean(), 0.75, atol=0.04)
  np.testing.assert_allclose(drawn[kept], part[kept] / 0.75, atol=1e-5)


def test_stochastic_depth_rises_over_the_blocks():
  model = vit.ViT(
    image_size=4, patch=4, width=4, depth=3, heads=1, stochastic_depth=0.5
  )
  x = jax.random.normal(KEY, (2000, 4, 4, 3))
  variables = initialise(model, x)
  for i in range(3):
    mlp = variables["params"][f"blocks_{i}"]["mlp"]
    mlp["fc2"]["kernel"] = jnp.zeros_like(mlp["fc2"]["kernel"])
  rngs = {"dropout": jax.random.key(5)}
  outputs = [
    block_output(model, variables, x, i, train=True, rngs=rngs)
    for i in range(3)
  ]
  for i, rate in ((1, 0.25), (2, 0.5)):
    same = np.all(np.asarray(outputs[i] == outputs[i - 1]), axis=(1, 2))
    np.testing.assert_allclose(same.mean(), rate, atol=0.045)
  evaluated = block_output(model, variables, x, 0)
  np.testing.assert_array_equal(outputs[0], evaluated)
  plain = model.clone(stochastic_depth=0.0)
  np.testing.assert_array_equal(
    run(model, variables, x), run(plain, variables, x, train=True)
  )


def test_frozen_patch_projection_stays(small):
  """Neither a gradient nor weight decay moves it."""
  model, variables, x = small
  model = model.clone(frozen_patch_projection=True)
  params = {"encoder": variables["params"]}

  def loss(params):
    features = model.apply({"params": params["encoder"]}, x, train=True)
    return jnp.sum(features[:, :3] ** 2)

  group = optim.Group(0.1, 0.1, weight_decay=0.1, momentum=0.9, beta2=0.999)
  frozen = [f"encoder/{name}" for name in model.frozen_parameters]
  optimizer = optim.make_optimizer({"weights": group, "biases": group}, frozen)
  updates, _ = optimizer.update(
    jax.jit(jax.grad(loss))(params), optimizer.init(params), params
  )
  for name, part in updates["encoder"].items():
    moves = [bool(np.any(x)) for x in jax.tree.leaves(part)]
    assert any(moves) == (name != "patch_embed"), name
  assert model.clone(frozen_patch_projection=False).frozen_parameters == ()


def test_rematerialized_blocks_keep_less_for_the_same_gradients(small):
  kept, gradients = [], []
  for rematerialize in (False, True):
    model, variables, x = small
    model = model.clone(rematerialize=rematerialize, stochastic_depth=0.3)

    def loss(variables, model=model, x=x):
      features = model.apply(variables, x, train=True, rngs={"dropout": KEY})
      return jnp.sum(features[:, :3] ** 2)

    pullback = jax.eval_shape(lambda v: jax.vjp(loss, v)[1], variables)
    kept.append(sum(x.size for x in jax.tree.leaves(pullback)))
    gradients.append(jax.jit(jax.grad(loss))(variables))
  assert kept[1] < 0.6 * kept[0]
  for got, wanted in zip(*map(jax.tree.leaves, gradients), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"image_size": 30}, "image_size must be a multiple of patch 16, got 30"),
    (
      {"width": 100, "heads": 3},
      "width must be a multiple of heads 3, got 100",
    ),
    ({"width": 6, "positions": "sincos"}, "multiple of 4, got 6"),
    ({"depth": 0}, "depth must be at least 1, got 0"),
    ({"mlp_ratio": -1.0}, "mlp_ratio must be above 0, got -1.0"),
    ({"stochastic_depth": 1.0}, r"in \[0, 1\), got 1.0"),
    ({"positions": "rotary"}, "'learned', 'sincos'.*'rotary'"),
    ({"pool": "max"}, "'token', 'mean'.*'max'"),
  ],
)
def test_wrong_fields_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    vit.ViT(**fields)


@pytest.mark.parametrize(
  ("shape", "message"),
  [
    ((16, 16, 3), r"\[N, H, W, C\], got shape \(16, 16, 3\)"),
    ((1, 18, 16, 3), "image height must be a multiple of patch 4, got 18"),
    ((1, 16, 3, 3), "image width must be a multiple of patch 4, got 3"),
    ((1, 0, 16, 3), "image height must be a multiple of patch 4, got 0"),
  ],
)
def test_wrong_images_are_named(small, shape, message):
  model, variables, _ = small
  with pytest.raises(ValueError, match=message):
    model.apply(variables, jnp.zeros(shape), train=False)


def test_example_in_docstring():
  result = doctest.testmod(vit)
  assert (result.failed, result.attempted) == (0, 4)
