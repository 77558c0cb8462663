"""Encoders of runs and of files give the features that evaluations measure."""

import dataclasses
import json
import shutil
import sys

import docs_helpers
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import essl_jax
from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.api import encoders
from essl_jax.api import images as images_lib
from essl_jax.convert import __main__ as program
from essl_jax.data.labels import class_names
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.errors import UsageError
from essl_jax.evaluation import features as features_lib
from essl_jax.evaluation.encoding import Encoding
from essl_jax.storage import about, checkpoint, places, weights
from essl_jax.storage import workdir as workdir_lib
from essl_jax.training import applying
from essl_jax.training import experiment as experiment_lib

CLASSES = ("ant", "bee")
MODULE = """
import flax.linen as nn

class Small(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, images):
    return nn.relu(nn.Conv(self.width, (3, 3))(images)).mean(axis=(1, 2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """PNGs and JPEGs of many sizes, in two classes and two splits."""
  root = tmp_path_factory.mktemp("images")
  random = np.random.default_rng(0)
  for split, count in (("train", 8), ("val", 9)):
    for i in range(count):
      path = root / split / CLASSES[i % 2] / f"{i}.{'png' if i % 3 else 'jpg'}"
      path.parent.mkdir(parents=True, exist_ok=True)
      size = (*random.integers(9, 50, 2), 3)
      Image.fromarray(random.integers(0, 256, size, np.uint8)).save(path)
  return root


def begin(workdir, config):
  """Makes a workdir with a random encoder; returns the evaluator's features."""
  experiment = experiment_lib.build(config)
  encoding = Encoding(experiment)
  size = config.views.first.size
  init = nn.init(
    lambda module, x: applying.bind(module, train=False)(x),
    experiment.networks.encoder,
  )
  variables = jax.jit(init)(jax.random.key(1), jnp.zeros((1, size, size, 3)))
  workdir_lib.check_config(workdir, config_lib.to_dict(config))
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(3, {k: {"encoder": x} for k, x in variables.items()})
  about.write(
    places.locate(workdir),
    {
      "recipe": "a_recipe:small",
      "preprocessing": encoding.preprocessing.to_json(),
      "classes": class_names(experiment.labelled) or None,
    },
  )
  (workdir / "results.json").write_text(
    json.dumps({"step": 3, "figures": {"knn": {"knn_top1": 5.0, "k": [1]}}})
  )
  return encoding.extract(variables, "test", encoding.resize)[0]


@pytest.fixture(scope="module")
def digits_run(tiny_config, tmp_path_factory):
  """A run on images of 8 pixels, which the devices enlarge to 16."""
  config = tiny_config(data={"name": "digits", "test_split": "test[:20]"})
  workdir = tmp_path_factory.mktemp("runs") / "digits"
  return workdir, begin(workdir, config)


@pytest.fixture(scope="module")
def folder_run(tiny_config, folder, tmp_path_factory):
  """A run on images of all sizes, which the host resizes to 16 pixels."""
  own = {"name": "folder", "dir": str(folder), "test_split": "val"}
  config = tiny_config(
    data=own | {"image_size": 16, "resize_size": 18},
    batch_size=8,
    evaluations=("collapse",),
    knn=None,
    probe=None,
  )
  workdir = tmp_path_factory.mktemp("runs") / "folder"
  return workdir, begin(workdir, config)


def paths_of(folder):
  return [
    x for name in CLASSES for x in sorted((folder / "val" / name).iterdir())
  ]


def test_features_of_arrays_are_the_evaluators(digits_run):
  workdir, expected = digits_run
  encoder = essl_jax.load(workdir)
  images = data.load_digits().test_images[:20]
  found = encoder(images)
  assert found.dtype == np.float32 and found.shape == expected.shape
  np.testing.assert_allclose(found, expected, atol=1e-5)
  one_by_one = encoder([images[3], images[4] / np.float32(255)], batch_size=1)
  np.testing.assert_allclose(one_by_one, expected[3:5], atol=1e-5)
  own = encoder.module.apply(
    encoder.variables, encoder.preprocess(images[:4]), train=False
  )
  np.testing.assert_allclose(own, expected[:4], atol=1e-5)


