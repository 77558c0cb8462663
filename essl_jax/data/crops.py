"""Decodes one image on the host and crops it as PIL does.

Images that differ in size cannot be batched before they are cropped, so the
windows of torchvision's RandomResizedCrop are drawn and resized here; flips
and colours follow on the device. One decode serves all crops of an image.
"""

from collections.abc import Sequence
import io
import logging
import math
import warnings
import zlib

import numpy as np
from PIL import Image

from essl_jax import config as config_lib
from essl_jax.data import pnm
from essl_jax.data.levels import (
  BrokenImageError,
  Levels,
  to_rgb,
)
from essl_jax.data.limits import Room
from essl_jax.data.stored import stored_as
from essl_jax.texts import first_line

_TRIES = 10
# 2 * _TRIES + 2, rounded up: Philox makes four numbers at a time.
_DRAWS = 24
# Excludes formats that start other programs (EPS) or are not pictures.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "JPEG2000")
_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of TIFF
_BLOCK = 2**26
# Peak memory of decoders, as multiples of the image's four bytes a pixel.
_TIMES = {"JPEG2000": 5, "WEBP": 4, "TIFF": 2}
_TIMES_PROGRESSIVE = 2
_TIMES_WIDE = 3  # wide samples, which are copied before they become bytes
_ROOM = Room(config_lib.Data.max_pixels)


def decode(
  encoded: bytes, room: Room | None = None, levels: Levels | None = None
) -> Image.Image:
  """Decodes an image to RGB.

  Grayscale is repeated, CMYK and palettes are converted, alpha is dropped, and
  an animation gives its first picture; `levels.to_rgb` describes how more than
  eight bits are reduced. The orientation stored by cameras is not applied, as
  in torchvision.

  Args:
    encoded: a JPEG, PNG, WebP, BMP, GIF, PPM, TIFF or JPEG 2000 file.
    room: limit on the decoded pixels that all threads hold together, and on the
      pixels of one image; 178 million when absent. Large images wait for room
      and free it once nothing refers to them.
    levels: shared by the images of a set; for this image alone when absent.

  Returns:
    The image in PIL's mode RGB, at its full resolution.

  Raises:
    BrokenImageError: it cannot be decoded, or has too many pixels.
    UnclearLevelsError: the range of its levels is unknown.
  """
  room = _ROOM if room is None else room
  taken = 0
  try:
    pnm.check_header(encoded)
    image: Image.Image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    pixels = _check_size(image, room.size)
    weight = pixels * _times(image)
    room.take(weight)
    taken = weight
    stored = stored_as(image, encoded)
    white = levels.white if levels else None
    image = pnm.scaled(image, encoded, white) or image
    image.load()
    image = to_rgb(image, stored, levels)
  except BrokenImageError:
    room.give_back(taken)
    raise
  except Image.UnidentifiedImageError as error:
    what = "in no known image format" if encoded else "empty"
    raise BrokenImageError(what) from error
  except Image.DecompressionBombError as error:  # raised on opening
    raise BrokenImageError(_too_many("more", room.size)) from error
  except MemoryError:
    room.give_back(taken)
    raise
  # PIL's decoders raise all kinds of errors for damaged files.
  except Exception as error:
    room.give_back(taken)
    line = first_line(error, with_type=type(error) is not ValueError)
    raise BrokenImageError(line) from error
  room.give_back_with(image, taken)
  return image


def _check_size(image: Image.Image, most: int) -> int:
  """Returns the number of pixels to decode, without decoding."""
  tags = getattr(image, "tag_v2", {})
  tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)
  pixels = max(image.width * image.height, tile)
  if pixels > most:
    raise BrokenImageError(_too_many(f"{pixels:,}", most))
  return pixels


def _too_many(pixels: str, most: int) -> str:
  return f"it has {pixels} pixels, but config.data.max_pixels allows {most:,}"


def _times(image: Image.Image) -> int:
  """Returns the memory that decoding takes, in sizes of the decoded image."""
  if image.mode[0] in "IF":
    return max(_TIMES_WIDE, _TIMES.get(image.format or "", 1))
  if image.info.get("progressive"):
    return _TIMES_PROGRESSIVE
  return _TIMES.get(image.format or "", 1)


