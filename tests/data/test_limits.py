"""Limits on reading: no pipe, no device, no promised gigabytes."""

import io
import os
import socket
import struct
import threading
import time
import zipfile
import zlib

from data_helpers import open_source
from folder_helpers import SIZE, numbers, open_folder, write_folder
from image_files import encode, tiff
import numpy as np
from PIL import Image
import pytest

from essl_jax.data import batches, crops, limits, npz, subsets
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick


def test_only_regular_files_are_read(tmp_path, capfd, monkeypatch):
  """Others count as broken images at once, without being opened."""
  root = write_folder(tmp_path)
  ant = root / "train" / "ant"
  os.mkfifo(ant / "pipe.png")
  for name, target in (
    ("zero.png", "/dev/zero"),
    ("linked_pipe.png", "pipe.png"),
    ("core.png", "/proc/kcore"),
    ("nowhere.png", "/nowhere"),
    ("long.png", "x" * 300),
  ):
    os.symlink(target, ant / name)
  with open(ant / "sparse.png", "wb") as file:
    file.truncate(2**40)
  server = socket.socket(socket.AF_UNIX)
  monkeypatch.chdir(ant)  # paths of sockets must be short
  server.bind("socket.png")
  source = open_folder(root)
  (batch,) = source.evaluation_batches("train", 2 * SIZE)
  server.close()
  assert sorted(numbers(batch, "image")) == list(range(SIZE))
  told = capfd.readouterr().err
  assert len(source.broken["train"]) == 8 and told.count("left out") == 8
  pipe = "pipe.png is broken, left out: not a regular file but a pipe"
  assert told.count(pipe) == 2
  assert "zero.png is broken, left out: not a regular file but a device" in told
  assert (
    "socket.png is broken, left out: not a regular file but a socket" in told
  )
  assert "1,099,511,627,776 bytes, but config.data.max_pixels allows" in told


def chunk(kind, data):
  """A chunk of a PNG file."""
  check = struct.pack(">I", zlib.crc32(kind + data))
  return struct.pack(">I", len(data)) + kind + data + check


def png_header(width, height):
  """A PNG file of kilobytes that promises this many pixels."""
  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(bytes(9999)))
    + chunk(b"IEND", b"")
  )


PROMISES = {
  "png": png_header(100_000, 100_000),
  "tiff": tiff(100_000, 100_000, 8, bytes(99)),
  "tiles": tiff(9, 9, 8, bytes(99), tile=99_999),
  "ppm": b"P6 100000 100000 255\n" + bytes(99),
  "bmp": encode(Image.new("RGB", (9, 9)), "bmp").replace(
    struct.pack("<II", 9, 9), struct.pack("<II", 99_999, 99_999)
  ),
  "jpeg": encode(Image.new("RGB", (9, 9)), "jpeg").replace(
    struct.pack(">HH", 9, 9), struct.pack(">HH", 65_500, 65_500)
  ),
  "gif": encode(Image.new("P", (9, 9)), "gif").replace(
    struct.pack("<HH", 9, 9), struct.pack("<HH", 65_500, 65_500)
  ),
}


