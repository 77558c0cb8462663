"""Symmetry, alignment and confusion of encoders whose symmetry is known."""

import dataclasses
import json

import jax
import measures_helpers
from measures_helpers import SIDE, WHOLE, Means, Pixels, images
import numpy as np
import process_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import run as train
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import collapse, ridge, symmetry, transformation
from essl_jax.training import experiment as experiment_lib

# Two processes of two devices each; one of them writes what both have found.
TWO_PROCESSES = """
  import json, sys
  import jax
  address, process, config, out = sys.argv[1:]
  jax.distributed.initialize(address, 2, int(process))
  import measures_helpers
  from essl_jax import config as config_lib

  found = measures_helpers.measure(config_lib.parse(json.loads(config)))
  if process == "0":
    with open(out, "w") as file:
      json.dump(found, file)
"""


ACCURACY = "Transformation prediction accuracy"


@pytest.fixture
def make_config(tiny_config):
  """A config of whole images."""

  def make(view=None, **measures):
    views = dict.fromkeys(("first", "second", "third"), WHOLE | (view or {}))
    return tiny_config(views=views, measures=measures)

  return make


@pytest.fixture
def make(make_config):
  """An experiment of an encoder without weights, and its state."""

  def build(encoder, devices=1, test_images=None, view=None, **measures):
    return measures_helpers.make(
      make_config(view, **measures),
      encoder,
      jax.devices()[:devices],
      images(61, 1) if test_images is None else test_images,
    )

  return build


def test_a_ridge_finds_a_map_and_a_mean():
  random = np.random.default_rng(0)
  inputs, new = random.normal(size=(200, 5)), random.normal(size=(30, 5))
  matrix = random.normal(size=(5, 3))
  held_out = np.arange(200) % 5 == 0
  targets = inputs @ matrix + 4
  assert ridge.choose_penalty(inputs, [targets], held_out) == 1e-6
  (found,) = ridge.Ridge(inputs, new).predict(targets, [1e-6])
  np.testing.assert_allclose(found, new @ matrix + 4, rtol=1e-4, atol=1e-4)
  noise = random.normal(size=(200, 3))
  assert ridge.choose_penalty(inputs, [noise], held_out) >= 1
  (found,) = ridge.Ridge(np.ones((200, 5)), new).predict(targets, [1e-6])
  np.testing.assert_allclose(found, np.tile(targets.mean(0), (30, 1)))


def test_symmetry_of_two_features_by_hand():
  """An element that swaps the features of (1, 0) and (0, 1)."""
  plain = np.tile(np.eye(2), (20, 1))
  features = np.stack([plain, plain[:, ::-1]], axis=1)
  found = symmetry.measure(features, features[:2])
  assert found["cosine"] == found["cosine_other_images"] == 0
  np.testing.assert_allclose(found["equivariance_r2"], 1, atol=1e-6)
  np.testing.assert_allclose(found["identity_r2"], -3)
  # Either image under either element is the same pair of features.
  assert found["readout_accuracy"] == found["chance"] == 50
  assert set(found["per_element"]) == {"0", "1"}


def test_constant_features_explain_nothing():
  constant = np.ones((40, 3, 4), np.float32)
  found = symmetry.measure(constant, constant[:7])
  np.testing.assert_allclose(found["cosine"], 1)
  np.testing.assert_allclose(found["cosine_other_images"], 1)
  assert found["equivariance_r2"] == found["identity_r2"] == 0
  np.testing.assert_allclose(found["readout_accuracy"], 100 / 3)


def test_an_invariant_encoder(make):
  experiment, state = make(Means(), groups=("rotation", "flips"))
  figures = symmetry.Symmetry().run(bench_lib.make(experiment), state)
  assert set(figures) == {"rotation", "flips"}
  for found in figures.values():
    np.testing.assert_allclose(found["cosine"], 1, atol=1e-6)
    assert found["cosine_other_images"] < 0.9
    np.testing.assert_allclose(found["identity_r2"], 1, atol=1e-6)
    np.testing.assert_allclose(found["equivariance_r2"], 1, atol=1e-4)
    assert abs(found["readout_accuracy"] - 25) < 5
    assert (found["num_train"], found["num_test"]) == (300, 61)