def test_features_of_files_are_the_evaluators(folder_run, folder):
  workdir, expected = folder_run
  encoder = essl_jax.load(workdir)
  paths = paths_of(folder)
  np.testing.assert_allclose(encoder(paths), expected, atol=1e-5)
  opened = [np.asarray(Image.open(x).convert("RGB")) for x in paths[:3]]
  mixed = [opened[0], str(paths[1]), Image.open(paths[2])]
  np.testing.assert_allclose(encoder(mixed), expected[:3], atol=1e-5)


def test_files_of_other_sizes_are_seen_as_a_folder_would_be(
  tiny_config, digits_run, folder
):
  """The run has arrays of one size; its evaluator is shown the files."""
  encoder = essl_jax.load(digits_run[0])
  config = tiny_config()
  settings = dataclasses.replace(
    config.data, dir=str(folder), image_size=8, test_split="val"
  )
  expected, _ = features_lib.extract(
    encoders.step_lib.make_encode(encoder.module),
    encoder.variables,
    data.open_folder(settings),
    "test",
    mean=config.views.first.mean,
    std=config.views.first.std,
    batch_size=4,
    resize=(16, 16),
  )
  found = encoder(paths_of(folder))
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_exports_say_how_images_are_prepared(folder_run, folder, tmp_path):
  workdir, expected = folder_run
  path = tmp_path / "weights.safetensors"
  program.main(["export", str(workdir), str(path)])
  metadata = weights.read_metadata(path)
  known = metadata["preprocessing"]
  assert known["image_shape"] == [16, 16, 3] and known["resize_size"] == 18
  assert known["input_size"] == 16 and len(known["mean"]) == 3
  assert known["resize_interpolation"] == "bilinear"
  assert metadata["classes"] == list(CLASSES)
  assert metadata["recipe"] == "a_recipe:small" and metadata["step"] == 3
  assert metadata["figures"] == {"knn": {"knn_top1": 5.0}}
  encoder = essl_jax.load(path)
  found = encoder(paths_of(folder))
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_of_earlier_versions_ask_for_what_is_missing(
  digits_run, tmp_path, capsys
):
  workdir, expected = digits_run
  variables, metadata = encoders.runs.read(workdir)
  given = metadata.pop("preprocessing")
  path = tmp_path / "old.safetensors"
  weights.save(path, variables, metadata)
  encoder = essl_jax.load(path)
  line = capsys.readouterr().err
  assert line.count("\n") == 1 and "image_size, mean, std" in line
  assert encoder.module is not None
  images = data.load_digits().test_images[:4]
  with pytest.raises(UsageError, match="give image_size, mean, std"):
    encoder(images)
  encoder = essl_jax.load(
    path, image_size=16, mean=given["mean"], std=given["std"]
  )
  assert not capsys.readouterr().err
  assert encoder(images).shape == expected[:4].shape


def test_runs_of_earlier_versions_load(digits_run, tmp_path, capsys):
  workdir, _ = digits_run
  old = tmp_path / "old"
  old.mkdir()
  for name in ("config.json", "checkpoints"):
    (old / name).symlink_to(workdir / name)
  encoder = essl_jax.load(old)
  printed = capsys.readouterr()
  assert "give image_size" in printed.err and "mean" not in printed.err
  assert not printed.out
  with pytest.raises(UsageError, match="give image_size"):
    encoder([np.zeros((8, 8, 3), np.uint8)])
  settings = essl_jax.load(old, image_size=8).preprocess.settings
  assert settings.image_shape == (8, 8, 3) and settings.input_size == 16
  whole = essl_jax.load(workdir, image_size=20, resize_size=24)
  settings = whole.preprocess.settings
  assert settings.image_shape == (20, 20, 3) and settings.resize_size == 24
  assert settings.input_size == 16


