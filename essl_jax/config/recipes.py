"""The recipes that come with the package, by their names.

They are in `configs/` of a checkout, or in `essl_jax/_recipes/` if the package
was installed from a wheel.
"""

import ast
import difflib
import os
import pathlib
import sys

import essl_jax
from essl_jax.texts import some

_ENDING = ".py"


def folder() -> pathlib.Path:
  """Where the recipes are."""
  package = pathlib.Path(essl_jax.__file__).parent
  installed = package / "_recipes"
  return installed if installed.is_dir() else package.parent / "configs"


def paths() -> dict[str, pathlib.Path]:
  """The file of every recipe, by name."""
  found = sorted(folder().glob(f"*{_ENDING}"))
  return {x.stem: x for x in found if not x.stem.startswith("_")}


def about(name: str) -> str:
  """The docstring of a recipe, read without running it."""
  text = paths()[name].read_text(encoding="utf-8")
  return ast.get_docstring(ast.parse(text)) or ""


def titles() -> dict[str, str]:
  """The first line of every recipe's docstring, by name."""
  return {name: about(name).partition("\n")[0] for name in paths()}


def is_name(text: str) -> bool:
  """Whether a text names a recipe of the package, not a file."""
  is_word = not text.endswith(_ENDING) and os.path.basename(text) == text
  return is_word and not os.path.isfile(text)


def locate(text: str) -> pathlib.Path:
  """The file of a recipe.

  Args:
    text: a name such as `cifar_simclr`, or a path; without variants.

  Returns:
    The path; the file may be missing.
  """
  if is_name(text):
    return folder() / f"{text}{_ENDING}"
  return pathlib.Path(text)


def near(text: str) -> str:
  """The recipes with the nearest names, for a message."""
  known = list(paths())
  close = difflib.get_close_matches(pathlib.Path(text).stem, known, 3, 0.5)
  if close:
    return f"did you mean {' or '.join(close)}?"
  return f"there are {some(known, 30)}"


def workdir(text: str) -> str:
  """The default workdir: `runs/` and the recipe's name with its variants.

  Args:
    text: name or path of the recipe, with variants after a colon.

  Returns:
    The workdir of runs that do not set one.
  """
  path, _, variants = text.partition(":")
  suffix = "".join(f"-{part}" for part in variants.split(",") if part)
  suffix = suffix.replace("=", "")
  return os.path.join("runs", pathlib.Path(path).stem + suffix)


def make_importable(directory: str | os.PathLike[str] | None) -> None:
  """Makes the user's own modules importable.

  Args:
    directory: the recipe's folder; its modules come first, then those of the
      current folder.
  """
  if directory is not None:
    beside = os.path.abspath(directory)
    sys.path[:] = [beside, *(x for x in sys.path if x != beside)]
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
