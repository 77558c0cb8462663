"""Bounds of fields, as `Annotated` types: `Annotated[float, Above(0)]`.

Values beyond them are nonsense or typing errors on any machine. Values that are
only too large for a machine or a data set are refused later, once those are
known.
"""

from collections.abc import Callable
import dataclasses
import functools
import operator
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Bound:
  """A bound of a number, or of the length of a tuple.

  Attributes:
    words: how a message spells it.
    symbol: how the name of a type spells it.
    compare: whether a number satisfies the limit.
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

# More than any count in practice; fits into int32.
MANY = 10**9

Count = Annotated[int, AtLeast(1), AtMost(MANY)]
Whole = Annotated[int, AtLeast(0), AtMost(MANY)]
Epochs = Annotated[int, AtLeast(1), AtMost(10**6)]
Width = Annotated[int, AtLeast(1), AtMost(10**6)]
Side = Annotated[int, AtLeast(1), AtMost(2**14)]
Repetitions = Annotated[int, AtLeast(1), AtMost(1000)]
Seed = Annotated[int, AtLeast(0), Below(2**32)]
Positive = Annotated[float, Above(0), AtMost(10**6)]
NonNegative = Annotated[float, AtLeast(0), AtMost(10**6)]
Share = Annotated[float, AtLeast(0), Below(1)]
Fraction = Annotated[float, Above(0), AtMost(1)]
Unit = Annotated[float, AtLeast(0), AtMost(1)]
Sizes = Annotated[tuple[Count, ...], AtLeast(1), AtMost(100)]
HiddenWidths = Annotated[tuple[Width, ...], AtMost(100)]
Widths = Annotated[tuple[Width, ...], AtLeast(1), AtMost(100)]
