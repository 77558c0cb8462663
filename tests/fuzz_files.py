"""Damaged data files for Hypothesis, and checks of reading them."""

import io
import struct
import zipfile
import zlib

import h5py
from hypothesis import strategies as st
from image_files import encode
import numpy as np
from PIL import Image

from essl_jax.data import ArraySource, crops, limits, npz
from essl_jax.errors import UsageError
from essl_jax.photonics import dataset

MOST = 2**20  # pixels and bytes
GRAY = np.arange(35, dtype=np.uint8).reshape(5, 7)
IMAGES = [
  *(
    encode(Image.fromarray(GRAY).convert(mode), kind)
    for kind, mode in (
      ("png", "L"),
      ("png", "RGBA"),
      ("png", "P"),
      ("gif", "P"),
      ("bmp", "RGB"),
      ("tiff", "RGB"),
      ("tiff", "F"),
      ("tiff", "I;16"),
      ("ppm", "RGB"),
      ("webp", "RGB"),
      ("jpeg", "RGB"),
      ("jpeg2000", "RGB"),
    )
  ),
]
_NUMBERS = st.sampled_from([0, 1, 2, 7, 255, 2**15, 2**16 - 1, 2**31 - 1]) | (
  st.integers(0, 2**32 - 1)
)


def _arrays() -> bytes:
  stream = io.BytesIO()
  images = np.zeros((3, 2, 2, 3), np.uint8)
  labels = np.arange(3)
  np.savez(stream, **dict(zip(npz.NPZ_KEYS, (images, labels) * 2, strict=True)))
  return stream.getvalue()


def _cells() -> bytes:
  stream = io.BytesIO()
  with h5py.File(stream, "w") as file:
    file["permittivity"] = np.full((2, 3, 3), 2, np.float32)
    file["density_of_states"] = np.ones((2, 400), np.float32)
  return stream.getvalue()


ARRAYS, CELLS = _arrays(), _cells()


@st.composite
def damaged(draw, whole: bytes) -> bytes:
  """A file with some bytes changed, mostly of its head, maybe cut or longer."""
  found = bytearray(whole)
  place = st.integers(0, min(len(whole), 200) - 1) | st.integers(
    0, len(whole) - 1
  )
  for at in draw(st.lists(place, max_size=6)):
    found[at] = draw(
      st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)
    )
  if draw(st.booleans()):
    del found[draw(st.integers(0, len(found))) :]
  return bytes(found) + draw(st.binary(max_size=4))


@st.composite
def pngs(draw) -> bytes:
  """A PNG file with any header and chunks, whose checksums are right."""
  header = struct.pack(">II", draw(_NUMBERS), draw(_NUMBERS))
  depth = draw(st.sampled_from([1, 2, 4, 8, 16]) | st.integers(0, 255))
  colour = draw(st.sampled_from([0, 2, 3, 4, 6]) | st.integers(0, 255))
  header += bytes([depth, colour, 0, 0, draw(st.integers(0, 2))])
  names = st.sampled_from(
    [b"PLTE", b"tRNS", b"sBIT", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"gAMA"]
  )
  chunks = [(b"IHDR", header)]
  for name in draw(st.lists(names, max_size=3)):
    chunks.append((name, draw(st.binary(max_size=40))))
  chunks += [(b"IDAT", zlib.compress(bytes(draw(st.integers(0, 300)))))]
  chunks += [(b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(x)) + k + x + struct.pack(">I", zlib.crc32(k + x))
    for k, x in chunks
  )


@st.composite
def npzs(draw) -> bytes:
  """An archive whose first array has any header."""
  shape = draw(
    st.lists(_NUMBERS | st.integers(-5, 2**70), max_size=5).map(tuple).map(repr)
    | st.text(max_size=9)
  )
  descr = draw(
    st.sampled_from(
      ["'|u1'", "'<f8'", "'|O'", "'<U0'", "'|V9'", "[('a','u1')]"]
    )
    | st.text(max_size=9)
  )
  text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
  head = text.encode("latin1", "replace")
  version = draw(st.sampled_from([1, 2, 3]) | st.integers(0, 255))
  size = struct.pack("<H" if version == 1 else "<I", len(head))
  content = b"\x93NUMPY" + bytes([version, 0]) + size + head
  content += bytes(draw(st.integers(0, 99)))
  stream = io.BytesIO(ARRAYS)
  with zipfile.ZipFile(stream) as archive:
    members = {x: archive.read(x) for x in archive.namelist()}
  made = io.BytesIO()
  with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, member in (members | {"train_images.npy": content}).items():
      archive.writestr(name, member)
  return made.getvalue()


def check_image(encoded: bytes) -> None:
  """An RGB image of the allowed size, or one line."""
  try:
    image = crops.decode(encoded, limits.Room(MOST))
  except crops.BrokenImageError as error:
    assert str(error) and "\n" not in str(error)
  else:
    assert image.mode == "RGB" and 0 < image.width * image.height <= MOST


def check_arrays(path, content: bytes) -> None:
  """A set of images, or one line that names the file or the array."""
  path.write_bytes(content)
  try:
    source = npz.load_npz(path, MOST)
  except UsageError as error:
    _check_line(error, path, *npz.NPZ_KEYS)
  else:
    assert isinstance(source, ArraySource)
    assert 0 <= source.train_labels.max() < source.num_classes <= 6


def check_cells(path, content: bytes) -> None:
  """Cells with values that are allowed, or one line that names the file."""
  path.write_bytes(content)
  try:
    cells = dataset.load(path, max_bytes=MOST)
  except UsageError as error:
    _check_line(error, path)
  else:
    assert (
      cells.permittivity.min() >= 0.99 and cells.permittivity.max() <= 20.01
    )


def _check_line(error: UsageError, *names) -> None:
  text = str(error)
  assert "\n" not in text and any(str(name) in text for name in names)
