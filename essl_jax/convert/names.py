"""Where a checkpoint's networks are, by the names of its tensors."""

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
    prefix: of the encoder's names, with a dot at its end, or empty.
    encoder: its tensors, by their names within it.
    parts: the tensors of each part beside it, by their names within the part.
      A part's name begins with what it shares with the encoder's prefix.
    others: the tensors of other encoders and their heads, by these encoders'
      prefixes.
  """

  prefix: str
  encoder: dict[str, str] = dataclasses.field(default_factory=dict)
  parts: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  others: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  @property
  def words(self) -> set[str]:
    """What a form is recognised by: the names of parts and of the encoder."""
    found = {last(part) for part in self.parts}
    beside = any(not part.startswith(self.prefix) for part in self.parts)
    if not self.prefix or not (beside or self.others):
      found.add("")
    return found.union(
      *(prefix.split(".")[:-1] for prefix in (self.prefix, *self.others))
    )

  @property
  def parent(self) -> str:
    """What the encoder's prefix begins with: `a.b.` of `a.b.encoder.`."""
    return self.prefix[: self.prefix[:-1].rfind(".") + 1]


def short(name: str) -> str:
  """Leaves out what wrappers of modules add to names: `module`, ..."""
  return ".".join(x for x in name.split(".") if x not in forms.TRANSPARENT)


def last(part: str) -> str:
  """`projector` of `model.projector`."""
  return part.rpartition(".")[2]


def bare(word: str) -> str:
  """`projector` of `momentum_projector` and `online_projector`."""
  known = forms.AVERAGES | forms.SIDES
  return "_".join(x for x in word.split("_") if x not in known)


def side(prefix: str) -> str:
  """Which of several encoders a prefix or part belongs to."""
  words = {x for part in prefix.split(".") for x in part.split("_")}
  if words & forms.AVERAGES:
    return "average"
  return "teacher" if "teacher" in words else "trained"


def teacher_of_dino(
  names: Iterable[str], prefixes: Sequence[str]
) -> str | None:
  """DINO's teacher, which its own program evaluates.

  Args:
    names: short ones of all tensors.
    prefixes: of all encoders.

  Returns:
    The teacher's prefix; None if this is no checkpoint of DINO's student and
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
  """The encoder to import.

  Args:
    prefixes: of all encoders, at least one.
    chosen: a prefix, or words that only one of them has; by default the only
      encoder, or the one that is trained where the others are moving averages
      or copies of it.

  Returns:
    Its prefix.

  Raises:
    UsageError: it is not clear which one is meant.
  """
  if len(prefixes) > MOST_ENCODERS:
    raise UsageError(
      f"it has {len(prefixes)} encoders, more than {MOST_ENCODERS}: save the"
      " state dict of one of them alone"
    )
  if chosen is None:
    found = [
      prefix
      for prefix in prefixes
      if side(prefix) != "average"
      and prefix.removesuffix("net.0.") + "encoder." not in prefixes
    ] or list(prefixes)
    problem = "several encoders in it"
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

  A tensor outside of the encoder belongs to the part that is named after what
  its name and the encoder's prefix have in common: `model.projector` beside
  `model.backbone.net.`.

  Args:
    names: short ones of all tensors.
    prefixes: of all encoders.
    prefix: of the one to import.
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
  """The beginning that a name shares with a prefix, and one word more."""
  words = name.split(".")
  shared = 0
  for mine, other in zip(prefix.split(".")[:-1], words, strict=False):
    if mine != other:
      break
    shared += 1
  return ".".join(words[: shared + 1])


def _is_beside(part: str) -> bool:
  """Whether a part within an encoder's prefix is not of the encoder."""
  word = last(part)
  known = (*forms.HEADS, *forms.CLASSIFIERS, *forms.REASONS)
  return word in known or bare(word) in forms.HEADS
