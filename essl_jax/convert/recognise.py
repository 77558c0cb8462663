"""Recognises what a PyTorch checkpoint holds by its names and shapes.

Every entry of a checkpoint is accounted for: imported, or left out with the
reason; `forms` has the names.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from essl_jax.convert import forms, torch_names
from essl_jax.convert.torch_names import ANCHOR, COUNTER
from essl_jax.errors import UsageError
from essl_jax.storage.workdir import dotted
from essl_jax.texts import some


@dataclasses.dataclass(frozen=True)
class Imported:
  """What became of a checkpoint.

  Attributes:
    form: whose names these are.
    variables: Flax weights by network, as `weights.save` takes them.
    taken: the checkpoint's name to the network it went into.
    left_out: the checkpoint's other names, and why.
    notes: what was done beside copying.
  """

  form: str
  variables: dict[str, Any]
  taken: dict[str, str]
  left_out: dict[str, str]
  notes: tuple[str, ...]


def import_checkpoint(
  tree: Mapping[str, Any], *, keep_classifier: bool = False
) -> Imported:
  """Flax weights of an encoder and its heads from a PyTorch checkpoint.

  Args:
    tree: nested dictionaries of NumPy arrays and other things.
    keep_classifier: imports a linear classifier (`fc`, `online_head`, ...) as
      network `classifier` instead of leaving it out.

  Returns:
    The weights, and what became of every entry.

  Raises:
    UsageError: there is no ResNet encoder, more than one, or one with missing
      or unexpected tensors, which are named.
  """
  return _Importer(tree, keep_classifier).run()


class _Importer:
  """Goes through the parts of one checkpoint."""

  def __init__(self, tree: Mapping[str, Any], keep_classifier: bool):
    self._keep_classifier = keep_classifier
    self._left_out: dict[str, str] = {}
    self._taken: dict[str, str] = {}
    self._notes: list[str] = []
    self._variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    self._originals: dict[str, str] = {}  # short name to the checkpoint's
    self._tensors: dict[str, Any] = {}  # by short name
    for name, value in dotted(tree).items():
      self._sort(name, value)

  def _sort(self, name: str, value: Any) -> None:
    """Takes a tensor in under its short name, or leaves an entry out."""
    first = name.split(".")[0]
    if forms.REASONS.get(first) == "optimiser state":
      self._left_out[name] = forms.REASONS[first]
    elif not _is_tensor(value):
      self._left_out[name] = "not a tensor"
    elif name.split(".")[-1] == COUNTER:
      self._left_out[name] = "batch counter, which Flax does not have"
    else:
      short = _short(name)
      if short in self._tensors:
        other = self._originals[short]
        raise UsageError(f"{name} and {other} mean the same tensor: drop one")
      self._originals[short], self._tensors[short] = name, value

  def run(self) -> Imported:
    prefix = self._encoder_prefix()
    encoder, parts = _split(self._tensors, prefix)
    found = {*parts, prefix.rstrip(".")}
    form = next((name for name, keys in forms.FORMS if keys <= found), None)
    self._import_encoder(encoder)
    if "net" in parts and prefix == "encoder.":
      self._leave_copies(parts.pop("net"))
    if "projector" not in parts and not _is_linear(parts.get("fc", {})):
      # SimSiam's encoder carries its projector in place of a classifier.
      parts["projector"] = parts.pop("fc", {})
    self._leave(parts.pop("bn", {}), forms.LOSS_NORM)
    for part, names in parts.items():
      self._import_part(part, names)
    return Imported(
      form=form or f"ResNet under the prefix {prefix!r}",
      variables=self._variables,
      taken=self._taken,
      left_out=self._left_out,
      notes=tuple(self._notes),
    )

  def _encoder_prefix(self) -> str:
    """The prefix of the only encoder, or of the one that is trained."""
    prefixes = [
      name.removesuffix(ANCHOR)
      for name in self._tensors
      if name == ANCHOR or name.endswith("." + ANCHOR)
    ]
    if not prefixes:
      there = some(list(self._originals.values())) or "no tensors"
      raise UsageError(
        f"no ResNet in it: no tensor is named [prefix.]{ANCHOR}; it holds"
        f" {there}"
      )
    copies = {"encoder.": "net.0.", "encoder_q.": "encoder_k."}
    trained = [p for p in prefixes if p not in copies.values()] or prefixes
    if len(trained) > 1:
      raise UsageError(
        f"several encoders in it, under {', '.join(map(repr, trained))}: save"
        " the state dict of one of them alone"
      )
    return trained[0]

  def _import_encoder(self, names: dict[str, str]) -> None:
    try:
      variables = torch_names.from_torch_resnet(self._values(names))
    except ValueError as error:
      raise UsageError(f"its encoder does not fit: {error}") from error
    self._take("encoder", variables, names)

  def _import_part(self, part: str, names: dict[str, str]) -> None:
    if part in forms.CLASSIFIERS and _is_linear(names):
      if not self._keep_classifier:
        self._leave(names, "classifier (--keep-classifier keeps it)")
      elif "classifier" in self._variables["params"]:
        self._leave(names, "second classifier")
      else:
        dense = torch_names.from_torch_mlp(
          {f"0.{inner}": value for inner, value in self._values(names).items()}
        )
        self._take("classifier", {"params": dense["params"]["dense_0"]}, names)
    elif part in forms.HEADS:
      try:
        variables = torch_names.from_torch_mlp(self._values(names))
      except ValueError as error:
        self._leave(names, f"no head known here: {error}")
        return
      if part == "projector":
        self._fold_biases(variables)
      self._take(forms.HEADS[part], variables, names)
    else:
      self._leave(names, forms.REASONS.get(part, "no network known here"))

  def _fold_biases(self, variables: dict[str, Any]) -> None:
    """Moves a bias before a batch norm into the norm's running mean.

    SimSiam's last linear layer has such a bias, never trained; the networks
    here have none, and the output is the same.
    """
    for norm, statistics in variables["batch_stats"].items():
      layer = norm.replace("norm", "dense")
      bias = variables["params"].get(layer, {}).pop("bias", None)
      if bias is not None:
        statistics["mean"] = statistics["mean"] - bias
        self._notes.append(
          f"the projector's bias {layer} is folded into the running mean"
          " of the batch norm after it"
        )

  def _leave_copies(self, names: dict[str, str]) -> None:
    """E-SSL's CIFAR-10 program stores encoder and projector twice."""
    for inner, name in names.items():
      index, _, rest = inner.partition(".")
      twin = {"0": "encoder.", "1": "projector."}.get(index, "") + rest
      same = twin in self._tensors and np.array_equal(
        self._tensors[name], self._tensors[twin], equal_nan=True
      )
      if not same:
        raise UsageError(
          f"{self._originals[name]} should equal {twin}, and does not: the"
          " checkpoint is damaged"
        )
    self._leave(names, "second copy of encoder and projector")

  def _values(self, names: dict[str, str]) -> dict[str, Any]:
    return {inner: self._tensors[name] for inner, name in names.items()}

  def _take(
    self, network: str, variables: dict[str, Any], names: dict[str, str]
  ) -> None:
    for collection, values in variables.items():
      if values:
        self._variables[collection][network] = values
    for name in names.values():
      self._taken[self._originals[name]] = network

  def _leave(self, names: dict[str, str], reason: str) -> None:
    for name in names.values():
      self._left_out[self._originals[name]] = reason


def _is_tensor(value: Any) -> bool:
  return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _is_linear(names: Mapping[str, str]) -> bool:
  return set(names) == {"weight", "bias"}


def _short(name: str) -> str:
  """`state_dict.module.encoder.conv1.weight` to `encoder.conv1.weight`."""
  parts = [part for part in name.split(".") if part != "module"]
  while len(parts) > 1 and parts[0] in forms.WRAPPERS:
    parts = parts[1:]
  return ".".join(parts)


def _split(
  tensors: Mapping[str, Any], prefix: str
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
  """The encoder's names, and those of each part beside it.

  Names within the part are mapped to short names; the encoder's `fc` counts
  as a part of its own.
  """
  encoder: dict[str, str] = {}
  parts: dict[str, dict[str, str]] = {}
  for name in tensors:
    inner = name.removeprefix(prefix)
    if name.startswith(prefix) and not inner.startswith("fc."):
      encoder[inner] = name
      continue
    part, _, rest = inner.partition(".")
    parts.setdefault(part, {})[rest] = name
  return encoder, parts
