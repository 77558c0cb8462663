"""Folders of images without labels: layouts, splits, and what is left out."""

import dataclasses
import shutil

import data_helpers
from folder_helpers import CROPS, write_image
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.config import flags
from essl_jax.data import image_files
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.training import experiment as experiment_lib

LAYOUTS = {
  "flat": "{i}.png",
  "nested": "{i}/deep/er/{i}.png",
  "classes": "{c}/{i}.png",
  "splits": "{s}/{c}/{i}.png",
}
SIZE = 20


def write(root, layout):
  """Writes images of many sizes, whose colour is their number."""
  for i in range(SIZE):
    split = "val" if i % 5 == 0 else "train"
    inside = layout.format(i=i, c="ab"[i % 2], s=split)
    write_image(root / inside, i, (8 + i % 5, 24 - i))
  for left in ("@eaDir/0.png", ".ipynb_checkpoints/0.png", "._0.png"):
    (root / left).parent.mkdir(exist_ok=True)
    (root / left).write_bytes(b"no image")
  return root


def open_source(root, **settings):
  own = {"image_size": 8, "train_split": "all[10%:]", "test_split": "all[:10%]"}
  return data_helpers.open_source(
    "image_files", dir=str(root), **(own | settings)
  )


def seen(source, split):
  batches = list(source.evaluation_batches(split, 4))
  assert all((batch["label"] == -1).all() for batch in batches)
  return {int(x) for b in batches for x in b["image"][:, 0, 0, 0]}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_all_images(layout, tmp_path):
  source = open_source(write(tmp_path, layout))
  assert source.num_classes == 0 and source.differs_in_size
  train, test = seen(source, "train"), seen(source, "test")
  assert (len(train), len(test)) == (18, 2)
  assert train | test == set(range(SIZE))
  batch = next(source.batches(batch_size=4, seed=0, crops=CROPS))
  assert batch["first"].shape == (4, 6, 6, 3)
  np.testing.assert_array_equal(batch["label"], -1)


def test_folders_are_splits_where_they_are_named(tmp_path):
  root = write(tmp_path, LAYOUTS["splits"])
  source = open_source(root, train_split="train", test_split="val")
  assert seen(source, "test") == {0, 5, 10, 15}
  assert source.num_examples("train") == 16
  assert dict(image_files.sizes(str(root), 1.0)) == {
    "train": 16,
    "val": 4,
    "all": 20,
  }


def test_wrong_folders_and_splits_are_one_line(tmp_path):
  empty = tmp_path / "empty"
  (empty / "a").mkdir(parents=True)
  (empty / "a" / "notes.txt").write_text("text")
  full = write(tmp_path / "full", LAYOUTS["classes"])
  for root, settings, expected in (
    (empty, {}, "holds no images"),
    (tmp_path / "nowhere", {}, "is not a folder"),
    (full, {"train_split": "train"}, "no folder 'train'.*all.*every image"),
    (full, {"image_size": None}, "image_size"),
  ):
    with pytest.raises(UsageError, match=expected) as error:
      open_source(root, **settings)
    assert "\n" not in str(error.value)


def test_added_images_do_not_move_others(tmp_path):
  """Except at the border, where at most as many move as were added."""
  root = write(tmp_path, LAYOUTS["flat"])
  halves = {"train_split": "all[10:]", "test_split": "all[:10]"}
  before = seen(open_source(root, **halves), "test")
  for i in range(SIZE, SIZE + 3):
    write_image(root / f"a{i}.png", i, (9, 9))
  after = seen(open_source(root, **halves), "test")
  added = after - set(range(SIZE))
  assert len(before) == len(after) == 10 and len(before - after) == len(added)
  assert before != set(range(10))


def test_a_folder_called_all_is_refused(tmp_path):
  write(tmp_path / "photos" / "all", LAYOUTS["flat"])
  with pytest.raises(UsageError, match="folder `all`.*rename"):
    open_source(tmp_path / "photos")


