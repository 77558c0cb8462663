"""The interface of an evaluation, and how its figures are shown."""

import abc
from collections.abc import Mapping, Sequence
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
  caption: str = ""


class Curve(NamedTuple):
  """How a figure of the training log is drawn.

  Attributes:
    title: what it is.
    unit: what the vertical axis shows; figures in "%" are in `summary.png`.
    level: name and height of a line to compare with.
    is_logarithmic: whether the vertical axis is.
  """

  title: str
  unit: str = "value"
  level: tuple[str, float] | None = None
  is_logarithmic: bool = False


class Evaluation(Part):
  """A measure of a trained state; its fields are its config.

  A subclass defines `run` and `rows`; all else has a default. With a field
  `every_epochs`, training calls its `monitor`; see `look_every`.

  Attributes:
    section: the name of its group of fields, of the class if not stated.
    key: the key of its figures in `results.json`, where it is not `section`.
    name: `key`, or `section` without one; the key that is used.
    heading: its heading in the report; its name in words if empty.
    modes: the values of `config.mode` in which it runs.
    accumulates: whether `run` returns groups of figures by name, and those of
      earlier runs stay beside them, such as fine-tuning on other labels.
    needs_training: whether it refuses networks that have learned nothing:
      `epochs=0` without `init_from`.
    ranks: the figure of `monitor` that tells the best checkpoint; larger is
      better.
    circumstances: keys of `run` that are no figures, such as the number of
      images, and hold for the untrained network as well.
  """

  key: ClassVar[str] = ""
  name: ClassVar[str] = ""
  heading: ClassVar[str] = ""
  modes: ClassVar[tuple[str, ...]] = ("train", "evaluate")
  accumulates: ClassVar[bool] = False
  needs_training: ClassVar[bool] = True
  ranks: ClassVar[str] = ""
  circumstances: ClassVar[tuple[str, ...]] = ()

  def __init_subclass__(cls, **options: Any) -> None:
    super().__init_subclass__(**options)
    cls.name = cls.key or cls.section

  @property
  def needs_labels(self) -> bool:
    """Whether `run` reads labels of `bench.experiment.labelled`."""
    return False

  def look_every(self) -> int | None:
    """Epochs between two calls of `monitor`, the first before training.

    Returns:
      The field `every_epochs`. 0, also without such a field, is after the last
      epoch alone. None is whenever another evaluation is due.
    """
    return getattr(self, "every_epochs", 0)

  def check_config(self, config: Any) -> None:
    """Likewise as `check`, of the config alone, before data are opened."""

  def check(self, bench: Any) -> None:
    """Raises UsageError before training for what `run` would refuse."""

  def monitor(self, bench: Any, state: Any) -> dict[str, float]:
    """Figures during training, to be logged; quick to compute."""
    del bench, state
    return {}

  def describe(self, figures: Mapping[str, float]) -> str:
    """Figures of `monitor` in a few words, for the terminal; or empty."""
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
        step 0, and that compares with that of `run`, `untrained` holds all
        that was logged then, and what `circumstances` names.

    Returns:
      Rows whose titles tell them apart; `results.json` keeps them.
    """

  @classmethod
  def curves(cls, figures: Mapping[str, Any]) -> dict[str, Curve]:
    """How the figures of `monitor` are drawn, by their names.

    Args:
      figures: of `run`; empty without any.

    Returns:
      Curves for the report. Figures that are not among them are drawn, too,
      under their names.
    """
    del figures
    return {}

  @classmethod
  def pictures(
    cls, figures: Mapping[str, Mapping[str, Any]]
  ) -> Sequence[Picture | str]:
    """Pictures for the report.

    Args:
      figures: those of `results.json` by the name of the run, of all runs of
        the report; empty for a run that has none.

    Returns:
      Pictures of each run, or of several in one, and sentences that stand
      above them; `drawing` has what pictures are drawn with.
    """
    del figures
    return []

  def draw(self, bench: Any, state: Any, axes: Any) -> bool:
    """Draws on matplotlib axes for `summary.png`; False if it drew nothing."""
    del bench, state, axes
    return False


def figures_of(
  kind: Evaluation | type[Evaluation], results: Mapping[str, Any]
) -> dict[str, Any]:
  """The figures of an evaluation.

  Args:
    kind: the evaluation, or its class.
    results: the content of `results.json`.

  Returns:
    The argument of `Evaluation.rows`; empty without figures.
  """
  found = (results.get("figures") or {}).get(kind.name)
  if not found and kind.accumulates:
    found = results.get(kind.name)
  if not found or not isinstance(found, dict):
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
  """The number of trainings behind the figures, and their length."""
  repetitions, epochs = figures.get("repetitions"), figures.get("epochs")
  plural = "" if repetitions == 1 else "s"
  return f"{repetitions} repetition{plural} of {epochs} epochs"
