"""Writes growing files locally and sends them to a bucket whole."""

import pathlib
import tempfile
from types import TracebackType
from typing import Self

from etils import epath

from essl_jax.errors import describe_trouble
from essl_jax.storage import places


class Outbox:
  """A local folder whose files are copied to a workdir in a bucket.

  If the workdir is local, the folder is the workdir, and nothing is sent.

  Attributes:
    folder: the folder to write into.
  """

  def __init__(self, workdir: places.Path):
    """Makes the folder.

    Args:
      workdir: of the run.
    """
    self._workdir = workdir
    self._sent: dict[str, int] = {}
    self._temporary: tempfile.TemporaryDirectory[str] | None = None
    self.folder = workdir
    if places.is_remote(workdir):
      self._temporary = tempfile.TemporaryDirectory(prefix="essl_jax_")
      self.folder = epath.Path(self._temporary.name)
    else:
      workdir.mkdir(parents=True, exist_ok=True)

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Sends the rest, unless the bucket is gone; removes the folder."""
    if self._temporary is not None:
      with self._temporary:
        if not describe_trouble(error):
          self.send()

  def send(self) -> None:
    """Copies the files that have grown to the workdir."""
    if self._temporary is None:
      return
    for file in pathlib.Path(self.folder).rglob("*"):
      try:
        name, size = str(file.relative_to(self.folder)), file.stat().st_size
        if not file.is_file() or size == self._sent.get(name):
          continue
        content = file.read_bytes()
      except FileNotFoundError:
        continue  # a logger has just removed it
      places.replace_bytes(self._workdir / name, content)
      self._sent[name] = size
