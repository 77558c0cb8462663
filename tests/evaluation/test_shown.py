"""What loggers show of evaluations: numbers, pictures, features."""

import types

import numpy as np
import pytest

from essl_jax.data.arrays import ArraySource
from essl_jax.evaluation import knn, shown
from essl_jax.evaluation.evaluation import Row

pytestmark = pytest.mark.quick


class Notes:
  """Stands in for the loggers."""

  def __init__(self):
    self.figures, self.pictures, self.points = {}, {}, None

  def write(self, step, figures, now):
    """Notes the figures."""
    assert (step, now > 0) == (8, True)
    self.figures |= figures

  def picture(self, step, name, png):
    """Notes the picture."""
    self.pictures[name] = step, png

  def embedding(self, step, *points):
    """Notes the points."""
    self.points = points


class Broken(knn.Knn):
  """Fails to draw its pictures."""

  section = "broken"

  @classmethod
  def pictures(cls, figures):
    """Fails."""
    raise ValueError("no picture")


@pytest.fixture
def bench():
  """A bench whose kNN got one of three images wrong."""
  images = np.full((3, 4, 6, 1), 255, np.uint8)
  labels = np.array([0, 1, 1])
  source = ArraySource(images, labels, images, labels)
  source.classes = ("cat", "dog")
  figures = {"confusion": [[1, 0], [1, 1]], "knn_top1": 66.67}
  known = np.eye(3, dtype=np.float32), labels
  return types.SimpleNamespace(
    figures={"knn": figures},
    evaluations=(knn.Knn(),),
    experiment=types.SimpleNamespace(labelled=source),
    encoding=types.SimpleNamespace(remembered=lambda *_: known),
  )


def results_of(bench, **figures):
  """What `results.json` holds by then."""
  rows = {"knn": [Row("kNN top-1", "66.67%")], "other": [Row("Old", "1")]}
  return {"rows": rows, "figures": bench.figures | figures}


def test_values_of_rows_are_numbers_where_they_begin_with_one():
  rows = [
    Row("kNN top-5, k = 20", "61.25%"),
    Row("Probe", "40.00% ± 7.07"),
    Row("Uniformity", "-1.5e-05"),
    Row("Images", "1,234,567"),
    Row("Missing", "–"),
    Row("Word", "yes 3"),
  ]
  assert shown.numbers(rows) == {
    "final/kNN_top-5_k_20": 61.25,
    "final/Probe": 40.0,
    "final/Uniformity": -1.5e-5,
    "final/Images": 1234567.0,
  }


def test_evaluations_that_have_run_are_shown(bench):
  notes = Notes()
  shown.results(notes, bench, None, 8, results_of(bench))
  assert notes.figures == {"final/kNN_top-1": 66.67}
  ((name, (step, png)),) = notes.pictures.items()
  assert (name, step, png[:4]) == ("final/knn", 8, b"\x89PNG")
  features, labels, images = notes.points
  assert (features.shape, labels) == ((3, 3), ["cat", "dog", "dog"])
  assert (images.shape, images.dtype) == ((3, 32, 32, 3), np.uint8)
  assert images.min() == 255


def test_images_without_labels_have_a_map_without_names(bench):
  features, labels = bench.encoding.remembered()
  bench.encoding.remembered = lambda *_: (features, labels - 5)
  notes = Notes()
  shown.results(notes, bench, None, 8, results_of(bench))
  assert notes.points[1] == []
  bench.encoding.remembered = lambda *_: None
  notes = Notes()
  shown.results(notes, bench, None, 8, results_of(bench))
  assert notes.points is None


def test_a_class_beyond_the_names_is_shown_by_its_number(bench):
  bench.experiment.labelled.classes = ("cat",)
  notes = Notes()
  shown.results(notes, bench, None, 8, results_of(bench))
  assert notes.points[1] == ["cat", "1", "1"]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_without_colours_are_shown_by_their_first_channel(channels):
  images = np.zeros((2, 4, 6, channels), np.float32)
  images[..., 0] = 0.2
  small = shown.thumbnails(images)
  assert (small.shape, np.unique(small).tolist()) == ((2, 32, 32, 3), [51])


def test_what_cannot_be_drawn_costs_a_warning(bench, capsys):
  bench.evaluations = (Broken(), *bench.evaluations)
  bench.figures["broken"] = {"knn_top1": 1.0}
  notes = Notes()
  shown.results(notes, bench, None, 8, results_of(bench))
  assert list(notes.pictures) == ["final/knn"]
  warning = capsys.readouterr().out
  assert warning.startswith("warning: loggers do not show the broken: ")
  assert warning.count("\n") == 1


def test_a_full_disk_is_told_as_for_any_file(bench):
  class Full(Notes):
    def embedding(self, step, *points):
      raise OSError(28, "No space left on device")

  with pytest.raises(OSError, match="No space"):
    shown.results(Full(), bench, None, 8, results_of(bench))
