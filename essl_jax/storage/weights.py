"""Stores Flax weights in one file and initialises networks from it.

The file is a `*.safetensors` of arrays named like
`params/encoder/layer1_0/conv1/kernel` and `batch_stats/encoder/bn1/mean`:
encoder and heads keep their names in a `TrainState`. The header describes them
in one metadata entry, `essl_jax`: JSON with `format_version`, `source`,
`depth`, `stem` and `width` of a ResNet, or `encoder` with the fields of a ViT.
`digest` (of the arrays) and `header_digest` (of the rest) reveal damage. Files
of version 1 lack `header_digest` or both.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import safetensors.numpy

from essl_jax.errors import UsageError
from essl_jax.storage import buckets, digest, fit, outputs, tensors
from essl_jax.texts import printable, some

Variables = dict[str, Any]
_Arrays = dict[tuple[str, ...], Any]

FORMAT_VERSION = 2  # no bit flip turns it into 1, which has fewer checks
_DIGEST, _HEADER_DIGEST = "digest", "header_digest"
_KEY = "essl_jax"


def save(
  path: str | os.PathLike[str],
  variables: Mapping[str, Any],
  metadata: Mapping[str, Any],
  *,
  overwrite: bool = False,
) -> None:
  """Writes Flax weights, all of them or nothing.

  Args:
    path: the file, `*.safetensors`. It may be in a bucket, as for all functions
      here.
    variables: `{"params": {"encoder": ...}, "batch_stats": ...}` of arrays.
    metadata: JSON content; at least `source`, and `depth`, `stem` and `width`
      of a ResNet, or `encoder` with all fields of another network.
      `format_version` is added.
    overwrite: replaces an existing file.

  Raises:
    UsageError: the file exists, or cannot be written.
  """
  outputs.check_free(path, overwrite=overwrite)
  arrays = traverse_util.flatten_dict(dict(variables), sep="/")
  header = {
    **metadata,
    "format_version": FORMAT_VERSION,
    _DIGEST: digest.of_all(arrays),
  }
  header[_HEADER_DIGEST] = digest.of_json(header)
  outputs.write(
    path,
    to_bytes(arrays, {_KEY: json.dumps(header, sort_keys=True)}),
  )


def load(
  path: str | os.PathLike[str],
) -> tuple[Variables, dict[str, Any]]:
  """Reads Flax weights that `save` wrote.

  Args:
    path: the file.

  Returns:
    `{"params": {"encoder": ..., ...}, "batch_stats": {...}}` of NumPy arrays,
    bit for bit as they were saved, and the metadata.

  Raises:
    UsageError: there is no such file, or it holds no Flax weights.
  """
  with buckets.local_copy(path, "weights") as file:
    return _load(file)


def _load(path: str | os.PathLike[str]) -> tuple[Variables, dict[str, Any]]:
  """Does the work of `load` for a local file."""
  metadata = read_metadata(path)
  arrays, unread = tensors.read(path)
  if wrong := [*unread, *tensors.misnamed(arrays)]:
    raise UsageError(
      f"{path} has entries that are not weights ({printable(some(wrong))}):"
      " convert or export its weights again"
    )
  saved = metadata.pop(_DIGEST, None)  # the first versions wrote none
  if saved is not None and saved != digest.of_all(arrays):
    raise UsageError(
      f"{path} is damaged (its arrays differ from what was saved): convert or"
      " export its weights again"
    )
  return traverse_util.unflatten_dict(arrays, sep="/"), metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads the header of a file of Flax weights, without its arrays.

  Args:
    path: the file.

  Returns:
    The metadata.

  Raises:
    UsageError: there is no such file, or it holds no Flax weights.
  """
  with buckets.local_copy(path, "weights") as file:
    text = _header(file)
  if text is None:
    raise UsageError(
      f"{path} holds no Flax weights of essl_jax: convert PyTorch weights with"
      f" `python -m essl_jax.convert import {path} OUTPUT.safetensors`"
    )
  try:
    metadata = json.loads(text)
    version = int(metadata["format_version"])
    _check_architecture(metadata)
  except (
    ArithmeticError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    raise UsageError(
      f"{path} has a damaged header ({_KEY}: {ascii(text[:60])}): convert or"
      " export its weights again"
    ) from error
  if version > FORMAT_VERSION:
    raise UsageError(
      f"{path} has format version {version}, newer than"
      f" {FORMAT_VERSION}: update essl_jax"
    )
  saved = metadata.pop(_HEADER_DIGEST, None)
  is_whole = _DIGEST in metadata and saved == digest.of_json(metadata)
  if version != 1 and not is_whole:
    raise UsageError(
      f"{path} is damaged (its header differs from what was saved): convert or"
      " export its weights again"
    )
  return metadata


def _check_architecture(metadata: Mapping[str, Any]) -> None:
  """Raises ValueError if a ResNet's fields are incomplete or mistyped."""
  types = {"depth": int, "stem": str, "width": int}
  there = [name for name in types if name in metadata]
  if there and not all(isinstance(metadata[x], types[x]) for x in types):
    raise ValueError(f"depth, stem and width of a ResNet: {there}")


def is_flax(path: str | os.PathLike[str]) -> bool:
  """Whether a file holds Flax weights; raises UsageError if it is broken."""
  is_file = os.path.isfile(path) and os.fspath(path).endswith(".safetensors")
  return is_file and _header(path) is not None


def _header(path: str | os.PathLike[str]) -> str | None:
  metadata = tensors.read_header(path).get("__metadata__")  # or null
  return metadata.get(_KEY) if metadata else None


def to_bytes(
  arrays: Mapping[str, Any], metadata: dict[str, str] | None = None
) -> bytes:
  """Returns arrays as a safetensors file; equal arrays give equal bytes."""
  # The format stores raw memory, so transposed views must be copied.
  solid = {
    name: np.asarray(value, order="C")
    for name, value in jax.device_get(dict(arrays)).items()
  }
  content = safetensors.numpy.save(solid, metadata)
  if not metadata or len(metadata) < 2:
    return content
  # The library writes several entries in random order.
  length = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + length])
  header["__metadata__"] = dict(sorted(metadata.items()))
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text + content[8 + length :]


