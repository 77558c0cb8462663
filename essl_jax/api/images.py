"""Reads images of any form into batches of one shape, as evaluations do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import os
import pathlib
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from essl_jax.data import batches as batches_lib
from essl_jax.data.crops import decode, quieten
from essl_jax.data.levels import (
  BrokenImageError,
  Levels,
  UnclearLevelsError,
  to_rgb,
)
from essl_jax.data.limits import NotReadableError, regular_size
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.data.stored import Stored, stored_as
from essl_jax.errors import UsageError
from essl_jax.storage import places
from essl_jax.texts import first_line

ImageLike: TypeAlias = (
  str | os.PathLike[str] | np.ndarray | jax.Array | Image.Image
)
"""A file's path, pixels [H, W, 3] or [H, W], or a Pillow image."""

Broken = Callable[[int, str], None]
"""Called with the position of an image that cannot be read, and why."""

_UNREADABLE = (
  BrokenImageError,
  NotReadableError,
  FileNotFoundError,
  IsADirectoryError,
  PermissionError,
)
_FIELD, _ARGUMENT = "--config.data.white_level", "white_level (--white-level)"
_WORDS = 65535
_BLANK = -1  # the row of an image that was left out


def as_list(images: Iterable[ImageLike] | np.ndarray) -> list[ImageLike]:
  """Makes a list of images.

  Args:
    images: paths, arrays and Pillow images in any order; or one array
      [N, H, W, C].

  Returns:
    The list.

  Raises:
    ValueError: it is a single image, or there is none.
  """
  is_path = isinstance(images, str | os.PathLike)
  is_array = isinstance(images, np.ndarray | jax.Array)
  if is_path or isinstance(images, Image.Image):
    raise ValueError(f"images must be a list; give [{images!r:.200}]")
  if is_array and images.ndim != 4:  # type: ignore[union-attr]
    raise ValueError(
      "an array of images must be [N, H, W, C], got shape"
      f" {list(images.shape)}: give a list of one image"  # type: ignore[union-attr]
    )
  found: list[ImageLike] = list(images)
  if not found:
    raise ValueError("images must be a list of at least one image, got none")
  return found


