"""Reads pages of `essl_jax.report`, and opens them in Chromium."""

import html.parser
import json
import re
import shutil
import subprocess

from essl_jax.report import __main__ as program

_VOID = ("img", "meta")
# Put into a copy of the page: the page itself runs no script.
_LOOK = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(x => { x.open = true; });
  const images = [...document.images];
  const found = {
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    images: images.length,
    broken: images.filter(x => !x.complete || !x.naturalWidth).length};
  document.title = "FOUND" + JSON.stringify(found);
  parent.postMessage(document.title, "*");
});</script>"""
# Chromium's own windows are not as narrow as a telephone's.
_FRAME = """<!doctype html><title>waiting</title><style>body {{ margin: 0 }}
iframe {{ border: 0; width: {width}px; height: {height}px }}</style>
<script>addEventListener("message", x => {{ document.title = x.data }})</script>
<iframe src="{name}"></iframe>"""


class Page(html.parser.HTMLParser):
  """The elements of a page; fails where they are not nested well.

  Attributes:
    elements: names and attributes, in order.
    headings: texts of h1 and h2.
    text: all of it.
  """

  def __init__(self, text):
    super().__init__()
    self.elements, self.headings, self.text = [], [], ""
    self._open = []
    self.feed(text)
    assert not self._open

  def handle_starttag(self, tag, attrs):
    """Opens an element."""
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self._open.append(tag)

  def handle_endtag(self, tag):
    """Closes the last one."""
    assert self._open.pop() == tag

  def handle_data(self, data):
    """Takes text up."""
    self.text += data
    if self._open and self._open[-1] in ("h1", "h2"):
      self.headings.append(data)

  def all(self, name):
    """The attributes of all elements of a name."""
    return [attributes for tag, attributes in self.elements if tag == name]


def report(*arguments):
  """Runs `python -m essl_jax.report` in this process."""
  program.main([str(argument) for argument in arguments])


def look(path, folder, width):
  """Opens a page in a window of some width.

  Returns what `_LOOK` finds, and the path of a screenshot.
  """
  folder.mkdir()
  text = path.read_text().replace("</body>", f"{_LOOK}</body>")
  (folder / "page.html").write_text(text)
  frame = folder / "frame.html"
  frame.write_text(_FRAME.format(width=width, height=1500, name="page.html"))
  screenshot = folder / "screenshot.png"
  command = [
    shutil.which("chromium"),
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=10000",
    f"--window-size={max(width, 500)},1500",
    f"--user-data-dir={folder / 'profile'}",
  ]
  for wanted in ("--dump-dom", f"--screenshot={screenshot}"):
    done = subprocess.run(
      [*command, wanted, frame.as_uri()],
      capture_output=True,
      text=True,
      timeout=120,
      check=True,
    )
    if wanted == "--dump-dom":
      title = re.search(r"<title>FOUND(.*?)</title>", done.stdout)
      assert title, done.stdout[:500] + done.stderr[-500:]
  return json.loads(html.unescape(title[1])), screenshot
