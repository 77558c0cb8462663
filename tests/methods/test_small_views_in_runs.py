"""Small views in whole experiments: sizes, one decode, growing sizes."""

import dataclasses

import folder_helpers
import jax
import numpy as np
import pytest

from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import resolution

SMALL = {"size": 8, "scale": (0.05, 0.4)}
VIT = {
  "name": "vit",
  "image_size": 16,
  "patch": 4,
  "width": 16,
  "depth": 1,
  "heads": 2,
}


def _views(**small):
  views = dict.fromkeys(("first", "second"), {"size": 16})
  return views | {"third": {"size": 8}, "small": SMALL | small}


def _build(config, source):
  mesh = parallel.make_mesh(jax.devices()[:1])
  return experiment_lib.build(config, source, mesh)


@pytest.fixture(scope="module")
def source():
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (32, 16, 16, 3), np.uint8)
  labels = np.arange(32) % 4
  return ArraySource(images, labels, images[:8], labels[:8])


@pytest.mark.parametrize("method", ["dino", "simclr"])
def test_sizes_that_patches_do_not_divide(method, tiny_config, source):
  config = tiny_config(
    method, small_views=2, encoder=VIT, views=_views(size=10)
  )
  with pytest.raises(UsageError, match="view small of 10 pixels.*of") as error:
    _build(config, source)
  assert "\n" not in str(error.value)
  unused = dataclasses.replace(config, small_views=0)
  _build(unused, source)


def test_growing_sizes(tiny_config, source):
  """Small views grow with the others; each stage has its own step."""
  grows = {"resolution": ((0.0, 0.5), (0.5, 1.0))}
  config = tiny_config(
    "dino", small_views=2, views=_views(size=12) | grows, encoder=VIT
  )
  experiment = _build(config, source)
  first, last = (resolution.at_epoch(config.views, 2, x) for x in (0, 1))
  assert (first.small.size, last.small.size) == (8, 12)
  said = experiment.describe(experiment.state_shapes().params)
  assert "first, second, small, third: 8, 8, 8, 8 from epoch 1" in said[1]
  plain = _build(
    tiny_config("simclr", views=_views() | grows, encoder=VIT), source
  )
  said = plain.describe(plain.state_shapes().params)
  assert "views first, second, third: 8, 8, 8 from epoch 1" in said[1]


def test_one_decode_serves_all_crops(tiny_config, tmp_path):
  """The host cuts the requested number of small crops, and they differ."""
  source = folder_helpers.open_folder(folder_helpers.write_folder(tmp_path))
  config = tiny_config(
    "dino",
    batch_size=4,
    small_views=3,
    views=_views(),
    encoder={"blocks": (1,)},
  )
  experiment = _build(config, source)
  assert set(experiment.crops) == {
    "first",
    "second",
    "transformed",
    *(f"small {i}" for i in (1, 2, 3)),
  }
  read, plain = [], source.read
  source.read = lambda split, i: read.append(i) or plain(split, i)
  batch = next(
    source.batches(batch_size=4, seed=0, start_step=0, crops=experiment.crops)
  )
  assert len(read) >= 4 and len(set(read)) == len(read)
  numbers = [folder_helpers.numbers(batch, name) for name in experiment.crops]
  assert all(x == numbers[0] for x in numbers)
  small = [batch[f"small {i}"] for i in (1, 2, 3)]
  assert all(x.shape == (4, 8, 8, 3) for x in small)
  shapes = jax.eval_shape(
    experiment.make_step(), experiment.state_shapes(), batch
  )
  assert shapes[1]["loss"].shape == ()
  assert experiment.encodings_per_image == 2 + 3 + 4
