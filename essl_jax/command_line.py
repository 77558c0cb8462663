"""The program's flags; a wrong flag ends it with one line."""

from collections.abc import Sequence
import contextlib
import os
import sys
from typing import Any

from absl import flags

from essl_jax import config as config_lib
from essl_jax.config import flags as config_flags
from essl_jax.config import recipes
from essl_jax.errors import UsageError
from essl_jax.storage import about
from essl_jax.storage.workdir import read_config
from essl_jax.training import profile as profile_lib

CONFIG = flags.DEFINE_string(
  "config",
  None,
  "A recipe's name or a config file, with variants after a colon.",
)
RUN = flags.DEFINE_string(
  "run",
  None,
  "Instead of --config and --workdir: the workdir of a run, with its config.",
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for all output; runs/<config> by default."
)
PROFILE = flags.DEFINE_string(
  "profile",
  None,
  "Training steps to write a profile of, such as 100:110 (both included), for"
  " TensorBoard and Perfetto.",
)
STOP_CODE = flags.DEFINE_integer(
  "stop_code",
  0,
  "Exit code of a run that SIGTERM stopped before its end, for launchers that"
  " must distinguish it from a finished one.",
  0,
  125,
)


def parse(arguments: Sequence[str]) -> list[str]:
  """Parses the command line; `--help` shows all flags and ends the program.

  Args:
    arguments: the program's name and the words after it.

  Returns:
    The program's name, then the flags of the config's fields.

  Raises:
    UsageError: an unknown flag, or no config file.
  """
  joined = _joined(arguments)
  overrides = [word for word in joined[1:] if config_flags.is_flag(word)]
  others = [word for word in joined if word not in overrides]
  is_help = any(x.lstrip("-") in ("help", "helpfull") for x in others[1:])
  _check_flagfiles(others)
  try:
    rest = flags.FLAGS([x for x in others if x.lstrip("-") != "help"])
  except flags.Error as error:
    raise UsageError(" ".join(str(error).split())) from error
  if is_help:
    with contextlib.suppress(BrokenPipeError):  # such as `--help | head`
      _print_help(rest[0], overrides)
    sys.exit(0)
  if WORKDIR.value == "":
    raise UsageError("--workdir is empty: name a folder, or leave it out")
  if RUN.value == "":
    raise UsageError("--run is empty: name the workdir of a run")
  if RUN.value is not None and (CONFIG.value or WORKDIR.value):
    raise UsageError(
      "--run has the config and the workdir of a run: leave out --config and"
      " --workdir"
    )
  profile()
  if CONFIG.value is None and RUN.value is None:
    stray = f" (did you mean --config={rest[1]}?)" if rest[1:] else ""
    raise UsageError(
      f"--config=RECIPE is missing{stray}; `essl-jax recipes` lists the recipes"
    )
  if rest[1:]:
    raise UsageError(f"not a flag: {rest[1]}; fields are --config.NAME=VALUE")
  return [rest[0], *overrides]


def _check_flagfiles(words: Sequence[str]) -> None:
  """Refuses flag files that are not regular files, which may have no end."""
  for name, value in zip(words, [*words[1:], ""], strict=True):
    flag, equals, path = name.partition("=")
    path = path if equals else value
    if flag.lstrip("-") == "flagfile" and not os.path.isfile(path):
      raise UsageError(f"--flagfile={path} is not a file: name a file of flags")


def _joined(arguments: Sequence[str]) -> list[str]:
  """Joins flags of fields with their values to one word each."""
  found: list[str] = []
  words = iter(arguments)
  for word in words:
    is_whole = "=" in word or not word.startswith("--config.")
    following = None if is_whole else next(words, None)
    if following is None:
      found.append(word)
    elif following.startswith("-") and not following[1:2].isdigit():
      found += [word, following]
    else:
      found.append(f"{word}={following}")
  return found


def _print_help(program: str, overrides: Sequence[str]) -> None:
  """Prints the program's flags, then the fields of the given config."""
  is_ours = program.startswith("essl-jax")
  start = program if is_ours else "python -m essl_jax.main"
  first = "RUN" if is_ours and RUN.value else "--config=RECIPE[:VARIANT,...]"
  print(f"{start} {first} [FLAGS]\n")
  for module in ("essl_jax.command_line", "essl_jax.process_flags"):
    print(flags.FLAGS.module_help(module))
  if CONFIG.value is None and RUN.value is None:
    print("\nWith --config=RECIPE, all fields of its config follow here.")
    return
  values, name = _raw(overrides, print), CONFIG.value or RUN.value
  kind = config_lib.schema(values)
  print(f"\nFields of {name}:")
  print("\n".join(config_flags.describe(kind, values)))


def _raw(overrides: Sequence[str], say: config_flags.Say) -> dict[str, Any]:
  """The values of the named recipe or run, with flags applied."""
  if RUN.value is None:
    return config_flags.raw(CONFIG.value or "", overrides, say)
  values = read_config(RUN.value)
  about.make_importable(RUN.value)
  return config_flags.override(values, overrides)


def load(overrides: Sequence[str], say: config_flags.Say) -> config_lib.Config:
  """The config that the command line describes.

  Args:
    overrides: from `parse`, without the program's name.
    say: called with a line for each choice that a recipe makes by itself.

  Returns:
    The config, checked.

  Raises:
    UsageError: as in `config.flags.load`, or the run's config cannot be read.
  """
  return config_lib.parse(_raw(overrides, say), config_flags.names(overrides))


def told(overrides: Sequence[str]) -> dict[str, Any]:
  """The entries of `about.json` that say where the config comes from."""
  if CONFIG.value is None:
    return {}
  return about.of_recipe(CONFIG.value, list(overrides))


def workdir() -> str:
  """The named workdir, or the recipe's default."""
  return RUN.value or WORKDIR.value or recipes.workdir(CONFIG.value or "")


def profile() -> profile_lib.Steps | None:
  """The steps to write a profile of; UsageError if the flag names none."""
  return None if PROFILE.value is None else profile_lib.read(PROFILE.value)
