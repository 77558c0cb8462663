"""Sets that TFDS has prepared, in a bucket and here."""

import itertools
import pathlib

import bucket_helpers
from data_helpers import assert_equal_batches, make_records_dir, open_source
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import places


@pytest.fixture(scope="module")
def prepared(server, tmp_path_factory):
  """Sets that TFDS has written here, and the same in the bucket."""
  local = pathlib.Path(make_records_dir(tmp_path_factory))
  path = places.locate("gs://bucket/prepared")
  bucket_helpers.send(local, path)
  return str(local), str(path)


@pytest.mark.parametrize(
  "name", ["tiny_records", "tiny_sized", "tiny_sized_records"]
)
def test_tfds(name, prepared, requests):
  """TFRecord and ArrayRecord; of a part only its files are copied."""
  local, remote = (
    open_source(
      name,
      dir=folder,
      image_size=6,
      resize_size=6,
      train_split="train[:20]",
      test_split="train[20:]",
    )
    for folder in prepared
  )
  assert_equal_batches(_taken(local), _taken(remote))
  assert_equal_batches(
    list(local.evaluation_batches("test", 4)),
    list(remote.evaluation_batches("test", 4)),
  )
  assert requests and not [x for x in requests if "-test." in x]
  del requests[:]
  open_source(name, dir=prepared[1], image_size=6)
  assert not [x for x in requests if "-train." in x]


def _taken(source):
  return list(itertools.islice(source.batches(batch_size=4, seed=0), 7))


def test_tfds_of_many_bytes(prepared, capsys):
  settings = {"dir": prepared[1], "image_size": 6, "cache_gib": 0.0}
  with pytest.raises(UsageError, match="ArrayRecord needs local copies"):
    open_source("tiny_records", **settings)
  open_source("tiny_sized", **settings)
  assert "reading from the bucket" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("directory", "name", "told"),
  [
    ("gs://no_such_bucket/tfds", "cifar10", "no bucket gs://no_such_bucket"),
    ("gs://bucket/no_such", "cifar10", "data.dir='gs://bucket/no_such': gs:"),
    ("gs://bucket/prepared", "cifar10", "not prepared in gs://.* and copy th"),
    ("gs://bucket/prepared", "no_such_set", "is unknown to TFDS and not prep"),
    ("g://bucket/prepared", "cifar10", "unknown scheme g://"),
  ],
)
def test_tfds_that_is_not_there(directory, name, told, prepared):
  with pytest.raises(UsageError, match=told) as error:
    open_source(name, dir=directory)
  assert "\n" not in str(error.value)


def test_tfds_without_a_file(prepared):
  path = places.locate(prepared[1]) / "tiny_sized/1.0.0"
  (name,) = [x for x in places.names(path) if "-test." in x]
  content = (path / name).read_bytes()
  places.remove(path / name)
  with pytest.raises(UsageError, match=f"lacks {name}: copy the whole set"):
    open_source("tiny_sized", dir=prepared[1], image_size=6)
  places.replace_bytes(path / name, content)