def test_images_are_held_in_memory_where_it_is_asked_for(tmp_path):
  source = open_source(write(tmp_path, LAYOUTS["flat"]), on_device=True)
  assert isinstance(source, data.ArraySource) and source.num_classes == 0
  assert seen(source, "test") | seen(source, "train") == set(range(SIZE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Folders of images without labels and with labels."""
  root = tmp_path_factory.mktemp("images")
  write(root / "bare", LAYOUTS["flat"])
  for split in ("train", "val"):
    write(root / "labelled" / split, LAYOUTS["classes"])
    shutil.rmtree(root / "labelled" / split / "@eaDir")
  return root


def make_config(tiny_config, folders, evaluations, **labelled):
  return tiny_config(
    data={
      "name": "image_files",
      "dir": str(folders / "bare"),
      "image_size": 16,
      "train_split": "all[4:]",
      "test_split": "all[:4]",
    }
    | labelled,
    batch_size=8,
    evaluations=evaluations,
    knn={"k": 2} if "knn" in evaluations else None,
    probe={"batch_size": 8} if "probe" in evaluations else None,
  )


def test_what_needs_labels_is_left_out_and_said(tiny_config, folders):
  every = ("knn", "transformation", "collapse", "probe")
  experiment = experiment_lib.build(make_config(tiny_config, folders, every))
  bench = bench_lib.make(experiment)
  assert [x.name for x in bench.evaluations] == ["transformation", "collapse"]
  (line,) = [x for x in experiment.warnings if "no labels" in x]
  assert "knn, linear_probe left out" in line and "labelled_dir" in line
  with pytest.raises(UsageError, match="OnlineClassifier needs labels"):
    experiment_lib.build(
      dataclasses.replace(experiment.config, online_classifier=True)
    )


def test_labels_may_come_from_another_folder(tiny_config, folders):
  labelled = {"labelled_dir": str(folders / "labelled")}
  config = make_config(
    tiny_config, folders, ("knn",), **labelled, labelled_test_split="val"
  )
  experiment = experiment_lib.build(config)
  bench = bench_lib.make(experiment)
  assert [x.name for x in bench.evaluations] == ["knn"]
  assert bench.splits == {"train_split": "train", "test_split": "val"}
  assert experiment.source.num_examples("test") == 4
  assert experiment.labelled.num_examples("test") == SIZE
  assert not [x for x in experiment.warnings if "no labels" in x]
  with pytest.raises(UsageError, match="set --config.data.labelled_split"):
    experiment_lib.build(
      make_config(tiny_config, folders, ("knn",), **labelled)
    )
  with pytest.raises(UsageError, match="labelled_dir does not read"):
    make_config(tiny_config, folders, ("knn",), labelled_test_split="val")


def load(root, *more, variant=""):
  said = []
  words = [f"--config.data.dir={root}", *more]
  return flags.load(f"folder{variant}", words, said.append), said


def test_the_recipe_fits_the_number_of_images(folders, monkeypatch):
  config, (line,) = load(folders / "bare")
  assert (config.batch_size, config.epochs) == (4, 800)
  assert config.data.train_split == "all[2:]"
  assert config.data.test_split == "all[:2]"
  assert "20 images" in line and "800 epochs at batch size 4" in line
  config, (line,) = load(
    folders / "bare",
    "--config.epochs=3",
    "--config.data.test_split=all",
    "--config.data.train_split=all",
  )
  assert config.epochs == 3 and config.optimizer.warmup_epochs == 0
  assert config.data.train_split == "all" and "3 epochs" in line
  for name in ("train", "test"):
    with pytest.raises(ValueError, match="set both or neither"):
      load(folders / "bare", f"--config.data.{name}_split=all[5:]")
  for images, batch, epochs in ((300, 64, 800), (50_000, 256, 166)):
    counted = {"all": images}
    monkeypatch.setattr(image_files, "sizes", lambda *_, n=counted: n)
    config, _ = load(folders / "bare")
    assert (config.batch_size, config.epochs) == (batch, epochs)
  config, _ = load(folders / "bare", variant=":small,size=224")
  assert config.epochs == 20 and config.views.first.size == 224


def test_the_recipe_without_a_folder_says_what_is_missing():
  config, said = flags.load("folder"), []
  assert not said and config.epochs == 800
  with pytest.raises(UsageError, match="--config.data.dir=DIR"):
    data.open_source(config.data, config_lib.source_fields(config))