@dataclasses.dataclass(frozen=True)
class Origin:
  """Says where a state's networks come from.

  Attributes:
    path: the file of Flax weights.
    metadata: its header.
    initialised: the networks that were taken from it.
    not_initialised: the state's other networks, with the reason.
    unused: networks that only the file has.
  """

  path: str
  metadata: dict[str, Any]
  initialised: tuple[str, ...]
  not_initialised: dict[str, str]
  unused: tuple[str, ...]

  def describe(self) -> str:
    """Says in one line what was initialised from which file, and what not."""
    line = f"initialised from {self.path}: {', '.join(self.initialised)}"
    if self.not_initialised:
      others = (f"{name} ({why})" for name, why in self.not_initialised.items())
      line += f"; at random: {', '.join(others)}"
    if self.unused:
      line += f"; unused: {', '.join(self.unused)}"
    return line


def initialise(
  state: Any,
  path: str | os.PathLike[str],
  unfit: Callable[[dict[str, Any]], Mapping[str, str]] = lambda _: {},
  encoder: Mapping[str, Any] | None = None,
) -> tuple[Any, Origin]:
  """Initialises the networks of a new state from a file.

  The encoder must fit; a head is taken if the file has one of equal shapes. The
  optimiser's state stays: it starts at zero whatever the weights.

  Args:
    state: a `TrainState` at step 0.
    path: a file of Flax weights.
    unfit: from the file's metadata, returns the heads not to take, whatever
      their shapes, with the reason.
    encoder: the fields of the state's encoder, by name.

  Returns:
    The state, placed on the devices as before, and where its networks come
    from.

  Raises:
    UsageError: the file cannot be read, or holds another encoder; the message
      names the fields, or the first arrays, that differ.
  """
  variables, metadata = load(path)
  stored = _by_network(variables)
  own = _by_network({"params": state.params, "batch_stats": state.batch_stats})
  different = fit.differences(stored.get("encoder", {}), own.get("encoder", {}))
  if problem := fit.misfit(metadata, encoder or {}, different):
    raise UsageError(
      f"{path} holds another encoder {printable(problem)}: set config.encoder"
      " to match it or choose another config.init_from"
    )
  reasons = {}
  for name in own:
    if name not in stored:
      reasons[name] = "not in the file"
    elif fit.differences(stored[name], own[name]):
      reasons[name] = "of another shape in the file"
  for name, why in unfit(metadata).items():
    if name in own:
      reasons.setdefault(name, why)
  taken = tuple(name for name in own if name not in reasons)

  def fill(collection: str, leaves: Any) -> Any:
    flat = traverse_util.flatten_dict(leaves)
    for key, leaf in flat.items():
      if key[0] in taken:
        array = stored[key[0]][collection, *key[1:]]
        flat[key] = jax.device_put(array, leaf.sharding)
    return traverse_util.unflatten_dict(flat)

  state = state.replace(
    params=fill("params", state.params),
    batch_stats=fill("batch_stats", state.batch_stats),
  )
  unused = tuple(name for name in stored if name not in own)
  return state, Origin(os.fspath(path), metadata, taken, reasons, unused)


def _by_network(variables: Any) -> dict[str, _Arrays]:
  """Maps network to (collection, module, ..., leaf) to array."""
  networks: dict[str, _Arrays] = {}
  for path, value in traverse_util.flatten_dict(variables).items():
    collection, network, *rest = path
    networks.setdefault(network, {})[collection, *rest] = value
  return networks
