"""The blocks of docs/library.md for Flax NNX and Equinox, run as they stand."""

from docs_helpers import python_blocks
from flax import nnx
import jax
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.models import resnet
from essl_jax.storage import weights

PAGE = "docs/library.md"
MOST_LINES = 30


@pytest.mark.parametrize("heading", ["Flax NNX", "Equinox"])
def test_blocks_are_short(heading):
  lengths = [
    len(block.strip().splitlines()) for block in python_blocks(PAGE, heading)
  ]
  assert len(lengths) == 2
  assert max(lengths) <= MOST_LINES


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
  """A folder with the encoder that the page loads: random, of one block."""
  made = tmp_path_factory.mktemp("frameworks")
  fields = {"depth": 18, "stem": "cifar", "width": 4, "blocks": (1,)}
  module, images = resnet.ResNet(**fields), np.zeros((1, 16, 16, 3), np.float32)
  init = lambda: module.init(jax.random.key(0), images, train=False)
  random = np.random.default_rng(0)
  variables = {
    collection: {"encoder": jax.tree.map(lambda x: _values(random, x), tree)}
    for collection, tree in jax.eval_shape(init).items()
  }
  config = config_lib.to_dict(tiny_config(encoder=fields))
  preprocessing = Preprocessing((16, 16, 3), 16, 16, (0.5,) * 3, (0.2,) * 3)
  metadata = {"source": "a test", "encoder": config["encoder"], **fields}
  metadata["preprocessing"] = preprocessing.to_json()
  (made / "runs").mkdir()
  weights.save(made / "mine.safetensors", variables, metadata)
  (made / "mine.safetensors").rename(made / "runs" / "mine")
  return made


def _values(random, like):
  """Positive, as variances must be; of matrices of any sign."""
  values = random.uniform(0.5, 1.5, like.shape).astype(like.dtype)
  return values - 1 if values.ndim > 1 else values


def _run(heading, folder, monkeypatch):
  """What the blocks of a section leave, and the images they were given."""
  monkeypatch.chdir(folder)
  images = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), np.uint8)
  names = {"images": images}
  for block in python_blocks(PAGE, heading):
    exec(block, names)
  return names


def _are_equal(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


def test_nnx_trains_a_loaded_encoder(folder, monkeypatch):
  names = _run("Flax NNX", folder, monkeypatch)
  encoder, model, images = (names[x] for x in ("encoder", "model", "images"))
  assert 0 < names["loss"] < 2 * np.log(2 * len(images))
  assert names["projections"].shape == (8, 128)
  before = names["SimCLR"](encoder(images[:1]).shape[1], rngs=nnx.Rngs(0))
  # As loaded, it computes what the encoder computes.
  inputs = encoder.preprocess(images)
  np.testing.assert_allclose(
    before.encoder(inputs, train=False), encoder(images), rtol=1e-4, atol=1e-5
  )
  # A step changes its parameters and running statistics.
  for kind in (nnx.Param, nnx.BatchStat):
    old, new = (nnx.state(x.encoder, kind) for x in (before, model))
    assert jax.tree.leaves(old) and not _are_equal(old, new)


def test_equinox_trains_a_loaded_encoder(folder, monkeypatch):
  pytest.importorskip("equinox", reason="Equinox is not installed")
  names = _run("Equinox", folder, monkeypatch)
  encoder, model = names["encoder"], names["model"]
  assert 0.2 * np.log(4) < names["loss"] < 5 * np.log(4)
  old = encoder.variables["params"]
  assert jax.tree.structure(model.params) == jax.tree.structure(dict(old))
  assert not _are_equal(old, model.params)
  views = encoder.preprocess(names["images"])
  before = names["Rotations"](old, model.head)
  features = jax.vmap(model.head)(encoder(names["images"]))
  np.testing.assert_allclose(before(views), features, rtol=1e-4, atol=1e-4)
