"""The page as a whole."""

from collections.abc import Iterator, Sequence

import jinja2

import essl_jax
from essl_jax.report import curves, headline, sections, tables
from essl_jax.report.parts import Section
from essl_jax.report.runs import Run
from essl_jax.report.samples import Samples


def write(runs: Sequence[Run], found: Sequence[Samples]) -> str:
  """The page of some runs.

  Args:
    runs: at least one.
    found: what `samples.collect` has of each.

  Returns:
    A whole HTML document that needs nothing else.
  """
  title = f"Report of {runs[0].name}"
  if len(runs) > 1:
    title = f"Report of {len(runs)} runs"
  pairs = list(zip(runs, found, strict=True))
  parts = [
    Section("Results", [], [headline.table(runs)], tables.protocols(runs)),
    sections.densities(runs),
    curves.write(runs),
    sections.views(pairs),
    sections.confusions(pairs),
    sections.neighbours(pairs),
    sections.embeddings(pairs),
    sections.collapse(pairs),
    tables.configs(runs),
    tables.environments(runs),
  ]
  templates = jinja2.Environment(
    loader=jinja2.PackageLoader("essl_jax.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return templates.get_template("page.html.j2").render(
    title=title,
    runs=runs,
    notes=list(_notes(pairs)),
    sections=[part for part in parts if not part.is_empty],
    version=essl_jax.__version__,
  )


def _notes(pairs: Sequence[tuple[Run, Samples]]) -> Iterator[str]:
  """What is not on the page and why, one line a run."""
  for run, samples in pairs:
    missing = "; ".join(filter(None, (*run.notes, samples.missing)))
    if missing:
      yield f"{run.name}: {missing}"
