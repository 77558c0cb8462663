"""Fine-tuning: against one device and a frozen encoder, stopped, end to end."""

import functools
import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import augment, data
from essl_jax import run as train
from essl_jax.data import subsets
from essl_jax.devices import parallel
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import classifier, features, finetune, fitting
from essl_jax.evaluation.recipe import Recipe
from essl_jax.storage.preemption import Stopped
from essl_jax.training import experiment

PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
VIEW = classifier.train_view(8, **PIXELS)


class Encoder(nn.Module):
  """A convolution with batch norm over all devices, of dimmed images."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, *, train, image_keys=None):
    """Features [N, 8]."""
    if train and image_keys is not None:
      x *= 1 - 0.1 * augment.arrays.uniform(image_keys, 1)[:, :, None, None]
    x = nn.Conv(8, (3, 3), use_bias=False)(x)
    x = nn.BatchNorm(
      use_running_average=not train, momentum=0.5, axis_name=self.axis_name
    )(x)
    return nn.relu(x).mean((1, 2))


def stripes(number, seed):
  """Images with stripes in one of two directions, whatever their colour."""
  random = np.random.default_rng(seed)
  labels = random.integers(0, 2, number)
  wave = 60 * (-1) ** np.arange(8)
  images = random.integers(70, 180, (number, 1, 1, 3)) + np.zeros((8, 8, 1))
  images += random.integers(-20, 20, images.shape)
  images[labels == 0] += wave[None, :, None, None]
  images[labels == 1] += wave[None, None, :, None]
  return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def source():
  return data.ArraySource(*stripes(64, 0), *stripes(61, 1))


@pytest.fixture(scope="module")
def variables():
  """Filters that hardly respond to directions."""
  shape = jnp.zeros((1, 8, 8, 3))
  found = jax.jit(functools.partial(Encoder().init, train=False))(
    jax.random.key(3), shape
  )
  kernel = found["params"]["Conv_0"]["kernel"]
  blind = kernel.mean((0, 1), keepdims=True) + 0.03 * kernel
  found["params"]["Conv_0"]["kernel"] = blind
  return found


def tune(source, variables, *, devices=1, rate=0.1, workdir=None, **arguments):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  encode = lambda variables, x: Encoder().apply(variables, x, train=False)

  def extract(trained):
    trained = jax.tree.map(np.asarray, trained)
    return features.extract(
      encode, trained, source, "test", batch_size=61, **PIXELS
    )

  arguments = {
    "recipe": Recipe(
      epochs=4,
      batch_size=32,
      learning_rate=0.5,
      update_rate_every="epoch",
      repetitions=1,
      initial_std=0.01,
    )
  } | arguments
  return finetune.run(
    Encoder(parallel.AXIS),
    variables,
    source,
    extract(variables),
    extract,
    encoder_learning_rate=rate,
    setup=classifier.Setup(VIEW, mesh, workdir=workdir),
    save_every_epochs=1,
    **arguments,
  )


def kept(monkeypatch):
  """The states that trainings end with."""
  states = []
  make = fitting.Training

  def training(*, figures, **fields):
    count = lambda state: states.append(state) or (1, 1)
    return make(figures=count, **fields)

  monkeypatch.setattr(fitting, "Training", training)
  return states


def test_fine_tuning_beats_the_frozen_encoder(source, variables):
  before = features.fingerprint(variables)
  recipe = Recipe(
    epochs=30, batch_size=32, learning_rate=0.5, repetitions=1, initial_std=0.01
  )
  frozen = tune(source, variables, recipe=recipe, rate=0.0)
  tuned = tune(source, variables, recipe=recipe)
  assert tuned["finetune_top1"] > 95 > frozen["finetune_top1"] + 5
  assert features.fingerprint(variables) == before
  assert tuned["encoder_learning_rate"] == 0.1 and tuned["num_train"] == 64
  assert "finetune_top5" not in tuned


def test_eight_devices_fine_tune_as_one(source, variables, monkeypatch):
  states = kept(monkeypatch)
  for devices in (1, 8):
    tune(source, variables, devices=devices)
  one, eight = (jax.device_get((x.params, x.variables)) for x in states)
  assert int(states[0].step) == int(states[1].step) == 8
  for left, right in zip(*map(jax.tree.leaves, (one, eight)), strict=True):
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
  start = jax.tree.leaves(variables["batch_stats"])
  for old, new in zip(start, jax.tree.leaves(one[1]), strict=True):
    assert np.abs(np.asarray(old) - new).max() > 1e-3


def test_stopped_fine_tuning_goes_on_bit_for_bit(
  source, variables, monkeypatch, tmp_path
):
  states = kept(monkeypatch)
  tune(source, variables)

  def interrupt(done, total):
    if done == 3:
      raise Stopped

  with pytest.raises(Stopped):
    tune(source, variables, workdir=tmp_path, progress=interrupt)
  rest = []
  tune(
    source,
    variables,
    workdir=tmp_path,
    progress=lambda done, total: rest.append(done),
  )
  assert rest == [4, 5, 6, 7, 8]
  assert len(states) == 2
  jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))


@pytest.mark.slow
def test_finetune_and_evaluate_fill_one_results_file(
  tmp_path, tiny_config, capsys
):
  """Train, fine-tune on two subsets, evaluate again; features only once."""
  random = np.random.default_rng(0)
  labels = np.arange(48) % 6
  images = random.integers(0, 256, (48, 16, 16, 3), np.uint8)
  source = data.ArraySource(images, labels, images, labels)
  base = {
    "data": {"name": "digits"},
    "epochs": 2,
    "equivariance": {"weight": 0.0},
    "knn": {"k": (5, 1, 9), "every_epochs": 0, "bank_images": 20},
    "probe": {"protocol": "paper", "epochs": 1, "batch_size": 16},
    "finetune": {"labels": 0.5, "epochs": 1, "batch_size": 8},
  }
  extracted = []

  class Spy:
    is_stored_shuffled = False
    broken = {"train": ("b.png", "a.png"), "test": ()}  # say it was so

    def __init__(self, inner):
      self._inner = inner

    def __getattr__(self, name):
      return getattr(self._inner, name)

    def take(self, rows, split="train"):
      return Spy(self._inner.take(rows, split))

    def evaluation_batches(self, split, batch_size, **share):
      if batch_size > 5:  # not the picture's images
        extracted.append((split, self.num_examples(split)))
      return self._inner.evaluation_batches(split, batch_size, **share)

  open_source = experiment.data.open_source
  experiment.data.open_source = lambda *_, **__: Spy(source)
  try:
    for change in (
      {},
      {"mode": "finetune"},
      {"mode": "finetune", "finetune": base["finetune"] | {"subset": 1}},
      {"mode": "evaluate", "probe": {"protocol": "none"}},
    ):
      if not change:
        train.run(tiny_config("simclr", **base), tmp_path)
        # The untrained encoder is not measured, the final one once; the test
        # images are read again as pairs of views, for the alignment.
        assert extracted == [("train", 20), ("test", 48), ("test", 48)]
        extracted.clear()
        first = json.loads((tmp_path / "results.json").read_text())
        assert "left out" in (printed := capsys.readouterr().out)
        assert "2 of train" in printed and "of test" not in printed
      else:
        train.run(tiny_config("simclr", **base | change), tmp_path)
  finally:
    experiment.data.open_source = open_source
  results = json.loads((tmp_path / "results.json").read_text())
  told = results["data"]["broken"]["train"]
  assert told == {"number": 2, "names": ["a.png", "b.png"]}
  assert sorted(results["finetune"]) == ["50%", "50%, subset 1"]
  one = results["finetune"]["50%"]
  assert (one["num_train"], one["num_test"], one["step"]) == (24, 48, 6)
  assert (one["batch_size"], one["labels"], one["subset"]) == (8, 0.5, 0)
  assert 0 <= one["finetune_top1"] <= one["finetune_top5"] <= 100
  assert first["finetune"] == {} == first["untrained"]
  assert first["figures"]["knn"] == results["figures"]["knn"]
  knn = results["figures"]["knn"]
  assert knn["bank_size"] == 20
  assert {"knn_top1", "knn_top1_k1", "knn_top5_k9"} < set(knn)
  probe = first["figures"]["linear_probe"]
  assert probe["test_transform"] == "none" and probe["data"] == "digits"
  assert not (tmp_path / "probe").exists()


def test_images_of_many_sizes_are_cropped_by_the_host(tmp_path, tiny_config):
  from PIL import Image

  random = np.random.default_rng(0)
  for split in ("train", "val"):
    for number in range(24):
      folder = tmp_path / split / "ab"[number % 2]
      folder.mkdir(parents=True, exist_ok=True)
      shape = random.integers(18, 40, 2)
      pixels = random.integers(0, 256, (*shape, 3), np.uint8)
      Image.fromarray(pixels).save(folder / f"{number}.png")
  config = tiny_config(
    "simclr",
    batch_size=8,
    data={
      "name": "folder",
      "dir": str(tmp_path),
      "test_split": "val",
      "image_size": 16,
      "resize_size": 18,
    },
    probe={
      "protocol": "paper",
      "epochs": 1,
      "batch_size": 8,
      "interpolation": "bilinear",
      "repetitions": 1,
    },
    finetune={
      "labels": 0.7,
      "epochs": 1,
      "batch_size": 8,
      "interpolation": "bilinear",
    },
  )
  made = experiment.build(config)
  views = []
  batches = type(made.source).batches

  def spying(self, *, crops=None, **arguments):
    views.append((crops, self.num_examples("train")))
    return batches(self, crops=crops, **arguments)

  type(made.source).batches, bench = spying, bench_lib.make(made)
  try:
    state = made.create_state()
    figures = config.probe.run(bench, state)
    (tuned,) = config.finetune.run(bench, state).values()
  finally:
    type(made.source).batches = batches
  assert [number for _, number in views] == [24, 16]
  for crops, _ in views:
    (view,) = crops.values()
    assert (view.size, view.interpolation) == (16, "bilinear")
  for found in (figures, tuned):
    assert found["test_transform"] == "Resize 18 bilinear, CenterCrop 16"
    assert found["num_test"] == 24
  rows = subsets.choose(made.source.labels(), 0.7)
  assert tuned["num_train"] == len(rows) == 16
  assert finetune.Finetune().labels == 0.01
