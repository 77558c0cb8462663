"""Prepares images for an encoder, without augmentation.

Evaluations, exports and users' programs share this code, so all of them
compute the same features of the same image.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, Self

import jax
import numpy as np

from essl_jax import augment
from essl_jax import config as config_lib
from essl_jax.augment import View

# Largest plausible side of an image, in pixels.
_LARGEST = 2**16


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How images are prepared for an encoder.

  On the host, an image whose shape is not `image_shape` is resized (bilinear,
  antialiased), with its shorter side to `resize_size`, and its centre is
  cropped. On the device, if the side is not `input_size`, it is resized
  (bicubic) and cropped again. Then `mean` and `std` normalise it.

  Attributes:
    image_shape: (height, width, channels) of the images of evaluations.
    resize_size: length of the shorter side before the centre is cropped.
    input_size: side of the images that the encoder takes.
    mean: subtracted from the channels of images in [0, 1].
    std: divides them.
    white_level: of images of more than eight bits; see `config.data`.
  """

  image_shape: tuple[int, int, int]
  resize_size: int
  input_size: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  white_level: float | None = None

  @classmethod
  def of(
    cls, data: config_lib.Data, view: View, image_shape: Sequence[int]
  ) -> Self:
    """Returns the preprocessing of a run's evaluations.

    Args:
      data: `config.data`.
      view: `config.views.first`.
      image_shape: of the source.
    """
    height, width, channels = map(int, image_shape)
    resize = data.resize_size or data.image_size or min(height, width)
    shape = (height, width, channels)
    return cls(
      shape,
      resize,
      view.size,
      tuple(view.mean),
      tuple(view.std),
      data.white_level,
    )

  @property
  def side(self) -> int:
    """Side of the square that is cropped from images of other shapes."""
    return min(self.image_shape[:2])

  @property
  def resize(self) -> tuple[int, int] | None:
    """(Shorter side, centre crop) on the device; None keeps the size."""
    size = self.input_size
    return None if self.image_shape[:2] == (size, size) else (size, size)

  @property
  def pixels(self) -> dict[str, Any]:
    """`mean` and `std`, which normalise images."""
    return {"mean": self.mean, "std": self.std}

  def takes(self, shape: Sequence[int]) -> bool:
    """Whether the host leaves images of a shape unchanged."""
    is_cut = self.resize_size != self.side
    return tuple(shape) == self.image_shape and not is_cut

  def on_device(self, images: jax.Array) -> jax.Array:
    """Does the device's part; a pure function.

    Args:
      images: uint8 [N, H, W, C], or floating in [0, 1].

    Returns:
      float32 [N, input_size, input_size, C], normalised.
    """
    if self.resize is not None:
      images = augment.center_crop_resize(
        images, *self.resize, method="bicubic"
      )
    return augment.normalize(images, self.mean, self.std)

  def to_json(self) -> dict[str, Any]:
    """Returns the attributes for JSON; `from_json` reads them."""
    return dataclasses.asdict(self) | {
      "resize_interpolation": "bilinear",
      "input_interpolation": "bicubic",
    }

  @classmethod
  def from_json(cls, found: Mapping[str, Any]) -> Self:
    """Reads the output of `to_json`.

    Raises:
      ValueError: a value is invalid.
    """
    made = cls(
      image_shape=_sizes(found["image_shape"], 3),
      resize_size=_sizes([found["resize_size"]], 1)[0],
      input_size=_sizes([found["input_size"]], 1)[0],
      mean=_numbers(found["mean"]),
      std=_numbers(found["std"]),
      white_level=found.get("white_level"),
    )
    channels = made.image_shape[2]
    if not len(made.mean) == len(made.std) == channels or min(made.std) <= 0:
      raise ValueError("mean and std must be a number for each channel")
    if made.white_level is not None and not _numbers([made.white_level])[0] > 0:
      raise ValueError(f"white_level must be above 0, got {made.white_level}")
    if made.resize_size < made.side:
      raise ValueError("resize_size must not be below the side of the images")
    return made


def _sizes(values: Any, count: int) -> Any:
  found = tuple(values)
  if len(found) != count or not all(
    isinstance(x, int) and 0 < x <= _LARGEST for x in found
  ):
    raise ValueError(f"sizes must be {count} whole numbers, got {values}")
  return found


def _numbers(values: Any) -> tuple[float, ...]:
  found = tuple(np.asarray(values, np.float64).tolist())
  if not found or not all(map(math.isfinite, found)):
    raise ValueError(f"must be finite numbers, got {values}")
  return found
