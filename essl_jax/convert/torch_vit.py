"""Converts state dicts of vision transformers to Flax variables and back.

Our names follow timm's `VisionTransformer`; torchvision has other names for the
same tensors. No tensor shows the number of attention heads.
"""

from collections.abc import Mapping
import functools
import math
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.convert import torch_names
from essl_jax.convert.arrays import as_float32
from essl_jax.convert.torch_names import Variables
from essl_jax.models import vit
from essl_jax.models.layers import patches
from essl_jax.texts import some

# torchvision's equivalents of timm's names, piece by piece.
_TORCHVISION = (
  ("class_token", "cls_token"),
  ("conv_proj.", "patch_embed.proj."),
  ("encoder.pos_embedding", "pos_embed"),
  ("encoder.ln.", "norm."),
  ("encoder.layers.encoder_layer_", "blocks."),
  (".ln_1.", ".norm1."),
  (".ln_2.", ".norm2."),
  (".self_attention.in_proj_", ".attn.qkv."),
  (".self_attention.out_proj.", ".attn.proj."),
  (".mlp.0.", ".mlp.fc1."),
  (".mlp.3.", ".mlp.fc2."),
  (".mlp.linear_1.", ".mlp.fc1."),  # before torchvision 0.13
  (".mlp.linear_2.", ".mlp.fc2."),
)
_BLOCK = re.compile(r"^blocks\.(\d{1,4})\.")

# Words in names of parts that ViTs here do not have.
_UNSUPPORTED = {
  "dist_token": "a distillation token",
  "reg_token": "register tokens",
  "register_tokens": "register tokens",
  "relative_position_bias_table": "relative positions",
  "rel_pos": "relative positions",
  "rel_pos_bias": "relative positions",
  "rel_pos_h": "relative positions",
  "q_bias": "separate biases of queries and values",
  "q_norm": "norms of queries and keys",
  "norm_pre": "a norm before its blocks, like CLIP's",
  "ln_pre": "a norm before its blocks, like CLIP's",
  "ls1": "scaled layers",
  "gamma_1": "scaled layers",
  "w12": "gated perceptrons",
  "fc1_g": "gated perceptrons",
  "attn_pool": "attention instead of a class token",
  "backbone": "a convolutional network instead of its patches",
  "downsample": "stages of several resolutions",
  "patch_embeds": "stages of several resolutions",
}

_SAME_POSITIONS = 1e-5


def from_torch_vit(state_dict: Mapping[str, Any]) -> Variables:
  """Converts a state dict of timm or torchvision to variables of `ViT`.

  Args:
    state_dict: PyTorch names to arrays, without a prefix and a classifier.

  Returns:
    `{"params": ...}` of float32 NumPy arrays. Fixed sine-cosine positions are
    left out, since the model computes them.

  Raises:
    ValueError: If tensors are missing, unexpected or of the wrong shape, or
      belong to parts that `ViT` does not have; the message names them.
  """
  return read(state_dict)[0]


def to_torch_vit(
  variables: Mapping[str, Any], *, image_size: int, patch: int, pool: str
) -> dict[str, np.ndarray]:
  """Inverts `from_torch_vit`, bit for bit, with timm's names.

  Args:
    variables: `{"params": ...}` of a `ViT`.
    image_size: of the model; fixed positions depend on it.
    patch: of the model.
    pool: of the model; the last norm is timm's `fc_norm` for `mean`.

  Returns:
    timm's names to float32 arrays, without a classifier.

  Raises:
    ValueError: If the variables do not fit such a `ViT`.
  """
  flat = flax.traverse_util.flatten_dict(dict(variables.get("params", {})))
  norm = "fc_norm" if pool == "mean" else "norm"
  tensors = {}
  for path, value in flat.items():
    array = as_float32(value)
    if path == ("patch_embed", "kernel"):
      pixels = array.T.reshape(len(array.T), patch, patch, -1)
      array = pixels.transpose(0, 3, 1, 2)
    elif path[-1] == "kernel":
      array = array.T
    tensors[_timm_name(path, norm)] = array
  if "cls_token" in tensors and "pos_embed" not in tensors:
    rows = image_size // patch
    fixed = patches.sincos_positions(rows, rows, tensors["cls_token"].shape[-1])
    tensors["pos_embed"] = np.pad(fixed, ((1, 0), (0, 0)))[None]
  read(tensors)
  return tensors


