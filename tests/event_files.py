"""Reads TensorBoard's event files without TensorBoard."""

import pathlib
import struct

from tensorboardX.proto import event_pb2


def read(workdir: pathlib.Path) -> list[event_pb2.Event]:
  """Parses event files: length, its checksum, the event, its checksum."""
  events = []
  for path in sorted((workdir / "tensorboard").glob("events*")):
    data, start = path.read_bytes(), 0
    while start < len(data):
      (length,) = struct.unpack_from("<Q", data, start)
      event = event_pb2.Event()
      event.ParseFromString(data[start + 12 : start + 12 + length])
      events.append(event)
      start += 12 + length + 4
  return events
