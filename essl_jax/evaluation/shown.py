"""Logs views, final figures, pictures and features of a run."""

from collections.abc import Callable, Mapping, Sequence
import re
import time
from typing import Any

import numpy as np
from PIL import Image

from essl_jax.data.labels import class_names
from essl_jax.errors import describe_trouble
from essl_jax.evaluation import guard
from essl_jax.evaluation.evaluation import Picture, Row, figures_of
from essl_jax.loggers import several
from essl_jax.storage.preemption import Stopped
from essl_jax.texts import first_line
from essl_jax.training import step as step_lib

_POINTS = 1000  # test images in the projector
_SIDE = 32  # pixels of an image in the projector
_NO_NAME = re.compile(r"[^\w.-]+")  # not allowed in some loggers' names
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


def views(bench: Any, loggers: several.Loggers) -> None:
  """Logs images as the networks see them, before training."""
  _try("views", lambda: loggers.picture(0, "views", bench.views.to_png()))


def results(
  loggers: several.Loggers,
  bench: Any,
  state: step_lib.TrainState,
  step: int,
  found: Mapping[str, Any],
) -> None:
  """Logs figures and pictures of the evaluations that ran, and features.

  Args:
    loggers: get them.
    bench: `bench.Bench`; it remembers the features.
    state: the state that was measured.
    step: of the state.
    found: the content of `results.json`.
  """
  rows = found["rows"]
  mine = [rows[name] for name in bench.figures if name in rows]
  if figures := numbers([row for each in mine for row in each]):
    loggers.write(step, figures, time.time())
  for evaluation in bench.evaluations:
    if evaluation.name in bench.figures:
      figures = figures_of(evaluation, found)
      make = lambda kind=evaluation, x=figures: _pictures(type(kind), x)
      for number, picture in enumerate(_try(evaluation.name, make) or ()):
        name = f"final/{evaluation.name}" + (f"/{number}" if number else "")
        loggers.picture(step, name, picture.png)
  _try("embedding", lambda: _embedding(loggers, bench, state, step))


def numbers(rows: Sequence[Row]) -> dict[str, float]:
  """Reads the figures of rows as numbers, by names such as `final/kNN_top-1`.

  Args:
    rows: as the terminal shows them.

  Returns:
    The number at the beginning of each value; values without one are left out.
  """
  found = {}
  for row in rows:
    if match := _NUMBER.match(row.value):
      name = _NO_NAME.sub("_", row.title).strip("_")
      found[f"final/{name}"] = float(match[0].replace(",", ""))
  return found


def _pictures(kind: Any, figures: Mapping[str, Any]) -> list[Picture]:
  shown = guard.pictures(kind, {"this run": figures})
  return [x for x in shown if not isinstance(x, str)]


def _embedding(
  loggers: several.Loggers,
  bench: Any,
  state: step_lib.TrainState,
  step: int,
) -> None:
  """Logs test features that an evaluation computed, with names and images."""
  known = bench.encoding.remembered(state, "test")
  if known is None:
    return
  features, labels = (x[:_POINTS] for x in known)
  source = bench.experiment.labelled
  names = class_names(source)
  texts = [names[k] if k < len(names) else str(k) for k in labels if k >= 0]
  images = next(source.evaluation_batches("test", len(labels)))["image"]
  small = thumbnails(np.asarray(images))
  loggers.embedding(
    step,
    features,
    texts if len(texts) == len(labels) else [],
    small if len(small) == len(labels) else None,
  )


def thumbnails(images: np.ndarray) -> np.ndarray:
  """Makes small pictures of images, for the projector.

  Args:
    images: [N, H, W, C], uint8 or floats in [0, 1].

  Returns:
    uint8 [N, 32, 32, 3].
  """
  if images.dtype != np.uint8:
    images = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
  # Other numbers of channels are no colours: the first is shown in grey.
  shown = images if images.shape[3] == 3 else images[..., 0]
  found = []
  for image in shown:
    picture = Image.fromarray(image).convert("RGB")
    found.append(np.asarray(picture.resize((_SIDE, _SIDE))))
  return np.stack(found)


def _try(what: str, make: Callable[[], Any]) -> Any:
  """Calls `make`; prints a warning if that fails, but raises disk errors."""
  try:
    return make()
  except Stopped:
    raise
  except Exception as error:  # the figures are saved already
    if describe_trouble(error):
      raise
    line = first_line(error, with_type=True)
    print(f"warning: loggers do not show the {what}: {line}")
    return None