def test_an_equivariant_encoder_on_one_and_eight_devices(make):
  found = []
  for devices in (1, 8):
    experiment, state = make(
      Pixels(), devices, groups=("rotation",), images=250
    )
    figures = symmetry.Symmetry().run(bench_lib.make(experiment), state)[
      "rotation"
    ]
    assert (figures["num_train"], figures["num_test"]) == (250, 61)
    assert figures["equivariance_r2"] > 0.9999 > 0.5 > figures["identity_r2"]
    assert figures["readout_accuracy"] > 90 > 25 == figures["chance"]
    each = figures.pop("per_element")
    accuracies = [each[str(k)]["readout_accuracy"] for k in range(4)]
    assert np.mean(accuracies) == pytest.approx(figures["readout_accuracy"])
    found.append((each, figures))
  jax.tree.map(
    lambda one, eight: one == eight or np.testing.assert_allclose(one, eight),
    *found,
  )


def test_views_are_aligned_as_far_as_they_agree(make):
  """Whole images are their own views; crops differ, the same on 8 devices."""
  experiment, state = make(Pixels())
  bench = bench_lib.make(experiment)
  assert collapse.Collapse().run(bench, state)["alignment"] == 0
  found = []
  for devices in (1, 8):
    experiment, state = make(
      Pixels(), devices, view={"scale": (0.2, 1.0), "flip": 0.5}, images=50
    )
    bench = bench_lib.make(experiment)
    found.append(collapse.Collapse().run(bench, state))
    assert found[-1]["images"] == 50
  assert 0.05 < found[0]["alignment"] < 2
  np.testing.assert_allclose(found[0]["alignment"], found[1]["alignment"])


def test_two_processes_measure_as_one_does(make_config, tmp_path):
  """Shares of 31 and 30 images, in batches that do not divide them."""
  config = make_config({"scale": (0.2, 1.0)}, groups=("rotation",), images=100)
  out = tmp_path / "found.json"
  raw = json.dumps(config_lib.to_dict(config))
  process_helpers.run_code(TWO_PROCESSES, raw, str(out))
  jax.tree.map(
    lambda two, one: two == one or np.testing.assert_allclose(two, one),
    json.loads(out.read_text()),
    measures_helpers.measure(config, jax.devices()[:1]),
  )


@pytest.mark.parametrize("devices", [1, 8])
def test_confusion_is_counted_over_all_images(make, devices):
  """40 upright images are named right, 21 lie on their side."""
  lying = np.zeros((61, SIDE, SIDE, 3), np.uint8)
  lying[:40, 0, 0], lying[40:, -1, 0] = 255, 255
  experiment, state = make(Pixels(), devices, test_images=lying)
  found = measures_helpers.recognise(bench_lib.make(experiment), state)
  right, turned = np.eye(4, dtype=int), np.roll(np.eye(4, dtype=int), 1, 1)
  assert found["confusion"] == (40 * right + 21 * turned).tolist()
  np.testing.assert_allclose(found["per_element"], [100 * 40 / 61] * 4)
  np.testing.assert_allclose(found["transformation_accuracy"], 100 * 40 / 61)


def test_each_prediction_is_shown_by_its_name():
  """Also where the head of `prediction` is untrained, and measured by none."""
  rotation = {"per_element": [50.0] * 4, "group": "rotation", "images": 10}
  rotation |= {"transformation_accuracy": 50.0, "confusion": [[1] * 4] * 4}
  flips = {"per_element": [70.0] * 2, "group": "vertical_flip", "images": 10}
  flips |= {"transformation_accuracy": 70.0, "confusion": [[2] * 2] * 2}
  kind = transformation.Transformation
  first = ("equivariance_accuracy", ("chance", 25.0), ACCURACY, "50.00%")
  second = ("flipped_accuracy", ("chance", 50.0), f"{ACCURACY}, flipped")
  second = (*second, "70.00%")
  for figures, expected in (
    (rotation, [first]),
    (rotation | {"flipped": flips}, [first, second]),
    ({"flipped": flips}, [second]),
  ):
    found = [
      (name, curve.level, row.title, row.value)
      for (name, curve), row in zip(
        kind.curves(figures).items(), kind().rows(figures), strict=True
      )
    ]
    assert found == expected
    captions = [x.caption for x in kind.pictures({"run": figures})]
    matrices = {25.0: "run: confusion matrix of rotation on test images"}
    matrices[50.0] = "run, flipped: confusion matrix of vertical_flip on test"
    matrices[50.0] += " images"
    assert captions == [matrices[level] for _, (_, level), *_ in expected]
  assert list(kind.curves({})) == ["equivariance_accuracy"]
  assert kind.pictures({"run": {}}) == [
    "run has no trained transformation head."
  ]


