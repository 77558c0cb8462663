"""A profiler's trace of some training steps, for TensorBoard and Perfetto."""

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
    """As in `steps 100 to 110`."""
    return f"steps {self.first:,} to {self.last:,}"


def read(text: str) -> Steps:
  """The steps that a flag names.

  Args:
    text: such as `100:110`.

  Returns:
    The steps.

  Raises:
    UsageError: it is something else, or they are in the wrong order.
  """
  first, _, last = text.partition(":")
  is_number = first.isascii() and first.isdigit() and last.isascii()
  if is_number and last.isdigit() and len(first + last) < 40:
    steps = Steps(int(first), int(last))
    if 1 <= steps.first <= steps.last:
      return steps
  raise UsageError(
    f"--profile={text:.60} must be two numbers of steps such as 100:110, the"
    " first at least 1 and no larger than the last, which is traced too"
  )


def check(steps: Steps | None, mode: str, total_steps: int) -> None:
  """Raises UsageError for steps that a run does not have."""
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
  """Traces the programs of a training that hold certain steps.

  Process 0 alone writes. What fails here, such as a disk that is full, costs
  the trace and nothing else. The clock does not count traced steps.

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
    """Does nothing yet, and never anything where `steps` is None.

    Args:
      steps: to trace.
      workdir: gets `tensorboard/plugins/profile/<time>/`.
      metrics: of the training; settled, the devices are idle.
      clock: of the training.
      say: gets a line on what has become of the trace.
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
    """Ends a trace that is under way, or says that there is none."""
    if self._outbox is not None:
      self._stop(self._last)
    if self._steps is not None:
      self._say(f"warning: no profile: {self._steps} were not reached")

  def before(self, step: int, most: int) -> None:
    """Begins where the next program has a step that is to be traced.

    Args:
      step: number of updates done.
      most: steps of the next program at most.
    """
    self._last = step
    if self._steps is None or self._outbox is not None:
      return
    if step >= self._steps.last:
      self._say(f"warning: no profile: {self._steps} were done before")
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
    """Ends where all steps have been traced.

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
        f"profile: {traced} are in {self._workdir / 'tensorboard'}: TensorBoard"
        " with its profile plugin shows them, and https://ui.perfetto.dev the"
        " file plugins/profile/*/perfetto_trace.json.gz"
      )

  @contextlib.contextmanager
  def _failing(self) -> Iterator[None]:
    """Trouble within is told, and leaves no trace."""
    try:
      yield
    except Exception as error:
      self._say(f"warning: no profile: {first_line(error, with_type=True)}")
      self._steps = self._outbox = None
