"""Metrics of training steps, and the time that steps take."""

import time
from typing import Any

from essl_jax.storage import logs
from essl_jax.training import collapse, dispatch
from essl_jax.training import experiment as experiment_lib


class Metrics:
  """Reads the metrics of steps only after the next steps are dispatched.

  So the devices never wait for the host.
  """

  def __init__(
    self,
    logger: logs.Logger,
    experiment: experiment_lib.Experiment,
    alarm: collapse.Alarm,
  ) -> None:
    self._logger = logger
    self._alarm = alarm
    self._log_every = experiment.config.log_every
    self._last_step = experiment.total_steps
    terms = experiment.networks.terms
    shown = (name for term in terms for name in term.shown)
    self._shown = ("loss", "loss_ssl", *shown)
    self._pending: tuple[int, Any, int] | None = None
    self.latest: dict[str, float] = {}

  def push(self, step: int, values: Any, count: int) -> None:
    """Takes the metrics of `count` steps up to `step`; reads those before."""
    self.settle()
    self._pending = (step, values, count)

  def settle(self) -> None:
    """Waits for the pending steps, checks them and logs those that are due."""
    if self._pending is None:
      return
    last, values, count = self._pending
    self._pending = None
    each = dispatch.metrics_by_step(values, count)
    for step, figures in enumerate(each, last - count + 1):
      logs.check_finite(step, figures)
      self._alarm.step(step, figures)
      if step % self._log_every == 0 or step == self._last_step:
        self._logger.write(step, figures)
    shown = {name: figures[name] for name in self._shown if name in figures}
    self._logger.progress(last, shown)
    self.latest = figures


class Clock:
  """Time spent in steps, without compilation, evaluation and saving."""

  def __init__(self, start_step: int) -> None:
    self._begun = time.monotonic()
    self.start_step = start_step
    self._seconds = 0.0
    self._steps = 0
    self._since: tuple[float, int] | None = None

  def start(self, step: int) -> None:
    """Starts counting again; time since the last `pause` is left out.

    The devices must be idle after step `step`.
    """
    self._since = (time.monotonic(), step)

  def pause(self, step: int) -> None:
    """Stops counting; the devices must be idle after step `step`."""
    if self._since is not None:
      self._seconds += time.monotonic() - self._since[0]
      self._steps += step - self._since[1]
    self._since = None

  def record(self, step: int) -> dict[str, float]:
    """The entry about this start of the program, for `starts.record`."""
    return {
      "start_step": self.start_step,
      "end_step": step,
      "wall_seconds": time.monotonic() - self._begun,
      "timed_steps": self._steps,
      "timed_seconds": self._seconds,
    }
