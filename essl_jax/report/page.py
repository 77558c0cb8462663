"""The page as a whole."""

from collections.abc import Sequence

import essl_jax
from essl_jax.report import curves, sections, tables
from essl_jax.report.markup import Html, anchor, join, section, tag
from essl_jax.report.runs import Run
from essl_jax.report.samples import Samples

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 0 1rem 3rem; max-width: 80rem; color: #1a1a1a;
  background: #fff; font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { line-height: 1.2; margin: 1.5rem 0 .5rem; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .25rem;
  border-bottom: 2px solid #0072b2; }
p, li { max-width: 48rem; }
a { color: #00558a; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0;
  list-style: none; }
.notes { padding: .5rem 1rem; background: #fff4d6;
  border-left: 4px solid #8a6100; }
.notes ul { margin: 0; padding-left: 1.25rem; }
.grid { display: grid; gap: 1.5rem; align-items: end;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; max-width: 36rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption, caption { color: #333; text-align: left; }
figcaption { margin-bottom: .25rem; }
caption { padding: .5rem 0; font-weight: 600; }
/* A long caption stays in the window where its table does not. */
caption span { display: inline-block; position: sticky; left: 0;
  max-width: min(48rem, calc(100vw - 2rem)); }
code { white-space: nowrap; }
.scroll { overflow-x: auto; margin: 0 0 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: .35rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ccc; }
td { min-width: 7rem; max-width: 24rem; overflow-wrap: anywhere; }
thead th { background: #eef3f7; overflow-wrap: anywhere; min-width: 5rem; }
tbody th { font-weight: 500; max-width: 18rem; }
small { display: block; color: #444; line-height: 1.3; }
.differs { background: #fff4d6; }
abbr { text-decoration: none; }
.pictures th, .pictures td { padding: .3rem .4rem; min-width: 4.5rem; }
.pictures thead th { font-size: .8rem; min-width: 5.5rem; max-width: 7rem;
  overflow-wrap: normal; }
.pictures img { width: 4.5rem; height: 4.5rem; object-fit: contain;
  display: block; image-rendering: pixelated; }
.right img { outline: 3px solid #00785a; }
.wrong img { outline: 3px dashed #b3261e; }
.right small { color: #005a43; }
.wrong small { color: #9c1c15; }
.pictures td small { margin-top: .3rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .25rem 0; color: #00558a; }
@media (max-width: 40rem) {
  th, td { padding: .3rem .4rem; }
  tbody th { max-width: 8rem; overflow-wrap: anywhere; hyphens: auto; }
  td, thead th { min-width: 5.5rem; }
  caption span { max-width: calc(100vw - 3rem); }
}
footer { margin-top: 3rem; color: #444; font-size: .9rem; }
"""


def write(runs: Sequence[Run], found: Sequence[Samples]) -> str:
  """The page of some runs.

  Args:
    runs: at least one.
    found: what `samples.collect` has of each.

  Returns:
    A whole HTML document that needs nothing else.
  """
  title = f"{runs[0].name}: report of a run"
  if len(runs) > 1:
    title = f"Report of {len(runs)} runs"
  pairs = list(zip(runs, found, strict=True))
  parts = {
    "Figures": join([tables.figures(runs), tables.protocols(runs)]),
    "Density of states": sections.densities(runs),
    "Training": curves.write(runs),
    "Views": sections.views(pairs),
    "Transformation head": sections.confusions(pairs),
    "Nearest neighbours": sections.neighbours(pairs),
    "Embedding": sections.embeddings(pairs),
    "Collapse": sections.collapse(runs, found),
    "Config": tables.configs(runs),
    "Environment": tables.environments(runs),
  }
  parts = {title: body for title, body in parts.items() if body}
  head = tag(
    "head",
    tag("meta", charset="utf-8"),
    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
    tag("title", title),
    tag("style", Html(_STYLE)),
  )
  footer = (
    f"Written by python -m essl_jax.report of essl_jax {essl_jax.__version__}."
  )
  body = tag(
    "body",
    tag("header", tag("h1", title), _workdirs(runs), _notes(pairs)),
    _contents(list(parts)),
    tag("main", *(section(*part) for part in parts.items())),
    tag("footer", tag("p", footer)),
  )
  return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _workdirs(runs: Sequence[Run]) -> Html:
  lines = [
    tag("li", tag("strong", run.name), f" in {run.path}") for run in runs
  ]
  return tag("ul", *lines)


def _notes(pairs: Sequence[tuple[Run, Samples]]) -> Html:
  """What is not on the page and why, one line a run."""
  lines = []
  for run, samples in pairs:
    missing = "; ".join(filter(None, (*run.notes, samples.missing)))
    if missing:
      lines.append(tag("li", f"{run.name}: {missing}"))
  return tag("div", tag("ul", *lines), class_="notes") if lines else Html()


def _contents(titles: Sequence[str]) -> Html:
  links = [
    tag("li", tag("a", title, href=f"#{anchor(title)}")) for title in titles
  ]
  return tag("nav", tag("ul", *links), aria_label="Contents")