def quieten(most_pixels: int = config_lib.Data.max_pixels) -> None:
  """Loads PIL's decoders before threads do, and silences their warnings.

  The warnings (odd metadata, many pixels) do not matter for training, and
  images that cannot be read are reported anyway.

  Args:
    most_pixels: of an image; PIL refuses images of twice its own limit.
  """
  Image.init()
  # Larger blocks than C's allocator keeps for each thread once they are free.
  Image.core.set_block_size(_BLOCK)
  warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
  logging.getLogger("PIL").setLevel(logging.CRITICAL)
  warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
  if Image.MAX_IMAGE_PIXELS is not None:
    least = math.ceil(most_pixels / 2)
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, least)


def crop_draws(seed: int, name: str, first: int, count: int) -> np.ndarray:
  """Draws the random numbers for one crop of consecutive images.

  Counter-based: row i depends only on (seed, name, first + i), so every process
  draws only its own share of a batch.

  Args:
    seed: a number >= 0.
    name: of the crop; different names are independent.
    first: position of the first image in the stream: step * batch + row.
    count: number of images.

  Returns:
    float64 [count, 24], uniform in [0, 1), for `crop_box`.
  """
  generator = np.random.Philox(
    key=np.array([seed % 2**64, zlib.crc32(name.encode())], np.uint64),
    counter=first * (_DRAWS // 4),
  )
  return np.random.Generator(generator).random((count, _DRAWS))


def crop_box(
  draws: Sequence[float],
  height: int,
  width: int,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
  """Turns uniform numbers into a window of torchvision's RandomResizedCrop.

  It tries ten draws of a uniform area and a log-uniform aspect. The first that
  fits is placed uniformly; if none fits, it takes the largest central window of
  an allowed aspect, like `essl_jax.augment.sample_crop_boxes`.

  Args:
    draws: one row of `crop_draws`.
    height: of the image, in pixels.
    width: of the image.
    scale: smallest and largest area, as fractions of the image's.
    ratio: smallest and largest width / height.

  Returns:
    Top, left, height and width in pixels.
  """
  low, high = math.log(ratio[0]), math.log(ratio[1])
  for i in range(_TRIES):
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[i])
    aspect = math.exp(low + (high - low) * draws[_TRIES + i])
    box_width = round(math.sqrt(area * aspect))
    box_height = round(math.sqrt(area / aspect))
    if 0 < box_width <= width and 0 < box_height <= height:
      top = int(draws[2 * _TRIES] * (height - box_height + 1))
      left = int(draws[2 * _TRIES + 1] * (width - box_width + 1))
      return top, left, box_height, box_width
  box_height = max(1, min(height, round(width / ratio[0])))
  box_width = max(1, min(width, round(height * ratio[1])))
  top, left = (height - box_height) // 2, (width - box_width) // 2
  return top, left, box_height, box_width


def resized_crop(
  image: Image.Image,
  box: tuple[int, int, int, int],
  size: int,
  interpolation: str,
) -> np.ndarray:
  """Cuts a window out of an image and resizes it, antialiased.

  Args:
    image: in mode RGB.
    box: top, left, height and width in pixels, inside the image.
    size: side of the result.
    interpolation: "bilinear" or "bicubic".

  Returns:
    uint8 [size, size, 3].
  """
  top, left, height, width = box
  # Crop first: resizing with `box=` would read pixels around the window.
  window = image.crop((left, top, left + width, top + height))
  return np.asarray(
    window.resize((size, size), Image.Resampling[interpolation.upper()])
  )


def center_crop(image: Image.Image, resize: int, size: int) -> np.ndarray:
  """Resizes the shorter side and crops the centre, as torchvision does.

  That is `Resize(resize)` (bilinear, antialiased; the longer side is rounded
  down) and `CenterCrop(size)`.

  Args:
    image: in mode RGB.
    resize: the shorter side's new length in pixels.
    size: side of the result, at most `resize`.

  Returns:
    uint8 [size, size, 3].
  """
  short = min(image.size)
  resized = [resize * side // short for side in image.size]
  scale = [old / new for old, new in zip(image.size, resized, strict=True)]
  # Compute only the crop, however long the image is.
  start = [round((side - size) / 2) for side in resized]
  left, top = (place * s for place, s in zip(start, scale, strict=True))
  right, bottom = (
    min((place + size) * s, side)
    for place, s, side in zip(start, scale, image.size, strict=True)
  )
  box = (left, top, right, bottom)
  return np.asarray(
    image.resize((size, size), Image.Resampling.BILINEAR, box=box)
  )
