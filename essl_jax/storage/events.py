"""Writes TensorBoard events, in the calling thread."""

import io
import time

from PIL import Image
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2, summary_pb2

from essl_jax.storage import places

_FLUSH_SECONDS = 10.0


class Events:
  """Appends figures to a file of TensorBoard events.

  tensorboardX's own `SummaryWriter` writes from a thread, through a queue. If a
  full disk ends that thread, the program waits for the queue forever.
  """

  def __init__(self, folder: places.Path, start_step: int | None):
    """Makes the file.

    Args:
      folder: of all event files of a run; created if missing.
      start_step: the step the run resumes from. TensorBoard then hides later
        steps that a killed run has written. None hides nothing.

    Raises:
      OSError: the file cannot be written; all methods may raise it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = event_file_writer.EventsWriter(
      str(folder / "events"),
      # By default names differ by the second only, so a second run overwrites.
      filename_suffix=f".{'end' if start_step is None else start_step}",
    )
    self._flushed = time.monotonic()
    if start_step is None:
      return
    session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._writer.write_event(
      event_pb2.Event(
        step=start_step + 1 if start_step else 0,
        wall_time=time.time(),
        session_log=session,
      )
    )

  def write(self, step: int, figures: dict[str, float], now: float) -> None:
    """Appends figures of a step; on disk within ten seconds of training.

    Args:
      step: number of updates done.
      figures: by name.
      now: seconds since 1970.
    """
    for name, value in figures.items():
      event = event_pb2.Event(
        step=step, wall_time=now, summary=summary.scalar(name, value)
      )
      self._writer.write_event(event)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def picture(self, step: int, name: str, png: bytes) -> None:
    """Appends a picture.

    Args:
      step: number of updates done.
      name: its tag.
      png: the file.
    """
    with Image.open(io.BytesIO(png)) as image:
      width, height = image.size
    shown = summary_pb2.Summary.Image(
      height=height, width=width, colorspace=3, encoded_image_string=png
    )
    value = summary_pb2.Summary.Value(tag=name, image=shown)
    self._writer.write_event(
      event_pb2.Event(
        step=step,
        wall_time=time.time(),
        summary=summary_pb2.Summary(value=[value]),
      )
    )

  def flush(self) -> None:
    """Writes everything appended so far to disk."""
    self._writer.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    """Writes the rest and closes the file."""
    self._writer.close()