def test_groups_that_cannot_act_are_refused_at_once(make, tiny_config):
  odd = np.zeros((5, 7, 7, 3), np.uint8)
  classes = np.arange(5) % 2
  source = ArraySource(odd, classes, odd, classes)
  config = tiny_config(
    batch_size=4,
    views=dict.fromkeys(("first", "second", "third"), {"size": 7}),
    measures={"groups": ("half_translation",)},
    knn={"k": 5},
    probe={"protocol": "none"},
  )
  mesh = parallel.make_mesh(jax.devices()[:1])
  experiment = experiment_lib.build(config, source, mesh)
  with pytest.raises(UsageError, match="half_translation does not act on .*7"):
    bench_lib.make(experiment)
  experiment, _ = make(Pixels(), test_images=images(1, 0))
  with pytest.raises(UsageError, match="test_split has 1 image"):
    bench_lib.make(experiment)


def test_a_run_reports_them_and_an_old_one_is_measured_again(
  tiny_config, tmp_path, capsys, monkeypatch
):
  one = parallel.make_mesh(jax.devices()[:1])
  monkeypatch.setattr(parallel, "make_mesh", lambda: one)
  config = tiny_config(
    "simclr",
    epochs=1,
    views=dict.fromkeys(("first", "second", "third"), WHOLE | {"size": 8}),
    data={"train_split": "train[:64]", "test_split": "test[:40]"},
    optimizer={"warmup_epochs": 0},
    knn={"k": 5},
    measures={"groups": ("rotation",), "images": 30},
    probe={"protocol": "none"},
  )
  train.run(config, tmp_path)
  printed = capsys.readouterr().out
  assert "Under rotation: linear read-out" in printed
  assert "Effective rank" in printed and "of 8 features, 30 test" in printed
  results = json.loads((tmp_path / "results.json").read_text())
  figures = results["figures"]
  rotation = figures["symmetry"]["rotation"]
  assert (rotation["num_train"], rotation["num_test"]) == (30, 30)
  assert 0 < rotation["cosine"] < 1 and rotation["equivariance_r2"] < 1
  monitored = ("feature_std", "effective_rank", "rankme", "uniformity")
  lines = (tmp_path / "metrics-0.jsonl").read_text().splitlines()
  last = [x for x in map(json.loads, lines) if "rankme" in x][-1]
  for name in monitored:
    assert last[name] == pytest.approx(figures["collapse"][name], rel=1e-5)
    assert name in results["untrained"]
  confusion = np.array(figures["transformation"]["confusion"])
  np.testing.assert_array_equal(confusion.sum(axis=1), [40] * 4)
  np.testing.assert_allclose(
    100 * np.diag(confusion) / 40, figures["transformation"]["per_element"]
  )

  written = tmp_path / "config.json"
  old = json.loads(written.read_text())
  assert old.pop("measures")["images"] == 30
  written.write_text(json.dumps(old))
  other = config_lib.Measures(groups=("flips",), images=20)
  again = dataclasses.replace(config, mode="evaluate", measures=other)
  train.run(again, tmp_path)
  after = json.loads((tmp_path / "results.json").read_text())
  assert set(after["figures"]["symmetry"]) == {"flips"}
  assert after["figures"]["collapse"]["images"] == 20
  assert after["figures"]["knn"] == figures["knn"]
  # What was logged with 30 images is no comparison.
  assert "knn_top1" in after["untrained"] and "rankme" not in after["untrained"]


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"groups": ("shear",)}, "group 'shear'; there are: rotation, "),
    ({"groups": "rotation"}, "measures.groups must be a tuple"),
    ({"images": 9}, "measures.images must be at least 10; got 9"),
    ({"every": 9}, "no field config.measures.every"),
  ],
)
def test_wrong_measures_are_refused(make, fields, expected):
  with pytest.raises(UsageError, match=expected) as error:
    bench_lib.make(make(Pixels(), **fields)[0])
  assert "\n" not in str(error.value)
