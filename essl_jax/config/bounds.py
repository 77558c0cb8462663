"""Bounds of fields, as `Annotated` types: `Annotated[float, Above(0)]`."""

from collections.abc import Callable
import dataclasses
import functools
import operator
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Bound:
  """A bound of a number, or of how many values a tuple has.

  Attributes:
    words: how a message says it.
    symbol: how a type says it.
    compare: whether a number and the limit fit.
    limit: the bound.
  """

  words: str
  symbol: str
  compare: Callable[[float, float], bool]
  limit: float


AtLeast = functools.partial(Bound, "at least", ">=", operator.ge)
Above = functools.partial(Bound, "above", ">", operator.gt)
AtMost = functools.partial(Bound, "at most", "<=", operator.le)
Below = functools.partial(Bound, "below", "<", operator.lt)

Count = Annotated[int, AtLeast(1)]
Whole = Annotated[int, AtLeast(0)]
Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), Below(1)]
Fraction = Annotated[float, Above(0), AtMost(1)]
Unit = Annotated[float, AtLeast(0), AtMost(1)]
Sizes = Annotated[tuple[Count, ...], AtLeast(1)]
