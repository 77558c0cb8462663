"""Recognises the networks in a PyTorch checkpoint by names and shapes.

Every entry of a checkpoint is either imported or left out with a reason;
`forms` has the known names.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from essl_jax.convert import encoders, forms, projections
from essl_jax.convert import names as names_lib
from essl_jax.convert.entries import Entries
from essl_jax.errors import UsageError
from essl_jax.texts import some


@dataclasses.dataclass(frozen=True)
class Imported:
  """The result of importing a checkpoint.

  Attributes:
    form: the program or model whose names it uses.
    variables: Flax weights by network, as `weights.save` takes them.
    metadata: describes the encoder.
    taken: maps the checkpoint's names to the networks that they went into.
    left_out: the checkpoint's other names, with the reason.
    notes: changes other than copying.
  """

  form: str
  variables: dict[str, Any]
  metadata: dict[str, Any]
  taken: dict[str, str]
  left_out: dict[str, str]
  notes: tuple[str, ...]


def import_checkpoint(
  tree: Mapping[str, Any],
  *,
  keep_classifier: bool = False,
  encoder: str | None = None,
  attention_heads: int | None = None,
) -> Imported:
  """Imports an encoder and its heads from a PyTorch checkpoint.

  Args:
    tree: nested dictionaries of NumPy arrays, `arrays.Unread` and other things.
    keep_classifier: imports a linear classifier (`fc`, `online_head`, ...) as
      network `classifier` instead of leaving it out.
    encoder: which of several encoders to take: see `names.choose`.
    attention_heads: of a ViT; by default as in published ViTs.

  Returns:
    The weights, and what happened to every entry.

  Raises:
    UsageError: there is no encoder of a known kind, the choice among several
      is ambiguous, tensors are missing, unexpected or unreadable (the message
      names them), or a head does not fit the encoder.
  """
  importer = _Importer(Entries(tree), keep_classifier, attention_heads)
  return importer.run(encoder)


class _Importer:
  """Imports the parts of one checkpoint."""

  def __init__(
    self, entries: Entries, keep_classifier: bool, attention_heads: int | None
  ):
    self._entries = entries
    self._keep_classifier = keep_classifier
    self._attention_heads = attention_heads
    self._taken: dict[str, str] = {}
    self._notes: list[str] = []
    self._variables: dict[str, Any] = {"params": {}, "batch_stats": {}}

  def run(self, encoder: str | None) -> Imported:
    tensors = self._entries.tensors
    prefixes = encoders.find(tensors)
    if not prefixes:
      self._refuse()
    if encoder is None:
      encoder = names_lib.teacher_of_dino(tensors, prefixes)
    prefix = names_lib.choose(prefixes, encoder)
    layout = names_lib.lay_out(tensors, prefixes, prefix)
    kind, owner = encoders.of_tensors(layout.encoder)
    form = self._form(layout, kind, owner)
    metadata = self._import_encoder(kind, form, layout.encoder)
    for rival, names in layout.others.items():
      self._leave_rival(layout, rival, names)
    self._import_parts(layout, kind.features(metadata))
    return Imported(
      form=form,
      variables=self._variables,
      metadata=metadata,
      taken=self._taken,
      left_out=self._entries.left_out,
      notes=tuple(dict.fromkeys(self._notes)),
    )

  def _refuse(self) -> None:
    """Raises UsageError: there is no encoder."""
    names = list(self._entries.originals.values())
    words = {word for name in names for word in name.split(".")}
    others = [whose for word, whose in forms.OTHERS.items() if word in words]
    hint = f", with {others[0]}" if others else ""
    anchors = some(
      [f"[prefix.]{x}" for kind in encoders.KINDS for x in kind.ANCHORS],
      separator=" or ",
    )
    raise UsageError(
      f"no {encoders.NAMES} in it: no tensor is named {anchors}; it holds"
      f" {some(names) or 'no tensors'}{hint}"
    )

  def _form(
    self, layout: names_lib.Layout, kind: encoders.Kind, owner: str
  ) -> str:
    """Returns the program or model whose names the checkpoint uses."""
    found = [name for name, words in forms.FORMS if words <= layout.words]
    if found:
      return found[0]
    name = kind.NAME
    if "" in layout.words:
      whole = kind.CLASSIFIER in layout.words or owner not in kind.EXPORTED
      name = f"{owner} {name}" if whole else f"{name} without classifier"
    if layout.prefix:
      name += f" under the prefix {layout.prefix!r}"
    return name

  def _leave_rival(
    self, layout: names_lib.Layout, rival: str, names: list[str]
  ) -> None:
    """Leaves out another encoder and its heads."""
    if rival == f"{layout.parent}net.0." and layout.prefix.endswith("encoder."):
      self._leave_copies(layout.parent, names)
      return
    is_average = names_lib.side(rival) == "average"
    what = "moving average of the encoder" if is_average else "another encoder"
    self._leave(
      names, f"{what} (--encoder={rival.rstrip('.') or '.'} takes it)"
    )

  def _import_parts(self, layout: names_lib.Layout, features: int) -> None:
    """Imports the heads beside the encoder; its own heads come first."""
    projections.split(layout.parts)
    parts = {
      part: (projections.network(layout.parts, part), names)
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
        self._import_part(network, names, features)
      else:
        word = names_lib.last(part)
        reason = forms.REASONS.get(word, "not a known network")
        self._leave(names.values(), reason)

  def _import_encoder(
    self, kind: encoders.Kind, form: str, names: dict[str, str]
  ) -> dict[str, Any]:
    """Imports the encoder and returns the metadata that describe it."""
    if problem := self._entries.unreadable(names):
      raise UsageError(f"its encoder cannot be read: {problem}")
    try:
      variables, metadata, notes = kind.read(
        self._entries.values(names), form, self._attention_heads
      )
    except UsageError:
      raise
    except ValueError as error:
      raise UsageError(f"its encoder does not fit: {error}") from error
    self._take("encoder", variables, names)
    self._notes.extend(notes)
    return metadata

  def _import_part(
    self, network: str, names: dict[str, str], features: int
  ) -> None:
    """Imports a head, or leaves it out with a reason."""
    if network == "classifier" and not self._keep_classifier:
      self._leave(names.values(), "classifier (--keep-classifier keeps it)")
    elif network in self._variables["params"]:
      self._leave(names.values(), f"second {network}")
    elif problem := self._entries.unreadable(names):
      self._leave(names.values(), f"{network} that cannot be read: {problem}")
    else:
      try:
        variables, notes = projections.read(
          network, self._entries.values(names)
        )
      except (KeyError, ValueError) as error:
        self._leave(names.values(), f"not a known head: {error}")
        return
      projections.check(network, variables, features)
      self._take(network, variables, names)
      self._notes.extend(notes)

  def _leave_copies(self, parent: str, names: list[str]) -> None:
    """Leaves out the copies that E-SSL's CIFAR-10 program stores."""
    twins = {"net.0.": "encoder.", "net.1.": "projector."}
    tensors, originals = self._entries.tensors, self._entries.originals
    for name in names:
      inner = name.removeprefix(parent)
      twin = parent + twins.get(inner[:6], "") + inner[6:]
      same = twin in tensors and np.array_equal(
        tensors[name], tensors[twin], equal_nan=True
      )
      if not same:
        raise UsageError(
          f"{originals[name]} should equal {originals.get(twin, twin)} but does"
          " not: the checkpoint is damaged"
        )
    self._leave(names, "second copy of encoder and projector")

  def _take(
    self, network: str, variables: dict[str, Any], names: dict[str, str]
  ) -> None:
    for collection, values in variables.items():
      if values:
        self._variables[collection][network] = values
    for name in names.values():
      self._taken[self._entries.originals[name]] = network
      if self._entries.tensors[name].dtype.itemsize > 4:
        self._notes.append(f"{network} is rounded to float32")
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(variables)):
      self._notes.append(f"{network} has values that are not finite")
    statistics = jax.tree_util.tree_leaves_with_path(
      variables.get("batch_stats", {})
    )
    if any(path[-1].key == "var" and (x < 0).any() for path, x in statistics):
      self._notes.append(f"{network} has variances below 0: it is damaged")

  def _leave(self, names: Iterable[str], reason: str) -> None:
    for name in names:
      self._entries.left_out[self._entries.originals[name]] = reason
