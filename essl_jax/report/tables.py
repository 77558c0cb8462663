"""Tables of runs side by side: figures, protocols, circumstances."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
import re
from typing import Any

from essl_jax.report.markup import Html, details, join, table, tag
from essl_jax.report.runs import Run
from essl_jax.storage.workdir import dotted

Cells = dict[str, tuple[str, str]]
"""By the row's heading: the figure, and its protocol in a few words."""

_DRAWN = ("confusion", "samples")  # too long for a table, and drawn
_ABSENT = "–"
_TITLES = {"knn": "kNN", "transformation": "the recognised transformations"}


def figures(runs: Sequence[Run]) -> Html:
  """The figures of all runs, each with its protocol."""
  columns = [_headline(run) for run in runs]
  rows = []
  for name in _union(columns):
    values = [column.get(name, (_ABSENT, "")) for column in columns]
    cells = [
      tag("td", value, tag("small", note) if note else "")
      for value, note in values
    ]
    rows.append((name, cells))
  head = ["Figure", *(run.name for run in runs)]
  return table("Figures of each run; below each its protocol", head, rows)


def protocols(runs: Sequence[Run]) -> Html:
  """All that `results.json` says of each measure, folded away."""
  found = []
  for measure in _union([run.results.get("figures", {}) for run in runs]):
    trees = [_without_drawn(run.figures(measure)) for run in runs]
    title = f"All of {_TITLES.get(measure, _words(measure))}"
    title += ", with its protocol"
    found.append(details(title, side_by_side(title, runs, trees)))
  return join(found)


def numbers(title: str, runs: Sequence[Run], measure: str) -> Html:
  """The numbers of a measure, by name; nothing where no run has it."""
  trees = [_without_drawn(run.figures(measure)) for run in runs]
  return side_by_side(title, runs, trees) if any(trees) else Html()


def environments(runs: Sequence[Run]) -> Html:
  """Versions, devices and commit."""
  trees = [run.results.get("environment", {}) for run in runs]
  return side_by_side("Environment of the last evaluation", runs, trees)


def configs(runs: Sequence[Run]) -> Html:
  """Where the configs differ, and all of them folded away."""
  trees = [run.config for run in runs]
  title = "Config of each run"
  whole = details("The whole config", side_by_side(title, runs, trees))
  if len(runs) == 1:
    return whole
  title = "Fields of the config in which the runs differ"
  differing = side_by_side(title, runs, trees, only_differences=True)
  if not differing:
    differing = tag("p", "The runs have the same config.")
  return join([differing, whole])


def side_by_side(
  title: str,
  runs: Sequence[Run],
  trees: Sequence[Mapping[str, Any]],
  *,
  only_differences: bool = False,
) -> Html:
  """Nested values of all runs by dotted name, differences marked.

  Args:
    title: of the table.
    runs: one a column.
    trees: nested values of each.
    only_differences: leaves the equal ones out.

  Returns:
    The table; nothing where no row is left.
  """
  columns = [dotted(tree) for tree in trees]
  rows = []
  for name in _union(columns):
    texts = [show(c[name]) if name in c else _ABSENT for c in columns]
    differs = len(set(texts)) > 1
    if only_differences and not differs:
      continue
    marked = differs and not only_differences
    cells = [tag("td", x, class_="differs" if marked else None) for x in texts]
    mark = tag("abbr", "≠ ", title="the runs differ") if marked else ""
    rows.append((join([mark, name]), cells))
  if not rows:
    return Html()
  return table(title, ["Name", *(run.name for run in runs)], rows)


def show(value: Any) -> str:
  """A value in a few characters."""
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, list | tuple):
    return ", ".join(map(show, value)) or "none"
  if value is None:
    return "none"
  return value if isinstance(value, str) else json.dumps(value)


def _headline(run: Run) -> Cells:
  """The figures worth comparing."""
  cells: Cells = {}
  known: dict[str, Callable[[Mapping[str, Any]], Cells]] = {
    "knn": lambda found: _knn(found, run.results.get("untrained") or {}),
    "linear_probe": _linear_probe,
    "transformation": _transformation,
    "regression": _regression,
    "collapse": _collapse,
    "symmetry": _symmetry,
  }
  for measure in _union([known, run.results.get("figures", {})]):
    found = run.figures(measure)
    if found:
      cells |= known.get(measure, lambda x, m=measure: _others(m, x))(found)
  return cells | _finetuned(run) | _training(run)


def _knn(found: Mapping[str, Any], untrained: Mapping[str, Any]) -> Cells:
  def note(from_: Mapping[str, Any]) -> str:
    return (
      f"k {show(from_.get('k'))}, temperature"
      f" {show(from_.get('temperature'))}, bank {_count(from_, 'bank_size')},"
      f" {_count(from_, 'num_queries')} test images"
    )

  cells: Cells = {}
  for name, value in found.items():
    if name.startswith("knn_"):
      title = re.sub(r"top(\d+)_k(\d+)", r"top-\1, k \2", name[4:])
      title = "kNN " + re.sub(r"top(\d+)$", r"top-\1", title)
      if name in untrained:
        before = _percent(untrained[name]), note(untrained)
        cells[f"{title}, before training"] = before
      cells[title] = _percent(value), note(found)
  return cells


