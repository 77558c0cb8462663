"""Training curves, with several runs in one figure."""

from collections.abc import Sequence

from essl_jax.evaluation import guard
from essl_jax.evaluation.evaluation import Curve, Picture, figures_of
from essl_jax.report import figures
from essl_jax.report.evaluations import Known, ask
from essl_jax.report.parts import Section
from essl_jax.report.runs import Points, Run
from essl_jax.report.tables import union, words

# Figures that training logs with any parts; `loss_NAME` is the loss of a term.
_OF_TRAINING = {
  "loss": Curve("Total loss", "loss"),
  "loss_ssl": Curve("SSL loss", "loss"),
  "loss_online": Curve("Online classifier loss", "loss"),
  "online_top1": Curve("Online classifier top-1", "%"),
  "learning_rate": Curve("Learning rate", "rate"),
  "embedding_std": Curve("Standard deviation of unit-length embeddings"),
  "gradient_norm": Curve("Gradient norm", "norm", is_logarithmic=True),
}
_Drawn = tuple[Curve, int | None]
"""A curve, and the steps per epoch if its figures are per epoch."""


def write(runs: Sequence[Run], known: Known, notes: list[str]) -> Section:
  """Draws all numbers of `metrics-*.jsonl`, one figure each.

  Args:
    runs: runs in the order of the page.
    known: evaluations, which define how their figures are drawn.
    notes: gets a line for everything that cannot be shown.

  Returns:
    The section.
  """
  names = set().union(*(run.scalars() for run in runs))
  drawn = [_curves(run, known, notes) for run in runs]
  ordered = [name for name in union(drawn) if name in names]
  ordered += sorted(names.difference(ordered))
  texts = [] if ordered else ["No run has a training log."]
  shown = []
  for name in ordered:
    make = lambda name=name: [_figure(name, runs, drawn)]
    shown += ask(notes, f"the curve of {name}", make, [])
  return Section("Training", texts, figures=shown)


def _curves(run: Run, known: Known, notes: list[str]) -> dict[str, _Drawn]:
  """How to draw the figures of a run."""
  found: dict[str, _Drawn] = {
    name: (curve, None) for name, curve in _OF_TRAINING.items()
  }
  if run.spread_out is not None:
    level = "spread out", run.spread_out
    curve = _OF_TRAINING["embedding_std"]._replace(level=level)
    found["embedding_std"] = curve, None
  for kind in known.values():
    make = lambda kind=kind: guard.curves(kind, figures_of(kind, run.results))
    curves = ask(notes, f"{run.name}, curves of {kind.name}", make, {})
    for name, curve in curves.items():
      found[name] = curve, run.steps_per_epoch(name, kind.section)
  return found


def _figure(
  name: str, runs: Sequence[Run], drawn: Sequence[dict[str, _Drawn]]
) -> Picture:
  curve = Curve(words(name).capitalize())
  if name.startswith("loss_"):
    curve = Curve(f"{words(name[5:]).capitalize()} loss", "loss")
  lines: dict[str, Points] = {}
  levels, per_epoch = set(), {}
  for run, each in zip(runs, drawn, strict=True):
    if points := run.curve(name):
      lines[run.name] = points
      curve, per_epoch[run.name] = each.get(name, (curve, None))
      levels.add(curve.level)
  x = "step"
  if all(per_epoch.values()):
    x = "epoch"
    lines = {
      run: [(step / (per_epoch[run] or 1), value) for step, value in points]
      for run, points in lines.items()
    }
  levels -= {None}
  png = figures.curves(
    lines,
    [run.name for run in runs],
    x=x,
    y=curve.unit,
    reference=levels.pop() if len(levels) == 1 else None,
    is_logarithmic=curve.is_logarithmic,
  )
  told = "; ".join(f"{run}: {_describe(p, x)}" for run, p in lines.items())
  alt = f"{curve.title} ({curve.unit}) by {x}. {told}."
  return Picture(png, alt, curve.title)


def _describe(points: Points, x: str) -> str:
  """Describes the ends and the extremes of a curve in words."""
  (first, begin), (last, end) = points[0], points[-1]
  values = [value for _, value in points]
  return (
    f"{begin:.4g} at {x} {first:g}, {end:.4g} at {x} {last:g}, lowest"
    f" {min(values):.4g}, highest {max(values):.4g}"
  )
