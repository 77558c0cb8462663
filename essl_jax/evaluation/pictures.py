"""Draws a run's summary: views, curves, and an evaluation's drawing."""

from collections.abc import Iterator, Sequence
import dataclasses
import io
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.augment import ViewRequest
from essl_jax.evaluation import drawing, guard
from essl_jax.evaluation.directions import unit_length
from essl_jax.storage import metrics, places
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib

_IMAGES = 5  # rows of the sheet of views
_SIDE = 256  # maximum pixels of an image in the sheet
_COPIES = 8  # maximum transformed copies of an image to show
_POINTS = 2000  # test images in the map of the features


def write_summary(
  workdir: places.Path, bench: Any, state: step_lib.TrainState
) -> places.Path:
  """Draws `summary.png`: views, curves and an evaluation's drawing.

  Args:
    workdir: contains the figures of training.
    bench: `bench.Bench`; its source and views are shown.
    state: the trained state.

  Returns:
    The picture's path.
  """
  figure = drawing.make_figure(figsize=(15, 5), layout="constrained")
  axes = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
  bench.views.draw(axes[0])
  _draw_curves(axes[1], workdir, bench)
  bench.draw(state, axes[2])
  path = workdir / "summary.png"
  stream = io.BytesIO()
  figure.savefig(stream, dpi=110)
  places.replace_bytes(path, stream.getvalue())
  return path


class Sheet(NamedTuple):
  """Images and their views.

  Attributes:
    pixels: uint8 [H, W, 3].
    title: names the columns.
  """

  pixels: np.ndarray
  title: str

  def draw(self, axes: Any) -> None:
    """Draws the sheet on matplotlib axes."""
    axes.imshow(self.pixels, interpolation="nearest")
    axes.set_title(self.title)
    axes.axis("off")

  def to_png(self) -> bytes:
    """The PNG file."""
    figure, axes = drawing.make_axes(5.0)
    self.draw(axes)
    return drawing.to_png(figure)


def make_sheet(experiment: experiment_lib.Experiment) -> Sheet:
  """Makes a sheet: each row is an image, then its views as networks see them.

  Args:
    experiment: its test images are shown, with the views of its first step.

  Returns:
    The sheet.
  """
  batch = next(experiment.source.evaluation_batches("test", _IMAGES))
  images = np.asarray(batch["image"])
  scale = 255 if images.dtype == np.uint8 else 1
  cells, titles = [images / scale], ["image"]
  seed = jnp.uint32(experiment.config.seed)
  state = step_lib.TrainState(jnp.int32(0), seed, {}, {}, ())
  for request, copies in seen(experiment.requests, images, state):
    cells += copies[:_COPIES]
    titles.append(f"{request.name} view")
  steps = [math.ceil(max(cell.shape[1:3]) / _SIDE) for cell in cells]
  cells = [x[:, ::n, ::n] for x, n in zip(cells, steps, strict=True)]
  side = max(max(cell.shape[1:3]) for cell in cells)
  sheet = np.ones((len(images) * (side + 2), len(cells) * (side + 2), 3))
  for column, cell in enumerate(cells):
    zoom = max(1, side // max(cell.shape[1:3]))
    cell = cell.repeat(zoom, axis=1).repeat(zoom, axis=2)
    for row, picture in enumerate(cell):
      height, width = picture.shape[:2]
      top = row * (side + 2) + (side - height) // 2
      left = column * (side + 2) + (side - width) // 2
      sheet[top : top + height, left : left + width] = picture
  return Sheet(np.round(255 * sheet).astype(np.uint8), ", ".join(titles))


def seen(
  requests: Sequence[ViewRequest],
  images: np.ndarray,
  state: step_lib.TrainState,
) -> Iterator[tuple[ViewRequest, list[np.ndarray]]]:
  """Makes the views of images that a training step sees.

  Args:
    requests: requests for views.
    images: [N, H, W, C], as a source returns them.
    state: its seed and step determine the views.

  Yields:
    Each request and its copies of the images, [N, H', W', C] in [0, 1].
  """
  # A few images cannot share draws as a batch does, so each has its own.
  requests = [dataclasses.replace(x, shared_by=1, chunks=0) for x in requests]
  prepare = jax.jit(views_lib.make_views(requests))
  drawn = jax.device_get(prepare(state, {"image": images})).images
  for request in requests:
    view = request.view
    std, mean = (np.array(x, np.float32) for x in (view.std, view.mean))
    pixels = np.clip(drawn[request.name] * std + mean, 0, 1)
    yield request, np.split(pixels, len(pixels) // len(images))


def _draw_curves(axes: Any, workdir: places.Path, bench: Any) -> None:
  """Draws the losses and, on a second axis, the accuracies by step."""
  found = metrics.read(workdir)
  lines = [line for line in found if line]
  right = axes.twinx()
  logged = dict.fromkeys(itertools.chain.from_iterable(lines))
  sides = {name: axes for name in logged if name.startswith("loss_")}
  for evaluation in bench.evaluations:
    with guard.told_by(evaluation, "curves"):
      figures = bench.figures.get(evaluation.name, {})
      curves = guard.curves(type(evaluation), figures)
    sides |= {k: right for k, x in curves.items() if x.unit == "%"}
  for name, side in sides.items():
    points = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
    if points:
      style = {"color": f"C{len(axes.lines) + len(right.lines)}"}
      side.plot(*zip(*points, strict=True), label=drawing.plain(name), **style)
  axes.set_xlabel("step")
  axes.set_ylabel("loss")
  right.set_ylabel("accuracy (%)")
  handles = [*axes.lines, *right.lines]
  axes.legend(handles=handles, fontsize=8, loc="center right")
  axes.set_title("training" if lines else "no training here")


def draw_features(axes: Any, features: np.ndarray, labels: np.ndarray) -> None:
  """Draws the test features on two principal axes, coloured by class."""
  features, labels = features[:_POINTS], labels[:_POINTS]
  x, y = principal(features, 2).T
  axes.scatter(x, y, c=labels, s=6, cmap="tab10" if labels.max() < 10 else None)
  axes.set_title("test features, two principal axes, colour = class")
  axes.set_xticks([])
  axes.set_yticks([])


def principal(features: np.ndarray, number: int) -> np.ndarray:
  """Normalises features [N, D] and projects them on their principal axes."""
  unit = unit_length(features)
  centred = unit - unit.mean(axis=0)
  axes = np.linalg.svd(centred, full_matrices=False)[2]
  return centred @ axes[:number].T
