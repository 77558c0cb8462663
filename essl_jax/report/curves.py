"""The curves of a training, several runs over each other."""

from collections.abc import Sequence

from essl_jax.report import figures
from essl_jax.report.parts import Figure, Section
from essl_jax.report.runs import Points, Run

# Title and unit.
_TITLES = {
  "loss": ("Total loss", "loss"),
  "loss_ssl": ("SSL loss", "loss"),
  "loss_equivariance": ("Transformation prediction loss", "loss"),
  "loss_online": ("Online classifier loss", "loss"),
  "equivariance_accuracy": ("Transformation prediction accuracy", "%"),
  "online_top1": ("Online classifier top-1", "%"),
  "knn_top1": ("kNN top-1", "%"),
  "knn_top5": ("kNN top-5", "%"),
  "learning_rate": ("Learning rate", "rate"),
  "embedding_std": ("Standard deviation of unit-length embeddings", "value"),
  "gradient_norm": ("Gradient norm", "norm"),
  "feature_std": ("Standard deviation of unit-length features", "value"),
  "effective_rank": ("Effective rank of features", "rank"),
  "rankme": ("RankMe of features", "rank"),
  "uniformity": ("Uniformity of features", "value"),
}
_LOGARITHMIC = ("gradient_norm",)


def write(runs: Sequence[Run]) -> Section:
  """All numbers of `metrics.jsonl`, one figure each."""
  names = set().union(*(run.scalars() for run in runs))
  ordered = [name for name in _TITLES if name in names]
  ordered += sorted(names - set(_TITLES))
  texts = [] if ordered else ["No run has a training log."]
  drawn = [_curve(name, runs) for name in ordered]
  return Section("Training", texts, figures=drawn)


def _curve(name: str, runs: Sequence[Run]) -> Figure:
  title, unit = _TITLES.get(name, (name.replace("_", " "), "value"))
  lines = {run.name: run.curve(name) for run in runs if run.curve(name)}
  x = "step"
  if name.startswith("knn_"):
    each = {run.name: run.steps_per_epoch() for run in runs}
    if all(each[run] for run in lines):
      x = "epoch"
      lines = {
        run: [(step / (each[run] or 1), value) for step, value in points]
        for run, points in lines.items()
      }
  png = figures.curves(
    lines,
    [run.name for run in runs],
    x=x,
    y=unit,
    reference=_reference(name, runs),
    is_logarithmic=name in _LOGARITHMIC,
  )
  told = "; ".join(f"{run}: {_describe(p, x)}" for run, p in lines.items())
  return Figure(png, f"{title} ({unit}) by {x}. {told}.", title)


def _describe(points: Points, x: str) -> str:
  """The ends and the extremes of a curve in words."""
  (first, begin), (last, end) = points[0], points[-1]
  values = [value for _, value in points]
  return (
    f"{begin:.4g} at {x} {first:g}, {end:.4g} at {x} {last:g}, lowest"
    f" {min(values):.4g}, highest {max(values):.4g}"
  )


def _reference(name: str, runs: Sequence[Run]) -> tuple[str, float] | None:
  """A level to compare with, where it is the same for all runs."""
  levels = set()
  for run in runs:
    if not run.curve(name):
      continue
    widths = run.config.get("projector", {}).get("widths")
    elements = run.figures("transformation").get("per_element")
    if name == "embedding_std" and widths:
      levels.add(("spread out", widths[-1] ** -0.5))
    elif name == "equivariance_accuracy" and elements:
      levels.add(("chance", 100 / len(elements)))
  return levels.pop() if len(levels) == 1 else None
