"""Requests for data that fail: tried again, or they end the run."""

import contextlib

import bucket_helpers
from data_helpers import assert_equal_batches
from etils.epath import backend
from folder_helpers import TEST_SIZE, open_folder, write_folder
import proxy as proxy_lib
import pytest

from essl_jax import errors
from essl_jax.errors import UsageError
from essl_jax.storage import places

KINDS = ("GET list", "GET object", "GET media")


@pytest.fixture
def proxy(server, monkeypatch):
  """Between this process and the server."""
  import gcsfs

  places.locate("gs://bucket/any")  # sets the defaults of clients
  with contextlib.closing(proxy_lib.Proxy(server)) as made:
    client = gcsfs.GCSFileSystem(
      endpoint_url=made.url, skip_instance_cache=True
    )
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda _: client)
    yield made


@pytest.fixture
def images(proxy, workdir, tmp_path):
  """A folder of images here, and the same in the bucket."""
  local = write_folder(tmp_path / "images")
  bucket_helpers.send(local, workdir)
  return local, workdir


def _read(root):
  source = open_folder(root, cache_gib=0.0)
  batches = list(source.evaluation_batches("test", TEST_SIZE))
  assert not source.broken["test"]
  return batches


def _counts(proxy, root):
  proxy.disarm()
  _read(root)
  counts = dict(proxy.counts)
  assert set(KINDS) <= set(counts), counts
  return counts


@pytest.mark.parametrize("fault", proxy_lib.FAULTS)
def test_one_that_fails_is_tried_again(fault, proxy, images):
  """An image is never taken for broken because of the network."""
  proxy.arm(fault, "GET media")
  remote = _read(images[1])
  assert proxy.fired
  assert_equal_batches(remote, _read(images[0]))


@pytest.mark.parametrize("code", ["401", "403"])
def test_without_permission(code, proxy, images):
  """To begin, to list and to read; said at once."""
  counts = _counts(proxy, images[1])
  for kind, at in [(None, 1), ("GET list", counts["GET list"])]:
    proxy.arm(code, kind, at, lasts=True)
    with pytest.raises(UsageError, match=r"log in \(gcloud auth") as error:
      _read(images[1])
    assert "\n" not in str(error.value)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", proxy_lib.FAULTS)
def test_each_kind_of_request(fault, kind, proxy, images):
  """Its first, a middle and its last."""
  count = _counts(proxy, images[1])[kind]
  expected = _read(images[0])
  for at in {1, (count + 1) // 2, count}:
    proxy.arm(fault, kind, at)
    remote = _read(images[1])
    assert proxy.fired, at
    assert_equal_batches(remote, expected)


@pytest.mark.faults
@pytest.mark.parametrize("fault", [proxy_lib.DROP, proxy_lib.UNAVAILABLE])
def test_a_network_that_is_gone(fault, proxy, images):
  """In the middle of reading: one line, and no image counts as broken."""
  at = _counts(proxy, images[1])["GET media"] // 2
  proxy.arm(fault, "GET media", at, lasts=True)
  with pytest.raises(Exception) as ended:  # noqa: PT011
    _read(images[1])
  proxy.disarm()
  line, code = errors.line_and_code(ended.value)
  assert code == 1
  assert line.startswith("a bucket cannot be reached (")
