"""The kind of encoder `ResNet`; see `encoders.Kind`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from essl_jax.convert import torch_names
from essl_jax.convert.torch_names import Variables
from essl_jax.errors import UsageError
from essl_jax.models import resnet

NAME = "ResNet"
ANCHORS = {torch_names.ANCHOR: "torchvision"}
CLASSIFIER = "fc"
EXPORTED = "torchvision's names"
ENCODER = "resnet"  # its name in configs
FIELDS = ("depth", "stem", "width")


def read(
  tensors: Mapping[str, Any], form: str, heads: int | None
) -> tuple[Variables, dict[str, Any], list[str]]:
  """Reads an encoder from a checkpoint; see `encoders.Kind`."""
  if heads is not None:
    raise UsageError(f"--attention-heads={heads} is for ViTs: leave it out")
  variables = torch_names.from_torch_resnet(tensors)
  metadata, notes = torch_names.architecture(variables), []
  if form == "solo-learn" and metadata["stem"] == "cifar":
    notes.append(
      "solo-learn pads the first convolution of its CIFAR ResNets by 2 pixels"
      " instead of 1: features differ a little from solo-learn's"
    )
  return variables, metadata, notes


def holds(encoder: Mapping[str, Any]) -> bool:
  """Whether parameters seem to be of this kind; see `encoders.Kind`."""
  return "conv1" in encoder or "layer1_0" in encoder


def write(
  variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Converts Flax variables to PyTorch tensors; see `encoders.Kind`."""
  del metadata
  return torch_names.to_torch_resnet(variables)


def features(metadata: Mapping[str, Any]) -> int:
  """Returns the size of the features."""
  form: dict[str, Any] = {name: metadata[name] for name in FIELDS}
  return resnet.ResNet(**form).num_features


def heads(metadata: Mapping[str, Any]) -> None:
  """Returns None: there are no attention heads."""
  del metadata


def describe(metadata: Mapping[str, Any]) -> str:
  """Describes a ResNet in one line; empty for other metadata."""
  if "depth" not in metadata:
    return ""
  return (
    f"ResNet-{metadata['depth']}, {metadata['stem']} stem, width"
    f" {metadata['width']}"
  )
