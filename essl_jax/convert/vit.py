"""The kind of encoder `ViT`; see `encoders.Kind`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from essl_jax.convert import torch_vit
from essl_jax.convert.torch_names import Variables
from essl_jax.errors import UsageError

NAME = "ViT"
ANCHORS = {"patch_embed.proj.weight": "timm", "conv_proj.weight": "torchvision"}
CLASSIFIER = "head"
EXPORTED = "timm's names"

# Heads of published networks by width. Fixed positions mean MoCo v3, whose
# small ViTs have twelve heads.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_HEADS_OF_MOCO_V3 = {192: 12, 384: 12, 768: 12, 1024: 16}


def read(
  tensors: Mapping[str, Any], form: str, heads: int | None
) -> tuple[Variables, dict[str, Any], list[str]]:
  """Reads an encoder from a checkpoint; see `encoders.Kind`."""
  variables, fields, notes = torch_vit.read(tensors)
  width = fields["width"]
  is_moco_v3 = fields["positions"] == "sincos" or form == "MoCo v3"
  known = _HEADS_OF_MOCO_V3 if is_moco_v3 else _HEADS
  if heads is None:
    if width not in known:
      raise UsageError(
        f"it is a ViT of width {width}, and no tensor shows its number of"
        " attention heads: give --attention-heads=N"
      )
    heads = known[width]
    whose = "MoCo v3's ViTs" if is_moco_v3 else "timm's ViTs"
    notes.append(
      f"{heads} attention heads, like {whose} of width {width}: no tensor shows"
      " their number; --attention-heads=N sets another"
    )
  if heads < 1 or width % heads:
    raise UsageError(
      f"--attention-heads={heads} does not divide the ViT's width of {width}"
    )
  order = ("image_size", "patch", "width", "depth")
  chosen = {"name": "vit"} | {x: fields.pop(x) for x in order}
  return variables, {"encoder": chosen | {"heads": heads} | fields}, notes


def holds(encoder: Mapping[str, Any]) -> bool:
  """Whether parameters seem to be of this kind; see `encoders.Kind`."""
  return "patch_embed" in encoder or "cls_token" in encoder


def write(
  variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Converts Flax variables to PyTorch tensors; see `encoders.Kind`."""
  fields = metadata.get("encoder")
  names = ("image_size", "patch", "pool")
  if not isinstance(fields, Mapping) or not set(names) <= set(fields):
    raise ValueError("its header does not describe its ViT")
  return torch_vit.to_torch_vit(
    variables, **{name: fields[name] for name in names}
  )


def features(metadata: Mapping[str, Any]) -> int:
  """Returns the size of the features."""
  return metadata["encoder"]["width"]


def heads(metadata: Mapping[str, Any]) -> int | None:
  """Returns the number of attention heads, which no tensor shows."""
  return metadata["encoder"].get("heads")


def describe(metadata: Mapping[str, Any]) -> str:
  """Describes a ViT in one line; empty for other metadata."""
  fields = metadata.get("encoder")
  if not isinstance(fields, Mapping) or fields.get("name") != "vit":
    return ""
  names = ("width", "depth", "heads", "patch", "image_size", "positions")
  known = (f"{x} {fields[x]}" for x in (*names, "pool") if x in fields)
  return f"ViT, {', '.join(known)}"
