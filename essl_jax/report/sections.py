"""Sections of the page with pictures of networks and their data."""

from collections.abc import Sequence

import numpy as np

from essl_jax.evaluation.evaluation import Picture
from essl_jax.report import analysis, figures
from essl_jax.report.parts import Cell, Row, Section, Table
from essl_jax.report.runs import Run
from essl_jax.report.samples import Example, Samples

Found = Sequence[tuple[Run, Samples]]


def views(found: Found) -> Section:
  """The views that a training step sees."""
  shown = [_views(run, samples) for run, samples in found if samples.views]
  explanation = (
    "Test images, augmented as in training. The transformed view is shown with"
    " every transformation that the network learns to predict. Pixel values are"
    " not normalised."
  )
  return Section("Views", [explanation] if shown else [], shown)


def _views(run: Run, samples: Samples) -> Table:
  rows = []
  for number, shown in enumerate(samples.views, start=1):
    each = zip(("original", *samples.columns), shown, strict=True)
    alt = f"test image {number}, {_class(samples, shown[0])}"
    cells = [Cell(picture=_small(x, f"{alt}, {column}")) for column, x in each]
    rows.append(Row(_numbered(samples, number, shown[0]), cells))
  head = ["Test image", "Original", *samples.columns]
  return Table(run.name, head, rows, has_pictures=True)


def neighbours(found: Found) -> Section:
  """The training images nearest to a few test images."""
  shown = [_neighbours(*x) for x in found if x[1].neighbours]
  explanation = (
    "The training images nearest to a few test images, by the cosine of their"
    " encoder features, shown after the class. The first six test images have"
    " different classes if possible. Up to two more follow, whose nearest"
    " neighbour has another class."
  )
  texts = [explanation] if shown else []
  return Section("Nearest neighbours", texts, shown)


def _neighbours(run: Run, samples: Samples) -> Table:
  rows = []
  for number, (query, *near) in enumerate(samples.neighbours, start=1):
    image = _small(query, f"test image {number}, {_class(samples, query)}")
    cells = [Cell(picture=image)]
    for place, picture in enumerate(near, start=1):
      mark, kind = _mark(query, picture)
      alt = (
        f"neighbour {place} of test image {number}, {_class(samples, picture)}"
      )
      alt += f", cosine {picture.note}, {kind}" if kind else ""
      note = f"{mark}{_class(samples, picture)}, {picture.note}"
      cells.append(Cell("", note, _small(picture, alt), kind))
    rows.append(Row(_numbered(samples, number, query), cells))
  head = ["Test image", "Original"]
  head += [f"Neighbour {i}" for i in range(1, len(samples.neighbours[0]))]
  caption = f"{run.name}: nearest of {samples.bank:,} training images"
  if samples.right is not None and samples.features is not None:
    caption += (
      f"; neighbour 1 has the right class for {samples.right:.1f}% of"
      f" {len(samples.features):,} test images"
    )
  return Table(caption, head, rows, has_pictures=True)


def embeddings(found: Found) -> Section:
  """Maps of the features in the plane."""
  drawn = [_embedding(*x) for x in found if x[1].features is not None]
  return Section("Embedding", figures=drawn)


def _embedding(run: Run, samples: Samples) -> Picture:
  assert samples.features is not None and samples.values is not None
  points, how = analysis.flatten(samples.features)
  png = figures.embedding(
    points, samples.values, samples.shade, samples.classes
  )
  caption = f"{run.name}: features of {len(points):,} test images, {how}"
  if isinstance(samples.step, int):
    caption += f", checkpoint of step {samples.step:,}"
  if run.results.get("measured", {}).get("network") == "target":
    caption += ", target network"
  alt = f"Map of {caption}."
  if samples.shade is None:
    same = analysis.agreement(points, samples.values)
    alt += (
      f" {len(np.unique(samples.values))} classes; of the ten points nearest to"
      f" a point {same:.1f}% have its class."
    )
  elif samples.shade:
    alt += f" Coloured by {samples.shade}."
  return Picture(png, alt, caption)


def spectrum(found: Found) -> Section:
  """The spectrum of features: how they fill their dimensions."""
  runs = [run for run, _ in found]
  spectra = {
    run.name: analysis.spectrum(samples.features)
    for run, samples in found
    if samples.features is not None
  }
  drawn = [_spectrum(spectra, runs)] if spectra else []
  return Section("Spectrum", figures=drawn)


def _spectrum(
  spectra: dict[str, tuple[np.ndarray, float]], runs: Sequence[Run]
) -> Picture:
  # Smaller values are rounding errors and would stretch the axis.
  lines = {
    name: [
      (float(i), float(x)) for i, x in enumerate(values, start=1) if x > 1e-6
    ]
    or [(1.0, 1e-6)]
    for name, (values, _) in spectra.items()
  }
  png = figures.curves(
    lines,
    [run.name for run in runs],
    x="index",
    y="singular value / largest",
    is_logarithmic=True,
  )
  told = "; ".join(
    f"{name}: effective rank {rank:.1f} of {len(values)}"
    for name, (values, rank) in spectra.items()
  )
  title = "Singular values of centred test features, divided by the largest"
  caption = f"{title}. {told} (the exponential of their entropy)"
  return Picture(png, f"{title}. {told}.", caption)


def _small(picture: Example, alt: str) -> Picture:
  return Picture(figures.thumbnail(picture.pixels), alt)


def _numbered(samples: Samples, number: int, picture: Example) -> str:
  name = samples.name_of(picture.label)
  return f"{number}, {name}" if name else str(number)


def _class(samples: Samples, picture: Example) -> str:
  return samples.name_of(picture.label) or "no class"


def _mark(query: Example, near: Example) -> tuple[str, str]:
  """A sign and a word for whether a neighbour has the right class."""
  if query.label < 0 or near.label < 0:
    return "", ""
  return ("✓ ", "right") if query.label == near.label else ("✗ ", "wrong")