def batches(
  images: Sequence[ImageLike],
  preprocessing: Preprocessing,
  batch_size: int,
  broken: Broken | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Reads images and does the host's part of the preprocessing.

  Args:
    images: see `ImageLike`.
    preprocessing: of the encoder.
    batch_size: images in a batch; the last ones may be smaller.
    broken: called for each image that cannot be read, which is left out;
      without it, the first such image raises.

  Yields:
    Positions in `images`, int [n], and uint8 [n, H, W, C], or floating in
    [0, 1] for floating images that already have the encoder's shape.

  Raises:
    UsageError: an image cannot be read, or its levels are unclear.
    ValueError: an array is not an image.
  """
  exact, rest = _by_work(images, preprocessing)
  for alike in exact.values():
    for start in range(0, len(alike), batch_size):
      part = alike[start : start + batch_size]
      yield np.array(part), np.stack([np.asarray(images[i]) for i in part])
  if not rest:
    return
  if preprocessing.image_shape[2] != 3:
    shape = list(preprocessing.image_shape)
    raise UsageError(
      f"image {rest[0]} is {_describe(images[rest[0]])}, but the encoder takes"
      f" only arrays {shape}"
    )
  quieten()
  levels = Levels(preprocessing.white_level)  # shared by all images
  for batch in batches_lib.run(
    _job(images, rest[i : i + batch_size], preprocessing, levels, broken)
    for i in range(0, len(rest), batch_size)
  ):
    is_read = batch["label"] != _BLANK
    yield batch["label"][is_read], batch["image"][is_read]


def _by_work(
  images: Sequence[ImageLike], preprocessing: Preprocessing
) -> tuple[dict[Any, list[int]], list[int]]:
  """Returns positions of images ready for the device, by type, and the rest."""
  rest = []
  exact: dict[Any, list[int]] = {}
  square = (preprocessing.side, preprocessing.side, 3)
  for place, image in enumerate(images):
    if _is_taken(image, preprocessing) and preprocessing.image_shape != square:
      pixels = np.asarray(image)
      _check_pixels(pixels)
      exact.setdefault(pixels.dtype, []).append(place)
    else:
      rest.append(place)
  return exact, rest


def _is_taken(image: ImageLike, preprocessing: Preprocessing) -> bool:
  """Whether the host has nothing to do for an image."""
  is_array = isinstance(image, np.ndarray | jax.Array)
  return is_array and preprocessing.takes(np.shape(image))  # type: ignore[arg-type]


def _job(
  images: Sequence[ImageLike],
  places_of: Sequence[int],
  preprocessing: Preprocessing,
  levels: Levels,
  broken: Broken | None,
) -> batches_lib.Job:
  def load(row: int) -> tuple[Image.Image, int]:
    place = places_of[row]
    try:
      return _open(images[place], levels), place
    except UnclearLevelsError as error:
      why = first_line(error).replace(_FIELD, _ARGUMENT)
      told = f"cannot read {_describe(images[place])}: {why}"
      raise UsageError(told) from error
    except _UNREADABLE as error:
      why = getattr(error, "strerror", None) or first_line(error)
      if broken is None:
        told = f"cannot read {_describe(images[place])}: {why}"
        raise UsageError(told) from error
      broken(place, why)
      return Image.new("RGB", (1, 1)), _BLANK

  side = preprocessing.side
  return batches_lib.images_job(
    load, len(places_of), (side, side, 3), preprocessing.resize_size
  )


def _open(image: ImageLike, levels: Levels) -> Image.Image:
  """Opens an image in PIL's mode RGB."""
  if isinstance(image, Image.Image):
    return _of_pil(image, levels)
  if not isinstance(image, str | os.PathLike):
    return Image.fromarray(_to_bytes(image))
  if "\0" in os.fspath(image):
    raise BrokenImageError(f"{os.fspath(image)!r} is not a valid path")
  if places.is_remote(image):
    return decode(places.locate(image, "image").read_bytes(), levels=levels)
  path = pathlib.Path(image).expanduser()
  size = regular_size(path)
  with path.open("rb") as file:
    return decode(file.read(size), levels=levels)


def _to_bytes(image: Any) -> np.ndarray:
  """Converts an array to uint8 [H, W, 3]; ValueError if it is not an image."""
  pixels = np.asarray(image)
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
    raise ValueError(
      "arrays of images must be [H, W, 3], [H, W, 1] or [H, W], got shape"
      f" {list(np.shape(image))}"
    )
  _check_pixels(pixels)
  if pixels.dtype != np.uint8:
    pixels = np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
  return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _check_pixels(pixels: np.ndarray) -> None:
  """Raises ValueError unless pixels are uint8 or floating in [0, 1]."""
  if jnp.issubdtype(pixels.dtype, jnp.floating):
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN fails too
      raise ValueError(
        f"floating pixels must be in [0, 1], got {pixels.min()} to"
        f" {pixels.max()}: divide pixels of 0 to 255 by 255"
      )
  elif pixels.dtype != np.uint8:
    raise ValueError(
      f"pixels must be uint8, or floating in [0, 1], got {pixels.dtype}"
    )


def _of_pil(image: Image.Image, levels: Levels) -> Image.Image:
  """Like `decode`, for an image that PIL has opened or made."""
  try:
    stored = stored_as(image, b"")
    image.load()
    if 0 in image.size:
      raise BrokenImageError("it has no pixels")
    if image.format == "PPM" and image.mode == "I":
      stored = Stored("", _WORDS)  # PIL scales all of them to 16 bits
    return to_rgb(image, stored, levels)
  except (BrokenImageError, MemoryError):
    raise
  # PIL's decoders raise all kinds of errors for damaged files.
  except Exception as error:
    raise BrokenImageError(first_line(error, with_type=True)) from error


def _describe(image: ImageLike) -> str:
  if isinstance(image, str | os.PathLike):
    return os.fspath(image)
  if isinstance(image, Image.Image):  # np.shape would load it
    return f"a Pillow image, {image.mode} {image.width} x {image.height}"
  return f"{type(image).__name__} {list(np.shape(image))}"  # type: ignore[arg-type]
