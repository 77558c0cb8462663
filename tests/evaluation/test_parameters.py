"""How two views differ, predicted by a linear map of features."""

import dataclasses

import jax
import measures_helpers
from measures_helpers import SIDE, WHOLE, Pixels
import numpy as np
import pytest
from sklearn import linear_model, metrics

from essl_jax.augment import View, draw_parameters
from essl_jax.config.config import Views
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import parameters, view_pairs
from essl_jax.training import experiment as experiment_lib


def _pairs(number, seed, noise=0.1):
  """Features that are linear in the crop and in each view's turns."""
  random = np.random.default_rng(seed)
  crop = random.normal(size=(number, 4))
  color = np.zeros((number, 4))
  color[:, 0] = random.normal(size=number)
  turns = random.integers(0, 4, (number, 2))
  mixing = np.random.default_rng(99).normal(size=(8, 9))
  views = []
  for side, own in zip((1, -1), turns.T, strict=True):
    known = np.concatenate([side * crop, np.eye(4)[own]], axis=1)
    views.append(known @ mixing + noise * random.normal(size=(number, 9)))
  return view_pairs.Pairs(
    np.concatenate(views, axis=1),
    {"crop": crop, "color": color, "rot": turns},
    np.arange(number) % 3 > 0,
    np.arange(number) // 2,
  )


def test_what_is_linear_is_told_and_what_is_not_there_is_not():
  found = parameters.measure(_pairs(400, 0), _pairs(300, 1))
  assert found["crop_r2"] > 0.9 and found["rotation_accuracy"] > 95
  assert set(found["per_number"]["crop"]) == set(view_pairs.NUMBERS["crop"])
  # Three of its numbers are the same in all pairs.
  assert set(found["per_number"]["color"]) == {"brightness"}
  assert -0.2 < found["color_r2"] < 0.05
  assert set(found["penalties"]) == {"crop", "color", "rot"}
  blind = _pairs(400, 0)._replace(features=np.ones((400, 18)))
  found = parameters.measure(blind, _pairs(300, 1))
  assert found["crop_r2"] < 0.01 and found["rotation_accuracy"] < 40


@pytest.mark.parametrize(
  ("groups", "extra", "chance"),
  [
    (("rotation",), None, 25),
    ((), "rotation", 100 / 3),  # (1/2, 1/6, 1/6, 1/6), twice
    (("rotation",), "rotation", 25),
  ],
)
def test_chance_is_that_of_the_turns_that_are_drawn(groups, extra, chance):
  view = View(size=4, groups=groups)
  drawn = [
    draw_parameters(
      jax.random.PRNGKey(seed), 6000, (4, 4, 3), view, extra=extra
    ).elements["rotation"]
    for seed in (0, 1)
  ]
  turns = np.stack(drawn, axis=1)
  rows = np.arange(6000)
  features = np.random.default_rng(0).normal(size=(6000, 4))
  pairs = view_pairs.Pairs(features, {"rot": turns}, rows >= 0, rows)
  train, test = pairs.only(rows < 3000), pairs.only(rows >= 3000)
  found = parameters.measure(train, test)
  assert found["rotation_chance"] == pytest.approx(chance, abs=3)
  # Depends only on the turns, not on the predictions.
  assert found["rotation_accuracy"] < found["rotation_chance"] + 3
  others = test._replace(differences={"rot": (turns + [1, 0])[3000:] % 4})
  assert parameters.measure(train, others)["rotation_chance"] < 28


def test_as_scikit_learn_has_it():
  """Ridge regression on standardised features, and the mean of R²."""
  train, test = _pairs(300, 0, noise=1.0), _pairs(200, 1, noise=1.0)
  found = parameters.measure(train, test)
  penalty = found["penalties"]["crop"]
  mean, std = train.features.mean(0), train.features.std(0)
  rows = [(x.features - mean) / (std * 18**0.5) for x in (train, test)]
  fitted = linear_model.Ridge(alpha=penalty / 18 * 300)
  fitted.fit(rows[0], train.differences["crop"])
  expected = metrics.r2_score(test.differences["crop"], fitted.predict(rows[1]))
  np.testing.assert_allclose(found["crop_r2"], expected, rtol=1e-4)


def test_pairs_of_some_rows():
  pairs = _pairs(9, 0)
  some = pairs.only(pairs.jittered)
  assert some.features.shape == (6, 18) and some.images.tolist() == [
    0, 1, 2, 2, 3, 4,
  ]  # fmt: skip
  np.testing.assert_array_equal(
    some.differences["crop"], pairs.differences["crop"][pairs.jittered]
  )


