"""What a run says of its images and its recipe: `about.json`.

Neither changes what is trained, and the encoder cannot be used without.
"""

from collections.abc import Mapping, Sequence
import os
import sys
from typing import Any

import jax

from essl_jax.config import recipes
from essl_jax.storage import json_files, places
from essl_jax.storage.workdir import write_json

NAME = "about.json"
_OF_RECIPE = ("recipe", "overrides", "recipe_folder")


def write(
  workdir: places.Path, about: Mapping[str, Any], *, overwrite: bool = False
) -> None:
  """Adds to what is known of a run; process 0 alone writes.

  Args:
    workdir: held by this process.
    about: entries that JSON can hold; None stands for what is not known.
    overwrite: replaces what is there; by default it stays, since the run that
      was begun with it is the one that is trained. The entries of a recipe go
      together, and stay where no other recipe is told.
  """
  if jax.process_index() > 0:
    return
  before = read(workdir)
  new = {name: x for name, x in about.items() if x is not None}
  known = new if overwrite else new | before
  is_told = "recipe" in new and (overwrite or "recipe" not in before)
  chosen = new if is_told else before
  known = {k: x for k, x in known.items() if k not in _OF_RECIPE}
  known |= {k: chosen[k] for k in _OF_RECIPE if k in chosen}
  if known != before:
    write_json(workdir / NAME, known)


def read(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """What is known of a run; nothing of those of earlier versions."""
  path = places.locate(workdir) / NAME
  try:
    return json_files.read_object(path)
  except (FileNotFoundError, NotADirectoryError, ValueError):
    return {}


def of_recipe(recipe: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """The entries that say where a run's config comes from.

  Args:
    recipe: name or path, with variants.
    overrides: flags of its fields, or what stands for them.

  Returns:
    `recipe`, `overrides` and, of a file of one's own, `recipe_folder`.
  """
  name, colon, variants = recipe.partition(":")
  found: dict[str, Any] = {
    "recipe": f"{os.path.basename(name)}{colon}{variants}",
    "overrides": list(overrides) or None,
  }
  file = recipes.locate(name)
  if file.parent != recipes.folder():
    found["recipe_folder"] = str(file.absolute().parent)
  return found


def make_importable(workdir: str | os.PathLike[str]) -> None:
  """Lets the modules that a run's recipe brought be imported again.

  They come after all that is installed, which no run can so replace.
  """
  found = read(workdir).get("recipe_folder")
  if isinstance(found, str) and os.path.isabs(found) and os.path.isdir(found):
    sys.path += [found] if found not in sys.path else []
  recipes.make_importable(None)