def test_what_is_given_of_images_is_checked(digits_run):
  settings = essl_jax.load(
    digits_run[0], mean=0.5, std=np.full(3, 0.25), white_level=4095
  ).preprocess.settings
  assert settings.mean == (0.5,) * 3 and settings.std == (0.25,) * 3
  assert settings.white_level == 4095
  for wrong in (
    {"mean": (0.5, 0.5)},
    {"std": 0},
    {"image_size": 8.5},
    {"white_level": 0},
    {"mean": "a"},
  ):
    with pytest.raises(UsageError, match="is wrong") as error:
      essl_jax.load(digits_run[0], **wrong)
    assert "\n" not in str(error.value)
  with pytest.raises(UsageError, match="is not a valid path"):
    essl_jax.load("a\0b")


def test_encoders_of_ones_own_are_exported_and_loaded(
  tiny_config, tmp_path, monkeypatch
):
  (tmp_path / "own_encoder.py").write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  config = tiny_config(
    data={"name": "digits", "test_split": "test[:20]"},
    encoder={"name": "own_encoder:Small", "width": 6},
  )
  expected = begin(tmp_path / "run", config)
  path = tmp_path / "weights.safetensors"
  program.main(["export", str(tmp_path / "run"), str(path)])
  with pytest.raises(UsageError, match="trust=True"):
    essl_jax.load(path)
  images = data.load_digits().test_images[:20]
  found = essl_jax.load(path, trust=True)(images)
  assert found.shape == (20, 6)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_files_of_weights_run_nothing(digits_run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mytrain.py").write_text("raise SystemExit('was run')")
  variables, metadata = encoders.runs.read(digits_run[0])
  path = tmp_path / "weights.safetensors"
  weights.save(path, variables, metadata | {"encoder": {"name": "mytrain:A"}})
  before = list(sys.path)
  with pytest.raises(UsageError, match="'mytrain:A'.*trust=True"):
    essl_jax.load(path)
  assert sys.path == before and "mytrain" not in sys.modules


def test_exports_hold_no_private_paths(digits_run, tmp_path, monkeypatch):
  monkeypatch.setattr(
    about,
    "read",
    lambda _: {
      "recipe": "a",
      "overrides": ["--config.data.dir=/home/me"],
      "recipe_folder": "/home/me",
    },
  )
  monkeypatch.setattr(about, "make_importable", lambda _: None)
  _, metadata = encoders.runs.read(digits_run[0])
  assert metadata["recipe"] == "a" and "/home/me" not in json.dumps(metadata)


def test_pillow_images_are_read_as_files_are(folder_run, tmp_path):
  """Levels of 16 bits are not bytes, and batches agree on their range."""
  encoder = essl_jax.load(folder_run[0])
  wide = np.linspace(0, 65535, 16 * 18).reshape(16, 18).astype(np.uint16)
  Image.fromarray(wide).save(tmp_path / "wide.png")
  Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "cut.png")
  content = (tmp_path / "cut.png").read_bytes()
  (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
  floats = Image.fromarray((wide / 65535).astype(np.float32))
  opened = [Image.open(tmp_path / "wide.png"), Image.fromarray(wide), floats]
  file, *own = encoder([str(tmp_path / "wide.png"), *opened])
  for found in own[:2]:
    np.testing.assert_allclose(found, file, atol=1e-5)
  np.testing.assert_allclose(own[2], file, rtol=0.02)  # floats are rounded
  assert np.isfinite(encoder([Image.new("LA", (9, 9)).convert("La")])).all()
  loud = Image.fromarray((wide / 257).astype(np.float32))
  for images in (
    [Image.open(tmp_path / "cut.png")],
    [Image.new("RGB", (0, 4))],
    [Image.fromarray(wide // 16)],  # of 12 bits, or dark
    ["a\0b"],
  ):
    with pytest.raises(UsageError) as error:
      encoder(images)
    assert "\n" not in str(error.value)
  with pytest.raises(UsageError, match="give|set white_level"):
    encoder([floats, loud], batch_size=1)
  told = []
  with pytest.raises(UsageError, match="set white_level"):
    encoder.encode([Image.fromarray(wide // 16)], None, told.append)
  assert not told


def test_arrays_of_other_shapes_than_squares_are_checked():
  settings = Preprocessing((8, 8, 1), 8, 8, (0.5,), (0.5,))
  zeros = np.zeros((8, 8, 1), np.float32)
  for wrong in (zeros + 255, zeros + np.nan, zeros.astype(np.int64)):
    with pytest.raises(ValueError, match="must be"):
      list(images_lib.batches([wrong], settings, 4))
  ((rows, found),) = images_lib.batches([zeros + 1], settings, 4)
  assert rows.tolist() == [0] and found.shape == (1, 8, 8, 1)


def test_wrong_images_are_one_line(digits_run, tmp_path):
  encoder = essl_jax.load(digits_run[0])
  (tmp_path / "text.png").write_text("no image")
  for images, error in (
    (["nowhere.png"], UsageError),
    ([str(tmp_path / "text.png")], UsageError),
    ([str(tmp_path)], UsageError),
    ("a.png", ValueError),
    ([], ValueError),
    (np.zeros((8, 8, 3), np.uint8), ValueError),
    ([np.zeros((8, 8, 4), np.uint8)], ValueError),
    ([np.full((8, 8, 3), 2.0)], ValueError),
  ):
    with pytest.raises(error) as raised:
      encoder(images)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  "name, content",
  [("a.safetensors", b"text"), ("a.txt", b"text"), ("b.safetensors", None)],
)
def test_what_is_no_weights_is_refused(name, content, tmp_path):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UsageError) as raised:
    essl_jax.load(tmp_path / name)
  assert "\n" not in str(raised.value)


def test_a_folder_without_a_checkpoint_is_refused(digits_run, tmp_path):
  with pytest.raises(UsageError, match="holds no run"):
    essl_jax.load(tmp_path)
  config = (digits_run[0] / "config.json").read_text()
  (tmp_path / "config.json").write_text(config)
  with pytest.raises(UsageError, match="no checkpoint"):
    essl_jax.load(tmp_path)


def test_weights_that_do_not_fit_their_config_are_refused(digits_run, tmp_path):
  workdir = shutil.copytree(digits_run[0], tmp_path / "run")
  config = json.loads((workdir / "config.json").read_text())
  config["encoder"]["width"] *= 2
  (workdir / "config.json").write_text(json.dumps(config))
  with pytest.raises(UsageError, match="weights of another encoder") as raised:
    essl_jax.load(workdir)
  assert "\n" not in str(raised.value)


def test_features_that_are_not_finite_are_told(digits_run):
  encoder = essl_jax.load(digits_run[0])
  broken = jax.tree.map(lambda x: np.full_like(x, np.nan), encoder.variables)
  with pytest.raises(FloatingPointError, match="diverged"):
    dataclasses.replace(encoder, variables=broken)(
      data.load_digits().test_images[:2]
    )


@pytest.mark.parametrize(
  ("page", "named"),
  [
    ("README.md", "runs/mine"),
    ("docs/howto/features.md", "runs/mine"),
    ("docs/howto/export.md", "encoder.safetensors"),
  ],
)
def test_the_pages_show_how_features_are_made(
  page, named, folder_run, folder, tmp_path, monkeypatch
):
  code, *_ = docs_helpers.python_blocks(page)
  workdir, expected = folder_run
  assert named in code
  monkeypatch.chdir(tmp_path)
  if named.endswith(".safetensors"):
    program.main(["export", str(workdir), named])
  else:
    code = code.replace(named, str(workdir))
  for name, path in zip(("a.jpg", "b.png"), paths_of(folder), strict=False):
    (tmp_path / name).write_bytes(path.read_bytes())
  names = {}
  exec(code, names)
  np.testing.assert_allclose(names["features"], expected[:2], atol=1e-5)
