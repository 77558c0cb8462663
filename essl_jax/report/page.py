"""Writes the whole page."""

import base64
from collections.abc import Iterator, Sequence
import functools

import jinja2

import essl_jax
from essl_jax.evaluation.evaluation import figures_of
from essl_jax.report import curves, evaluations, headline, sections, tables
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
  known, missing = evaluations.find(runs)
  heading = functools.partial(evaluations.heading, known)
  parts = [
    Section(
      "Results",
      [],
      [headline.table(runs, known)],
      tables.protocols(runs, heading),
    ),
    *_pictures(runs, known),
    curves.write(runs, known),
    sections.views(pairs),
    sections.neighbours(pairs),
    sections.embeddings(pairs),
    sections.spectrum(pairs),
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
  templates.filters["base64"] = lambda png: base64.b64encode(png).decode()
  return templates.get_template("page.html.j2").render(
    title=title,
    runs=runs,
    notes=[*_notes(pairs), *missing],
    sections=[part for part in parts if not part.is_empty],
    version=essl_jax.__version__,
  )


def _pictures(
  runs: Sequence[Run], known: evaluations.Known
) -> Iterator[Section]:
  """What evaluations have to show, each under its own heading."""
  for measure, kind in known.items():
    found = {run.name: figures_of(kind, run.results) for run in runs}
    if any(found.values()):
      shown = kind.pictures(found)
      yield Section(
        evaluations.heading(known, measure),
        [x for x in shown if isinstance(x, str)],
        figures=[x for x in shown if not isinstance(x, str)],
      )


def _notes(pairs: Sequence[tuple[Run, Samples]]) -> Iterator[str]:
  """What is not on the page and why, one line a run."""
  for run, samples in pairs:
    missing = "; ".join(filter(None, (*run.notes, samples.missing)))
    if missing:
      yield f"{run.name}: {missing}"
