"""Toy networks of six golden steps with a target network, and what to compare.

The golden file has BYOL (`byol`) and MoCo v3 (`mocov3`) with the same networks
and weights. Both have SGD with `LEARNING_RATE`, `MOMENTUM` and `WEIGHT_DECAY`
on every parameter, and a target that follows with `BASE_COEFFICIENT`.
"""

import json
import pathlib

import flax.linen as nn
from golden.weights import golden_state_dict
import jax
import numpy as np

from essl_jax import convert
from essl_jax.models import heads

STEPS = 6
BATCH_SIZE = 16
LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
BASE_COEFFICIENT = 0.9  # of the target at step 0
NETWORKS = ("encoder", "projector", "predictor")
TARGETS = ("encoder", "projector")  # the networks with a target
PASSES = 2  # of every network in a step: one a view
TOLERANCE = 1e-4
_GOLDEN = pathlib.Path(__file__).parent / "golden"


class Encoder(nn.Module):
  """A linear layer without bias, batch norm and ReLU, on flattened images."""

  axis_name: str | None = None

  @property
  def num_features(self):
    """Size of the features."""
    return 16

  @nn.compact
  def __call__(self, x, *, train):
    """Maps images of 12 numbers each to features [N, 16]."""
    mlp = heads.MLP(
      widths=(self.num_features,),
      output_norm="batch",
      output_bias=False,
      axis_name=self.axis_name,
      name="mlp",
    )
    return nn.relu(mlp(x.reshape(len(x), -1), train=train))


def make_networks(axis_name=None):
  """The trained networks by name."""
  head = heads.MLP(widths=(20, 8), axis_name=axis_name)
  encoder = Encoder(axis_name=axis_name)
  return {"encoder": encoder, "projector": head, "predictor": head}


def initial_variables():
  """The variables of all networks by name; the targets start as copies."""
  shapes = json.loads((_GOLDEN / "modern_state_dict_shapes.json").read_text())
  return {
    name: _from_torch(
      name, golden_state_dict(shapes[f"toy_{name}"], salt=f"toy_{name}/")
    )
    for name in NETWORKS
  }


def views(golden_file, step):
  """Both views of a step, [16, 12], from the loaded golden file."""
  random = np.random.default_rng([int(golden_file["seed"]), step])
  shape = (BATCH_SIZE, 12)
  return tuple(random.standard_normal(shape).astype(np.float32) for _ in "12")


def assert_rows(golden_file, method, losses, coefficients):
  """Compares the loss and the target's coefficient of every step."""
  actual = np.stack([losses, coefficients], axis=1)
  np.testing.assert_allclose(
    actual, golden_file[f"{method}/loss_tau"], rtol=0, atol=TOLERANCE
  )


def assert_variables(golden_file, method, network, variables):
  """Compares all tensors of a network after the last step.

  Args:
    golden_file: loaded.
    method: `byol` or `mocov3`.
    network: name of a network, or `target_` and the name.
    variables: of the network, with parameters and running statistics.
  """
  prefix = f"{method}/{network}/"
  name = network.removeprefix("target_")
  expected = _from_torch(
    name,
    {
      key.removeprefix(prefix): value
      for key, value in golden_file.items()
      if key.startswith(prefix)
    },
  )
  initial = initial_variables()[name]
  assert jax.tree.structure(variables) == jax.tree.structure(expected)
  jax.tree_util.tree_map_with_path(
    lambda path, actual, start, wanted: np.testing.assert_allclose(
      _unbiased(path, actual, start),
      wanted,
      rtol=0,
      atol=TOLERANCE,
      err_msg=network + jax.tree_util.keystr(path),
    ),
    variables,
    initial,
    expected,
  )


def _from_torch(name, tensors):
  variables = convert.from_torch_mlp(tensors)
  if name != "encoder":
    return variables
  return {collection: {"mlp": part} for collection, part in variables.items()}


def _unbiased(path, value, start):
  """PyTorch's running variances: what batches added, times n / (n - 1)."""
  if path[-1].key != "var":
    return value
  kept = start * 0.9 ** (STEPS * PASSES)
  return kept + (value - kept) * BATCH_SIZE / (BATCH_SIZE - 1)
