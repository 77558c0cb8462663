"""Logs figures to JSONL files, loggers and the terminal."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import math
import os
import sys
import time
from typing import Any, Protocol, Self

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from essl_jax.storage import json_files, metrics, outbox, places
from essl_jax.storage.workdir import to_json

_PLAIN_SECONDS = 30.0  # between two lines when there is no bar
_RATE_SECONDS = 30.0  # over which speed is averaged


class Others(Protocol):
  """Further receivers of all figures; `loggers.several.Loggers` is one."""

  def write(self, step: int, figures: Mapping[str, float], now: float) -> None:
    """Takes figures of a step, and the seconds since 1970."""

  def send(self) -> None:
    """Writes what was taken to a workdir in a bucket."""


class Logger:
  """Writes the figures of a run and shows its progress.

  `<workdir>/metrics-<start_step>.jsonl` holds one JSON object a line: `step`,
  `wall_time` (seconds since 1970) and the figures. NaN and infinities, which
  JSON lacks, become null there. The first `write` opens the file. `send` and
  the end of the run copy it to a workdir in a bucket.

  Example:
    with Logger("runs/a", total_steps=1000, images_per_step=512) as logger:
      logger.info("begins")
      for step in range(1, 1001):
        logger.write(step, {"loss_total": 0.5})
        logger.progress(step, {"loss_total": 0.5})
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    total_steps: int,
    start_step: int = 0,
    enabled: bool = True,
    progress: bool | None = None,
    images_per_step: int | None = None,
    others: Others | None = None,
  ):
    """Prepares to log; nothing is written or printed yet.

    Args:
      workdir: directory of the run.
      total_steps: the step at which the run is done.
      start_step: step the run resumes from. Figures that a killed run logged
        after it no longer count; see `storage.metrics`.
      enabled: False writes and prints nothing, for all processes but one.
      progress: True for a bar, False for a plain line every 30 seconds, None
        for a bar if stdout and stderr are a terminal.
      images_per_step: global batch size; shows images/s instead of steps/s.
      others: gets all figures too.
    """
    self._workdir = places.locate(workdir)
    self._outbox: outbox.Outbox | None = None
    self._total_steps = total_steps
    self._start_step = start_step
    self._enabled = enabled
    self._images_per_step = images_per_step
    self._file: Any = None
    self._others = others
    self._opened = contextlib.ExitStack()
    self._console = rich.console.Console()
    if progress is None:
      progress = sys.stdout.isatty() and sys.stderr.isatty()
    self._bar = _make_bar(self._console) if progress else None
    self._task: rich.progress.TaskID | None = None
    self._times: collections.deque[tuple[float, int]] = collections.deque()
    self._last_line = -math.inf

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    """Stops the bar, closes the file and sends it."""
    if self._bar is not None and self._task is not None:
      self._bar.stop()
    self._opened.close()

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends figures to this start's file, and passes them to `others`.

    Args:
      step: number of updates done.
      scalars: figures by name; anything `float` takes, also arrays of size 1.

    Raises:
      ValueError: if a figure is called `step` or `wall_time`.
    """
    if not self._enabled:
      return
    if reserved := {"step", "wall_time"} & set(scalars):
      raise ValueError(f"figures may not be called {sorted(reserved)}")
    if self._file is None:
      self._open()
    now = time.time()
    figures = {name: float(value) for name, value in scalars.items()}
    line = to_json({"step": int(step), "wall_time": now, **figures})
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    if self._others is not None:
      self._others.write(int(step), figures, now)

  def _open(self) -> None:
    """Opens the file to append after the last line that stays."""
    self._outbox = self._opened.enter_context(outbox.Outbox(self._workdir))
    start, folder = self._start_step, self._outbox.folder
    own = metrics.path(self._workdir, start)
    there = metrics.files(self._workdir)
    lines = json_files.read_lines(own) if own in there.values() else []
    metrics.write(
      metrics.path(folder, start),
      [line for line in lines if metrics.is_until(line, start)],
    )
    for later, file in there.items():
      if later > start:  # left from before the run fell back to this checkpoint
        places.remove(file)
    self._file = self._opened.enter_context(
      metrics.path(folder, start).open("a")
    )

  def send(self) -> None:
    """Copies everything logged to the workdir, if that is in a bucket."""
    if self._outbox is not None:
      self._outbox.send()
      if self._others is not None:
        self._others.send()

  def progress(self, step: int, scalars: Mapping[str, float]) -> None:
    """Shows the run's progress, speed, time left and some figures.

    Args:
      step: number of updates done.
      scalars: the few figures to show, by name.
    """
    if not self._enabled:
      return
    speed, left = self._pace(step)
    figures = "  ".join(f"{k} {float(x):.4g}" for k, x in scalars.items())
    if self._bar is not None:
      if self._task is None:
        self._task = self._bar.add_task(
          "train", total=self._total_steps, speed="", left="", figures=""
        )
        self._bar.start()
      self._bar.update(
        self._task, completed=step, speed=speed, left=left, figures=figures
      )
      return
    now = time.monotonic()
    if now - self._last_line >= _PLAIN_SECONDS or step >= self._total_steps:
      self._last_line = now
      parts = [f"step {step}/{self._total_steps}", speed, left, figures]
      self.info("  ".join(part for part in parts if part))

  def _pace(self, step: int) -> tuple[str, str]:
    """Returns the speed and the time left as text, empty at first."""
    times = self._times
    times.append((time.monotonic(), step))
    while len(times) > 2 and times[-1][0] - times[0][0] > _RATE_SECONDS:
      times.popleft()
    seconds, steps = times[-1][0] - times[0][0], step - times[0][1]
    if seconds <= 0 or steps <= 0:
      return "", ""
    rate = steps / seconds
    if self._images_per_step is None:
      speed = f"{rate:.3g} steps/s"
    else:
      speed = f"{rate * self._images_per_step:,.0f} images/s"
    minutes, second = divmod(round((self._total_steps - step) / rate), 60)
    hour, minute = divmod(minutes, 60)
    return speed, f"{hour}:{minute:02}:{second:02} left"

  def info(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._enabled:
      self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Figures(rich.progress.ProgressColumn):
  """The only column that is shortened on a narrow terminal."""

  def render(self, task: rich.progress.Task) -> rich.text.Text:
    """Returns the figures on one line."""
    return rich.text.Text(
      task.fields["figures"], no_wrap=True, overflow="ellipsis"
    )


def _make_bar(console: rich.console.Console) -> rich.progress.Progress:
  """Returns a bar with the fields speed, left and figures beside it."""
  return rich.progress.Progress(
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(bar_width=12),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn("{task.fields[speed]}"),
    rich.progress.TextColumn("{task.fields[left]}"),
    _Figures(rich.table.Column(overflow="ellipsis")),
    console=console,
  )


def is_measured(workdir: places.Path, step: int) -> bool:
  """Whether a step has evaluation figures besides those of training.

  Args:
    workdir: of the run.
    step: number of updates done.
  """
  return any(
    line is not None and line.get("step") == step and "loss" not in line
    for line in metrics.read(workdir)
  )


def check_finite(step: int, scalars: Mapping[str, float]) -> None:
  """Stops a run whose loss has become NaN or infinite.

  Args:
    step: number of updates done.
    scalars: figures by name.

  Raises:
    FloatingPointError: naming the step and the figures that are not finite.
  """
  values = {name: float(value) for name, value in scalars.items()}
  wrong = [f"{k} is {x}" for k, x in values.items() if not math.isfinite(x)]
  if wrong:
    raise FloatingPointError(
      f"not finite at step {step}: {', '.join(wrong)}: lower the learning "
      "rate, or check the earlier steps in metrics-*.jsonl"
    )


def summary_table(title: str, rows: Sequence[tuple[str, str]]) -> None:
  """Prints a table of two columns; long texts wrap.

  Args:
    title: line above the table.
    rows: name and value of each row.
  """
  table = rich.table.Table(
    title=rich.text.Text(title),
    title_justify="left",
    show_header=False,
    box=rich.box.HORIZONTALS,
  )
  table.add_column(overflow="fold")
  table.add_column(overflow="fold")
  for name, value in rows:
    table.add_row(rich.text.Text(name), rich.text.Text(value))
  console = rich.console.Console()
  if not console.is_terminal:  # logs are searched, and paths copied
    longest = sum(max(map(len, texts)) for texts in zip(*rows, strict=True))
    console.width = max(console.width, longest + 8, len(title))
  console.print(table)


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
  """Shows the progress of a long evaluation; nothing without a terminal.

  Args:
    description: text before the bar.

  Yields:
    A function to call with the number done and the total.
  """
  is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    disable=not is_terminal,
    transient=True,
  ) as bar:
    task = bar.add_task(description)
    yield lambda done, total: bar.update(task, completed=done, total=total)
