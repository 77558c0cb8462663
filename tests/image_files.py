"""Files of images, and some that no library writes."""

import io
import struct


def encode(image, kind="png", **options):
  """The bytes of an image file."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def tiff(width, height, bits, data, *, format=1, photometric=1, **more):
  """An uncompressed grayscale TIFF file of one strip.

  `most` is its MaxSampleValue; `tile` replaces the strip by a tile of a side.
  """
  tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
  tags |= {277: 1, 339: format}
  if "most" in more:
    tags[281] = more["most"]
  where = {273: 0, 278: height, 279: len(data)}
  if "tile" in more:
    where = {322: more["tile"], 323: more["tile"], 324: 0, 325: len(data)}
  tags |= where
  start = 8 + 2 + 12 * len(tags) + 4
  tags[min(where) if "tile" not in more else 324] = start
  entries = [struct.pack("<HHII", k, 4, 1, tags[k]) for k in sorted(tags)]
  head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
  return head + b"".join(entries) + bytes(4) + data
