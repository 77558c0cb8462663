"""Images in a bucket, against the same ones in a folder."""

import bucket_helpers
from data_helpers import assert_equal_batches, open_source
from folder_helpers import (
  BATCH,
  SIZE,
  TEST_SIZE,
  assert_equal_crops,
  open_folder,
  take,
  write_folder,
)
import numpy as np
import pytest

from essl_jax import errors
from essl_jax.data import load_npz
from essl_jax.errors import UsageError
from essl_jax.evaluation import transfer_sets
from essl_jax.storage import cache, places


@pytest.fixture
def images(workdir, tmp_path):
  """A folder of images here, and the same in the bucket."""
  local = write_folder(tmp_path / "images")
  odd = local / "train" / "ant" / "odd #1 %41 ü?.dir"
  odd.mkdir()
  (local / "train/ant/00.png").rename(odd / "x & y+z.png")
  (local / "train/ant/.hidden.png").write_bytes(b"")
  (local / "train/bee/list.txt").write_text("no image")
  bucket_helpers.send(local, workdir)
  places.client(workdir).pipe_file(f"{workdir}/train/cat/", b"")
  return local, workdir


def _evaluated(source, split):
  return list(source.evaluation_batches(split, BATCH))


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_a_folder(gib, images, requests, capsys):
  """Gives the same images in the same order; cached ones are read once."""
  local = open_folder(images[0])
  told = capsys.readouterr().err
  for _ in range(2):
    del requests[:]
    remote = open_folder(images[1], cache_gib=gib)
    assert remote.classes == local.classes
    assert remote.names() == local.names()
    assert_equal_crops(take(local, 7), take(remote, 7))
    for split in ("train", "test"):
      assert_equal_batches(_evaluated(local, split), _evaluated(remote, split))
    assert not any(remote.broken.values())
  expected = 2 * told.replace(str(images[0]), str(images[1]))
  assert capsys.readouterr().err == expected
  assert bool(requests) == (not gib)
  kept = SIZE + TEST_SIZE if gib else 0
  assert len(bucket_helpers.files(cache.location())) == kept


def test_images_without_labels_lie_anywhere(images):
  """Beside folders too, and the same ones are kept to measure on."""
  local, remote = images
  top = (local / "train" / "cat" / "02.png").read_bytes()
  (local / "top.png").write_bytes(top)
  places.client(remote).pipe_file(f"{remote}/top.png", top)
  splits = {"train_split": "all[10%:]", "test_split": "all[:10%]"}
  here, there = (
    open_source("image_files", dir=str(root), image_size=8, **splits)
    for root in (local, remote)
  )
  assert here.num_examples("train") + here.num_examples("test") == (
    SIZE + TEST_SIZE + 1
  )
  assert here.names() == there.names() and "top.png" in here.names()
  for split in ("train", "test"):
    assert_equal_batches(_evaluated(here, split), _evaluated(there, split))


def test_an_image_that_is_replaced(images):
  """Its copy is of the version that was listed."""
  _, root = images
  before = open_folder(root, train_split="val")
  path = root / "val" / "ant" / "00.png"
  places.replace_bytes(path, (root / "val" / "bee" / "01.png").read_bytes())
  after = open_folder(root, train_split="val")
  for source, first in ((before, 100), (after, 101)):
    (batch,) = source.evaluation_batches("test", TEST_SIZE)
    assert batch["image"][0, 0, 0, 0] == first


def test_large_and_broken_files(images, requests, capsys):
  """Large ones are not read: their sizes are known from the listing."""
  _, root = images
  large, broken = root / "val/ant/large.png", root / "val/bee/broken.png"
  places.replace_bytes(large, b"\0" * 4001)
  places.replace_bytes(broken, b"no image")
  source = open_folder(root, train_split="val", max_pixels=1000)
  list(source.evaluation_batches("test", BATCH))
  assert source.broken["test"] == [str(large), str(broken)]
  assert str(large) not in requests
  assert "it has 4,001 bytes" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(images, tmp_path, capsys):
  """As in a container without a home folder: images are still read."""
  (tmp_path / "cache").write_text("a file")
  source = open_folder(images[1])
  capsys.readouterr()
  batch = next(source.evaluation_batches("train", SIZE))
  assert len(batch["label"]) == SIZE
  open_folder(images[1])
  assert capsys.readouterr().err.count("cannot keep copies") == 1


def _write_npz(path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (12, 5, 5, 3), np.uint8)
  labels = np.arange(12) % 3
  np.savez_compressed(
    path,
    train_images=images[:8],
    train_labels=labels[:8],
    test_images=images[8:],
    test_labels=labels[8:],
  )


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_npz(gib, workdir, requests, tmp_path):
  _write_npz(tmp_path / "set.npz")
  places.replace_bytes(workdir / "set.npz", (tmp_path / "set.npz").read_bytes())
  local = load_npz(tmp_path / "set.npz")
  for _ in range(2):
    remote = load_npz(f"{workdir}/set.npz", cache_gib=gib)
    assert_equal_batches(
      list(local.evaluation_batches("train", 3)),
      list(remote.evaluation_batches("train", 3)),
    )
  assert len(requests) == (1 if gib else 2)