def read(
  state_dict: Mapping[str, Any],
) -> tuple[Variables, dict[str, Any], list[str]]:
  """Does the work of `from_torch_vit`, and returns the model's fields too.

  Args:
    state_dict: PyTorch names to arrays, without a prefix and a classifier.

  Returns:
    Variables, all fields of the model except the number of attention heads, and
    notes for the user.

  Raises:
    ValueError: As for `from_torch_vit`.
  """
  foreign: dict[str, str] = {}
  for name in state_dict:
    for word in name.split("."):
      if word in _UNSUPPORTED:
        foreign.setdefault(_UNSUPPORTED[word], name)
  if foreign:
    parts = [f"{part} ({name})" for part, name in foreign.items()]
    raise ValueError(f"it has what ViTs here do not have: {some(parts)}")
  is_torchvision = "conv_proj.weight" in state_dict
  originals: dict[str, str] = {}  # timm's name to the checkpoint's
  for name in state_dict:
    ours = _translate(name, _TORCHVISION) if is_torchvision else name
    if ours in originals:
      raise ValueError(f"{name} and {originals[ours]} mean the same tensor")
    originals[ours] = name
  tensors = {ours: state_dict[name] for ours, name in originals.items()}
  # timm averages the patches before the last norm and then calls it fc_norm.
  pool = "mean" if "fc_norm.weight" in tensors else "token"
  fields = _fields(tensors) | {"pool": pool}
  notes, positions = [], tensors["pos_embed"]
  if _are_fixed(positions):
    fields["positions"] = "sincos"
    tensors.pop("pos_embed")
    notes.append(
      "its positions are fixed sines and cosines (within"
      f" {_SAME_POSITIONS:g}), which encoder.positions=sincos computes"
    )
  expected = _expected(tuple(sorted(fields.items())), _channels(tensors))
  backwards: dict[str, str] = {}
  for theirs, ours in _TORCHVISION:
    backwards.setdefault(ours, theirs)

  def original(name: str) -> str:
    if name in originals or not is_torchvision:
      return originals.get(name, name)
    return _translate(name, backwards.items())

  torch_names.compare(
    {original(name): value for name, value in tensors.items()},
    {original(name): shape for name, (_, shape) in expected.items()},
  )
  flat = {
    path: _to_flax(path, tensors[name]) for name, (path, _) in expected.items()
  }
  variables = {"params": flax.traverse_util.unflatten_dict(flat)}
  return variables, fields, notes


def _translate(name: str, pieces: Any) -> str:
  for old, new in pieces:
    name = name.replace(old, new)
  return name


def _fields(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of the model that the shapes reveal."""

  def shape(name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors:
      raise ValueError(f"missing tensors: {name}.")
    found = np.shape(tensors[name])
    if len(found) != axes or 0 in found:
      raise ValueError(f"{name} has shape {found}, not one of {axes} axes")
    return found

  width, _, patch, columns = shape("patch_embed.proj.weight", 4)
  if patch != columns:
    raise ValueError(f"its patches of {patch} x {columns} are not square")
  shape("cls_token", 3)
  tokens = shape("pos_embed", 3)[1]
  side = math.isqrt(tokens - 1)
  if side**2 != tokens - 1 or not side:
    raise ValueError(
      f"pos_embed has {tokens} positions, but must have one for the class token"
      " and a square number of others"
    )
  numbers = {int(x[1]) for x in map(_BLOCK.match, tensors) if x}
  depth = max(numbers, default=-1) + 1
  if absent := sorted(set(range(depth)) - numbers):
    blocks = some([f"blocks.{i}" for i in absent])
    raise ValueError(f"it lacks {blocks} but has blocks up to {depth - 1}")
  hidden = shape("blocks.0.mlp.fc1.weight", 2)[0]
  ratio = hidden / width
  if int(width * ratio) < hidden:  # rounded down
    ratio = math.nextafter(ratio, math.inf)
  return {
    "image_size": side * patch,
    "patch": patch,
    "width": width,
    "depth": depth,
    "mlp_ratio": ratio,
    "positions": "learned",
  }


def _channels(tensors: Mapping[str, Any]) -> int:
  return np.shape(tensors["patch_embed.proj.weight"])[1]


def _are_fixed(positions: Any) -> bool:
  """Whether positions equal the sines and cosines that a model computes."""
  _, tokens, width = np.shape(positions)
  if len(positions) != 1 or width % 4 or np.any(positions[0, 0]):
    return False
  side = math.isqrt(tokens - 1)
  fixed = patches.sincos_positions(side, side, width)
  return np.allclose(positions[0, 1:], fixed, rtol=0, atol=_SAME_POSITIONS)


@functools.cache
def _expected(
  fields: tuple[tuple[str, Any], ...], channels: int
) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
  """Maps timm's names to Flax paths and PyTorch's shapes."""
  model = vit.ViT(heads=1, **dict(fields))
  image = (1, model.patch, model.patch, channels)
  shapes = jax.eval_shape(
    lambda key, x: model.init(key, x, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct(image, jnp.float32),
  )
  norm = "fc_norm" if model.pool == "mean" else "norm"
  expected = {}
  for path, leaf in flax.traverse_util.flatten_dict(shapes["params"]).items():
    shape = leaf.shape
    if path == ("patch_embed", "kernel"):
      shape = (model.width, channels, model.patch, model.patch)
    elif path[-1] == "kernel":
      shape = shape[::-1]
    expected[_timm_name(path, norm)] = (path, shape)
  return expected


def _timm_name(path: tuple[str, ...], norm: str) -> str:
  """Turns `("blocks_1", "mlp", "fc1", "bias")` into `blocks.1.mlp.fc1.bias`."""
  *modules, leaf = path
  leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
  known = {"patch_embed": "patch_embed.proj", "norm": norm}
  modules = [known.get(x, x.replace("blocks_", "blocks.")) for x in modules]
  return ".".join([*modules, leaf])


def _to_flax(path: tuple[str, ...], value: Any) -> np.ndarray:
  """Transposes kernels [out, in]; patches go by pixels, then channels."""
  array = as_float32(value)
  if path == ("patch_embed", "kernel"):
    array = array.transpose(0, 2, 3, 1).reshape(len(array), -1)
  return array.T if path[-1] == "kernel" else array
