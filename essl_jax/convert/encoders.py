"""The kinds of encoders that can be read from PyTorch checkpoints."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np

from essl_jax.convert import resnet, vit
from essl_jax.convert.torch_names import Variables


class Kind(Protocol):
  """One kind of encoder, which a module describes.

  Attributes:
    NAME: its name in messages.
    ANCHORS: names of tensors, with the program that uses them. Every encoder of
      this kind has one of them; it reveals the prefix of all its tensors.
    CLASSIFIER: name of the layer after the features.
    EXPORTED: whose names `write` uses, for messages.
  """

  NAME: str
  ANCHORS: Mapping[str, str]
  CLASSIFIER: str
  EXPORTED: str

  def read(
    self, tensors: Mapping[str, Any], form: str, heads: int | None
  ) -> tuple[Variables, dict[str, Any], list[str]]:
    """Reads an encoder.

    Args:
      tensors: by their names in it, without prefix and classifier.
      form: the program that wrote the checkpoint, from `forms.FORMS`.
      heads: number of attention heads that the user gives.

    Returns:
      Variables, metadata that describe the network, and notes for the user.

    Raises:
      ValueError: the tensors do not fit.
      UsageError: the number of heads does not fit, or is unknown.
    """

  def holds(self, encoder: Mapping[str, Any]) -> bool:
    """Whether an encoder's parameters seem to be of this kind, even in part."""

  def write(
    self, variables: Mapping[str, Any], metadata: Mapping[str, Any]
  ) -> dict[str, np.ndarray]:
    """Converts variables to PyTorch tensors; ValueError if they do not fit."""

  def features(self, metadata: Mapping[str, Any]) -> int:
    """Returns the size of the features of the network in the metadata."""

  def heads(self, metadata: Mapping[str, Any]) -> int | None:
    """Returns the number of attention heads; None if it has none."""

  def describe(self, metadata: Mapping[str, Any]) -> str:
    """Describes a network in one line; empty if it is of another kind."""


KINDS: tuple[Kind, ...] = tuple(cast(Kind, x) for x in (resnet, vit))

NAMES = " or ".join(kind.NAME for kind in KINDS)


def find(names: Iterable[str]) -> list[str]:
  """Finds the prefixes of all encoders among short names."""
  found = {
    name.removesuffix(anchor): None
    for name in names
    for kind in KINDS
    for anchor in kind.ANCHORS
    if name == anchor or name.endswith("." + anchor)
  }
  # A ViT may compute its patches by a ResNet, which is part of it.
  stems = tuple(f"{prefix}patch_embed." for prefix in found)
  return [prefix for prefix in found if not prefix.startswith(stems)]


def of_tensors(names: Iterable[str]) -> tuple[Kind, str]:
  """Returns an encoder's kind and whose names its tensors have."""
  there = set(names)
  return next(
    (kind, owner)
    for kind in KINDS
    for anchor, owner in kind.ANCHORS.items()
    if anchor in there
  )


def of_variables(encoder: Mapping[str, Any]) -> Kind | None:
  """Returns an encoder's kind by its parameters; None if unknown."""
  return next((kind for kind in KINDS if kind.holds(encoder)), None)


def fields(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Returns the fields of an encoder as in `config.encoder`.

  Args:
    metadata: of a file of Flax weights.

  Returns:
    The fields; None if the metadata do not describe an encoder.
  """
  stated = metadata.get("encoder")
  if isinstance(stated, Mapping) and isinstance(stated.get("name"), str):
    return stated
  if all(name in metadata for name in resnet.FIELDS):
    form = {name: metadata[name] for name in resnet.FIELDS}
    return {"name": resnet.ENCODER} | form
  return None


def describe(metadata: Mapping[str, Any]) -> str:
  """Describes the encoder in the metadata in one line; empty if unknown."""
  found = (kind.describe(metadata) for kind in KINDS)
  return next((line for line in found if line), "")
