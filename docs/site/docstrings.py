"""How the API pages read docstrings."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
  """Takes our section `Example:` for one of code."""

  def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
    """Renames the section of one docstring."""
    if obj.docstring:
      text = obj.docstring.value
      obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