def test_views_get_what_they_lack():
  crops = View(size=8, flip=0.0, jitter_probability=0.0)
  plain, more = view_pairs.of_views(Views(crops, crops), 0.25)
  assert plain == ((crops, crops), ["crop"])
  both = dataclasses.replace(crops, blur=0.25, groups=("rotation",))
  assert more == ((both, both), ["blur", "rot"])
  turned = dataclasses.replace(crops, groups=("rotation",))
  blurred = dataclasses.replace(turned, blur=1.0)
  (alone,) = view_pairs.of_views(Views(turned, blurred), 0.25)
  assert alone == ((turned, blurred), ["crop", "blur", "rot"])
  _, (pair, names) = view_pairs.of_views(Views(turned, crops), 0.25)
  assert names == ["blur", "rot"] and pair == (both, both)
  _, (pair, names) = view_pairs.of_views(
    Views(crops, crops, extra="rotation"), 0.5
  )
  assert names == ["blur"] and pair[0].groups == ()


def _places(number, seed):
  """Red grows downward and green to the right, a little brighter each."""
  random = np.random.default_rng(seed)
  ramp = np.linspace(0, 120, 16)
  images = np.zeros((number, 16, 16, 3))
  images[..., 0], images[..., 1] = ramp[:, None], ramp
  images += random.uniform(0, 20, (number, 1, 1, 3))
  return images.astype(np.uint8)


@pytest.fixture(scope="module")
def config(tiny_config):
  view = WHOLE | {"scale": (0.2, 1.0), "ratio": (0.5, 2.0), "size": SIDE}
  return tiny_config(
    views=dict.fromkeys(("first", "second", "third"), view),
    evaluations=("parameters",),
    parameters={"pairs": 2},
    measures={"images": 60},
    knn=None,
    probe=None,
  )


def _run(config, devices, source=None):
  """Figures of `Pixels`, which has no weights to train."""
  labels = np.arange(80) % 2
  source = source or ArraySource(
    _places(80, 0), labels, _places(50, 1), labels[:50]
  )
  mesh = parallel.make_mesh(jax.devices()[:devices])
  experiment = experiment_lib.build(config, source, mesh)
  networks = experiment.networks.clone(
    encoder=Pixels(), terms=(measures_helpers.CornerPrediction(),)
  )
  experiment = dataclasses.replace(experiment, networks=networks)
  bench = bench_lib.make(experiment)
  (evaluation,) = bench.evaluations
  return evaluation, evaluation.run(bench, experiment.create_state())


def test_crops_of_real_views_are_told(config):
  """Pixels that encode their position reveal the window."""
  evaluation, found = _run(config, 1)
  assert found["pairs"] == {"all": {"train_pairs": 120, "test_pairs": 50}}
  figures = found["all"]
  assert figures["crop_r2"] > 0.98, figures
  assert min(figures["per_number"]["crop"].values()) > 0.95
  assert figures["rotation_accuracy"] > 90 > 60 > figures["blur_r2"]
  assert "color_r2" not in figures and not found["jittered"]
  assert found["untrained"]["all"] == figures  # no weights
  rows = evaluation.rows(found)
  assert [row.title.split(",")[0] for row in rows] == [
    "Relative crop of two views",
    "Relative blur of two views",
    "Relative rotation of two views",
  ]
  value = f"{figures['crop_r2']:.4f}"
  assert rows[0].value == value
  assert rows[0].note == f"{value} untrained; linear, 50 test pairs"
  assert f"chance {figures['rotation_chance']:.2f}%" in rows[2].note
  assert 10 < figures["rotation_chance"] < 40


@pytest.mark.slow
def test_eight_devices_measure_as_one(config):
  found = [_run(config, devices)[1]["all"] for devices in (1, 8)]
  numbers = [
    [x["crop_r2"], x["blur_r2"], x["rotation_accuracy"]] for x in found
  ]
  np.testing.assert_allclose(*numbers, rtol=1e-3)


def test_a_single_image_is_refused(config):
  labels = np.arange(80) % 2
  source = ArraySource(_places(80, 0), labels, _places(1, 1), labels[:1])
  with pytest.raises(UsageError, match="test_split has 1 image"):
    _run(config, 1, source)
