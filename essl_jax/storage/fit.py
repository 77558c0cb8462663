"""Compares the networks of a file with those of a config."""

from collections.abc import Mapping
from typing import Any

from essl_jax.texts import some

# Encoder fields that messages name, in this order.
_FORM = (
  *("depth", "stem", "width", "blocks", "patch", "image_size", "mlp_ratio"),
  *("positions", "heads"),
)
# A field that matters although no array's shape depends on it.
_HIDDEN = "heads"


def misfit(
  metadata: Mapping[str, Any], here: Mapping[str, Any], arrays: list[str]
) -> str:
  """Describes how a file's encoder differs from the config's.

  Args:
    metadata: of the file.
    here: fields of the config's encoder, by name; empty if unknown.
    arrays: the arrays that differ; see `differences`.

  Returns:
    The file's form and the fields that differ, or the arrays if no field is
    known to differ. Empty if the encoder fits.
  """
  stated = metadata.get("encoder")
  there = dict(stated) if isinstance(stated, Mapping) else {}
  there |= {name: metadata[name] for name in _FORM if name in metadata}
  there = {name: x for name, x in there.items() if x is not None}
  unlike = {
    name: f"{name} is {there[name]} there, {here[name]} here"
    for name in _FORM
    if name in there and name in here and there[name] != here[name]
  }
  if not arrays and _HIDDEN not in unlike:
    return ""
  kinds = there.get("name"), here.get("name")
  if None not in kinds and kinds[0] != kinds[1]:
    unlike = {"name": f"it is a {kinds[0]} there, a {kinds[1]} here"}
  form = ", ".join(f"{x} {there[x]}" for x in _FORM if x in there)
  problem = "; ".join(unlike.values()) or some(arrays, separator="; ")
  return f"({form or 'its form is unknown'}): {problem}"


def differences(
  there: Mapping[tuple[str, ...], Any], here: Mapping[tuple[str, ...], Any]
) -> list[str]:
  """Lists the arrays whose shape or dtype differs between file and network.

  Args:
    there: the file's arrays, by collection, module, ..., leaf.
    here: the network's arrays.

  Returns:
    One description for each array that differs.
  """

  def show(arrays: Mapping[tuple[str, ...], Any], key: Any) -> str:
    if key not in arrays:
      return "absent"
    array = arrays[key]
    return f"{array.dtype}({','.join(map(str, array.shape))})"

  return [
    f"{'/'.join(key)} is {show(there, key)} there, {show(here, key)} here"
    for key in {**here, **there}
    if show(there, key) != show(here, key)
  ]
