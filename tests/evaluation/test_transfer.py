"""Transfer: the choice of a penalty, few labels, episodes, all figures."""

import json
import types

from evaluation_helpers import clusters
import folder_helpers
import numpy as np
import pytest
import transfer_helpers
from transfer_helpers import SIZE, SPLITS

from essl_jax.config import parts
from essl_jax.data import prepared
from essl_jax.errors import UsageError
from essl_jax.evaluation import (
  episodes,
  held_out,
  logistic,
  transfer,
  transfer_sets,
)


def test_metrics_by_hand():
  named, labels = np.array([0, 0, 1, 3]), np.array([0, 0, 0, 3])
  assert held_out.accuracy(named, labels) == 75
  expected = 100 * (2 / 3 + 1) / 2
  assert held_out.mean_per_class(named, labels) == pytest.approx(expected)


def test_a_penalty_is_chosen_on_what_is_held_out():
  x, y = clusters(120, width=6, classes=3, spread=1.5)
  test = clusters(90, width=6, classes=3, spread=1.5, seed=1)
  held = held_out.hold_out(y, 0.25)
  assert np.bincount(y[held]).tolist() == [
    max(1, round(0.25 * n)) for n in np.bincount(y)
  ]
  penalties = (1e-3, 1e5, 0.1, 1.0)
  found = held_out.regress(
    (x, y), test, held, num_classes=3, penalties=penalties
  )
  path = sorted(penalties, reverse=True)
  fit = lambda **options: logistic.fit(x, y, num_classes=3, **options)
  trial = fit(penalties=path, examples=~held)
  hits = (trial.predict(x[held]) == y[held]).mean(axis=1)
  best = int(np.argmax(hits))
  assert found["penalty"] == path[best] != 1e5
  assert found["validation_accuracy"] == pytest.approx(100 * hits[best])
  final = fit(penalties=[path[best]] * 4)
  expected = 100 * np.mean(final.predict(test[0])[0] == test[1])
  assert found["accuracy"] == pytest.approx(expected)
  assert found["num_train"] == 120


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_every_class_keeps_an_image_to_learn_from(share):
  """Also classes of one and two images, wherever they stand."""
  sizes = np.array([1, 2, 3, 40, 2, 1])
  labels = np.repeat([0, 1, 2, 3, 5, 8], sizes)
  labels = np.random.default_rng(0).permutation(labels)
  held = held_out.hold_out(labels, share)
  counts = np.bincount(labels[held], minlength=9)[[0, 1, 2, 3, 5, 8]]
  most = np.minimum(np.maximum(1, np.round(share * sizes)), sizes - 1)
  assert counts.tolist() == most.tolist()
  np.testing.assert_array_equal(held, held_out.hold_out(labels, share))
  assert not held_out.hold_out(np.arange(4), share).any()


def test_where_none_is_held_out_the_penalty_is_the_usual_one():
  x = np.eye(3, dtype=np.float32)
  nothing = np.zeros(3, bool)
  found = held_out.regress(
    (x, np.arange(3)), (x, np.arange(3)), nothing, num_classes=3
  )
  assert found["penalty"] == pytest.approx(1 / 3)
  assert found["validation_accuracy"] is None and found["accuracy"] == 100
  assert found["num_validation"] == 0


def test_broken_images_are_left_out_counted_and_said(transfer_bench, tmp_path):
  root = folder_helpers.write_folder(tmp_path / "spoilt", SPLITS)
  for path in ("train/bee/01.png", "val/cat/02.png", "val/ant/03.png"):
    (root / path).write_text("text")
  measure = transfer.Transfer(sets=(str(root),), penalties=3)
  found = measure.run(transfer_bench, 3)
  (own,) = found["sets"].values()
  assert (own["num_train"], own["num_validation"]) == (20 + 9 - 3, 7)
  numbers = {split: x["number"] for split, x in own["broken"].items()}
  assert numbers == {"train": 1, "validation": 2, "test": 0}
  assert own["broken"]["train"]["names"] == [str(root / "train/bee/01.png")]
  _, said = measure.rows(found)
  assert said.title.endswith("spoilt: images that cannot be read, left out")
  assert said.value == "1 of train, 2 of validation"


def test_very_few_labels(transfer_bench, tmp_path):
  """Classes of one or two images, all of them and a hundredth."""
  some = transfer_helpers.write_counts(
    tmp_path / "a", train=(1, 2, 8), test=(2, 2, 2)
  )
  own = transfer_helpers.write_counts(
    tmp_path / "b", train=(1, 3, 4), val=(1, 1, 1), test=(2, 2, 2)
  )
  measure = transfer.Transfer(
    sets=(some, own), penalties=3, labels=(0.01,), validation=0.9
  )
  found = measure.run(transfer_bench, 3)
  counted = lambda x: (x["num_train"], x["num_validation"])
  sets = found["sets"]
  assert [counted(x) for x in sets.values()] == [(11, 8), (11, 3)]
  for figures in sets.values():
    for few in figures["few_labels"].values():
      assert counted(few) == (3, 0) and few["penalty"] == pytest.approx(1 / 3)
  notes = [row.note for row in measure.rows(found)]
  usual = "3 images, none held out: no class has two, so the penalty is 1/N"
  assert notes.count(usual) == 2
  assert notes[0].endswith("6 test images, the penalty chosen on 8 held out")


