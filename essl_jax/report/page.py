"""Writes the whole page."""

import base64
from collections.abc import Callable, Iterator, Sequence
import functools

import jinja2

import essl_jax
from essl_jax.evaluation import guard
from essl_jax.evaluation.evaluation import figures_of
from essl_jax.report import curves, evaluations, headline, sections, tables
from essl_jax.report.parts import Section
from essl_jax.report.runs import Run
from essl_jax.report.samples import Samples


def write(
  runs: Sequence[Run],
  found: Sequence[Samples],
  tell: Callable[[str], None] = lambda line: None,
) -> str:
  """Writes the page of several runs.

  Args:
    runs: at least one.
    found: the result of `samples.collect` for each run.
    tell: called with a line for everything that cannot be shown; the page has
      the same lines.

  Returns:
    A self-contained HTML document.
  """
  title = f"Report of {runs[0].name}"
  if len(runs) > 1:
    title = f"Report of {len(runs)} runs"
  pairs = list(zip(runs, found, strict=True))
  known, missing = evaluations.find(runs)
  missing += [f"{run.name}: {note}" for run in runs for note in run.notes]
  heading = functools.partial(evaluations.heading, known)
  parts = [
    Section(
      "Results",
      [],
      [headline.table(runs, known, missing)],
      tables.protocols(runs, heading),
    ),
    *_pictures(runs, known, missing),
    curves.write(runs, known, missing),
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
  for line in missing:
    tell(line)
  written = templates.get_template("page.html.j2").render(
    title=title,
    runs=runs,
    notes=[
      *(f"{run.name}: {x.missing}" for run, x in pairs if x.missing),
      *missing,
    ],
    sections=[part for part in parts if not part.is_empty],
    version=essl_jax.__version__,
  )
  # Names may contain any bytes.
  return written.encode("utf-8", "replace").decode()


def _pictures(
  runs: Sequence[Run], known: evaluations.Known, notes: list[str]
) -> Iterator[Section]:
  """The pictures of evaluations, each under its own heading."""
  for measure, kind in known.items():
    found = {run.name: figures_of(kind, run.results) for run in runs}
    if any(found.values()):
      make = lambda kind=kind, found=found: guard.pictures(kind, found)
      shown = evaluations.ask(notes, f"pictures of {measure}", make, [])
      yield Section(
        evaluations.heading(known, measure),
        [x for x in shown if isinstance(x, str)],
        figures=[x for x in shown if not isinstance(x, str)],
      )
