"""Features of folders as files, and files that the search skips."""

import csv

import numpy as np
from PIL import Image
import pytest

import essl_jax
from essl_jax.api import embeddings, encoders
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick


class Mean:
  """Replaces an encoder's network by the mean of each channel."""

  def encode(self, images, batch_size, broken):
    """Returns the positions of images that PIL opens, and their means."""
    rows, found = [], []
    for place, path in enumerate(images):
      try:
        found.append(np.asarray(Image.open(path)).mean((0, 1)))
        rows.append(place)
      except OSError as error:
        broken(place, str(error))
    return np.array(found, np.float32), np.array(rows)


@pytest.fixture
def mean(monkeypatch):
  """An encoder whose features are means."""
  monkeypatch.setattr(encoders, "Encoder", Mean)
  return Mean()


@pytest.fixture
def photos(tmp_path):
  """Images in nested folders, and files that programs leave there."""
  root = tmp_path / "photos"
  for i, inside in enumerate(("b.png", "a/c.jpg", "a/d/e.png", "z/f.png")):
    path = root / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5 + i, 7), (10 * i, 20, 30)).save(path)
  for inside in (
    "@eaDir/b.png",
    "a/.ipynb_checkpoints/c.png",
    "._b.png",
    "__MACOSX/._b.png",
    "notes.txt",
    "all.zip",
    "Thumbs.db",
  ):
    path = root / inside
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no image")
  return root


def names(paths, root):
  return [path.removeprefix(f"{root}/") for path in paths]


def test_all_images_of_a_folder_are_found(photos, capsys):
  found = names(embeddings.find(photos), photos)
  assert found == ["b.png", "a/c.jpg", "a/d/e.png", "z/f.png"]
  assert "ignored 4 file(s)" in capsys.readouterr().err
  assert embeddings.find(photos / "b.png") == [str(photos / "b.png")]


@pytest.mark.parametrize("ending", [".npz", ".csv"])
def test_files_hold_paths_and_features(ending, photos, mean, tmp_path, capsys):
  (photos / "broken.png").write_text("no image")
  out = tmp_path / f"features{ending}"
  found = essl_jax.embed(mean, photos, out=out)
  assert "broken.png is broken, left out" in capsys.readouterr().err
  assert len(found.paths) == 4 and found.features.shape == (4, 3)
  if ending == ".npz":
    with np.load(out) as file:
      paths, features = file["paths"].tolist(), file["features"]
  else:
    head, *rows = list(csv.reader(out.read_text().splitlines()))
    assert head == ["path", "0", "1", "2"]
    paths = [row[0] for row in rows]
    features = np.array([row[1:] for row in rows], np.float32)
  assert paths == found.paths
  np.testing.assert_array_equal(features, found.features)
  with pytest.raises(UsageError, match="exists"):
    essl_jax.embed(mean, photos, out=out)
  essl_jax.embed(mean, photos, out=out, overwrite=True)


def test_wrong_input_is_told_before_anything_is_computed(tmp_path, mean):
  (tmp_path / "notes.txt").write_text("text")
  for images, options, expected in (
    (tmp_path, {}, "holds no images"),
    (tmp_path / "nowhere", {}, "no file or folder"),
    ([], {}, "no images are given"),
    ([np.zeros((4, 4, 3), np.uint8)], {}, "takes paths"),
    (None, {}, "takes paths"),
    ("a\0b", {}, "is not a valid path"),
    (tmp_path, {"out": tmp_path / "a.txt"}, "no known ending"),
    (tmp_path, {"out": tmp_path / "no" / "a.npz"}, "cannot write"),
  ):
    with pytest.raises(UsageError, match=expected) as error:
      essl_jax.embed(mean, images, **options)
    assert "\n" not in str(error.value)


def test_preprocessing_survives_json_and_damage_is_told():
  whole = Preprocessing((8, 8, 3), 9, 16, (0.5,) * 3, (0.25,) * 3)
  assert Preprocessing.from_json(whole.to_json()) == whole
  assert whole.resize == (16, 16) and not whole.takes((8, 8, 3))
  for change in (
    {"image_shape": [8, 8]},
    {"image_shape": [8, 0, 3]},
    {"input_size": 1.5},
    {"mean": [0.5]},
    {"std": [0.0, 1.0, 1.0]},
    {"std": [float("nan")] * 3},
    {"resize_size": 4},
  ):
    with pytest.raises(ValueError):
      Preprocessing.from_json(whole.to_json() | change)
