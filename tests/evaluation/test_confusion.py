"""Confusion matrices of classes, and what classes are called."""

import dataclasses
import types

import numpy as np
import pytest

from essl_jax.data import subsets
from essl_jax.data.arrays import ArraySource
from essl_jax.evaluation import confusion, knn
from essl_jax.report import figures, samples, sections

pytestmark = pytest.mark.quick

NAMES = ("cat", "dog", "_frog$")


def test_rows_are_true_classes_and_columns_what_was_named():
  found = confusion.count(
    np.array([0, 0, 1, 2, 0]), np.array([0, 1, 1, 0, 1]), 3
  )
  assert found == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]


def test_knn_counts_the_classes_that_it_names():
  """Two of the three queries of class 0 lie beside class 1."""
  bank = np.eye(3, dtype=np.float32)
  queries = bank[[0, 1, 1, 1, 2]]
  labels = np.array([0, 0, 0, 1, 2])
  found = knn.run(
    bank, np.arange(3), queries, labels, num_classes=3, k=1, temperature=0.1
  )
  assert found["confusion"] == [[1, 2, 0], [0, 1, 0], [0, 0, 1]]
  diagonal = np.diag(found["confusion"]).sum()
  assert found["knn_top1"] == 100 * diagonal / len(labels)
  many = knn.run(
    bank, np.arange(3), queries, labels, num_classes=101, k=1, temperature=0.1
  )
  assert "confusion" not in many


def test_the_matrix_of_a_knn_is_drawn_with_the_names_of_the_classes():
  counts = [[8, 2, 0], [0, 9, 1], [5, 0, 5]]
  named = {"confusion": counts, "class_names": list(NAMES)}
  picture, *others = knn.Knn.pictures(
    {"a": named, "old": {"knn_top1": 1.0}, "none": {}}
  )
  assert not others
  assert picture.png.startswith(b"\x89PNG")
  assert "cat 80.0%, dog 90.0%, _frog$ 50.0%" in picture.alt
  assert "_frog$ taken for cat, 50.0%" in picture.alt
  (picture,) = knn.Knn.pictures({"a": {"confusion": counts}})
  assert "class 2 taken for class 0, 50.0%" in picture.alt


def test_of_many_classes_the_best_and_the_worst_are_told():
  counts = np.diag(np.full(40, 10))
  counts[7] = 5
  (picture,) = confusion.of_classes("a", {"confusion": counts.tolist()})
  assert "Recognised: class 7 2.5%, class 0 100.0%. Most" in picture.alt


def test_the_names_of_a_source_are_with_the_figures_of_its_knn():
  """Parts of a source keep them; without names, none are made up."""
  images = np.zeros((6, 2, 2, 3), np.uint8)
  labels = np.array([0, 1, 2, 0, 1, 2])
  source = ArraySource(images, labels, images, labels)
  features = np.eye(3, dtype=np.float32)[labels], labels
  for classes, expected in ((NAMES, list(NAMES)), (np.arange(3), None)):
    source.classes = classes
    experiment = types.SimpleNamespace(labelled=source, mesh=None)
    bench = types.SimpleNamespace(
      experiment=experiment, features=lambda *_: features, splits={}
    )
    found = knn.Knn(k=1).run(bench, None)
    assert found.get("class_names") == expected
    assert subsets.sample(source, 3).classes is classes


def test_views_and_neighbours_are_told_by_the_names_of_classes():
  example = samples.Example(np.zeros((4, 4, 3)), 1)
  none = dataclasses.replace(example, label=-1)
  found = samples.Samples(
    columns=["First view"],
    views=[[example, example], [none, none]],
    neighbours=[[example, dataclasses.replace(example, note="0.90")]],
    classes=NAMES,
  )
  run = types.SimpleNamespace(name="a")
  (table,) = sections.views([(run, found)]).tables
  assert [row.heading for row in table.rows] == ["1, dog", "2"]
  assert table.rows[0].cells[0].picture.alt == "test image 1, dog, original"
  (table,) = sections.neighbours([(run, found)]).tables
  assert table.rows[0].cells[1].note == "✓ dog, 0.90"
  found.classes = ()
  (table,) = sections.views([(run, found)]).tables
  assert table.rows[0].heading == "1, class 1"


def test_the_map_of_features_names_its_classes():
  points, values = (
    np.random.default_rng(0).normal(size=(9, 2)),
    np.arange(9) % 3,
  )
  with_names = figures.embedding(points, values, None, NAMES)
  assert with_names != figures.embedding(points, values)
  assert with_names != figures.embedding(points, values, None, ("a", "b", "c"))
