"""Two real processes, each with its share of the images, against one."""

import json
import pathlib
import types

import data_helpers
from evaluation_helpers import PIXELS, encode, make_variables
from folder_helpers import TEST_SIZE, open_folder, spoil_folder
import numpy as np
import process_helpers
import pytest

from essl_jax.devices import parallel
from essl_jax.evaluation import features, knn, single_pass

pytestmark = pytest.mark.quick

TWO_PROCESSES = """
  import json, pathlib, sys
  import jax
  import numpy as np
  address, process, folder, tests = sys.argv[1:]
  jax.distributed.initialize(address, 2, int(process))
  sys.path.append(tests)
  import test_shares
  from essl_jax.devices import parallel
  from essl_jax.evaluation import broken

  devices = jax.devices()
  found = test_shares.measure(folder, parallel.make_mesh(devices))
  # A pod's processes need not have devices that follow each other.
  crossed = parallel.make_mesh(devices[::2] + devices[1::2])
  found |= {f"crossed {k}": x for k, x in test_shares.encode_split(
    folder, "train", crossed).items()}
  for name, mesh in (("", None), ("crossed ", crossed)):
    found[f"{name}places"] = test_shares.places(
      mesh or parallel.make_mesh(devices))
  found["told"] = json.dumps(broken.left_out([test_shares.broken(process)]))
  np.savez(pathlib.Path(folder, f"{process}.npz"), **found)
"""


def places(mesh):
  """Where a function is told that the images of a split stand."""
  told = lambda images, first: parallel.shard(
    np.arange(first, first + len(images), dtype=np.int32), mesh
  )
  found, labels = single_pass.run(
    told, data_helpers.make_arrays(), "train", batch_size=8, mesh=mesh
  )
  np.testing.assert_array_equal(labels, np.arange(data_helpers.SIZE) % 3)
  return found


def broken(process):
  """What only one process knows, what both do, and what neither does."""
  own = [f"bild/{process}/\u00e4.png", "both.png"]
  own += [f"{i:02d}.png" for i in range(20)] if process == "1" else []
  return types.SimpleNamespace(broken={"train": own, "test": []})


def encode_split(folder, split, mesh):
  """Features and labels of a split, and the images that this process read."""
  source = open_folder(folder)
  read = []
  plain = source.read
  source.read = lambda *place: read.append(place) or plain(*place)
  found, labels = features.extract(
    encode, make_variables(), source, split, batch_size=8, mesh=mesh, **PIXELS
  )
  return {
    f"{split} features": found,
    f"{split} labels": labels,
    f"{split} read": len(read),
  }


def measure(folder, mesh):
  """Both splits, and the figures of kNN."""
  found = encode_split(folder, "train", mesh) | encode_split(
    folder, "test", mesh
  )
  arrays = (
    found[f"{split} {name}"]
    for split in ("train", "test")
    for name in ("features", "labels")
  )
  figures = knn.run(*arrays, num_classes=3, k=5, temperature=0.1, mesh=mesh)
  return found | {f"figure {name}": x for name, x in figures.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return spoil_folder(tmp_path_factory.mktemp("shares"))


def test_two_processes_share_the_images_and_find_what_one_does(folder):
  """Three broken files lie in the first share of 12, none in that of 11."""
  here = pathlib.Path(__file__).parent
  process_helpers.run_code(TWO_PROCESSES, str(folder), str(here))
  alone = measure(folder, None)
  assert len(alone["test labels"]) == TEST_SIZE - 2
  for process in range(2):
    with np.load(folder / f"{process}.npz") as file:
      found = dict(file)
    for name in ("places", "crossed places"):
      np.testing.assert_array_equal(found[name], np.arange(data_helpers.SIZE))
    told = json.loads(str(found["told"]))
    assert told["test"] == {"number": 0, "names": []}
    assert told["train"]["number"] == 23
    names = [f"{i:02d}.png" for i in range(20)]
    assert told["train"]["names"] == names
    for name, expected in alone.items():
      if "read" in name:
        assert found[name] in (expected // 2, expected // 2 + 1)
      elif "features" in name:
        np.testing.assert_allclose(
          found[name], expected, rtol=1e-5, atol=1e-6, err_msg=name
        )
      else:
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    for name in ("features", "labels"):
      np.testing.assert_allclose(
        found[f"crossed train {name}"],
        alone[f"train {name}"],
        rtol=1e-5,
        atol=1e-6,
      )
