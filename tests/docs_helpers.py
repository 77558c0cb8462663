"""Blocks of code in the pages of the documentation."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def python_blocks(page, heading=None):
  """The blocks of Python of a page, or of a section of it."""
  text = (ROOT / page).read_text("utf-8")
  if heading is not None:
    text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
  return re.findall(r"```python\n(.*?)```", text, re.S)
