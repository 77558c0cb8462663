"""The interface of an evaluation, and how its figures are shown."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from essl_jax.config.parts import Part


class Row(NamedTuple):
  """A figure as shown in the terminal, in results and in the report.

  Attributes:
    title: name of the figure.
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
    alt: description for readers who cannot see it.
    caption: text above the picture.
  """

  png: bytes
  alt: str
  caption: str = ""


class Curve(NamedTuple):
  """How a figure of the training log is drawn.

  Attributes:
    title: name of the figure.
    unit: label of the vertical axis; figures in "%" are in `summary.png`.
    level: name and height of a reference line.
    is_logarithmic: whether the vertical axis is logarithmic.
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
    section: the name of its group of fields; by default the class name.
    key: the key of its figures in `results.json`, if not `section`.
    name: the key that is used: `key` if set, else `section`.
    heading: its heading in the report; if empty, its name in words.
    modes: the values of `config.mode` in which it runs.
    accumulates: whether `run` returns groups of figures by name that are added
      to those of earlier runs, such as fine-tuning on other labels.
    needs_training: whether it refuses untrained networks: `epochs=0` without
      `init_from`.
    ranks: the figure of `monitor` that selects the best checkpoint; larger is
      better.
    circumstances: keys of `run` that are settings, not figures, such as the
      number of images, and also apply to the untrained network.
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
      The field `every_epochs`. 0, also the default without such a field, means
      only after the last epoch. None means whenever another evaluation is due.
    """
    return getattr(self, "every_epochs", 0)

  def check_config(self, config: Any) -> None:
    """Like `check`, but only of the config, before data are opened."""

  def check(self, bench: Any) -> None:
    """Raises UsageError before training if `run` could not work."""

  def monitor(self, bench: Any, state: Any) -> dict[str, float]:
    """Figures to log during training; must be quick to compute."""
    del bench, state
    return {}

  def describe(self, figures: Mapping[str, float]) -> str:
    """The figures of `monitor` in a few words for the terminal; may be ""."""
    del figures
    return ""

  @abc.abstractmethod
  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """Measures all figures of a state.

    Args:
      bench: `bench.Bench`: the experiment, its images and their features.
      state: the `TrainState` to measure; all processes call this.

    Returns:
      Figures and their protocol: values that JSON can hold, and arrays. None if
      the evaluation does not apply.
    """

  @abc.abstractmethod
  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """How to show the figures in the terminal and in the report.

    Args:
      figures: from `run`. If training logged the figure `ranks` at step 0,
        comparable with that of `run`, `untrained` has all figures logged then,
        and those that `circumstances` names.

    Returns:
      Rows with different titles; `results.json` keeps them.
    """

  @classmethod
  def curves(cls, figures: Mapping[str, Any]) -> dict[str, Curve]:
    """How to draw the figures of `monitor`, by their names.

    Args:
      figures: from `run`; may be empty.

    Returns:
      Curves for the report. Other figures are drawn too, under their names.
    """
    del figures
    return {}

  @classmethod
  def pictures(
    cls, figures: Mapping[str, Mapping[str, Any]]
  ) -> Sequence[Picture | str]:
    """Pictures for the report.

    Args:
      figures: for every run of the report, by its name, its figures in
        `results.json`; may be empty.

    Returns:
      Pictures of one run or several, and sentences to show above them.
      `drawing` has tools to draw pictures.
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
  """The figures of an evaluation in the results of a run.

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
  """A figure in percent, followed by `<name>_std` if there is one."""
  value, deviation = figures.get(name), figures.get(f"{name}_std")
  if value is None:
    return "–"
  return f"{value:.2f}%" + ("" if deviation is None else f" ± {deviation:.2f}")


def count(figures: Mapping[str, Any], name: str) -> str:
  """A count with thousands separators."""
  return f"{figures[name]:,}" if name in figures else "?"


def lengths(figures: Mapping[str, Any]) -> str:
  """The number of trainings behind the figures and their length."""
  repetitions, epochs = figures.get("repetitions"), figures.get("epochs")
  plural = "" if repetitions == 1 else "s"
  return f"{repetitions} repetition{plural} of {epochs} epochs"
