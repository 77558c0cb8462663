"""The network of unit cells: golden numbers, sizes, wrong shapes."""

import doctest
import json
import pathlib

from flax import traverse_util
from golden.weights import golden_state_dict
import golden_helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.photonics import encoder

SHAPES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / "golden/state_dict_shapes.json"
  ).read_text()
)
NAME = "photonics_regressor"


def _from_torch(tensors):
  """Converts PyTorch tensors by name to the regressor's Flax variables."""
  params, statistics = {}, {}
  for i in range(3):
    conv, norm = f"enc.enc_block2d.{4 * i}", f"enc.enc_block2d.{4 * i + 1}"
    kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
    params["encoder", f"conv{i + 1}", "kernel"] = kernel
    params["encoder", f"conv{i + 1}", "bias"] = tensors[f"{conv}.bias"]
    params["encoder", f"bn{i + 1}", "scale"] = tensors[f"{norm}.weight"]
    params["encoder", f"bn{i + 1}", "bias"] = tensors[f"{norm}.bias"]
    for kind in ("mean", "var"):
      values = tensors[f"{norm}.running_{kind}"]
      statistics["encoder", f"bn{i + 1}", kind] = values
  dense = [(f"enc.fcpart.{2 * i}", "encoder", f"dense{i + 1}") for i in (0, 1)]
  dense += [
    (f"predictor.DOSband.{2 * i}", "head", f"dense_{i}") for i in range(4)
  ]
  for name, *path in dense:
    params[(*path, "kernel")] = tensors[f"{name}.weight"].T
    params[(*path, "bias")] = tensors[f"{name}.bias"]
  nest = traverse_util.unflatten_dict
  return {"params": nest(params), "batch_stats": nest(statistics)}


def test_regressor_matches_golden(golden):
  golden = golden("networks")
  model = encoder.DensityRegressor(
    encoder.PhotonicCNN(), encoder.density_head()
  )
  state_dict = golden_state_dict(SHAPES[NAME])
  variables = _from_torch(state_dict)
  after = golden_helpers.check_eval_train(model, variables, golden, NAME)
  buffers = {
    key.removeprefix(f"{NAME}/after/"): value
    for key, value in golden.items()
    if key.startswith(f"{NAME}/after/")
  }
  expected = _from_torch({**state_dict, **buffers})
  flatten = traverse_util.flatten_dict
  count = len(golden[f"{NAME}/input"])
  sides = {"bn1": 32, "bn2": 16, "bn3": 4}
  golden_helpers.check_statistics(
    flatten(variables["batch_stats"]),
    flatten(after),
    flatten(expected["batch_stats"]),
    lambda path: count * sides[path[1]] ** 2,
  )


def test_every_layer_scales_with_the_width():
  model = encoder.DensityRegressor(
    encoder.PhotonicCNN(width=2), encoder.density_head(2)
  )
  cells = jnp.zeros((2, 32, 32, 1))
  init = lambda key: model.init(key, cells, train=False)
  params = jax.eval_shape(init, jax.random.key(0))["params"]
  assert params["encoder"]["conv3"]["kernel"].shape == (7, 7, 8, 8)
  assert params["encoder"]["dense2"]["kernel"].shape == (32, 32)
  assert params["head"]["dense_2"]["kernel"].shape == (32, 16)
  assert params["head"]["dense_3"]["kernel"].shape == (16, 400)


def test_other_shapes_are_refused():
  for shape in ((2, 32, 32, 3), (2, 16, 16, 1)):
    with pytest.raises(ValueError, match="unit cells must be .N, 32, 32, 1."):
      encoder.PhotonicCNN(width=2).init(
        jax.random.key(0), np.zeros(shape), train=False
      )


def test_examples_in_docstrings():
  result = doctest.testmod(encoder)
  assert result.attempted >= 3 and result.failed == 0
