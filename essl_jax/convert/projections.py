"""Reads the heads beside an encoder in a checkpoint."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from essl_jax.convert import forms, torch_names
from essl_jax.convert import names as names_lib
from essl_jax.convert.arrays import as_float32
from essl_jax.convert.torch_names import Variables
from essl_jax.errors import UsageError

_Parts = dict[str, dict[str, str]]


# The parts of DINO's heads, and their names here.
_DINO = {"mlp.": "projector", "last_layer.": "prototypes"}
# Names of the directions of DINO's prototypes and of their lengths, which are
# one unless they were trained.
_DIRECTIONS = ("weight", "weight_v", "parametrizations.weight.original1")
_LENGTHS = ("weight_g", "parametrizations.weight.original0")


def split(parts: _Parts) -> None:
  """Splits DINO's heads into projectors and prototypes.

  Args:
    parts: the tensors of each part by their names within it; changed in place.
  """
  for part, names in list(parts.items()):
    if names_lib.bare(names_lib.last(part)) != "head":
      continue
    for beginning, network in _DINO.items():
      for inner in [x for x in names if x.startswith(beginning)]:
        own = parts.setdefault(f"{part}.{network}", {})
        own[inner.removeprefix(beginning)] = names.pop(inner)


def network(parts: _Parts, part: str) -> str | None:
  """Returns a part's name here; None if it has no counterpart.

  Args:
    parts: all parts beside the encoder.
    part: the name of one.
  """
  word = names_lib.last(part)
  bare = names_lib.bare(word)
  names = {x.removeprefix("head.") for x in parts[part]}  # torchvision's prefix
  if {word, bare} & {*forms.CLASSIFIERS} and names == {"weight", "bias"}:
    return "classifier"
  # Some encoders have their projector in the place of the classifier.
  words = {names_lib.bare(names_lib.last(x)) for x in parts}
  is_sequence = all(x.split(".")[0].isdigit() for x in names)
  in_place = word == "fc" or (word == "head" and names and is_sequence)
  if in_place and "projector" not in words:
    return "projector"
  return forms.HEADS.get(word, forms.HEADS.get(bare))


def read(
  network: str, tensors: Mapping[str, Any]
) -> tuple[Variables, list[str]]:
  """Converts a head's tensors to variables.

  Args:
    network: its name here.
    tensors: by their names in it.

  Returns:
    The variables, and notes for the user.

  Raises:
    ValueError: it is not a perceptron known here; may also be a KeyError.
  """
  if network == "classifier":
    layer = {f"0.{x.rpartition('.')[2]}": y for x, y in tensors.items()}
    variables = torch_names.from_torch_mlp(layer)
    return {"params": variables["params"]["dense_0"]}, []
  if network == "prototypes":
    return _read_prototypes(tensors)
  variables = torch_names.from_torch_mlp(tensors)
  notes = _fold_biases(variables) if network == "projector" else []
  return variables, notes


def check(network: str, variables: Variables, features: int) -> None:
  """Raises UsageError unless a head's layers fit each other and the encoder.

  Args:
    network: its name here.
    variables: of the head.
    features: size of the encoder's features.
  """
  if network in ("classifier", "prototypes"):
    kernels = [variables["params"]["kernel"]]
  else:
    layers = variables["params"]
    kernels = [x["kernel"] for x in layers.values() if "kernel" in x]
  size = features if network in ("projector", "classifier") else None
  given = "the encoder gives"
  for kernel in kernels:
    if size is not None and len(kernel) != size:
      raise UsageError(
        f"its {network} does not fit: one of its layers takes {len(kernel)}"
        f" values, but {given} {size}"
      )
    size, given = kernel.shape[1], "the one before it gives"


def _read_prototypes(
  tensors: Mapping[str, Any],
) -> tuple[Variables, list[str]]:
  """Returns the directions of prototypes, as columns."""
  unknown = set(tensors) - {*_DIRECTIONS, *_LENGTHS}
  found = [tensors[x] for x in _DIRECTIONS if x in tensors]
  if unknown or len(found) != 1 or found[0].ndim != 2:
    raise ValueError(f"{sorted(tensors)} are not prototypes.")
  lengths = [tensors[x] for x in _LENGTHS if x in tensors]
  notes = []
  if any(np.any(x != 1) for x in lengths):
    notes.append("the prototypes' lengths are left out: here they are 1")
  kernel = as_float32(found[0]).T
  return {"params": {"kernel": kernel}}, notes


def _fold_biases(variables: Variables) -> list[str]:
  """Moves biases before batch norms into the norms' running means.

  SimSiam's last linear layer has such a bias, which is never trained.
  Projectors here have biases in all layers or in none. The output stays the
  same.
  """
  params, statistics = variables["params"], variables["batch_stats"]
  layers = [name for name in params if name.startswith("dense_")]
  last = layers[-1].replace("dense", "norm") if layers else ""
  if all("bias" in params[x] for x in layers) and last not in statistics:
    return []
  notes = []
  for norm, own in statistics.items():
    layer = norm.replace("norm", "dense")
    bias = params.get(layer, {}).pop("bias", None)
    if bias is not None:
      own["mean"] = own["mean"] - bias
      notes.append(
        f"the projector's bias {layer} is folded into the running mean"
        " of the batch norm after it"
      )
  return notes