@pytest.mark.parametrize("kind", PROMISES)
def test_pixels_are_counted_before_they_are_decoded(kind, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
  with pytest.raises(
    crops.BrokenImageError, match="max_pixels allows 178,956,9"
  ):
    crops.decode(PROMISES[kind])


def test_the_number_of_pixels_can_be_set(tmp_path, monkeypatch):
  """`config.data.max_pixels` lowers the limit of PIL, or raises it."""
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
  root = write_folder(tmp_path)
  source = open_folder(root, max_pixels=100)
  (batch,) = source.evaluation_batches("train", SIZE)
  small = [
    i for i in range(SIZE) if (5 + 3 * (i % 7)) * (40 - 4 * (i % 8)) < 101
  ]
  assert 0 < len(small) < SIZE and sorted(numbers(batch, "image")) == small
  assert Image.MAX_IMAGE_PIXELS == 50
  source = open_folder(root, max_pixels=2000)
  (batch,) = source.evaluation_batches("train", SIZE)
  assert len(batch["label"]) == SIZE


def test_large_images_wait_for_each_other(monkeypatch):
  """Threads never hold more pixels than there is room for."""
  monkeypatch.setattr(limits, "FREE", 10)
  encoded = encode(Image.new("RGB", (8, 8)))
  room, held, most = limits.Room(150), [], []
  plain = Image.Image.load

  def load(image):
    held.append(image)
    most.append(len(held))
    time.sleep(0.005)
    return plain(image)

  monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)

  def work():
    image = crops.decode(encoded, room)
    with pytest.raises(crops.BrokenImageError):
      crops.decode(encode(Image.new("RGB", (30, 30))), room)
    held.pop()
    del image

  threads = [threading.Thread(target=work) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(20)
  assert not any(thread.is_alive() for thread in threads)
  assert len(most) == 6 and max(most) == 2  # 128 of 150 pixels
  room.take(150)  # all of it is free again


def test_an_image_as_large_as_the_room_is_read(monkeypatch):
  monkeypatch.setattr(limits, "FREE", 10)
  room = limits.Room(64)
  for _ in range(3):
    assert crops.decode(encode(Image.new("RGB", (8, 8))), room).size == (8, 8)


def test_a_crop_that_fails_lets_waiting_threads_end(monkeypatch):
  """Otherwise the process would wait for them forever at its end."""
  monkeypatch.setattr(limits, "FREE", 10)
  encoded, room = encode(Image.new("RGB", (8, 8))), limits.Room(64)

  def fill(row):
    image = crops.decode(encoded, room)
    raise MemoryError(image.size)

  batch = {"label": np.zeros(8, np.int32)}
  before = threading.active_count()
  with pytest.raises(MemoryError) as error:
    next(batches.run([batches.Job(batch, fill)]))
  until = time.monotonic() + 20
  while threading.active_count() > before and time.monotonic() < until:
    time.sleep(0.01)
  assert threading.active_count() == before and error.value.args == ((8, 8),)


IMAGES = np.zeros((4, 8, 8), np.uint8)
ARRAYS = {
  "train_images": IMAGES,
  "train_labels": np.arange(4),
  "test_images": IMAGES,
  "test_labels": np.arange(4),
}


def write_npz(path, changed=(), compressed=False):
  """Writes an `.npz` file with other members instead of some arrays."""
  files = {}
  for name, array in ARRAYS.items():
    stream = io.BytesIO()
    np.save(stream, array)
    files[f"{name}.npy"] = stream.getvalue()
  files |= dict(changed)
  kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
  with zipfile.ZipFile(path, "w", kind) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return str(path)


def npy(shape, descr="'|u1'", rest=b""):
  """The header of an array and its content."""
  text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"
  head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
  return head + text.encode() + rest


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (npy((10**6, 100, 100, 3)), r"needs 30,000,000,000 bytes, but the file h"),
    (npy((10**12,), "'<f8'"), "needs 8,000,000,000,000 bytes"),
    (npy((10**12,), "'<U0'"), "an array of"),
    (npy((10**30, 0)), "cannot be read"),
    (npy((-4, 8, 8)), r"an array of the shape \(-4, 8, 8\)"),
    (npy("(True, 8, 8)", rest=bytes(64)), "an array of the shape"),
    (npy((4,), "'|O'"), "an array of object"),
    (npy((4,), "[" * 3000), "cannot be read"),
    (npy("9" * 9000), "cannot be read"),
    (b"\x93NUMPY\x09\x00" + bytes(99), r"version \(9, 0\)"),
    (b"", "cannot be read"),
    (b"text", "cannot be read"),
  ],
)
def test_arrays_that_promise_more_than_they_hold_are_refused(
  tmp_path, content, message
):
  """One line says so before memory is allocated."""
  path = write_npz(tmp_path / "a.npz", {"train_images.npy": content})
  with pytest.raises(UsageError, match=message) as error:
    npz.load_npz(path)
  assert "a.npz cannot be r" in str(error.value)
  assert "\n" not in str(error.value)


def test_two_arrays_of_one_name_are_refused(tmp_path):
  path = write_npz(tmp_path / "a.npz", {"train_labels": npy((0,))})
  with pytest.raises(UsageError, match="holds two arrays of one name"):
    npz.load_npz(path)


def test_the_memory_of_arrays_is_limited(tmp_path):
  """Compressed zeros count in full, gray images as three channels."""
  zeros = npy((100, 99, 99), rest=bytes(100 * 99 * 99))
  path = write_npz(tmp_path / "a.npz", {"train_images.npy": zeros}, True)
  assert os.path.getsize(path) < 10_000
  asked = {"train_split": "train", "test_split": "test"}
  with pytest.raises(UsageError, match=r"2,941,\d+ bytes of memory, but conf"):
    open_source(path, max_bytes=2_900_000, **asked)
  with pytest.raises(UsageError, match="train_images are|labels must be"):
    open_source(path, max_bytes=3_000_000, **asked)  # of other lengths


def test_an_npz_set_that_is_no_regular_file_is_refused(tmp_path):
  os.mkfifo(tmp_path / "a.npz")
  os.symlink("/dev/zero", tmp_path / "b.npz")
  for name, kind in (("a", "a pipe"), ("b", "a device")):
    with pytest.raises(UsageError, match=f"not a regular file but {kind}"):
      open_source(str(tmp_path / f"{name}.npz"))


def test_a_list_of_images_that_is_no_regular_file_is_refused(tmp_path):
  os.mkfifo(tmp_path / "list.txt")
  with pytest.raises(UsageError, match="cannot be read .*a pipe"):
    subsets.read_list(tmp_path / "list.txt")
