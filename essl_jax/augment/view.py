"""Settings of random views of images."""

from collections.abc import Mapping, Sequence
import dataclasses
import numbers
from typing import Any

from essl_jax import transformations
from essl_jax.augment.geometry import KERNELS

# For each field of a View: number of values, smallest and largest allowed. Mean
# and standard deviation may have one channel.
_CHANNELS = ("mean", "std")
_LIMITS: dict[str, tuple[int, float, float]] = {
  "size": (1, 1, 2**14),
  "scale": (2, 1e-6, 1),
  "ratio": (2, 1e-6, 1e6),
  "flip": (1, 0, 1),
  "jitter": (4, 0, 100),
  "jitter_probability": (1, 0, 1),
  "grayscale": (1, 0, 1),
  "blur": (1, 0, 1),
  "blur_sigma": (2, 0, 100),
  "solarize": (1, 0, 1),
  "solarize_threshold": (1, 0, 1),
  "mean": (3, -1000, 1000),
  "std": (3, 1e-6, 1000),
}


def _fits(name: str, value: Any) -> bool:
  """Tells whether a View's field has the right number of values, in range."""
  count, low, high = _LIMITS[name]
  several = isinstance(value, Sequence) and not isinstance(value, str)
  values: tuple[Any, ...] = tuple(value) if several else (value,)
  kind: Any = numbers.Integral if name == "size" else numbers.Real
  counts = (1, count) if name in _CHANNELS else (count,)
  return (
    several == (count > 1)
    and len(values) in counts
    and all(isinstance(x, kind) and low <= x <= high for x in values)
    and (count != 2 or values[0] <= values[1])
  )


@dataclasses.dataclass(frozen=True)
class View:
  """Settings of `random_view`; hashable, so static under `jit`.

  Attributes:
    size: side of the square view in pixels.
    scale: smallest and largest area of the crop, as a fraction of the image.
    ratio: smallest and largest ratio of the crop's width to its height.
    interpolation: `bilinear` or `bicubic`.
    flip: probability of a left-right flip.
    jitter: strengths of brightness, contrast, saturation and hue. The first
      three draw a factor from [max(0, 1 - x), 1 + x]; hue turns by [-x, x] of
      the colour circle.
    jitter_probability: probability of the jitter, which applies its four parts
      in random order.
    grayscale: probability of grayscale, with three equal channels.
    blur: probability of a Gaussian blur.
    blur_sigma: smallest and largest standard deviation of the blur in pixels.
    solarize: probability of inverting bright values.
    solarize_threshold: where bright begins, in [0, 1].
    groups: names of transformation groups; one random element of each is
      applied (see `transformations.find_augmentation`).
    mean: subtracted from each channel at the end: three numbers or one.
    std: divides each channel at the end.

  Raises:
    ValueError: a field is out of range; the message has its name, value and
      range.
  """

  size: int = 32
  scale: tuple[float, float] = (0.2, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = "bilinear"
  flip: float = 0.5
  jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
  jitter_probability: float = 0.8
  grayscale: float = 0.2
  blur: float = 0.0
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  solarize: float = 0.0
  solarize_threshold: float = 128 / 255
  groups: tuple[str, ...] = ()
  mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
  std: tuple[float, ...] = (0.2023, 0.1994, 0.2010)

  def __post_init__(self) -> None:
    for name in _LIMITS:
      value = getattr(self, name)
      if not _fits(name, value):
        count, low, high = _LIMITS[name]
        kind = "whole" if name == "size" else "real"
        order = ", ascending" if count == 2 else ""
        number = f"1 or {count}" if name in _CHANNELS else str(count)
        raise ValueError(
          f"{name}={value!r} of a view must be {number} {kind} number(s) in "
          f"[{low}, {high}]{order}"
        )
      if isinstance(value, Sequence):
        object.__setattr__(self, name, tuple(value))
    if self.interpolation not in tuple(KERNELS):
      raise ValueError(
        f"interpolation={self.interpolation!r} of a view must be one of "
        f"{', '.join(KERNELS)}"
      )
    if isinstance(self.groups, str) or not isinstance(self.groups, Sequence):
      raise ValueError(
        f"groups={self.groups!r} of a view must be a sequence of names"
      )
    object.__setattr__(self, "groups", tuple(self.groups))
    for name in self.groups:
      try:
        transformations.find_augmentation(name)
      except ValueError as error:
        raise ValueError(f"groups={self.groups!r} of a view: {error}") from None
    if self.jitter[3] > 0.5:
      raise ValueError(
        f"jitter={self.jitter!r} of a view must have a hue, its last number, of"
        " at most 0.5"
      )

  @property
  def is_whole(self) -> bool:
    """Whether the crop takes the whole of a square image."""
    return tuple(self.scale) == tuple(self.ratio) == (1, 1)

  @property
  def is_jittered(self) -> bool:
    """Whether the view may jitter colours."""
    return self.jitter_probability > 0 and any(self.jitter)

  def check_channels(self, channels: int) -> None:
    """Raises ValueError if the view does not fit this number of channels."""
    if not len(self.mean) == len(self.std) == channels:
      raise ValueError(
        f"mean={self.mean} and std={self.std} of a view must have one number"
        f" for each of the {channels} channel(s) of its images"
      )
    if channels != 3 and (self.is_jittered or self.grayscale):
      raise ValueError(
        f"jitter={self.jitter} and grayscale={self.grayscale:g} of a view"
        f" change colours, but images of {channels} channel(s) have none: set"
        " jitter_probability and grayscale to 0"
      )


def as_view(view: View | Mapping[str, Any]) -> View:
  """Makes a View from a mapping of its fields; ValueError for other fields."""
  if isinstance(view, View):
    return view
  if not isinstance(view, Mapping):
    raise ValueError(f"a view must be a View or a mapping, got {view!r}")
  allowed = [field.name for field in dataclasses.fields(View)]
  unknown = sorted(set(view) - set(allowed))
  if unknown or "size" not in view:
    raise ValueError(
      f"a view needs `size` and has no fields {unknown}; got {sorted(view)},"
      f" allowed are {', '.join(allowed)}"
    )
  return View(**view)
