"""The program's flags; what is wrong with them is told in one line."""

from collections.abc import Sequence
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from essl_jax import config as config_lib
from essl_jax import fields
from essl_jax.errors import UsageError

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A config file, with variants after a colon."
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where everything is written; runs/<config> by default."
)


def parse(arguments: Sequence[str]) -> list[str]:
  """Parses the command line.

  Args:
    arguments: the program's name and what follows it.

  Returns:
    The program's name alone.

  Raises:
    UsageError: an unknown flag or field, a value of the wrong type, a config
      file that is missing or does not load.
  """
  for argument in arguments[1:]:
    name = argument.lstrip("-").partition("=")[0]
    wrong = name.startswith("config.") and fields.find(
      config_lib.Config, name.removeprefix("config.")
    )
    if wrong:
      raise UsageError(wrong)
    if name == "config":
      _check_file(argument.partition("=")[2].partition(":")[0])
  try:
    rest = flags.FLAGS(list(arguments))
    if CONFIG.value is not None:
      CONFIG.value.to_dict()  # a file that did not load tells only here
  except Exception as error:  # a recipe is anybody's code
    raise UsageError(one_line(error)) from error
  if CONFIG.value is None:
    stray = f" (did you mean --config={rest[1]}?)" if rest[1:] else ""
    raise UsageError(
      f"--config=FILE is missing{stray}; see configs/ for the recipes"
    )
  if rest[1:]:
    raise UsageError(f"not a flag: {rest[1]}; fields are --config.NAME=VALUE")
  return rest


def _check_file(path: str) -> None:
  """Refuses a config file that is not there, naming those beside it."""
  file = pathlib.Path(path)
  if path and not file.is_file():
    recipes = sorted(other.name for other in file.parent.glob("*.py"))
    there = ", ".join(recipes) or "no recipes"
    raise UsageError(
      f"config file {path} does not exist (seen from {os.getcwd()});"
      f" {file.parent} holds {there}"
    )


def one_line(error: Exception) -> str:
  """What an error of the flags says, without the stack trace it may quote."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  for line in lines:  # raised by `get_config`, quoted by the flags library
    if line.startswith("essl_jax.errors.UsageError: "):
      return line.partition(": ")[2]
  if isinstance(error, SyntaxError):
    return f"cannot read {error.filename}, line {error.lineno}: {error.msg}"
  if isinstance(error, (AttributeError, KeyError)) and error.args:
    # ml_collections adds, after a line break, a guess that misleads.
    name = str(error.args[0]).replace("\\n", "\n").splitlines()[0]
    name = name.replace("\\", "").strip("'\"")
    return f"this recipe does not set the field {name}; set it in its file"
  return " ".join(lines)


def default_workdir() -> str:
  """`runs/` and the config's name with its variants."""
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  path, _, variants = name.partition(":")
  suffix = "".join(f"-{part}" for part in variants.split(",") if part)
  suffix = suffix.replace("=", "")
  return os.path.join("runs", pathlib.Path(path).stem + suffix)
