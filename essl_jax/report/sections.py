"""The parts of the page that show pictures of networks and their data."""

from collections.abc import Sequence

import numpy as np

from essl_jax.report import analysis, figures, tables
from essl_jax.report.markup import Html, figure, image, join, table, tag
from essl_jax.report.runs import Run, element_names
from essl_jax.report.samples import Picture, Samples

Found = Sequence[tuple[Run, Samples]]


def views(found: Found) -> Html:
  """What a training step sees."""
  shown = [_views(run, samples) for run, samples in found if samples.views]
  if not shown:
    return Html()
  explanation = tag(
    "p",
    "A few test images, augmented as the training does with its own. View 3 is"
    " shown under every element of the group that the network has to predict."
    " The normalisation is undone.",
  )
  return join([explanation, *shown])


def _views(run: Run, samples: Samples) -> Html:
  rows = [
    (
      _numbered(number, original),
      [
        _cell(picture, f"test image {number}, {_class(original)}, {column}")
        for picture, column in zip(
          (original, *others), ("as it is", *samples.columns), strict=True
        )
      ],
    )
    for number, (original, *others) in enumerate(samples.views, start=1)
  ]
  head = ["Test image", "As it is", *samples.columns]
  return table(run.name, head, rows, class_="pictures")


def confusions(found: Found) -> Html:
  """What the transformation head takes for what."""
  drawn: list[Html] = []
  old: list[str] = []
  without: list[str] = []
  for run, _ in found:
    transformation = run.figures("transformation")
    if transformation.get("confusion"):
      drawn.append(_confusion(run))
    else:
      (old if transformation else without).append(run.name)
  parts = []
  if old:
    parts.append(
      tag(
        "p",
        f"{', '.join(old)}: results.json holds no confusion matrix;"
        " evaluating again with ",
        tag("code", "--config.mode=evaluate"),
        " adds it.",
      )
    )
  if without:
    parts.append(tag("p", f"{', '.join(without)}: no trained head."))
  if drawn:
    parts.append(tag("div", *drawn, class_="grid"))
  return join(parts)


def _confusion(run: Run) -> Html:
  found = run.figures("transformation")
  counts = np.asarray(found["confusion"], float)
  if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
    shape = " × ".join(map(str, counts.shape))
    return tag("p", f"{run.name}: the confusion matrix is {shape}, not square.")
  names = element_names(found.get("group"), len(counts))
  percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  wrong = percent - np.diag(np.diag(percent))
  row, column = np.unravel_index(wrong.argmax(), wrong.shape)
  right = ", ".join(
    f"{name} {part:.1f}%"
    for name, part in zip(names, np.diag(percent), strict=True)
  )
  alt = (
    f"Confusion matrix of {found.get('group')} for {run.name}. Recognised:"
    f" {right}. Most frequent mistake: {names[row]} taken for {names[column]},"
    f" {wrong[row, column]:.1f}%."
  )
  caption = f"{run.name}: {found.get('group')}, test images"
  return figure(figures.confusion(counts, names), alt, caption)


def neighbours(found: Found) -> Html:
  """The training images nearest to a few test images."""
  shown = [_neighbours(*x) for x in found if x[1].neighbours]
  if not shown:
    return Html()
  explanation = tag(
    "p",
    "By the cosine of encoder features, which stands beside each class. The"
    " first six test images are of different classes, where there are as many;"
    " up to two more are some whose nearest neighbour has another class.",
  )
  return join([explanation, *shown])


def _neighbours(run: Run, samples: Samples) -> Html:
  rows = []
  for number, (query, *near) in enumerate(samples.neighbours, start=1):
    cells = [_cell(query, f"test image {number}, {_class(query)}")]
    for place, picture in enumerate(near, start=1):
      mark, kind = _mark(query, picture)
      alt = f"neighbour {place} of test image {number}, {_class(picture)}"
      alt += f", cosine {picture.note}, {kind}" if kind else ""
      note = f"{mark}{_class(picture)}, {picture.note}"
      cells.append(_cell(picture, alt, tag("small", note), kind or None))
    rows.append((_numbered(number, query), cells))
  head = ["Test image", "As it is"]
  head += [f"Neighbour {i}" for i in range(1, len(samples.neighbours[0]))]
  caption = f"{run.name}, among {samples.bank:,} training images"
  if samples.right is not None and samples.features is not None:
    caption += (
      f": the nearest has the right class for {samples.right:.1f}% of"
      f" {len(samples.features):,} test images"
    )
  return table(caption, head, rows, class_="pictures")


