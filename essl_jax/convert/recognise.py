"""Recognises what a PyTorch checkpoint holds by its names and shapes.

Every entry of a checkpoint is accounted for: imported, or left out with the
reason; `forms` has the names.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from essl_jax.convert import forms, torch_names
from essl_jax.convert import names as names_lib
from essl_jax.convert.arrays import Unread
from essl_jax.convert.torch_names import ANCHOR, COUNTER
from essl_jax.errors import UsageError
from essl_jax.texts import printable, some

_LONGEST = 500  # characters of a name


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
  tree: Mapping[str, Any],
  *,
  keep_classifier: bool = False,
  encoder: str | None = None,
) -> Imported:
  """Flax weights of an encoder and its heads from a PyTorch checkpoint.

  Args:
    tree: nested dictionaries of NumPy arrays, `arrays.Unread` and other things.
    keep_classifier: imports a linear classifier (`fc`, `online_head`, ...) as
      network `classifier` instead of leaving it out.
    encoder: which one, where there are several: see `names.choose`.

  Returns:
    The weights, and what became of every entry.

  Raises:
    UsageError: there is no ResNet encoder, it is not clear which one is meant,
      or it has missing, unexpected or unreadable tensors, which are named.
  """
  return _Importer(tree, keep_classifier).run(encoder)


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
    for name, value in _entries(tree):
      if len(name) > _LONGEST:
        raise UsageError(f"a name in it has {len(name):,} characters")
      self._sort(printable(name), value)

  def _sort(self, name: str, value: Any) -> None:
    """Takes a tensor in under its short name, or leaves an entry out."""
    first = name.split(".")[0]
    if name in self._left_out:
      raise UsageError(f"two entries in it are called {name}: drop one")
    if forms.REASONS.get(first) == "optimiser state":
      self._left_out[name] = forms.REASONS[first]
    elif not _is_tensor(value):
      self._left_out[name] = "not a tensor"
    elif name.split(".")[-1] == COUNTER:
      self._left_out[name] = "batch counter, which Flax does not have"
    else:
      short = names_lib.short(name)
      if short in self._tensors:
        other = self._originals[short]
        raise UsageError(f"{name} and {other} mean the same tensor: drop one")
      self._originals[short], self._tensors[short] = name, value

  def run(self, encoder: str | None) -> Imported:
    prefixes = names_lib.encoders(self._tensors)
    if not prefixes:
      there = some(list(self._originals.values())) or "no tensors"
      raise UsageError(
        f"no ResNet in it: no tensor is named [prefix.]{ANCHOR}; it holds"
        f" {there}"
      )
    prefix = names_lib.choose(prefixes, encoder)
    layout = names_lib.lay_out(self._tensors, prefixes, prefix)
    form = self._form(layout)
    self._import_encoder(layout.encoder)
    for rival, names in layout.others.items():
      self._leave_rival(layout, rival, names)
    self._import_parts(layout)
    return Imported(
      form=form,
      variables=self._variables,
      taken=self._taken,
      left_out=self._left_out,
      notes=tuple(dict.fromkeys(self._notes)),
    )

  def _form(self, layout: names_lib.Layout) -> str:
    """Whose names these are."""
    found = [name for name, words in forms.FORMS if words <= layout.words]
    name = found[0] if found else "ResNet"
    if layout.prefix and name in ("ResNet", *forms.PLAIN):
      name += f" under the prefix {layout.prefix!r}"
    return name

  def _leave_rival(
    self, layout: names_lib.Layout, rival: str, names: list[str]
  ) -> None:
    """Leaves another encoder out, and the heads that belong to it."""
    if rival == f"{layout.parent}net.0." and layout.prefix.endswith("encoder."):
      self._leave_copies(layout.parent, names)
      return
    is_average = names_lib.side(rival) == "average"
    what = "moving average of the encoder" if is_average else "another encoder"
    self._leave(
      names, f"{what} (--encoder={rival.rstrip('.') or '.'} takes it)"
    )

  def _import_parts(self, layout: names_lib.Layout) -> None:
    """Imports the heads beside the encoder; those of its side come first."""
    parts = {
      part: (self._network(layout, part), names)
      for part, names in layout.parts.items()
    }
    own = names_lib.side(layout.prefix)

    def is_foreign(part: str) -> bool:
      return names_lib.side(part) != own

    for part in sorted(parts, key=is_foreign):
      network, names = parts[part]
      if network and layout.others and is_foreign(part):
        self._leave(names.values(), "of another encoder")
      elif network:
        self._import_part(network, names)
      else:
        word = names_lib.last(part)
        reason = forms.REASONS.get(word, "no network known here")
        self._leave(names.values(), reason)

  def _network(self, layout: names_lib.Layout, part: str) -> str | None:
    """What a part is called here; None if it has no place here."""
    word = names_lib.last(part)
    is_linear = _is_linear(layout.parts[part])
    if word in forms.CLASSIFIERS and is_linear:
      return "classifier"
    # SimSiam's encoder carries its projector in place of a classifier.
    words = {names_lib.bare(names_lib.last(x)) for x in layout.parts}
    if word == "fc" and "projector" not in words:
      return "projector"
    return forms.HEADS.get(word, forms.HEADS.get(names_lib.bare(word)))

  def _import_encoder(self, names: dict[str, str]) -> None:
    if problem := self._unreadable(names):
      raise UsageError(f"its encoder cannot be read: {problem}")
    try:
      variables = torch_names.from_torch_resnet(self._values(names))
    except ValueError as error:
      raise UsageError(f"its encoder does not fit: {error}") from error
    self._take("encoder", variables, names)

  def _import_part(self, network: str, names: dict[str, str]) -> None:
    """Imports a head, or leaves it out and says why."""
    if network == "classifier" and not self._keep_classifier:
      self._leave(names.values(), "classifier (--keep-classifier keeps it)")
    elif network in self._variables["params"]:
      self._leave(names.values(), f"second {network}")
    elif problem := self._unreadable(names):
      self._leave(names.values(), f"{network} that cannot be read: {problem}")
    else:
      values = self._values(names)
      if network == "classifier":
        values = {f"0.{inner}": value for inner, value in values.items()}
      try:
        variables = torch_names.from_torch_mlp(values)
        if network == "classifier":
          variables = {"params": variables["params"]["dense_0"]}
      except (KeyError, ValueError) as error:
        self._leave(names.values(), f"no head known here: {error}")
        return
      if network == "projector":
        self._fold_biases(variables)
      self._take(network, variables, names)

  def _unreadable(self, names: dict[str, str]) -> str:
    """Which of some tensors has no floating-point numbers; empty if all do."""
    for name in names.values():
      value = self._tensors[name]
      kind = value.kind if isinstance(value, Unread) else value.dtype.name
      if isinstance(value, Unread) or value.dtype.kind != "f":
        return (
          f"{self._originals[name]} is a {kind} tensor, and weights are dense"
          " tensors of float64, float32, float16 or bfloat16"
        )
    return ""

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

  def _leave_copies(self, parent: str, names: list[str]) -> None:
    """E-SSL's CIFAR-10 program stores encoder and projector twice."""
    twins = {"net.0.": "encoder.", "net.1.": "projector."}
    for name in names:
      inner = name.removeprefix(parent)
      twin = parent + twins.get(inner[:6], "") + inner[6:]
      same = twin in self._tensors and np.array_equal(
        self._tensors[name], self._tensors[twin], equal_nan=True
      )
      if not same:
        raise UsageError(
          f"{self._originals[name]} should equal"
          f" {self._originals.get(twin, twin)}, and does not: the checkpoint is"
          " damaged"
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
      if self._tensors[name].dtype.itemsize > 4:
        self._notes.append(f"{network} is rounded to float32")
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(variables)):
      self._notes.append(f"{network} has values that are not finite")

  def _leave(self, names: Iterable[str], reason: str) -> None:
    for name in names:
      self._left_out[self._originals[name]] = reason


def _entries(
  tree: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Dotted names and values; an empty dictionary stays a value."""
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from _entries(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _is_tensor(value: Any) -> bool:
  is_array = isinstance(value, np.ndarray) and value.dtype.kind in "fiubc"
  return is_array or isinstance(value, Unread)


def _is_linear(names: Mapping[str, str]) -> bool:
  return set(names) == {"weight", "bias"}
