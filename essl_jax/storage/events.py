"""Writes TensorBoard events, in the calling thread."""

import time

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from essl_jax.storage import places

_FLUSH_SECONDS = 10.0


class Events:
  """Appends figures to a file of TensorBoard events.

  tensorboardX's own `SummaryWriter` writes from a thread, through a queue. If a
  full disk ends that thread, the program waits for the queue forever.
  """

  def __init__(self, folder: places.Path, start_step: int):
    """Makes the file.

    Args:
      folder: of all event files of a run; created if missing.
      start_step: the step the run resumes from. TensorBoard then hides later
        steps that a killed run has written.

    Raises:
      OSError: the file cannot be written; all methods may raise it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = event_file_writer.EventsWriter(
      str(folder / "events"),
      # By default names differ by the second only, so a second run overwrites.
      filename_suffix=f".{start_step}",
    )
    self._flushed = time.monotonic()
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

  def flush(self) -> None:
    """Writes everything appended so far to disk."""
    self._writer.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    """Writes the rest and closes the file."""
    self._writer.close()
