"""What an evaluation is asked."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from essl_jax.config.parts import Part


class Row(NamedTuple):
  """A figure as it is shown, in the terminal, in results and in the report.

  Attributes:
    title: what it is.
    value: the figure, with its unit.
    note: its protocol in a few words.
  """

  title: str
  value: str
  note: str = ""


class Picture(NamedTuple):
  """A picture of the report.

  Attributes:
    png: the PNG file.
    alt: what it shows, for those who do not see it.
    caption: what stands above it.
  """

  png: bytes
  alt: str
  caption: str


class Evaluation(Part):
  """A measure of a trained state; its fields are its config.

  A subclass states `run` and `rows`; all else has a default.

  Attributes:
    section: the name of its group of fields, of the class if not stated.
    key: of its figures in `results.json`; `section` if empty.
    heading: what the report calls it; its key in words if empty.
    modes: of `config.mode`, in which it runs.
    accumulates: whether `run` returns figures by a name of their own, beside
      which those of earlier runs stay, as those of other labels.
    needs_training: whether it is of networks that have learned something;
      `epochs=0` without `init_from` refuses it.
    ranks: the figure of `monitor` that tells the best checkpoint; larger is
      better.
  """

  key: ClassVar[str] = ""
  heading: ClassVar[str] = ""
  modes: ClassVar[tuple[str, ...]] = ("train", "evaluate")
  accumulates: ClassVar[bool] = False
  needs_training: ClassVar[bool] = True
  ranks: ClassVar[str] = ""

  @property
  def name(self) -> str:
    """The key of its figures in `results.json`."""
    return self.key or self.section

  @property
  def needs_labels(self) -> bool:
    """Whether `run` reads labels of `bench.experiment.labelled`."""
    return False

  def look_every(self) -> int | None:
    """Epochs between two looks in training, the untrained network first.

    Returns:
      0 looks never, or at the end alone where others look; None looks whenever
      others do.
    """
    return 0

  def check(self, bench: Any) -> None:
    """Raises UsageError now for what `run` would refuse after days."""

  def monitor(self, bench: Any, state: Any) -> dict[str, float]:
    """A quick look in training; figures for `metrics.jsonl`."""
    del bench, state
    return {}

  def describe(self, figures: Mapping[str, float]) -> str:
    """What `monitor` has shown, in a few words; empty if nothing."""
    del figures
    return ""

  @abc.abstractmethod
  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """All figures of a state.

    Args:
      bench: `bench.Bench`: the experiment, its images and their features.
      state: a `TrainState`; all processes call this.

    Returns:
      Figures and their protocol, of what JSON can hold, arrays besides; None
      where it does not apply.
    """

  @abc.abstractmethod
  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """How figures are shown, in the terminal and in the report.

    Args:
      figures: of `run`. Where `ranks` is a figure that training has logged at
        step 0, and that compares with that of `run`, `untrained` holds the
        figures of the untrained network and their protocol.

    Returns:
      Rows whose titles tell them apart; `results.json` keeps them.
    """

  @classmethod
  def pictures(cls, figures: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Pictures for the report.

    Args:
      figures: those of `results.json` by the name of the run, of all runs of
        the report; empty for a run that has none.

    Returns:
      Pictures of each run, or of several in one; `drawing` has what they
      are drawn with.
    """
    del figures
    return []

  def draw(self, bench: Any, state: Any, axes: Any) -> bool:
    """Draws on axes of matplotlib, for `summary.png`; whether it did."""
    del bench, state, axes
    return False


def figures_of(
  kind: Evaluation | type[Evaluation], results: Mapping[str, Any]
) -> dict[str, Any]:
  """The figures of an evaluation.

  Args:
    kind: the evaluation, or its class.
    results: what `results.json` holds.

  Returns:
    What `Evaluation.rows` is asked of; empty without figures.
  """
  name = kind.key or kind.section
  found = (results.get("figures") or {}).get(name)
  if not found and "finetune" in kind.modes:
    found = results.get(name)
  if not found:
    return {}
  untrained = results.get("untrained") or {}
  is_before = kind.ranks in untrained
  return found | ({"untrained": untrained} if is_before else {})


def percent(figures: Mapping[str, Any], name: str) -> str:
  """A figure in percent, with `<name>_std` behind it where there is one."""
  value, deviation = figures.get(name), figures.get(f"{name}_std")
  if value is None:
    return "–"
  return f"{value:.2f}%" + ("" if deviation is None else f" ± {deviation:.2f}")


def count(figures: Mapping[str, Any], name: str) -> str:
  """A number of things, with commas."""
  return f"{figures[name]:,}" if name in figures else "?"


def lengths(figures: Mapping[str, Any]) -> str:
  """How many trainings the figures are of, and how long each is."""
  repetitions, epochs = figures.get("repetitions"), figures.get("epochs")
  plural = "" if repetitions == 1 else "s"
  return f"{repetitions} repetition{plural} of {epochs} epochs"
