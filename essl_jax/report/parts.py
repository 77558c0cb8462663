"""Elements of the page, such as tables and pictures, without their looks."""

from collections.abc import Sequence
from typing import NamedTuple

from essl_jax.evaluation.evaluation import Picture


class Cell(NamedTuple):
  """A picture, a text and a note below; `kind` "right" or "wrong" frames it."""

  text: str = ""
  note: str = ""
  picture: Picture | None = None
  kind: str = ""


class Row(NamedTuple):
  """A row, marked where the runs differ."""

  heading: str
  cells: Sequence[Cell]
  differs: bool = False


class Table(NamedTuple):
  """A table; `head` has one heading more than rows have cells."""

  caption: str
  head: Sequence[str]
  rows: Sequence[Row]
  has_pictures: bool = False


class Section(NamedTuple):
  """What stands under a heading, in this order; `folded` shows captions."""

  title: str
  texts: Sequence[str] = ()
  tables: Sequence[Table] = ()
  folded: Sequence[Table] = ()
  figures: Sequence[Picture] = ()

  @property
  def address(self) -> str:
    """Where it is on the page."""
    return self.title.lower().replace(" ", "-")

  @property
  def is_empty(self) -> bool:
    """Whether there is nothing under the heading."""
    return not any((self.texts, self.tables, self.folded, self.figures))
