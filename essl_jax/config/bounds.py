"""Bounds of fields, as `Annotated` types: `Annotated[float, Above(0)]`."""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class AtLeast:
  """A bound: not below `limit`."""

  limit: float
  words = "at least"

  def allows(self, value: float) -> bool:
    """Whether a number is within the bound."""
    return value >= self.limit


@dataclasses.dataclass(frozen=True)
class Above(AtLeast):
  """A bound: above `limit`."""

  words = "above"

  def allows(self, value: float) -> bool:
    """Whether a number is within the bound."""
    return value > self.limit


@dataclasses.dataclass(frozen=True)
class AtMost(AtLeast):
  """A bound: not above `limit`."""

  words = "at most"

  def allows(self, value: float) -> bool:
    """Whether a number is within the bound."""
    return value <= self.limit


@dataclasses.dataclass(frozen=True)
class Below(AtLeast):
  """A bound: below `limit`."""

  words = "below"

  def allows(self, value: float) -> bool:
    """Whether a number is within the bound."""
    return value < self.limit


@dataclasses.dataclass(frozen=True)
class Length(AtLeast):
  """A bound: a tuple has `limit` values or more."""

  words = "in a number of at least"


Count = Annotated[int, AtLeast(1)]
Whole = Annotated[int, AtLeast(0)]
Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), Below(1)]
Fraction = Annotated[float, Above(0), AtMost(1)]
Unit = Annotated[float, AtLeast(0), AtMost(1)]
Sizes = Annotated[tuple[Count, ...], Length(1)]
