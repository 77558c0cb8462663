"""What the site does beyond MkDocs: pages and links from outside of `docs/`.

Links in the repository's Markdown are those of files beside each other, so
that they work where the repository is browsed. In the site, what they lead to
becomes a page too: other Markdown files, code, folders, pictures. `recipes.md`
gets the docstrings of all recipes, and notebooks become Markdown.
"""

import ast
import base64
from collections.abc import Iterator
import json
import os
import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages of the navigation that no other page needs to link to.
ALSO = ("experiments/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LANGUAGES = {
  ".py": "python",
  ".sh": "bash",
  ".sbatch": "bash",
  ".yaml": "yaml",
  ".yml": "yaml",
  ".cfg": "ini",
  ".toml": "toml",
  ".json": "json",
}
PICTURES = (".png", ".svg", ".webp")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
_LONGEST = 40_000  # characters of a file that a folder's page shows


def on_config(config: Any) -> Any:
  """Notebooks are pages, where they are there."""
  config.nav = with_notebooks(config.nav)
  return config


def with_notebooks(nav: list[Any]) -> list[Any]:
  """The navigation with notebooks as pages; missing ones are left out."""
  found = []
  for entry in nav:
    if isinstance(entry, dict):
      ((title, target),) = entry.items()
      if isinstance(target, list):
        entry = {title: with_notebooks(target)}
      elif target.endswith(".ipynb"):
        if not (DOCS / target).exists():
          continue
        entry = {title: f"{target.removesuffix('.ipynb')}.md"}
    found.append(entry)
  return found


def on_files(files: Files, *, config: Any) -> Files:
  """Adds what the pages link to."""
  waiting = [ROOT / name for name in ALSO]
  for notebook in sorted(DOCS.rglob("*.ipynb")):
    name = str(notebook.relative_to(DOCS))
    if name in files.src_uris:
      files.remove(files.src_uris[name])
    for path, content in notebook_pages(notebook):
      files.append(File.generated(config, path, content=content))
      if isinstance(content, str):
        waiting += _links(content, notebook)
  waiting += [DOCS / x.src_uri for x in files if x.src_uri.endswith(".md")]
  seen: set[pathlib.Path] = set()
  while waiting:
    path = waiting.pop()
    if path in seen:
      continue
    seen.add(path)
    if (uri := _uri(path)) not in files.src_uris and path.exists():
      files.append(_page(path, uri, config))
    if path.suffix == ".md" and path.exists():
      waiting += _links(path.read_text("utf-8"), path)
  return files


def on_page_markdown(markdown: str, *, page: Any, **rest: Any) -> str:
  """Makes links those of the site."""
  if page.file.src_uri == "recipes.md":
    markdown = f"{markdown}\n{_recipes()}"
  if page.file.src_uri == "CHANGELOG.md":  # it has every word
    page.meta["search"] = {"boost": 0.1}
  path = _source(page.file.src_uri)

  def relative(match: re.Match[str]) -> str:
    target = match[1]
    if _is_elsewhere(target):
      return match[0]
    name, _, anchor = target.partition("#")
    uri = _uri(_resolve(path, name))
    found = os.path.relpath(uri, os.path.dirname(page.file.src_uri) or ".")
    return f"]({found}{'#' if anchor else ''}{anchor})"

  parts = _FENCE.split(markdown)
  return "".join(
    x if i % 2 else _LINK.sub(relative, x) for i, x in enumerate(parts)
  )


def _is_elsewhere(target: str) -> bool:
  return target.startswith(("http:", "https:", "mailto:", "#"))


def _source(uri: str) -> pathlib.Path:
  """The file of the repository that a page of the site is made of."""
  is_there = any(
    (DOCS / uri).with_suffix(x).exists() for x in (".md", ".ipynb")
  )
  return DOCS / uri if is_there else ROOT / uri


def _resolve(path: pathlib.Path, name: str) -> pathlib.Path:
  return pathlib.Path(os.path.normpath(path.parent / name))


def _links(text: str, path: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files and folders that the text of a file links to."""
  for target in _LINK.findall(_FENCE.sub("", text)):
    if not _is_elsewhere(target):
      yield _resolve(path, target.partition("#")[0])


def _uri(path: pathlib.Path) -> str:
  """Where the site has a file or folder of the repository."""
  if path == ROOT / "README.md":
    return "index.md"
  inside = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT)
  if path.is_dir():
    return str(inside / "index.md")
  if path.suffix == ".ipynb":
    return str(inside.with_suffix(".md"))
  if path.suffix == ".md" or path.suffix in PICTURES:
    return str(inside)
  return f"{inside}.md"


def _page(path: pathlib.Path, uri: str, config: Any) -> File:
  """A file or folder of the repository as a file of the site."""
  if path.suffix == ".md" or path.suffix in PICTURES:
    made: dict[str, Any] = {"abs_src_path": str(path)}
  elif path.is_dir():
    made = {"content": _of_folder(path)}
  else:
    title = f"{_NOT_SEARCHED}# {path.relative_to(ROOT)}\n\n"
    made = {"content": title + _block(path)}
  level = InclusionLevel.NOT_IN_NAV
  return File.generated(config, uri, inclusion=level, **made)


_NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def _of_folder(folder: pathlib.Path) -> str:
  """A page of the files in a folder, with the text of those that are code."""
  lines = [f"{_NOT_SEARCHED}# {folder.relative_to(ROOT)}/\n"]
  shown = []
  for path in sorted(folder.iterdir()):
    if path.is_dir() or path.name.startswith("."):
      continue
    lines.append(f"- `{path.name}`")
    is_text = path.suffix in LANGUAGES or not path.suffix
    if path.suffix != ".json" and is_text:
      shown.append(f"\n## {path.name}\n\n{_block(path)}")
  return "\n".join([*lines, *shown])


def _block(path: pathlib.Path) -> str:
  text = path.read_text("utf-8")[:_LONGEST].rstrip()
  return f"````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"


def _recipes() -> str:
  """What the recipes say of themselves."""
  sections = []
  for path in sorted((ROOT / "configs").glob("*.py")):
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    title, _, rest = (text or "").partition("\n")
    sections.append(
      f"### {path.stem}\n\n{title}\n\n````text\n{rest.strip()}\n````\n"
    )
  return "\n".join(sections)


def notebook_pages(path: pathlib.Path) -> Iterator[tuple[str, str | bytes]]:
  """A notebook as a page, and its pictures: names in the site and contents."""
  name = str(path.relative_to(DOCS).with_suffix(""))
  lines, pictures = [], 0
  for cell in json.loads(path.read_text("utf-8"))["cells"]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
      lines.append(source)
    elif cell["cell_type"] == "code":
      lines.append(f"````python\n{source}\n````")
      for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
          pictures += 1
          picture = f"{name}-{pictures}.png"
          png = "".join(data["image/png"])
          yield picture, base64.b64decode(png)
          lines.append(f"![Output]({pathlib.PurePosixPath(picture).name})")
          continue
        text = "".join(output.get("text") or data.get("text/plain", ""))
        if text.strip():
          lines.append(f"````text\n{text.rstrip()}\n````")
  yield f"{name}.md", "\n\n".join(lines)
