"""Traces some training steps with JAX's profiler, for TensorBoard, Perfetto."""

from collections.abc import Callable, Iterator
import contextlib
from typing import NamedTuple, Self

import jax

from essl_jax.errors import UsageError
from essl_jax.storage import outbox, places
from essl_jax.texts import first_line
from essl_jax.training import progress


class Steps(NamedTuple):
  """The steps to trace, both ends included; the first step of a run is 1."""

  first: int
  last: int

  def __str__(self) -> str:
    """Such as `steps 100 to 110`."""
    return f"steps {self.first:,} to {self.last:,}"


def read(text: str) -> Steps:
  """Parses the value of `--profile`.

  Args:
    text: such as `100:110`.

  Returns:
    The steps.

  Raises:
    UsageError: the text has another form, or the steps are in the wrong order.
  """
  first, _, last = text.partition(":")
  is_number = first.isascii() and first.isdigit() and last.isascii()
  if is_number and last.isdigit() and len(first + last) < 40:
    steps = Steps(int(first), int(last))
    if 1 <= steps.first <= steps.last:
      return steps
  raise UsageError(
    f"--profile={text:.60} must be two step numbers such as 100:110, the first"
    " at least 1 and no larger than the last; both are traced"
  )


def check(steps: Steps | None, mode: str, total_steps: int) -> None:
  """Raises UsageError if a run does not have these steps."""
  if steps is None:
    return
  flag = f"--profile={steps.first}:{steps.last}"
  if mode != "train" or not total_steps:
    why = f"config.mode={mode}" if mode != "train" else "config.epochs=0"
    raise UsageError(
      f"{flag} traces training steps, and {why} has none: leave it out"
    )
  if steps.last > total_steps:
    raise UsageError(
      f"{flag} goes beyond the end of the training, step {total_steps}"
    )


class Trace:
  """Traces the compiled programs that contain certain training steps.

  Only process 0 writes. A failure here, such as a full disk, loses the trace
  and nothing else. The clock does not count traced steps.

  Example:
    with Trace(Steps(100, 110), workdir, metrics, clock, print) as trace:
      while step < total:
        trace.before(step, most)
        state, values, count, _ = advance(state, most)
        step += count
        metrics.push(step, values, count)
        trace.after(step)
  """

  def __init__(
    self,
    steps: Steps | None,
    workdir: places.Path,
    metrics: progress.Metrics,
    clock: progress.Clock,
    say: Callable[[str], None],
  ) -> None:
    """Starts no trace yet.

    Args:
      steps: to trace; None traces nothing.
      workdir: gets `tensorboard/plugins/profile/<time>/`.
      metrics: of the training; the devices are idle once these are settled.
      clock: of the training.
      say: gets a line that says where the trace is, or why there is none.
    """
    is_mine = jax.process_index() == 0
    self._steps = steps if is_mine else None
    self._workdir = workdir
    self._metrics = metrics
    self._clock = clock
    self._say = say
    self._begun = self._last = 0
    self._outbox: outbox.Outbox | None = None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    """Ends a running trace; says so if the steps were never reached."""
    if self._outbox is not None:
      self._stop(self._last)
    if self._steps is not None:
      self._say(f"warning: no profile: {self._steps} were not reached")

  def before(self, step: int, most: int) -> None:
    """Starts the trace if the next program contains a step to trace.

    Args:
      step: number of updates done.
      most: the most steps that the next program does.
    """
    self._last = step
    if self._steps is None or self._outbox is not None:
      return
    if step >= self._steps.last:
      self._say(
        f"warning: no profile: {self._steps} were done before this start"
      )
      self._steps = None
    elif step + most >= self._steps.first:
      self._metrics.settle()
      self._clock.pause(step)
      with self._failing():
        self._outbox = outbox.Outbox(self._workdir)
        self._begun = step + 1
        folder = self._outbox.folder / "tensorboard"
        jax.profiler.start_trace(str(folder), create_perfetto_trace=True)

  def after(self, step: int) -> None:
    """Ends the trace once all its steps have been dispatched.

    Args:
      step: number of updates dispatched.
    """
    self._last = step
    if self._steps and self._outbox is not None and step >= self._steps.last:
      self._metrics.settle()
      self._stop(step)
      self._clock.start(step)

  def _stop(self, step: int) -> None:
    assert self._outbox is not None
    box, self._outbox = self._outbox, None
    with self._failing(), box:
      jax.profiler.stop_trace()
      self._steps = None
      traced = Steps(self._begun, step)
      self._say(
        f"profile: {traced} are in {self._workdir / 'tensorboard'}: open it in"
        " TensorBoard with its profile plugin, or open the file"
        " plugins/profile/*/perfetto_trace.json.gz at https://ui.perfetto.dev"
      )

  @contextlib.contextmanager
  def _failing(self) -> Iterator[None]:
    """Turns an exception into a warning, and gives the trace up."""
    try:
      yield
    except Exception as error:
      self._say(f"warning: no profile: {first_line(error, with_type=True)}")
      self._steps = self._outbox = None