def embeddings(found: Found) -> Html:
  """The features in the plane."""
  drawn = [_embedding(*x) for x in found if x[1].features is not None]
  if not drawn:
    return Html()
  return tag("div", *drawn, class_="grid")


def _embedding(run: Run, samples: Samples) -> Html:
  assert samples.features is not None and samples.values is not None
  points, how = analysis.flatten(samples.features)
  png = figures.embedding(
    points, samples.values, has_classes=samples.has_classes
  )
  caption = f"{run.name}: {len(points):,} test features, {how}"
  if isinstance(samples.step, int):
    caption += f", checkpoint of step {samples.step:,}"
  alt = f"Map of {caption}."
  if samples.has_classes:
    same = analysis.agreement(points, samples.values)
    alt += (
      f" {len(np.unique(samples.values))} classes, each drawn with its number;"
      f" of the ten nearest points {same:.1f}% have the same class."
    )
  elif samples.values.dtype.kind == "f":
    alt += " Coloured by mean permittivity."
  return figure(png, alt, caption)


def collapse(runs: Sequence[Run], found: Sequence[Samples]) -> Html:
  """Measures of collapse and of symmetry, and the spectrum."""
  parts = [
    tables.numbers(title, runs, measure)
    for title, measure in (
      ("Measures of collapse", "collapse"),
      ("Measures of symmetry, by group", "symmetry"),
    )
  ]
  spectra = {
    run.name: analysis.spectrum(samples.features)
    for run, samples in zip(runs, found, strict=True)
    if samples.features is not None
  }
  if spectra:
    parts.append(tag("div", _spectrum(spectra, runs), class_="grid"))
  return join(parts)


def _spectrum(
  spectra: dict[str, tuple[np.ndarray, float]], runs: Sequence[Run]
) -> Html:
  # Rounding alone is below, and would stretch the axis.
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
    y="singular value over the largest",
    is_logarithmic=True,
  )
  told = "; ".join(
    f"{name}: effective rank {rank:.1f} of {len(values)}"
    for name, (values, rank) in spectra.items()
  )
  title = "Singular values of the centred test features"
  caption = f"{title}. {told} (exponential of the entropy)"
  return figure(png, f"{title} over the largest. {told}.", caption)


def densities(runs: Sequence[Run]) -> Html:
  """Errors and examples of a regression of densities of states."""
  found = {run.name: run.figures("regression") for run in runs}
  found = {name: figures for name, figures in found.items() if figures}
  if not found:
    return Html()
  errors = {
    name: {
      int(count): (each["dos_error"], each.get("dos_error_std", 0.0))
      for count, each in regression.get("by_labelled", {}).items()
      if each.get("dos_error") is not None  # a regression that diverged
    }
    for name, regression in found.items()
  }
  errors = {name: each for name, each in errors.items() if each}
  drawn = []
  if errors:
    free = {x.get("dos_error_of_free_space") for x in found.values()}
    level = free.pop() if len(free) == 1 else None
    names = [run.name for run in runs]
    png = figures.errors_by_labelled(errors, names, level)
    title = "Relative error of the density of states by labelled cells"
    told = "; ".join(
      f"{name}: "
      + ", ".join(f"{e:.2f} ± {d:.2f}% with {n:,}" for n, (e, d) in x.items())
      for name, x in errors.items()
    )
    drawn.append(figure(png, f"{title}. {told}.", title))
  for name, regression in found.items():
    samples = regression.get("samples") or {}
    true, predicted = (
      np.asarray(samples.get(x, ()), float) for x in ("true", "predicted")
    )
    if true.ndim == 2 and true.shape == predicted.shape and true.size:
      apart = np.abs(true - predicted).mean()
      alt = (
        f"Densities of states of {len(true)} test cells, true and predicted by"
        f" {name}; mean absolute difference {apart:.3f}."
      )
      caption = f"{name}: test cells, true and (dashed) predicted"
      drawn.append(figure(figures.densities(true, predicted), alt, caption))
  return tag("div", *drawn, class_="grid")


def _cell(
  picture: Picture, alt: str, note: Html | str = "", kind: str | None = None
) -> Html:
  return tag(
    "td", image(figures.thumbnail(picture.pixels), alt), note, class_=kind
  )


def _numbered(number: int, picture: Picture) -> str:
  return f"{number}, {_class(picture)}" if picture.label >= 0 else str(number)


def _class(picture: Picture) -> str:
  return f"class {picture.label}" if picture.label >= 0 else "no class"


def _mark(query: Picture, near: Picture) -> tuple[str, str]:
  """A sign and a word for whether a neighbour has the right class."""
  if query.label < 0 or near.label < 0:
    return "", ""
  return ("✓ ", "right") if query.label == near.label else ("✗ ", "wrong")
