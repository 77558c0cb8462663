"""The kinds of encoders that are read from PyTorch's checkpoints."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np

from essl_jax.convert import resnet, vit
from essl_jax.convert.torch_names import Variables


class Kind(Protocol):
  """What a module says of one kind of encoder.

  Attributes:
    NAME: its name in messages.
    ANCHORS: names of tensors, and the program that uses them. Every encoder of
      this kind has one of them, which tells the prefix of all its tensors.
    CLASSIFIER: what the layer after the features is called.
    EXPORTED: whose names `write` gives.
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
      tensors: by their names in it, with neither prefix nor classifier.
      form: whose checkpoint it is, by `forms.FORMS`.
      heads: number of attention heads that the user states.

    Returns:
      Variables, metadata that describe the network, and notes for the user.

    Raises:
      ValueError: the tensors do not fit.
      UsageError: the number of heads does not fit, or is not known.
    """

  def holds(self, encoder: Mapping[str, Any]) -> bool:
    """Whether an encoder's parameters are, or may be part, of this kind."""

  def write(
    self, variables: Mapping[str, Any], metadata: Mapping[str, Any]
  ) -> dict[str, np.ndarray]:
    """PyTorch's tensors of an encoder's variables; ValueError if unfit."""

  def features(self, metadata: Mapping[str, Any]) -> int:
    """Size of the features of a network that metadata describe."""

  def heads(self, metadata: Mapping[str, Any]) -> int | None:
    """Number of attention heads, which no tensor tells; None without any."""

  def describe(self, metadata: Mapping[str, Any]) -> str:
    """One line on a network; empty if it is of another kind."""


KINDS: tuple[Kind, ...] = tuple(cast(Kind, x) for x in (resnet, vit))

NAMES = " or ".join(kind.NAME for kind in KINDS)


def find(names: Iterable[str]) -> list[str]:
  """The prefixes of all encoders among short names."""
  found = {
    name.removesuffix(anchor): None
    for name in names
    for kind in KINDS
    for anchor in kind.ANCHORS
    if name == anchor or name.endswith("." + anchor)
  }
  # A ViT's patches may come out of a ResNet, which is a part of it.
  stems = tuple(f"{prefix}patch_embed." for prefix in found)
  return [prefix for prefix in found if not prefix.startswith(stems)]


def of_tensors(names: Iterable[str]) -> tuple[Kind, str]:
  """The kind of an encoder by its tensors' names, and whose names they are."""
  there = set(names)
  return next(
    (kind, owner)
    for kind in KINDS
    for anchor, owner in kind.ANCHORS.items()
    if anchor in there
  )


def of_variables(encoder: Mapping[str, Any]) -> Kind | None:
  """The kind of an encoder by its parameters; None for any other."""
  return next((kind for kind in KINDS if kind.holds(encoder)), None)


def fields(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """The fields of the encoder, as `config.encoder` has them.

  Args:
    metadata: of a file of Flax weights.

  Returns:
    The fields; None where the metadata do not describe an encoder.
  """
  stated = metadata.get("encoder")
  if isinstance(stated, Mapping) and isinstance(stated.get("name"), str):
    return stated
  if all(name in metadata for name in resnet.FIELDS):
    form = {name: metadata[name] for name in resnet.FIELDS}
    return {"name": resnet.ENCODER} | form
  return None


def describe(metadata: Mapping[str, Any]) -> str:
  """One line on the encoder that metadata describe; empty if unknown."""
  found = (kind.describe(metadata) for kind in KINDS)
  return next((line for line in found if line), "")
