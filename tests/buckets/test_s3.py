"""Data and weights at s3://, whose client is played by one in memory."""

import types

import bucket_helpers
from data_helpers import assert_equal_batches
from etils.epath import backend
from folder_helpers import TEST_SIZE, open_folder, write_folder
from fsspec.implementations.memory import MemoryFileSystem
import numpy as np
import program_helpers
import pytest

from essl_jax.data import tfds_sets
from essl_jax.errors import UsageError
from essl_jax.storage import claim, objects, places, weights


class _S3(MemoryFileSystem):
  """In memory, with paths as s3fs has them."""

  protocol = ("s3",)
  store = {}
  pseudo_dirs = [""]

  @classmethod
  def _strip_protocol(cls, path):
    return "/" + path.partition("://")[2] if "://" in path else path


@pytest.fixture
def bucket(monkeypatch):
  pytest.importorskip("s3fs")
  fs, real = _S3(skip_instance_cache=True), backend.fsspec_backend.fs
  monkeypatch.setattr(
    backend.fsspec_backend,
    "fs",
    lambda path: fs if str(path).startswith("s3://") else real(path),
  )
  return places.locate("s3://bucket/images")


def test_a_folder(bucket, tmp_path):
  local = write_folder(tmp_path / "images")
  bucket_helpers.send(local, bucket)
  one, other = open_folder(local), open_folder(bucket)
  assert one.names() == other.names()
  assert_equal_batches(
    list(one.evaluation_batches("test", TEST_SIZE)),
    list(other.evaluation_batches("test", TEST_SIZE)),
  )
  with pytest.raises(UsageError, match="no bucket s3://none: create it"):
    open_folder("s3://none/images")


def test_weights(bucket):
  path = f"{bucket}/a.safetensors"
  variables = {"params": {"encoder": {"x": np.arange(3.0)}}}
  weights.save(path, variables, {"source": "a test"})
  found, metadata = weights.load(path)
  np.testing.assert_array_equal(found["params"]["encoder"]["x"], np.arange(3))
  assert metadata["source"] == "a test"
  with pytest.raises(UsageError, match="exists: choose another name"):
    weights.save(path, variables, {"source": "a test"})


def test_records_that_exceed_the_cache_are_refused(monkeypatch):
  """TensorFlow reads those at gs:// itself, but has no client for s3://."""
  split = types.SimpleNamespace(filenames=["a.tfrecord"])
  builder = types.SimpleNamespace(
    info=types.SimpleNamespace(
      full_name="set/1", splits={"train": split}, file_format=None
    ),
    data_dir="s3://bucket/set/1",
  )
  there = [objects.Object("s3://bucket/set/1/a.tfrecord", 2**30, "1")]
  monkeypatch.setattr(tfds_sets, "check_tfds_split", lambda *_: 1)
  monkeypatch.setattr(objects, "in_folder", lambda _: ([], there))
  with pytest.raises(UsageError, match="1 GiB .* can read only gs:// by"):
    tfds_sets.copied(builder, ["train"], 0.5)


def test_workdirs_are_refused(monkeypatch, capsys, tmp_path):
  """Orbax has no driver for them; said before s3fs is asked for."""
  recipe = tmp_path / "recipe.py"
  recipe.write_text(program_helpers.TINY)
  (line,) = program_helpers.refusal(
    monkeypatch, capsys, recipe, "s3://bucket/run"
  ).splitlines()
  assert line.startswith("error: workdir s3://bucket/run cannot be at s3://")
  with (
    pytest.raises(UsageError, match="give --workdir=gs://BUCKET/FOLDER"),
    claim.hold(places.Path("s3://bucket/run"), lambda _: None),
  ):
    raise AssertionError
