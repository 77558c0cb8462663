"""Views, features and neighbours, computed from images and weights."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from essl_jax import data
from essl_jax.data.labels import class_names
from essl_jax.equivariance.prediction import Prediction
from essl_jax.evaluation import pictures
from essl_jax.evaluation.encoding import Encoding
from essl_jax.report import analysis, opening
from essl_jax.report.runs import Run
from essl_jax.texts import first_line
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib

_BANK = 5  # training images per test image
_BATCH = 256
_VIEWED = 5  # test images whose views are shown
_QUERIES = 6  # test images whose nearest neighbours are shown
_MISTAKES = 2  # further ones whose nearest neighbour has the wrong class
_NEAREST = 5


@dataclasses.dataclass(frozen=True)
class Example:
  """An image to show.

  Attributes:
    pixels: floating [H, W, C] in [0, 1].
    label: its class; -1 if it has none.
    note: a word or two about it.
  """

  pixels: np.ndarray
  label: int
  note: str = ""


@dataclasses.dataclass
class Samples:
  """Images that a run sees, and what its encoder computes from them.

  Attributes:
    columns: titles of the columns of `views`, from the second on.
    views: for each test image, itself and its views.
    features: features of test images [N, D]; None if they are not available.
    values: [N], values that colour them: classes, or the quantity `shade`.
    shade: name of the values: None for classes, empty for no colours.
    neighbours: for each test image, itself and the nearest training images.
    right: how often the nearest has the same class, in percent.
    bank: number of training images that were searched.
    step: step of the checkpoint; None without one.
    classes: names of the classes; empty if the data have none.
    missing: what is missing and why; empty if nothing is.
  """

  columns: Sequence[str] = ()
  views: Sequence[Sequence[Example]] = ()
  features: np.ndarray | None = None
  values: np.ndarray | None = None
  shade: str | None = None
  neighbours: Sequence[Sequence[Example]] = ()
  right: float | None = None
  bank: int = 0
  step: int | None = None
  classes: Sequence[str] = ()
  missing: str = ""

  def name_of(self, label: int) -> str:
    """What a class is called; empty for no class."""
    if label < 0:
      return ""
    known = label < len(self.classes)
    return self.classes[label] if known else f"class {label}"


def collect(run: Run, images: int, tell: Callable[[str], None]) -> Samples:
  """Restores the network of a run and applies it to images of its data.

  Read-only: missing data are neither generated nor downloaded.

  Args:
    run: the run whose workdir and data to read.
    images: most test images to encode; 0 for none.
    tell: called with lines about the progress.

  Returns:
    The samples, and what is missing.
  """
  found = Samples()
  if not images:
    found.missing = (
      "no views, neighbours, embedding and spectrum: --images=0 leaves them out"
    )
    return found
  try:
    experiment = opening.build(run)
    found.classes = class_names(experiment.labelled)
    encoding = Encoding(experiment)
    test = encoding.some(test=images)
    _view(found, experiment, test)
    tell(f"{run.name}: encoding images")
    variables, found.step = opening.restore(run, experiment)
    _encode(found, encoding, variables, test, images)
  except Exception as error:  # show the rest; the data may be a user's code
    views = "" if found.views else "views, "
    why = first_line(error)
    found.missing = f"no {views}neighbours, embedding and spectrum: {why}"
    tell(f"{run.name}: {found.missing}")
  return found


def _view(
  found: Samples,
  experiment: experiment_lib.Experiment,
  source: data.Source,
) -> None:
  """Draws the views of a few test images as the first step does."""
  rows = _some_of_all_classes(_labels(source), _VIEWED)
  shown = _take(source, "test", rows)
  images = np.stack([pixels for pixels, _ in shown])
  method, *terms = experiment.parts
  every = [
    dataclasses.replace(term, all_elements=True)
    if isinstance(term, Prediction)
    else term
    for term in terms
  ]
  requests = views_lib.union([method, *every], experiment.config.views)
  seed = jnp.uint32(experiment.config.seed)
  state = step_lib.TrainState(jnp.int32(0), seed, {}, {}, ())
  titles: list[str] = []
  columns: list[np.ndarray] = []
  for request, copies in pictures.seen(requests, images, state):
    title = f"{request.name.capitalize()} view, {request.view.size} px"
    columns += copies
    names = _copy_names(request.name, every, len(copies))
    titles += [f"{title}, {name}" if name else title for name in names]
  found.columns = titles
  found.views = [
    [
      Example(image, label),
      *(Example(column[row], label) for column in columns),
    ]
    for row, (image, label) in enumerate(shown)
  ]


def _copy_names(view: str, terms: Sequence[Any], number: int) -> Sequence[str]:
  """Names of the copies of a view that a term has transformed."""
  for term in terms:
    if isinstance(term, Prediction) and view == term.view_name:
      return term.question.group.names
  return [f"copy {i}" for i in range(number)] if number > 1 else [""]


def _encode(
  found: Samples,
  encoding: Encoding,
  variables: Any,
  source: data.Source,
  number: int,
) -> None:
  """Fills in the features of test images and their neighbours."""

  def extract(source: data.Source, split: str) -> tuple[np.ndarray, np.ndarray]:
    return encoding.extract(variables, split, encoding.resize, source=source)

  features, labels = (x[:number] for x in extract(source, "test"))
  found.features, found.values = features, labels
  if labels.min() < 0:
    shades = getattr(source, "shades", None)
    values, found.shade = shades("test") if shades else (labels, "")
    found.values = values[:number]
  bank = encoding.some(train=_BANK * number)
  _compare(found, labels, extract(bank, "train"), source, bank)


def _compare(
  found: Samples,
  labels: np.ndarray,
  encoded: tuple[np.ndarray, np.ndarray],
  test: data.Source,
  bank: data.Source,
) -> None:
  """Fills in the nearest neighbours of a few test images."""
  assert found.features is not None
  bank_features, bank_labels = encoded
  found.bank = len(bank_labels)
  near, cosines = analysis.neighbours(found.features, bank_features, _NEAREST)
  shown = _some_of_all_classes(labels, _QUERIES)
  if labels.min() >= 0 and bank_labels.min() >= 0:
    is_right = bank_labels[near[:, 0]] == labels
    found.right = 100 * float(is_right.mean())
    wrong = [
      row for row in np.flatnonzero(~is_right).tolist() if row not in shown
    ]
    shown += wrong[:_MISTAKES]
  queries = _take(test, "test", shown)
  wanted = np.unique(near[shown]).tolist()
  there = dict(zip(wanted, _take(bank, "train", wanted), strict=True))
  found.neighbours = [
    [
      Example(*query),
      *(
        Example(there[i][0], there[i][1], f"{cosine:.2f}")
        for i, cosine in zip(near[row], cosines[row], strict=True)
      ),
    ]
    for row, query in zip(shown, queries, strict=True)
  ]


def _labels(source: data.Source) -> np.ndarray:
  batches = source.evaluation_batches("test", _BATCH)
  return np.concatenate([batch["label"] for batch in batches])


def _some_of_all_classes(labels: np.ndarray, number: int) -> list[int]:
  """Chooses the first row of every class, then the first other rows."""
  first = np.unique(labels, return_index=True)[1]
  others = np.setdiff1d(np.arange(len(labels)), first)
  return [int(x) for x in (*np.sort(first), *others)][:number]


def _take(
  source: data.Source, split: str, rows: Sequence[int]
) -> list[tuple[np.ndarray, int]]:
  """Images in [0, 1] and labels of the given rows, in their order."""
  wanted, found, first = set(rows), {}, 0
  for batch in source.evaluation_batches(split, _BATCH):
    for row in wanted.intersection(range(first, first + len(batch["label"]))):
      image = np.asarray(batch["image"][row - first])
      scale = 255 if image.dtype == np.uint8 else 1
      found[row] = image / np.float32(scale), int(batch["label"][row - first])
    first += len(batch["label"])
    if len(found) == len(wanted):
      break
  return [found[row] for row in rows]
