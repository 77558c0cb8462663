"""Locates a checkpoint's networks by the names of its tensors."""

from collections.abc import Iterable, Sequence
import dataclasses

from essl_jax.convert import forms
from essl_jax.errors import UsageError
from essl_jax.texts import some

MOST_ENCODERS = 20


@dataclasses.dataclass
class Layout:
  """The networks of a checkpoint, seen from one encoder.

  Attributes:
    prefix: of the encoder's names, ending in a dot, or empty.
    encoder: the encoder's tensors, by their names within it.
    parts: the tensors of each part beside it, by their names within the part.
      A part's name begins with the words that it shares with the encoder's
      prefix.
    others: the tensors of other encoders and their heads, by these encoders'
      prefixes.
  """

  prefix: str
  encoder: dict[str, str] = dataclasses.field(default_factory=dict)
  parts: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  others: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  @property
  def words(self) -> set[str]:
    """The names of parts and of the encoder, which identify a form."""
    found = {last(part) for part in self.parts}
    beside = any(not part.startswith(self.prefix) for part in self.parts)
    if not self.prefix or not (beside or self.others):
      found.add("")
    return found.union(
      *(prefix.split(".")[:-1] for prefix in (self.prefix, *self.others))
    )

  @property
  def parent(self) -> str:
    """The encoder's prefix without its last word: `a.b.` of `a.b.encoder.`."""
    return self.prefix[: self.prefix[:-1].rfind(".") + 1]


def short(name: str) -> str:
  """Drops the words that module wrappers add to names, such as `module`."""
  return ".".join(x for x in name.split(".") if x not in forms.TRANSPARENT)


def last(part: str) -> str:
  """Returns `projector` for `model.projector`."""
  return part.rpartition(".")[2]


def bare(word: str) -> str:
  """Returns `projector` for `momentum_projector` and `online_projector`."""
  known = forms.AVERAGES | forms.SIDES
  return "_".join(x for x in word.split("_") if x not in known)


def side(prefix: str) -> str:
  """Returns which of several encoders a prefix or part belongs to."""
  words = {x for part in prefix.split(".") for x in part.split("_")}
  if words & forms.AVERAGES:
    return "average"
  return "teacher" if "teacher" in words else "trained"


def teacher_of_dino(
  names: Iterable[str], prefixes: Sequence[str]
) -> str | None:
  """Finds DINO's teacher, which DINO's own program evaluates.

  Args:
    names: short names of all tensors.
    prefixes: of all encoders.

  Returns:
    The teacher's prefix; None if this is not a checkpoint of DINO's student and
    teacher.
  """
  heads = {
    name.partition("head.last_layer.")[0]
    for name in names
    if "head.last_layer." in name
  }
  found = [
    prefix
    for prefix in prefixes
    if side(prefix) == "teacher" and prefix.removesuffix("backbone.") in heads
  ]
  return found[0] if len(found) == 1 and len(prefixes) > 1 else None


def choose(prefixes: Sequence[str], chosen: str | None) -> str:
  """Chooses the encoder to import.

  Args:
    prefixes: of all encoders, at least one.
    chosen: a prefix, or words that only one of them has. By default the only
      encoder, or the trained one if the others are moving averages or copies of
      it.

  Returns:
    Its prefix.

  Raises:
    UsageError: the choice is ambiguous or unknown.
  """
  if len(prefixes) > MOST_ENCODERS:
    raise UsageError(
      f"it has {len(prefixes)} encoders, more than {MOST_ENCODERS}: save the"
      " state dict of only one of them"
    )
  if chosen is None:
    found = [
      prefix
      for prefix in prefixes
      if side(prefix) != "average"
      and prefix.removesuffix("net.0.") + "encoder." not in prefixes
    ] or list(prefixes)
    problem = "it has several encoders"
  else:
    wanted = short(chosen.strip("."))
    found = [x for x in prefixes if x.rstrip(".") == wanted] or [
      x for x in prefixes if f".{wanted}." in f".{x}"
    ]
    problem = f"--encoder={chosen} does not name one of the encoders in it"
  if len(found) == 1:
    return found[0]
  there = some([repr(x) for x in prefixes], shown=MOST_ENCODERS)
  example = next((x for x in found or prefixes if x), ".")
  raise UsageError(
    f"{problem}, under {there}: choose one, such as"
    f" --encoder={example.rstrip('.') or '.'}"
  )


def lay_out(
  names: Iterable[str], prefixes: Sequence[str], prefix: str
) -> Layout:
  """Divides the tensors of a checkpoint among its networks.

  A tensor outside the encoder belongs to a part. The part's name is the words
  that the tensor's name shares with the encoder's prefix, plus one more:
  `model.projector` beside `model.backbone.net.`.

  Args:
    names: short names of all tensors.
    prefixes: of all encoders.
    prefix: of the encoder to import.
  """
  layout = Layout(prefix)
  rivals = {_part(x, prefix): x for x in prefixes if x != prefix}
  for name in names:
    inside = [x for x in prefixes if name.startswith(x)]
    owner = max(inside, key=len, default=prefix)
    part = _part(name, prefix)
    if part in rivals or owner != prefix:
      layout.others.setdefault(rivals.get(part, owner), []).append(name)
    elif inside and not _is_beside(part):
      layout.encoder[name.removeprefix(prefix)] = name
    else:
      inner = name.removeprefix(part).removeprefix(".")
      layout.parts.setdefault(part, {})[inner] = name
  return layout


def _part(name: str, prefix: str) -> str:
  """Returns the words that a name shares with a prefix, plus one more."""
  words = name.split(".")
  shared = 0
  for mine, other in zip(prefix.split(".")[:-1], words, strict=False):
    if mine != other:
      break
    shared += 1
  return ".".join(words[: shared + 1])


def _is_beside(part: str) -> bool:
  """Whether a part under an encoder's prefix is not part of the encoder."""
  word = last(part)
  known = (*forms.HEADS, *forms.CLASSIFIERS, *forms.REASONS)
  return word in known or bare(word) in forms.HEADS
