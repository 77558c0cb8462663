"""HTML elements, with every text escaped."""

import base64
from collections.abc import Iterable, Sequence
import html
from typing import Any

_VOID = ("img", "meta")


class Html(str):
  """Text that is HTML already."""


def join(parts: Iterable[Any]) -> Html:
  """Puts parts after each other; what is not `Html` is escaped."""
  return Html(
    "".join(x if isinstance(x, Html) else html.escape(str(x)) for x in parts)
  )


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
  """One element.

  Args:
    name: of the element.
    *children: texts and elements in it.
    **attributes: `class_` stands for class, `aria_label` for aria-label; one
      of None is left out.

  Returns:
    The element.
  """
  written = "".join(
    f' {key.strip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  if name in _VOID:
    return Html(f"<{name}{written}>")
  return Html(f"<{name}{written}>{join(children)}</{name}>")


def image(png: bytes, alt: str, **attributes: Any) -> Html:
  """A picture inside the page.

  Args:
    png: the file.
    alt: what it shows, for those who do not see it.
    **attributes: of the element.

  Returns:
    The element.
  """
  address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
  return tag("img", src=address, alt=alt, **attributes)


def figure(png: bytes, alt: str, caption: Any) -> Html:
  """A picture with a caption."""
  return tag("figure", tag("figcaption", caption), image(png, alt))


def table(
  caption: Any,
  head: Sequence[Any],
  rows: Sequence[tuple[Any, Sequence[Any]]],
  **attributes: Any,
) -> Html:
  """A table that scrolls in its own box where the window is narrow.

  Args:
    caption: above it.
    head: headings of all columns.
    rows: heading and cells of each; a cell that is a `td` stays as it is.
    **attributes: of the element.

  Returns:
    The box.
  """
  headings = [tag("th", text, scope="col") for text in head]
  lines = [
    tag(
      "tr",
      tag("th", heading, scope="row"),
      *(
        x if isinstance(x, Html) and x.startswith("<td") else tag("td", x)
        for x in cells
      ),
    )
    for heading, cells in rows
  ]
  whole = tag(
    "table",
    tag("caption", tag("span", caption)),
    tag("thead", tag("tr", *headings)),
    tag("tbody", *lines),
    **attributes,
  )
  # A box that scrolls has to be reached by the keyboard.
  return tag("div", whole, class_="scroll", tabindex="0")


def details(summary: Any, *children: Any) -> Html:
  """Something folded away."""
  return tag("details", tag("summary", summary), *children)


def anchor(title: str) -> str:
  """The address of a section within the page."""
  return title.lower().replace(" ", "-")


def section(title: str, body: Html) -> Html:
  """A part of the page under a heading."""
  address = anchor(title)
  return tag(
    "section",
    tag("h2", title, id=address),
    body,
    aria_labelledby=address,
  )