def test_npz_of_too_many_bytes(workdir, requests):
  places.replace_bytes(workdir / "set.npz", b"\0" * (2**20 + 1001))
  with pytest.raises(UsageError, match="set.npz has 1,049,577 bytes, but con"):
    load_npz(str(workdir / "set.npz"), 1000)
  assert not requests


@pytest.mark.parametrize(
  ("path", "told"),
  [
    ("gs://no_such_bucket/images", "there is no bucket gs://no_such_bucket:"),
    ("gs://bucket/no_such", "is not a folder .*gs://bucket has no such"),
    ("gs://bucket/wrong/empty", "gs://bucket/wrong/empty has no folders"),
    ("gs://bucket/wrong/flat", "has no folder 'train', only a: set"),
    ("gs://bucket/wrong/flat/a", "gs://bucket/wrong/flat/a has no folders"),
    ("gs://bucket/wrong/flat/a/x.png", "is not a folder"),
    ("gs://bucket", "data.dir gs://bucket names no folder in a bucket: give"),
    ("gcs://bucket/images", "data.dir gcs://bucket/images has the unknown sch"),
    ("gs:/bucket/images", "data.dir='gs:/bucket/images' is not a folder: i"),
  ],
)
def test_folders_that_are_none(server, path, told):
  client = places.client(places.locate("gs://bucket/wrong"))
  client.pipe_file("gs://bucket/wrong/empty/", b"")
  client.pipe_file("gs://bucket/wrong/flat/a/x.png", b"")
  with pytest.raises(UsageError, match=told) as error:
    open_folder(path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("path", "told"),
  [
    ("gs://no_such_bucket/set.npz", "there is no bucket gs://no_such_bucket:"),
    ("gs://bucket/no_such.npz", "gs://bucket has no such object or folder: c"),
    ("gs://bucket/damaged.npz", "gs://bucket/damaged.npz cannot be read"),
    ("s4://bucket/set.npz", "unknown scheme s4://"),
    ("gs://bucket/folder", "is a directory: give --config.data.name=folder"),
  ],
)
def test_npz_that_are_none(server, path, told):
  client = places.client(places.locate("gs://bucket/any"))
  client.pipe_file("gs://bucket/damaged.npz", b"PK")
  with pytest.raises(UsageError, match=told) as error:
    open_source(path)
  assert "\n" not in str(error.value)


def _refusals():
  """The errors that gcsfs raises if access is denied."""
  from gcsfs.retry import HttpError
  from google.auth.exceptions import DefaultCredentialsError

  return {
    "401": HttpError({"code": 401, "message": "Invalid Credentials"}),
    "403": OSError("Forbidden: b/bucket/o\nno storage.objects.list access"),
    "no login": DefaultCredentialsError("no credentials were found"),
  }


@pytest.mark.parametrize("refusal", ["401", "403", "no login"])
@pytest.mark.parametrize("request_", ["info", "ls", "find", "cat_file"])
def test_without_permission(refusal, request_, images, tmp_path, monkeypatch):
  root = images[1]

  def refuse(*_, **__):
    raise _refusals()[refusal]

  monkeypatch.setattr(places.client(root), request_, refuse)
  with pytest.raises(UsageError, match=r"log in \(gcloud auth") as error:
    open_folder(root)
  assert "\n" not in str(error.value)
  assert errors.line_and_code(error.value)[1] == 2  # no trouble of networks


def test_sets_of_transfer(images, tmp_path):
  """Folders and arrays are found there, and what is missing is told."""
  folder, array = str(images[1]), f"{images[1]}/set.npz"
  pixels, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
  both = {}
  for split in ("train", "test"):
    both |= {f"{split}_images": pixels, f"{split}_labels": labels}
  np.savez(tmp_path / "set.npz", **both)
  places.client(folder).put_file(str(tmp_path / "set.npz"), array)
  missing = [f"{folder}/none", f"{folder}/none.npz"]
  shelf = transfer_sets.Shelf(None, 8)
  found, left_out = shelf.find([folder, array, *missing])
  assert list(found) == [folder, array]
  assert found[folder].splits["test"] == "val"
  kinds = ("folder", "file")
  for name, kind in zip(missing, kinds, strict=True):
    assert f"there is no {kind} {name}: give a" in left_out[name]
  with pytest.raises(UsageError, match="config.transfer.sets names .*none,"):
    shelf.find(missing, refuse_missing=True)
