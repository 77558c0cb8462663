"""TensorBoard: events and the projector's files in `<workdir>/tensorboard`."""

from collections.abc import Mapping, Sequence
import io
import math
import pathlib

import numpy as np
from PIL import Image

from essl_jax.loggers.logger import Log, Logger, Start
from essl_jax.storage import events, places

_CONFIG = """embeddings {{
  tensor_name: "{name}"
  tensor_path: "projector/features.tsv"
{more}}}
"""
_LABELS = '  metadata_path: "projector/labels.tsv"\n'
_SPRITE = """  sprite {{
    image_path: "projector/images.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
"""


class TensorBoard(Logger):
  """Figures, pictures and features for TensorBoard."""

  section = "tensorboard"
  in_workdir = True

  def open(self, start: Start) -> Log:
    """Opens a new event file; earlier ones stay."""
    return _Events(start.folder / "tensorboard", start.step)


class _Events(Log):
  def __init__(self, folder: pathlib.Path, step: int | None):
    self._folder = folder
    self._events = events.Events(places.Path(folder), step)

  def write(self, step: int, figures: Mapping[str, float], time: float) -> None:
    self._events.write(step, dict(figures), time)

  def picture(self, step: int, name: str, png: bytes) -> None:
    self._events.picture(step, name, png)

  def embedding(
    self,
    step: int,
    features: np.ndarray,
    labels: Sequence[str],
    images: np.ndarray | None,
  ) -> None:
    """Writes the projector's files, in place of earlier ones.

    TensorBoard expects the configuration beside the events; its paths are
    relative to it.
    """
    folder = self._folder / "projector"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ("\t".join(f"{x:.5g}" for x in row) for row in features.tolist())
    places.replace_text(folder / "features.tsv", "\n".join(rows) + "\n")
    more = ""
    if labels:
      lines = (" ".join(label.split()) or "?" for label in labels)
      places.replace_text(folder / "labels.tsv", "\n".join(lines) + "\n")
      more += _LABELS
    if images is not None:
      places.replace_bytes(folder / "images.png", _sprite(images))
      more += _SPRITE.format(side=images.shape[1])
    text = _CONFIG.format(name=f"features of step {step}", more=more)
    places.replace_text(self._folder / "projector_config.pbtxt", text)

  def flush(self) -> None:
    self._events.flush()

  def close(self, is_finished: bool) -> None:
    self._events.close()


def _sprite(images: np.ndarray) -> bytes:
  """Tiles images [N, S, S, 3] row by row into one square PNG file."""
  number, side = images.shape[:2]
  across = math.ceil(math.sqrt(number))
  sheet = np.zeros((across * side, across * side, 3), np.uint8)
  for place, image in enumerate(images):
    row, column = divmod(place, across)
    top, left = row * side, column * side
    sheet[top : top + side, left : left + side] = image
  buffer = io.BytesIO()
  Image.fromarray(sheet).save(buffer, "PNG")
  return buffer.getvalue()


PART = TensorBoard
