"""Calls all loggers of a run, and drops one that fails or hangs."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import pathlib
import queue
import threading
import time
from typing import Any, Self

import numpy as np

from essl_jax import config as config_lib
from essl_jax.errors import told
from essl_jax.loggers.logger import Log, Logger, Start
from essl_jax.storage import json_files, outbox, places
from essl_jax.storage.workdir import write_json
from essl_jax.texts import first_line

NAME = "loggers.json"  # what loggers keep, by their sections
_THREAD = "logger "  # prefix of the names of loggers' threads
MOST = 10_000  # figures and pictures that may wait for a logger
END_SECONDS, FAILURE_SECONDS = 10.0, 3.0  # to finish what still waits


def check(config: config_lib.Config) -> None:
  """Raises UsageError for unavailable loggers, before a run begins."""
  for logger in config_lib.loggers(config):
    with told(f"config.loggers={logger.section}"):
      logger.check()


def left_behind() -> list[str]:
  """Names the loggers that were given up while their threads were working.

  At exit, Python or their libraries might wait for these threads forever.
  """
  names = [thread.name for thread in threading.enumerate()]
  return [x.removeprefix(_THREAD) for x in names if x.startswith(_THREAD)]


class Loggers:
  """Passes figures and pictures to all loggers of a run.

  A logger is opened by the first figure or picture. Only one process has
  loggers.

  Example:
    with Loggers(config, workdir) as loggers:
      loggers.begin(0)
      loggers.write(1, {"loss": 0.5}, time.time())
  """

  def __init__(
    self,
    config: config_lib.Config,
    workdir: places.Path,
    *,
    enabled: bool = True,
    first: Callable[["Loggers"], None] | None = None,
    say: Callable[[str], None] = print,
  ):
    """Opens nothing yet.

    Args:
      config: of the run.
      workdir: of the run.
      enabled: False opens no loggers.
      first: called before the first figure, to log something ahead of it.
      say: gets a line for each logger that fails, and for where the others
        write.
    """
    self._config = config
    self._workdir = workdir
    self._say = say
    self._first = first
    self._step: int | None = None
    self._is_finished = False
    self._outbox: outbox.Outbox | None = None
    self._lock = threading.Lock()
    parts = config_lib.loggers(config) if enabled else []
    self._lanes: list[_Direct | _Threaded] = [
      (_Direct if part.in_workdir else _Threaded)(
        part.section, functools.partial(self._open, part)
      )
      for part in parts
    ]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    """Ends all loggers; waits for none longer than ten seconds."""
    seconds = END_SECONDS if error is None else FAILURE_SECONDS
    deadline = time.monotonic() + seconds
    is_finished = error is None and self._is_finished
    with contextlib.ExitStack() as stack:  # runs from the last line upwards
      if self._outbox is not None:
        stack.callback(self._outbox.__exit__, kind, error, trace)
      stack.callback(self._tell)
      for lane in self._lanes:
        stack.callback(lane.wait, deadline)
      for lane in self._lanes:
        stack.callback(lane.put, "close", is_finished)

  def begin(self, step: int) -> None:
    """Sets the step from which training starts; call before any figure."""
    self._step = step

  def finish(self) -> None:
    """Marks the run as finished."""
    self._is_finished = True

  def write(self, step: int, figures: Mapping[str, float], now: float) -> None:
    """Passes on figures of a step; see `Log.write`."""
    if self._lanes and self._first is not None:
      first, self._first = self._first, None
      first(self)
    self._put("write", step, dict(figures), now)

  def picture(self, step: int, name: str, png: bytes) -> None:
    """Passes on a PNG file; see `Log.picture`."""
    self._put("picture", step, name, png)

  def embedding(
    self,
    step: int,
    features: np.ndarray,
    labels: Sequence[str],
    images: np.ndarray | None,
  ) -> None:
    """Passes on features of images; see `Log.embedding`."""
    self._put("embedding", step, features, labels, images)

  def send(self) -> None:
    """Sends what was logged to the workdir, if that is in a bucket."""
    if self._outbox is not None:
      self._put("flush")
      self._outbox.send()

  @property
  def are_there(self) -> bool:
    """Whether there are any loggers."""
    return bool(self._lanes)

  def _put(self, hook: str, *arguments: Any) -> None:
    if self._lanes and self._outbox is None:
      self._outbox = outbox.Outbox(self._workdir)
    for lane in self._lanes:
      lane.put(hook, *arguments)
    self._tell()

  def _tell(self) -> None:
    for lane in self._lanes:
      while lane.said:
        self._say(lane.said.pop(0))

  def _open(self, part: Logger) -> Log:
    assert self._outbox is not None
    return part.open(
      Start(
        folder=pathlib.Path(self._outbox.folder),
        name=self._workdir.name,
        step=self._step,
        config=config_lib.to_dict(self._config),
        kept=self._kept().get(part.section, {}),
        keep=functools.partial(self._keep, part.section),
      )
    )

  def _kept(self) -> dict[str, dict[str, str]]:
    path = self._workdir / NAME
    return json_files.read_object(path) if places.exists(path) else {}

  def _keep(self, section: str, kept: Mapping[str, str]) -> None:
    with self._lock:
      before = self._kept()
      if before.get(section) != kept:
        write_json(self._workdir / NAME, before | {section: dict(kept)})


class _Direct:
  """A logger that training calls directly; its exceptions end the run."""

  def __init__(self, name: str, make: Callable[[], Log]):
    self.said: list[str] = []
    self._name = name
    self._make = make
    self._log: Log | None = None

  def put(self, hook: str, *arguments: Any) -> None:
    """Calls a method of the log."""
    if self._log is None:
      if hook in ("close", "flush"):
        return
      self._log = self._make()
    getattr(self._log, hook)(*arguments)

  def wait(self, deadline: float) -> None:
    """Does nothing: nothing waits."""


class _Threaded:
  """A logger called from its own thread; its exceptions become warnings."""

  def __init__(self, name: str, make: Callable[[], Log]):
    self.said: list[str] = []
    self._name = name
    self._make = make
    self._queue: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(MOST)
    self._thread: threading.Thread | None = None
    self._is_lost = False

  def put(self, hook: str, *arguments: Any) -> None:
    """Passes a call of the log to the thread."""
    if self._is_lost:
      return
    if self._thread is None:
      if hook in ("close", "flush"):
        return
      self._thread = threading.Thread(
        target=self._work, name=_THREAD + self._name, daemon=True
      )
      self._thread.start()
    try:
      self._queue.put_nowait((hook, arguments))
    except queue.Full:
      self._lose(f"{MOST:,} figures are waiting for it")

  def wait(self, deadline: float) -> None:
    """Waits for all calls; gives up at `deadline`, a time of `monotonic`."""
    if self._thread is not None:
      self._thread.join(max(0.0, deadline - time.monotonic()))
      if self._thread.is_alive():
        self._lose("it did not end in time")

  def _work(self) -> None:
    try:
      log = self._make()
      if log.where:
        self.said.append(f"{self._name}: {log.where}")
      hook = ""
      while hook != "close" and not self._is_lost:
        hook, arguments = self._queue.get()
        getattr(log, hook)(*arguments)
    except BaseException as error:  # a user's code may call `sys.exit`
      self._lose(first_line(error, with_type=True))

  def _lose(self, why: str) -> None:
    if not self._is_lost:
      self._is_lost = True
      self.said.append(
        f"warning: {self._name} logs nothing more until the next start, and"
        f" nothing else is lost: {why}"
      )
