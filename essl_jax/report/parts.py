"""Elements of the page, such as tables and pictures, without their style."""

from collections.abc import Sequence
from typing import NamedTuple

from essl_jax.evaluation.evaluation import Picture


class Cell(NamedTuple):
  """A picture, a text and a note; `kind` "right" or "wrong" adds a frame."""

  text: str = ""
  note: str = ""
  picture: Picture | None = None
  kind: str = ""


class Row(NamedTuple):
  """A row, marked if the runs differ."""

  heading: str
  cells: Sequence[Cell]
  differs: bool = False


class Table(NamedTuple):
  """A table; `head` has one more entry than rows have cells."""

  caption: str
  head: Sequence[str]
  rows: Sequence[Row]
  has_pictures: bool = False


class Section(NamedTuple):
  """The content of a heading, in this order; `folded` shows only captions."""

  title: str
  texts: Sequence[str] = ()
  tables: Sequence[Table] = ()
  folded: Sequence[Table] = ()
  figures: Sequence[Picture] = ()

  @property
  def address(self) -> str:
    """The anchor of the section on the page."""
    return self.title.lower().replace(" ", "-")

  @property
  def is_empty(self) -> bool:
    """Whether the section has no content."""
    return not any((self.texts, self.tables, self.folded, self.figures))
