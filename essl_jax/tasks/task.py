"""What the train loop and the reports know of a task, and what tasks share."""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
from typing import Any, NamedTuple, Protocol

from essl_jax.data import Source
from essl_jax.evaluation.encoding import Interrupt
from essl_jax.storage import logs
from essl_jax.training import step as step_lib

Rows = list[tuple[str, str]]


class Measured(NamedTuple):
  """What is known of a state.

  Attributes:
    figures: by measure, each with its protocol.
    draw: draws the task's part of a picture on axes of matplotlib.
  """

  figures: dict[str, dict[str, Any]]
  draw: Callable[[Any], None]


class Task(Protocol):
  """How states of one experiment are measured.

  Attributes:
    monitor_every: epochs between two looks at the state in training; 0 is
      only at the end.
    sources: all that is read, and may hold images that cannot be.
  """

  monitor_every: int

  @property
  def sources(self) -> tuple[Source, ...]:
    """See the attributes above."""

  def monitor(
    self,
    state: step_lib.TrainState,
    *,
    keep: bool = False,
    interrupt: Interrupt = lambda: None,
  ) -> dict[str, float]:
    """A look at a state in training; `keep` where it is the last one."""

  def describe(self, figures: dict[str, float]) -> str:
    """What a look has shown, in a few words; empty if nothing."""

  def measure(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
    has_head: bool,
  ) -> Measured:
    """All figures of a state.

    Args:
      state: what to measure.
      interrupt: called between batches and steps, in all processes alike; may
        raise.
      workdir: where unfinished work is kept.
      has_head: whether the transformation head has been trained at all.

    Returns:
      The figures and their picture.
    """

  def finetune(
    self,
    state: step_lib.TrainState,
    interrupt: Interrupt,
    workdir: pathlib.Path,
  ) -> dict[str, Any]:
    """Figures of `mode=finetune`; arguments as for `measure`."""

  def rows(self, results: dict[str, Any]) -> Rows:
    """The lines of the table at the end: every figure with its protocol."""


@contextlib.contextmanager
def progress(
  name: str, interrupt: Interrupt
) -> Iterator[Callable[[int, int], None]]:
  """A bar whose every step may be interrupted."""
  with logs.progress_bar(name) as advance:

    def tick(done: int, total: int) -> None:
      interrupt()
      advance(done, total)

    yield tick


def measures_rows(figures: dict[str, Any]) -> Rows:
  """Collapse and symmetry, where they were measured."""
  rows: Rows = []
  if found := figures.get("collapse"):
    rows.append(
      (
        f"effective rank of {found['width']} features; uniformity, alignment",
        f"{found['effective_rank']:.1f}; {found['uniformity']:.2f},"
        f" {found['alignment']:.2f}",
      )
    )
  for name, found in figures.get("symmetry", {}).items():
    rows += [
      (
        f"{name}, cosine to the image (between images)",
        f"{found['cosine']:.3f} ({found['cosine_other_images']:.3f})",
      ),
      (
        f"{name}, linear read-out",
        f"{found['readout_accuracy']:.2f}% (chance {found['chance']:.1f}%)",
      ),
      (
        f"{name}, R2 of a linear map (of the identity)",
        f"{found['equivariance_r2']:.3f} ({found['identity_r2']:.3f})",
      ),
    ]
  return rows


def transformation_rows(figures: dict[str, Any], what: str) -> Rows:
  """The line of the recognised transformations, where there are any."""
  if "transformation" not in figures:
    return []
  found = figures["transformation"]
  chance = 100 / len(found["per_element"])
  return [
    (
      f"{found['group']} recognised on test {what}",
      f"{found['transformation_accuracy']:.2f}% (chance {chance:.1f}%)",
    )
  ]
