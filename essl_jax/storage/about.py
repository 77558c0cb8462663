"""Facts about a run's images and recipe, in `about.json`.

They do not change the training, but nobody can use the encoder without them.
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
  """Adds entries to a run's `about.json`; only process 0 writes.

  Args:
    workdir: held by this process.
    about: entries that JSON can hold; None means unknown.
    overwrite: replaces existing entries. By default they stay, since they
      describe the run as it started. The entries of a recipe are replaced
      together, and only if `about` names a recipe.
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
  """Reads a run's entries; empty for runs of versions that wrote none."""
  path = places.locate(workdir) / NAME
  try:
    return json_files.read_object(path)
  except (FileNotFoundError, NotADirectoryError, ValueError):
    return {}


def of_recipe(recipe: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """The entries that say where a run's config comes from.

  Args:
    recipe: name or path, with variants.
    overrides: flags that set its fields, or a description of them.

  Returns:
    `recipe`, `overrides` and, for a user's own file, `recipe_folder`.
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
  """Makes the modules beside a run's recipe importable again.

  They come last on the path, so no run can shadow an installed package.
  """
  found = read(workdir).get("recipe_folder")
  if isinstance(found, str) and os.path.isabs(found) and os.path.isdir(found):
    sys.path += [found] if found not in sys.path else []
  recipes.make_importable(None)