def _linear_probe(found: Mapping[str, Any]) -> Cells:
  note = (
    f"{found.get('protocol')} protocol, {found.get('repetitions')} ×"
    f" {found.get('epochs')} epochs, {_count(found, 'num_test')} test images"
  )
  return {
    f"Linear probe top-{k}": (_spread(found, f"linear_top{k}"), note)
    for k in (1, 5)
    if f"linear_top{k}" in found
  }


def _transformation(found: Mapping[str, Any]) -> Cells:
  elements = len(found.get("per_element", [])) or 1
  note = (
    f"{found.get('group')}, chance {100 / elements:.1f}%,"
    f" {_count(found, 'images')} test images"
  )
  value = _percent(found.get("transformation_accuracy"))
  return {"Transformation recognised": (value, note)}


def _regression(found: Mapping[str, Any]) -> Cells:
  note = (
    f"{found.get('repetitions')} × {found.get('epochs')} epochs,"
    f" {_count(found, 'num_test')} test cells"
  )
  cells: Cells = {}
  for count, errors in found.get("by_labelled", {}).items():
    for name, title in (
      ("dos_error", "epoch chosen on validation"),
      ("dos_error_minimum_over_test", "minimum over test epochs"),
    ):
      row = f"DOS error, {int(count):,} labelled cells, {title}"
      cells[row] = _spread(errors, name), note
  if "dos_error_of_free_space" in found:
    value = _percent(found["dos_error_of_free_space"])
    cells["DOS error of predicting free space"] = value, ""
  return cells


def _collapse(found: Mapping[str, Any]) -> Cells:
  note = f"{_count(found, 'images')} test images"
  sphere = found.get("feature_std_of_sphere")
  titles = {
    "feature_std": ("Deviation of features", f"{show(sphere)} on a sphere"),
    "effective_rank": ("Effective rank", f"of {show(found.get('width'))}"),
    "rankme": ("RankMe", f"of {show(found.get('width'))}"),
    "alignment": ("Alignment", "0 is best"),
    "uniformity": ("Uniformity", "lower is better"),
  }
  return {
    title: (show(found[name]), f"{scale}, {note}")
    for name, (title, scale) in titles.items()
    if name in found
  }


def _symmetry(found: Mapping[str, Any]) -> Cells:
  cells: Cells = {}
  for group, measures in found.items():
    name = _words(group)
    for measure, title, reference in (
      ("cosine", "cosine to the transformed image", "cosine_other_images"),
      ("equivariance_r2", "R² of a linear map", "identity_r2"),
    ):
      if measure in measures:
        than = "other images" if measure == "cosine" else "no map"
        note = f"{show(measures.get(reference))} for {than}"
        cells[f"Under {name}: {title}"] = show(measures[measure]), note
    if "readout_accuracy" in measures:
      note = f"chance {show(measures.get('chance'))}%"
      value = _percent(measures["readout_accuracy"])
      cells[f"Under {name}: linear read-out of the element"] = value, note
  return cells


def _others(measure: str, found: Mapping[str, Any]) -> Cells:
  """The numbers of a measure that this file does not know."""
  return {
    f"{_words(measure).capitalize()}: {_words(name)}": (show(value), "")
    for name, value in dotted(_without_drawn(found)).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }


def _finetuned(run: Run) -> Cells:
  return {
    f"Fine-tuned on {name} of the labels, top-1": (
      _percent(found.get("finetune_top1")),
      f"{_count(found, 'num_train')} images, {found.get('epochs')} epochs",
    )
    for name, found in (run.results.get("finetune") or {}).items()
  }


def _training(run: Run) -> Cells:
  found = run.results.get("training") or {}
  device = run.results.get("environment", {})
  note = f"{device.get('device_count')} × {device.get('device_kind')}"
  cells: Cells = {}
  for name, title in (
    ("source_images_per_second", "Training speed, source images/s"),
    ("encoder_images_per_second", "Training speed, images/s in the encoder"),
    ("wall_seconds", "Training time, s"),
  ):
    if found.get(name) is not None:
      cells[title] = f"{found[name]:,.0f}", note
  deviation = (found.get("last_step") or {}).get("embedding_std")
  if deviation is not None:
    width = (run.config.get("projector", {}).get("widths") or [1])[-1]
    note = f"{width**-0.5:.4f} spread over the sphere, 0 collapsed"
    cells["Deviation of the last embeddings"] = f"{deviation:.4f}", note
  if "step" in run.results:
    cells["Step of the figures"] = f"{run.results['step']:,}", ""
  return cells


def _spread(found: Mapping[str, Any], name: str) -> str:
  deviation = found.get(f"{name}_std")
  text = _percent(found.get(name))
  return text if deviation is None else f"{text} ± {deviation:.2f}"


def _percent(value: Any) -> str:
  return _ABSENT if value is None else f"{value:.2f}%"


def _count(found: Mapping[str, Any], name: str) -> str:
  return f"{found[name]:,}" if name in found else "?"


def _words(name: str) -> str:
  return name.replace("_", " ")


def _without_drawn(tree: Mapping[str, Any]) -> dict[str, Any]:
  return {name: tree[name] for name in tree if name not in _DRAWN}


def _union(columns: Sequence[Iterable[str]]) -> list[str]:
  """All names; one that only a later column has follows its neighbour there."""
  names: list[str] = []
  for column in columns:
    place = 0
    for name in column:
      if name not in names:
        names.insert(place, name)
      place = names.index(name) + 1
  return names