def test_training_images_of_one_class_are_left_out(transfer_bench, tmp_path):
  """A set with a list of classes may have such images."""
  name = transfer_helpers.write_counts(
    tmp_path / "a", train=(4, 4, 4), test=(2, 2, 2)
  )
  real = transfer_bench.encoding.extract

  def extract(variables, split, *rest):
    features, labels = real(variables, split, *rest)
    return features, labels * 0 if split == "train" else labels

  alone = types.SimpleNamespace(
    experiment=transfer_bench.experiment,
    encoding=types.SimpleNamespace(extract=extract),
    **{x: getattr(transfer_bench, x) for x in ("interrupt", "progress")},
    encoder_variables=transfer_bench.encoder_variables,
  )
  measure = transfer.Transfer(sets=(name,), penalties=3)
  found = measure.run(alone, 3)
  assert found["sets"] == {} and found["mean"] is None
  assert "of only one class" in found["left_out"][name]
  assert [x.value for x in measure.rows(found)] == [name]


def test_the_evaluation(transfer_folder, transfer_bench, monkeypatch, capsys):
  """All figures of a set, rows of them, and the name of a missing one."""
  missing = "dtd"
  refuse = transfer_helpers.refuse(UsageError, "is not prepared")
  monkeypatch.setattr(prepared, "open_builder", refuse)
  measure = transfer.Transfer(
    sets=(str(transfer_folder), missing),
    per_class=(str(transfer_folder),),
    penalties=12,
    labels=(0.5,),
    shots=(1, 50),
    ways=3,
    queries=2,
    episodes=20,
  )
  measure.check(transfer_bench)
  told = capsys.readouterr().err
  assert told.count("transfer leaves out") == 1 and missing in told
  found = measure.run(transfer_bench, 3)
  assert json.loads(json.dumps(found)) == found
  assert list(found["left_out"]) == [missing]
  (own,) = found["sets"].values()
  assert own["metric"] == "mean per class"
  assert own["num_train"] == 29 and own["num_test"] == 11
  assert found["mean"] == own["accuracy"]
  # The set's own validation images have chosen the penalty.
  extract = lambda source, split: transfer_bench.encoding.extract(
    3, split, None, transfer_bench.interrupt, source
  )
  images = transfer_sets.Shelf(None, SIZE).open(str(transfer_folder))
  train, test = (extract(images.source, x) for x in ("train", "test"))
  more = extract(images.validation, "test")
  expected = held_out.regress(
    tuple(map(np.concatenate, zip(train, more, strict=True))),
    test,
    np.arange(29) >= 20,
    num_classes=3,
    per_class=True,
    penalties=np.logspace(-6, 5, 12),
  )
  assert expected.items() <= own.items()
  few, some = own["few_labels"]["50%"], own["episodes"]["3-way 1-shot"]
  assert 14 <= few["num_train"] <= 16
  assert 20 < some["accuracy"] < 90 and some["episodes"] == 20
  rows = measure.rows(found)
  *rows, too_many, last = rows
  assert too_many.title.endswith("50-shot") and too_many.value == "left out"
  assert "there are 0: give fewer ways" in too_many.note
  assert last.value == missing
  name = f"Transfer to {transfer_folder}"
  titles = [name, f"{name}, 50% of labels", f"{name}, 3-way 1-shot"]
  assert [x.title for x in rows] == titles
  assert "±" in rows[2].value


def test_nothing_to_measure_is_refused(transfer_bench, monkeypatch):
  with pytest.raises(UsageError, match="config.transfer.sets is empty"):
    transfer.Transfer(sets=()).check(transfer_bench)
  refuse = transfer_helpers.refuse(UsageError, "is not prepared")
  monkeypatch.setattr(prepared, "open_builder", refuse)
  with pytest.raises(
    UsageError, match="none of dtd is available: 'dtd' is not"
  ):
    transfer.Transfer(sets=("dtd",)).check(transfer_bench)
  assert parts.EVALUATION.find("transfer") is transfer.Transfer


def test_episodes():
  """Classes far apart are all recognised; noise gives chance accuracy."""
  options = {"ways": 5, "shots": 1, "queries": 4, "number": 60}
  apart, labels = clusters(140, width=32, classes=7, spread=0.01)
  found = episodes.run(apart, labels, **options)
  assert found == {"accuracy": 100.0, "interval": 0.0, "episodes": 60}
  noise = np.random.default_rng(0).standard_normal((140, 32))
  found = episodes.run(noise.astype(np.float32), labels, **options)
  assert abs(found["accuracy"] - 20) < 3 * found["interval"] < 15
  again = episodes.run(noise.astype(np.float32), labels, **options)
  assert again == found
  with pytest.raises(UsageError, match="but there are 7: give fewer ways"):
    episodes.run(apart, labels, **options | {"ways": 8})


@pytest.mark.slow
def test_real_sets(tiny_config, tmp_path):
  """A whole program on digits: results, the table and its figures."""
  from essl_jax import run as train

  config = tiny_config(
    epochs=1,
    data={"train_split": "train[:64]", "test_split": "test[:40]"},
    evaluations=("transfer",),
    transfer={"sets": ("digits",), "shots": (1, 5), "labels": (0.1,)},
    knn=None,
    probe=None,
    optimizer={"warmup_epochs": 0},
  )
  train.run(config, tmp_path / "run")
  results = json.loads((tmp_path / "run/results.json").read_text())
  own = results["figures"]["transfer"]["sets"]["digits"]
  assert own["accuracy"] > 60 > own["episodes"]["5-way 1-shot"]["interval"]
  assert len(results["rows"]["transfer"]) == 4
